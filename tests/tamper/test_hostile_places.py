"""Stores, keys and files where somebody else had his hands: what the verbs make of them."""

import contextlib
import io
import os
import re
import shutil
import stat

import pytest

from vnfsbuild import cli
from vnfsbuild.errors import VnfsbuildError, render_error
from vnfsbuild.listing import printable
from vnfsbuild.signing.keys import new_key

from . import judges
from .forge import WORKSHOP, Forgery


@pytest.fixture
def line(tmp_path):
    """A command line, with a capsule in the store and in a file, and keys of its own."""
    line = judges.CommandLine(tmp_path / "store", tmp_path / "site")
    for name in ("dev", "ops"):
        new_key(line.site, name, now=WORKSHOP.now)
    Forgery(sign=lambda _: []).lay_out(line.store)
    (tmp_path / "toy.vnfs").write_bytes(Forgery(sign=lambda _: [], attest=lambda _: []).file())
    return line


@pytest.fixture
def outside(tmp_path):
    """A directory of somebody else, who wants to keep what is in it."""
    (tmp_path / "outside/inner").mkdir(parents=True)
    for name in ("file", "inner/file", ".index.json.x", ".x.json.x", "a" * 64):
        (tmp_path / "outside" / name).write_bytes(b"dear")
    return tmp_path / "outside"


# --- gc, and every writer: nothing outside of the store goes --------------------------------------


@pytest.mark.parametrize("verb", ["gc", "tag toy:3 stable"])
@pytest.mark.parametrize("place", [".incoming", ".leases", "pins", "damaged", "blobs/sha256/.x"])
def test_a_link_in_the_place_of_a_directory_of_the_store(line, outside, place, verb):
    shutil.rmtree(line.store / place, ignore_errors=True)
    (line.store / place).symlink_to(outside)
    before = judges.snapshot(outside)
    line.run(*verb.split())
    assert judges.snapshot(outside) == before


def test_a_link_among_what_killed_writers_left(line, outside):
    (line.store / ".incoming").mkdir()
    (line.store / ".incoming/x").symlink_to(outside)
    before = judges.snapshot(outside)
    assert line.run("gc").status == 0
    assert judges.snapshot(outside) == before
    assert not os.path.lexists(line.store / ".incoming/x")


@pytest.mark.parametrize("place", [".leases/x", ".incoming/x", "pins/x.json", "blobs/sha256/.x"])
@pytest.mark.parametrize("verb", ["gc", "pins list", "delete toy"])
def test_a_pipe_in_a_store_is_not_waited_for(line, place, verb):
    (line.store / place).parent.mkdir(exist_ok=True)
    os.mkfifo(line.store / place)
    line.run(*verb.split())  # the verdict is another matter; it comes soon


def test_gc_keeps_all_capsules_of_a_store_that_it_cannot_read(line):
    blobs = sorted((line.store / "blobs/sha256").iterdir())
    (line.store / "index.json").write_bytes(b"{}")
    line.run("gc").is_refusal(3)
    assert sorted((line.store / "blobs/sha256").iterdir()) == blobs


# --- pins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", " ", "a\nb", "\x1b[2J", "x" * 10_001, "a\u202eb"])
def test_a_reason_that_is_none_leaves_the_pins_as_they_were(line, reason):
    """One that only readers refuse would make the store one that nothing is deleted from."""
    assert line.run("pins", "add", "toy", "--reason", "good").status == 0
    before = judges.snapshot(line.store)
    line.run("pins", "add", "toy", "--reason", reason).is_refusal(2)
    assert judges.snapshot(line.store) == before
    assert "good" in line.run("pins", "list").told


@pytest.mark.parametrize("owner", ["../x", "a/b", ".", "", "a\x1b[2J", "A" * 300, "x.json/../y"])
def test_an_owner_that_is_a_path(line, owner):
    before = judges.snapshot(line.store.parent)
    line.run("pins", "add", "toy", "--reason", "x", "--owner", owner).is_refusal(2)
    assert judges.snapshot(line.store.parent) == before


# --- sign -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_may_read_signs_nothing(line, mode):
    (line.site / "keys/dev.pem").chmod(mode)
    before = judges.snapshot(line.store)
    assert "expected 0600" in line.run("sign", "toy", "--key", "dev").is_refusal(2).line
    assert judges.snapshot(line.store) == before


@pytest.mark.parametrize("name", ["../dev", "/etc/passwd", "dev.pem/../ops", "", "\x1b[2J", "a\0b"])
def test_a_key_whose_name_is_a_path(line, name):
    line.run("sign", "toy", "--key", name).is_refusal(2)


def test_a_file_that_is_not_for_all_stays_so_and_a_link_stays_a_link(line, tmp_path):
    real, link = tmp_path / "toy.vnfs", tmp_path / "link.vnfs"
    real.chmod(0o640)
    link.symlink_to("toy.vnfs")
    assert line.run("sign", link, "--key", "dev").status == 0
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert line.run("verify", link).status == 0


@pytest.mark.parametrize("kind", ["pipe", "directory", "nothing", "link to itself", "device"])
def test_what_is_no_file_is_not_signed_nor_waited_for(line, tmp_path, kind):
    path = tmp_path / "x.vnfs"
    make = {
        "pipe": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "nothing": lambda: None,
        "link to itself": lambda: path.symlink_to("x.vnfs"),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()
    line.run("sign", path, "--key", "dev").is_refusal(2)


def test_one_key_under_two_names_is_one_signature(line):
    for ending in ("pem", "pub"):
        shutil.copy(line.site / f"keys/dev.{ending}", line.site / f"keys/again.{ending}")
    assert line.run("sign", "toy", "--key", "dev", "--key", "again", "--key", "dev").status == 0
    assert line.run("verify", "toy").status == 0
    assert line.run("trust", "allow", "*", "--key", "dev", "--key", "ops",
                    "--threshold", "2").status == 0  # fmt: skip
    assert "signed by 1" in line.run("verify", "toy").is_refusal(3).line


# --- names that drive terminals -------------------------------------------------------------------

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\u202e"


@pytest.mark.parametrize(
    "verb", ["verify", "import", "show", "sign", "files", "export toy", "sbom", "mount x", "umount"]
)
@pytest.mark.parametrize("is_there", [False, True], ids=["missing", "damaged"])
def test_names_of_files_drive_no_terminal(line, tmp_path, verb, is_there):
    """A name is completed by a shell as it stands in somebody else's directory."""
    shown = io.StringIO()
    shown.isatty = lambda: True  # else click takes colours away
    path = tmp_path / ("there" if is_there else "missing") / f"{ESCAPES}.vnfs"
    if is_there:
        path.parent.mkdir()
        path.write_bytes((tmp_path / "toy.vnfs").read_bytes()[:-1])
    words = ["--store", line.store, "--site", line.site, *verb.split(), path]
    with contextlib.redirect_stderr(shown):
        cli.run([str(word) for word in words])
    told = re.sub("[\r\n]", "", shown.getvalue())  # a bar begins its line anew
    assert told.isprintable(), told


def test_an_error_keeps_its_lines():
    error = VnfsbuildError("x: \x1b[2J\x9b…", hint="type\tthis\nor that")
    assert printable(render_error(error)) == ("error: x: \\x1b[2J\\x9b…\nhint: type\tthis\nor that")
