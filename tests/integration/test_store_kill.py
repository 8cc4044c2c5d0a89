"""Writers of a store are killed, disks are full or read-only: what was acknowledged stays whole."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .dying import NOW, STORIES, Store, check_store, ref, toy, workshop

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def quick(tmp_path):
    """A directory in memory, where there is one: what is durable is not what is tested here."""
    memory = Path("/dev/shm")
    path = memory / f"vnfs-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path / "quick"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def die(*arguments):
    command = [sys.executable, "-B", "-m", "tests.integration.dying", *map(str, arguments)]
    told = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.mark.parametrize("story", STORIES)
def test_a_writer_may_die_before_any_change_to_the_disk(quick, story):
    answer = die("everywhere", quick, story)
    assert answer["faults"] == []
    assert answer["places"] >= 3


def test_writers_are_killed_at_random(quick):
    assert die("random", quick, 40, random.randrange(10**6))["faults"] == []


@pytest.mark.long
def test_writers_are_killed_at_random_hundreds_of_times(quick):
    for _ in range(4):
        assert die("random", quick, 200, random.randrange(10**6))["faults"] == []
        shutil.rmtree(quick / "store")
        for log in quick.glob("log-*"):
            log.unlink()


@pytest.fixture
def site(quick):
    """A site that trusts the workshop's key, at the time of the workshop."""
    (quick / "site").mkdir()
    trust = workshop.trust(expires=int(time.time()) + 10**6)
    (quick / "site/trust.json").write_bytes(workshop.signed_trust(trust))
    return quick / "site"


def start(store, site, *arguments):
    command = [sys.executable, "-B", "-m", "vnfsbuild", "--store", store, "--site", site]
    return subprocess.Popen([*map(str, command), *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def end(child):
    out, err = child.communicate()
    return child.returncode, out, err


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.long)])
def test_the_command_itself_is_killed(quick, site, kills):
    store = Store(quick / "store")
    chance = random.Random()
    started = time.monotonic()
    status, _, err = end(start(store.path, site, "import", toy(0).write(quick / "toy.vnfs")))
    assert status == 0, err
    takes_seconds = time.monotonic() - started
    acknowledged = {0}
    for number in range(1, kills + 1):
        path = toy(number).write(quick / "toy.vnfs")
        with start(store.path, site, "import", path) as child:
            try:
                child.wait(takes_seconds * chance.uniform(0.3, 1.2))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
            if child.wait() == 0:
                acknowledged.add(number)
    there = {found.config.serial for found in store.list_capsules()}
    assert acknowledged <= there
    assert not check_store(store).is_damaged
    for serial in there:
        store.verify(ref(f"toy:{serial}"), trust=workshop.trust(), now=NOW)
    status, out, err = end(start(store.path, site, "gc"))
    assert (status, err) == (0, ""), out
    assert check_store(store).findings == ()


def test_two_collections_at_once_and_an_import(quick, site):
    store = Store(quick / "store")
    toy(1).add_to(store)
    path = toy(2).write(quick / "toy.vnfs")
    for number in range(300):
        store.add_blob(b"%d" % number, media_type="x")
    littered = len(store.list_blobs())
    del store
    store = Store(quick / "store")
    children = [start(store.path, site, *words) for words in (["gc"], ["import", path], ["gc"])]
    answers = [end(child) for child in children]
    assert [status for status, _, _ in answers] == [0, 0, 0], answers
    assert len(store.list_blobs()) < littered
    assert check_store(store).findings == ()
    assert [found.config.serial for found in store.list_capsules()] == [2, 1]


IN_NAMESPACE = """
mount -t tmpfs -o size=1m none {place} && {prepare} && exec "$@"
"""


def in_small_disk(place, prepare, *arguments):
    """Run a command in a mount namespace of its own, where *place* is a disk of one megabyte."""
    place.mkdir()
    script = IN_NAMESPACE.format(place=place, prepare=prepare)
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-B", *arguments]
    told = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return told


FULL = """
import sys
from pathlib import Path
from tests.integration.dying import *
place, path = Path(sys.argv[1]), Path(sys.argv[2])
store = Store(place / "store")
add(store, 1)
before = state_of(store)
index = (store.path / "index.json").read_bytes()
# Fill it step by step, so that space ends at ever other places.
for left in range(0, 400_000, 8192):
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
        os.ftruncate(file.fileno(), max(0, file.tell() - left))
    for act in (
        lambda: store.import_file(path, trust=workshop.trust(), now=NOW),
        lambda: add(store, 3),
        lambda: store.tag(ref("toy:1"), "stable"),
        lambda: store.pin(ref("toy:1"), owner="me", reason="x" * 9000),
    ):
        try:
            act()
        except VnfsbuildError as error:
            assert error.exit_status == 1 and "No space left" in str(error), repr(error)
            assert "df -h" in error.hint
        assert not check_store(store).is_damaged
    removed = store.gc()
    filler.unlink()
    now = state_of(store)
    assert set(before["capsules"]) <= set(now["capsules"])
    if set(now["capsules"]) > set(before["capsules"]):
        break
assert left > 0, "the disk was never full"
add(store, 3)
# A full disk does not keep anybody from making space.
with filler.open("wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
try:
    store.delete(ref("toy:1"), force=True)
except VnfsbuildError as error:
    assert "No space left" in str(error)
assert not check_store(store).is_damaged
"""


def test_a_full_disk(quick):
    path = workshop.capsule(
        serial=2, payloads=[b"s", b"k", b"i", os.urandom(200_000), b"m"]
    ).write(quick / "toy.vnfs")  # fmt: skip
    in_small_disk(quick / "small", "true", "-c", FULL, quick / "small", path)


READ_ONLY = """
import sys
from pathlib import Path
from tests.integration.dying import *
store = Store(Path(sys.argv[1]) / "store")
assert [found.config.serial for found in store.list_capsules()] == [2, 1]
store.verify(ref("toy"), trust=workshop.trust(), now=NOW)
store.export(ref("toy"), Path(sys.argv[2]))
assert check_store(store).findings == ()
for act in (
    lambda: add(store, 3), lambda: store.gc(), lambda: store.promote(ref("toy:1")),
    lambda: store.delete(ref("toy:1")), lambda: store.pin(ref("toy"), owner="me", reason="x"),
    lambda: repair(store),
):
    try:
        act()
    except VnfsbuildError as error:
        assert "Read-only file system; it is as it was before" in str(error), error
    else:
        raise AssertionError("was allowed")
"""


def test_a_store_that_may_only_be_read(quick):
    for serial in (1, 2):
        toy(serial).add_to(Store(quick / "store"))
    place = quick / "small"
    prepare = f"cp -r {quick / 'store'} {place} && mount -o remount,ro {place}"
    in_small_disk(place, prepare, "-c", READ_ONLY, place, quick / "out.vnfs")
    assert (quick / "out.vnfs").exists()
