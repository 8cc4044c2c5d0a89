"""files, cat, diff: what a capsule holds, for anybody, and never a byte that was not verified."""

import json
import os
from pathlib import Path

import pytest

from vnfsbuild import cli
from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.lock import Lock, LockedPackage, LockedRepository, render_lock
from vnfsbuild.source import pack_source
from vnfsbuild.store.store import Store

from ..layer_vectors import FILES, OUT, UPPER

LOWER, UPPER_LAYER = (OUT / "lower.squashfs").read_bytes(), (OUT / "upper.squashfs").read_bytes()


@pytest.fixture
def run(places, capfdbinary):
    """Run a command line in this process: exit status, output, errors."""

    def run(*arguments):
        status = cli.run([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return status, out.decode("utf-8", "surrogateescape"), err.decode()

    return run


def make_source(directory, packages=(("bash", "5.2-1"), ("zlib", "1.3"))):
    lock = Lock(
        serial=1, epoch=1, distribution="debian", release="trixie", architecture="x86_64",
        recipe=digest_of(b""), files=(), tools=(),
        repositories=(
            LockedRepository(
                id="main", suite="trixie", components=("main",), keys=("A" * 40,),
                metadata=digest_of(b""), epoch=1,
            ),
        ),
        packages=tuple(
            LockedPackage(
                name=name, version=version, architecture="amd64", size_bytes=1,
                sha256=digest_of(f"{name} {version}".encode())[7:], path=f"pool/{name}.deb",
                repository="main",
            )
            for name, version in packages
        ),
    )  # fmt: skip
    directory.mkdir(exist_ok=True)
    (directory / "recipe.lock").write_text(render_lock(lock), encoding="utf-8")
    (directory / "recipe.toml").write_text('name = "toy"\n', encoding="utf-8")
    return pack_source({path.name: path for path in directory.iterdir()})


@pytest.fixture
def add(places, workshop, tmp_path):
    """Add a capsule of two layers to the store; return it."""

    def add(*, packages=(("bash", "5.2-1"), ("zlib", "1.3")), layers=(LOWER, UPPER_LAYER), **words):
        source = make_source(tmp_path / "source", packages)
        toy = workshop.capsule(payloads=[source, b"kernel", b"initrd", *layers], **words)
        toy.add_to(Store(places.store))
        return toy

    return add


def test_all_layers_are_listed_as_one_tree(add, run):
    add()
    status, out, _ = run("files", "toy")
    assert status == 0
    lines = out.splitlines()
    assert lines[:3] == ["/", "/bin", "/dev"]
    assert {"/etc/hostname", "/usr/share/many", "/new/file", "/etc/odd \\\\ name\\nwith a line",
            "/etc/\\xff\\xfe"} <= set(lines)  # fmt: skip
    assert not {"/etc/shadow", "/usr/share/large", "/usr/share/many/file000"} & set(lines)


def test_long_lines_tell_mode_owner_size_time_and_more(add, run):
    add()
    _, out, _ = run("files", "--long", "toy", "ping", "/dev", "/usr/share/owned", "/etc/absolute")
    text = {line.split("2023-")[1].split(" ", 2)[2].strip(): line for line in out.splitlines()[1:]}
    assert text["/usr/bin/ping  [cap_net_raw=ep]"].startswith("-rwsr-xr-x  0:0")
    assert "70000:4000000000" in text["/usr/share/owned"]
    assert "259,70000" in text["/dev/disk"]
    assert "/etc/absolute -> /etc/hostname" in text


def test_json_has_all_of_it(add, run):
    add()
    _, out, _ = run("files", "--json", "toy")
    facts = {item["path"]: item for item in json.loads(out)}
    assert facts["/usr/bin/ping"]["capabilities"] == "cap_net_raw=ep"
    assert facts["/usr/bin/ping"]["mode"] == "4755"
    assert (facts["/etc/hostname"]["layer"], facts["/etc"]["layer"]) == ("modules", "modules")
    assert facts["/dev/null"]["device"] == [1, 3]
    assert facts["/etc/absolute"]["target"] == "/etc/hostname"
    paths = [item["path"].strip("/") for item in json.loads(out)]
    assert paths == sorted(paths, key=lambda path: [os.fsencode(part) for part in path.split("/")])
    # Names that are no text come back as they are.
    assert "/etc/\udcff\udcfe" in facts
    assert "\\udcff" in out


def test_one_layer_shows_its_whiteouts(add, run):
    add()
    _, out, _ = run("files", "--json", "--layer", "modules", "toy", "/etc/shadow")
    assert [item["type"] for item in json.loads(out)] == ["whiteout"]
    status, _, err = run("files", "--layer", "nothing", "toy")
    assert (status, "rootfs, modules" in err) == (2, True)


def test_the_source_can_be_looked_into_too(add, run):
    add()
    assert run("files", "--payload", "source", "toy")[1].splitlines() == [
        "/recipe.lock", "/recipe.toml",
    ]  # fmt: skip
    assert run("cat", "--payload", "source", "toy", "recipe.toml")[1] == 'name = "toy"\n'
    status, _, err = run("files", "--payload", "initrd", "toy")
    assert (status, "cannot be read" in err) == (3, True)


def test_globs_choose_and_nothing_chosen_is_an_error(add, run):
    add()
    assert run("files", "toy", "file", "/etc/host*")[1].splitlines() == [
        "/etc/hostname", "/new/file",
    ]  # fmt: skip
    status, out, err = run("files", "toy", "/nothing/*")
    assert (status, out) == (2, "")
    assert "/nothing/*" in err


def test_a_bootstrap_says_how_to_look_into_it(places, workshop, run):
    workshop.capsule(bootstrap=True).add_to(Store(places.store))
    status, _, err = run("files", "bootstrap")
    assert (status, "--payload initrd" in err) == (2, True)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/etc/hostname", UPPER["etc/hostname"]),
        ("etc/beyond", UPPER["etc/hostname"]),
        ("/etc/os-release", FILES["usr/lib/os-release"]),
        ("bin/ping4", FILES["usr/bin/ping"]),
        ("etc/odd \\ name\nwith a line", b"odd"),
        ("usr/share/empty", b""),
    ],
)
def test_the_content_of_a_file_is_written_as_it_is(path, content, add, run):
    add()
    assert run("cat", "toy", path) == (0, content.decode(), "")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/etc", "/etc: found a directory, expected a file"),
        ("/dev/null", "/dev/null: found a character device"),
        ("/etc/shadow", "not there"),
        ("/etc/loop", "more than 40 links"),
        ("/etc/dangling", "/etc/nowhere is not there"),
    ],
)
def test_what_has_no_content_is_told_in_a_line(path, told, add, run):
    add()
    status, out, err = run("cat", "toy", path)
    assert (status, out) == (2, "")
    assert told in err.splitlines()[0]


