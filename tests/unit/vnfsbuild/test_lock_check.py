"""``lock --check``: would a build take the lock as it is? No network is asked, nothing written."""

import json

import pytest

from vnfsbuild import cli
from vnfsbuild.builder import find_builder
from vnfsbuild.digest import digest_of
from vnfsbuild.lock import Lock, LockedBuilder, render_lock
from vnfsbuild.resolve import load_recipe

RECIPE = """\
name = "toy"

[distribution]
id = "debian"
release = "trixie"

[packages]
install = ["bash"]

[kernel]
package = "linux-image-amd64"
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    for name in ("store", "cache", "site"):
        monkeypatch.setenv(f"VNFS_{name.upper()}", str(tmp_path / name))
    directory = tmp_path / "toy"
    directory.mkdir()
    (directory / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return directory


def write_lock(directory, **words):
    loaded = load_recipe(directory)
    fields = {
        "serial": 1, "epoch": 1, "distribution": "debian", "release": "trixie",
        "architecture": "x86_64", "recipe": loaded.digest, "files": loaded.files,
        "repositories": (), "packages": (), "tools": (), "builder": find_builder(),
        "recipe_keys": loaded.keys,
    }  # fmt: skip
    lock = Lock(**{**fields, **words})
    loaded.lock_path.write_text(render_lock(lock), encoding="utf-8")


def check(recipe, capfd, *options):
    status = cli.run(["lock", "--check", *options, str(recipe)])
    return (status, *capfd.readouterr())


def test_no_lock_is_no_fresh_lock(recipe, capfd):
    status, out, err = check(recipe, capfd)
    assert (status, "there is none" in out, "hint: vnfsbuild lock" in err) == (4, True, True)
    assert not (recipe / "recipe.lock").exists()


def test_a_lock_of_this_recipe_and_builder_is_fresh(recipe, capfd):
    write_lock(recipe)
    before = (recipe / "recipe.lock").stat()
    assert check(recipe, capfd)[0] == 0
    facts = json.loads(check(recipe, capfd, "--json")[1])
    assert (facts["fresh"], facts["reasons"]) == (True, [])
    assert (recipe / "recipe.lock").stat() == before


def test_all_reasons_are_told(recipe, capfd):
    write_lock(recipe, builder=LockedBuilder(version="0.0.1", digest=digest_of(b"")))
    path = recipe / "recipe.toml"
    path.write_text(RECIPE.replace('"bash"', '"dash"'), encoding="utf-8")
    status, out, _ = check(recipe, capfd, "--json")
    facts = json.loads(out)
    assert (status, facts["fresh"], len(facts["reasons"])) == (4, False, 2)
    assert "packages.install" in facts["reasons"][0]
    assert "vnfsbuild 0.0.1" in facts["reasons"][1]


def test_what_is_no_lock_is_bad_input(recipe, capfd):
    (recipe / "recipe.lock").write_text("rubbish", encoding="utf-8")
    assert check(recipe, capfd)[0] == 2


@pytest.mark.parametrize("option", ["--update", "--diff", "--allow-older"])
def test_it_goes_with_nothing_that_would_ask_a_mirror(option, recipe, capfd):
    assert check(recipe, capfd, option)[0] == 2
