"""Builds by the real mkosi, with the cache of stages and without: the same bytes, always."""

import json
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from . import toy
from .test_bases import CHILD, site, write_child  # noqa: F401 - a fixture
from .test_reproduce import ROOT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("bases"),
]


def build(place, recipe, *options):
    return json.loads(place.run("build", "--json", recipe, *options).stdout)


def change_file(place, child, text):
    """Change a file of the child, and move its lock along, as ``lock`` would."""
    (child / "files/etc/motd").write_text(text)
    place.run("lock", child)


@pytest.fixture
def child(site, request):  # noqa: F811
    name = re.sub("[^a-z0-9]+", "-", request.node.name).strip("-")[-40:].strip("-")
    text = CHILD.replace('"child"', f'"{name}"') + '[files]\ncopy = "files"\n'
    directory = write_child(site, name, text=text, files={"files/etc/motd": b"0\n"})
    site.run("lock", directory)
    return directory


def stages_of(built):
    return {(item["stage"], item["recipe"]): item["what"] for item in built["stages"]}


def test_what_did_not_change_is_not_made_again(site, child):  # noqa: F811
    name = child.name
    first = build(site, child)
    assert stages_of(first)["install", name] == "made"
    again = build(site, child)
    assert again["digest"] == first["digest"]
    assert stages_of(again) == {("capsule", name): "reused"}
    change_file(site, child, "1\n")
    edited = build(site, child)
    stages = stages_of(edited)
    assert stages["local", "toy"] == stages["boot", name] == "reused"
    assert stages["local", name] == stages["layer rootfs-1", name] == "made"
    assert stages["install", name] == "reused"
    why = {item["stage"]: item["why"] for item in edited["stages"] if item["recipe"] == name}
    assert why["local"] == ["the file files/etc/motd was changed"]
    # Nothing is trusted that was damaged, and a clean build gives the same.
    for path in (site.cache / "stages").rglob("data"):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if data else b"x")
    site.run("gc")
    change_file(site, child, "2\n")
    damaged = site.run("build", "--json", child)
    assert "made anew" in damaged.stderr
    clean = build(site, child, "--no-cache")
    assert json.loads(damaged.stdout)["digest"] == clean["digest"]
    told = site.run("build", "--explain", child).stdout
    assert "reused" in told
    shown = json.loads(site.run("cache", "show", "--json").stdout)
    assert {"install", "local", "boot"} <= {item["stage"] for item in shown["entries"]}
    site.run("cache", "gc", "--all")
    assert json.loads(site.run("cache", "show", "--json").stdout)["entries"] == []


def start(site, recipe):  # noqa: F811
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "VNFS_STORE": str(site.path / "store"),
        "VNFS_CACHE": str(site.cache),
        "VNFS_SITE": str(site.path / "site"),
        "PYTHONPATH": str(ROOT),
    }
    argv = [sys.executable, "-B", "-m", "vnfsbuild", "build", "--json", str(recipe)]
    return subprocess.Popen(
        argv, env=env, cwd=site.path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, text=True,
    )  # fmt: skip


@pytest.mark.long
def test_builds_that_run_at_once_and_builds_that_are_killed_do_no_harm(site, child):  # noqa: F811
    site.run("cache", "gc", "--all")
    running = [start(site, child) for _ in range(3)]
    found = {json.loads(one.communicate()[0])["digest"] for one in running}
    assert found == {build(site, child, "--no-cache")["digest"]}
    chance = random.Random(7)
    for number in range(6):
        change_file(site, child, f"kill {number}\n")
        site.run("cache", "gc", "--limit", "100k")
        one = start(site, child)
        time.sleep(chance.uniform(0.3, 6))
        one.send_signal(signal.SIGKILL)
        one.communicate()
        assert build(site, child)["digest"] == build(site, child, "--no-cache")["digest"]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_a_random_sequence_of_changes_gives_what_clean_builds_give(site, child, seed):  # noqa: F811
    chance = random.Random(seed)
    text = (child / "recipe.toml").read_text()
    for number in range(6):
        edit = chance.choice(["file", "package", "exclude", "version", "nothing"])
        if edit == "file":
            (child / "files/etc/motd").write_text(f"{seed} {number}\n")
        elif edit == "package":
            name = f"extra-{chance.randrange(3)}"
            members = [toy.directory(""), toy.directory("usr"), toy.regular(f"usr/{name}", b"x")]
            (child / f"debs/{name}.deb").write_bytes(toy.make_deb(name, "", members))
            text = text.replace("install = [", f'install = ["{name}", ', 1)
            text = text.replace(f'"{name}", "{name}", ', f'"{name}", ')
        elif edit == "exclude":
            text = text.partition("[exclude]")[0]
            text += f'[exclude]\npaths = ["usr/extra-{chance.randrange(3)}", "etc/deep"]\n'
        elif edit == "version":
            more = [
                toy.directory(""),
                toy.directory("usr"),
                toy.regular("usr/more", b"%d" % number),
            ]
            deb = toy.make_deb("more", "", more, version=f"{number + 2}.0")
            (child / "debs/more.deb").write_bytes(deb)
        (child / "recipe.toml").write_text(text)
        site.run("lock", child)
        cached, clean = build(site, child), build(site, child, "--no-cache")
        assert cached["digest"] == clean["digest"], (seed, number, edit)


@pytest.mark.long
def test_a_child_is_built_upon_a_base_that_nobody_built_before(site, child):  # noqa: F811
    """From an empty cache: the base's stages are made on the way."""
    site.run("cache", "gc", "--all")
    found = stages_of(build(site, child))
    assert found["essential", "toy"] == found["local", "toy"] == "made"