def test_a_link_never_leads_to_a_file_of_this_machine(add, run):
    assert Path("/etc/passwd").exists()
    add()
    assert run("cat", "toy", "../../../../../../etc/passwd")[0] == 2


def test_no_byte_is_shown_that_was_not_verified(add, run, places):
    add()
    path = Store(places.store).blob_path(digest_of(LOWER))
    # The file that is asked for is in the other layer, and all the same.
    data = bytearray(LOWER)
    data[-1] ^= 1
    for damaged in (bytes(data), LOWER[:-1], LOWER + b"\0", b""):
        path.write_bytes(damaged)
        for verb in (["files", "toy"], ["cat", "toy", "/etc/hostname"]):
            status, out, err = run(*verb)
            assert (status, out) == (3, ""), (verb, err)
    path.unlink()
    assert run("files", "toy")[0] == 1


def test_a_file_is_looked_into_like_the_store(add, run, places, tmp_path):
    add()
    run("export", "toy")
    assert run("files", "toy.vnfs")[1] == run("files", "toy")[1]
    assert run("cat", "./toy.vnfs", "/etc/hostname")[1] == "upper\n"
    data = bytearray(Path("toy.vnfs").read_bytes())
    at = data.index(LOWER) + 3000
    data[at] ^= 1
    Path("toy.vnfs").write_bytes(data)
    assert run("cat", "toy.vnfs", "/etc/hostname")[:2] == (3, "")
    assert run("files", "nothing.vnfs")[0] == 2
    assert run("files", f"{tmp_path}/")[0] == 2


def test_a_capsule_is_the_same_as_itself(add, run):
    add()
    status, out, _ = run("diff", "--exit-code", "toy", "toy:1")
    assert (status, out.splitlines()[-1]) == (0, "the same")


def test_packages_files_and_values_are_compared(add, run):
    add()
    add(
        serial=2,
        packages=(("bash", "5.3-1"), ("newer", "1"), ("zlib", "1.2")),
        layers=(LOWER, LOWER),
        kernel=m.Kernel(version="6.13.0", arguments=("quiet", "panic=60")),
    )
    status, out, _ = run("diff", "toy:1", "toy:2")
    assert status == 0
    lines = out.splitlines()
    assert "packages: 1 added, 1 down, 1 up" in lines
    assert "  DOWNGRADE: zlib 1.3 → 1.2" in lines
    assert "  kernel: 6.12.0 → 6.13.0" in lines
    assert "  kernel arguments: quiet → quiet panic=60" in lines
    told = {tuple(line.split()[:2]) for line in lines if line.startswith("  ")}
    assert {
        ("removed", "/new/file"),
        ("added", "/usr/share/large"),
        ("type", "/usr/share/many"),
    } <= (told)
    assert ("content", "/etc/hostname") in told
    assert run("diff", "--exit-code", "toy:1", "toy:2")[0] == 4


def test_a_comparison_in_json(add, run):
    add()
    add(serial=2, packages=(("bash", "5.2-1"),), layers=(LOWER, LOWER))
    facts = json.loads(run("diff", "--json", "toy:1", "toy:2")[1])
    assert (facts["same"], facts["before"]["serial"], facts["after"]["serial"]) == (False, 1, 2)
    assert facts["packages"] == [
        {"part": "packages", "name": "zlib", "kind": "removed", "before": "1.3", "after": None}
    ]
    files = {item["path"]: item for item in facts["files"]}
    assert files["/etc/hostname"]["kinds"][0] == "content"
    assert files["/usr/share/large"]["before"] is None
    assert [item["key"] for item in facts["payloads"]] == ["source", "layer modules"]
    only = json.loads(run("diff", "--json", "--packages", "toy:1", "toy:2")[1])
    assert (only["files"], len(only["packages"])) == (None, 1)
    only = json.loads(run("diff", "--json", "--files", "toy:1", "toy:2")[1])
    assert (only["packages"], bool(only["files"])) == (None, True)


def test_contents_of_the_same_size_are_compared(add, run, monkeypatch):
    """The layers say nothing of contents: a file may change and keep its size and time."""
    from vnfsbuild.unpack.squashfs import Squashfs

    add()
    add(serial=2, layers=(LOWER, UPPER_LAYER[:-1] + b"\1"))
    read = Squashfs.read_file

    def other(image, path):
        changed = image._piece.where.endswith(digest_of(UPPER_LAYER[:-1] + b"\1")[:19])
        for data in read(image, path):
            yield bytes(len(data)) if changed and path == "new/file" else data

    monkeypatch.setattr(Squashfs, "read_file", other)
    facts = json.loads(run("diff", "--json", "--files", "toy:1", "toy:2")[1])
    assert [(item["path"], item["kinds"]) for item in facts["files"]] == [
        ("/new/file", ["content"])
    ]


def test_a_lock_of_another_version_is_still_compared(add, run, tmp_path, monkeypatch):
    add()
    make = make_source

    def older(directory, packages):
        make(directory, packages)
        path = directory / "recipe.lock"
        text = path.read_text(encoding="utf-8").replace("keys = ", "fingerprints = ")
        text = text.replace('"5.1"', '"5.1\\u001b[2J"')
        path.write_text(text, encoding="utf-8")
        return pack_source({path.name: path for path in directory.iterdir()})

    monkeypatch.setitem(globals(), "make_source", older)
    add(serial=2, packages=(("bash", "5.1"),))
    facts = json.loads(run("diff", "--json", "--packages", "toy:1", "toy:2")[1])
    assert [(item["name"], item["kind"]) for item in facts["packages"]] == [
        ("bash", "down"), ("zlib", "removed"),
    ]  # fmt: skip
    # Nobody vouches for what such a lock says, least of all to a terminal.
    assert "DOWNGRADE: bash 5.2-1 → 5.1\\x1b[2J" in run("diff", "toy:1", "toy:2")[1]


def test_a_source_without_a_lock_is_told_and_the_rest_compared(add, run, workshop, places, caplog):
    add()
    other = workshop.capsule(
        payloads=[b"no tar", b"kernel", b"initrd", LOWER, UPPER_LAYER], serial=2
    )
    other.add_to(Store(places.store))
    status, out, _ = run("diff", "toy:1", "toy:2")
    assert status == 0
    assert "packages are not compared" in caplog.text
    assert "files: all the same" in out
