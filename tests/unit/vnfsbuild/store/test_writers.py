"""Imports that are damaged, interrupted, killed, or run at once leave a whole store."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError
from vnfsbuild.reference import parse_reference as ref

from .importing import ROOT, import_file, snapshot


def test_a_damaged_file_leaves_the_store_as_it_was(store, workshop, tmp_path):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)
    path = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e" * 5000]).write(
        tmp_path / "toy.vnfs"
    )
    good = path.read_bytes()
    for data in (good[:-1], good[:-1500], good + b"x", good.replace(b"eee", b"efe", 1)):
        path.write_bytes(data)
        with pytest.raises(VerificationError):
            import_file(store, path, workshop)
        assert snapshot(store) == before


def test_ctrl_c_leaves_the_store_as_it_was(store, workshop, tmp_path):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_file(
            store, workshop.capsule().write(tmp_path / "toy.vnfs"), workshop, advance=interrupt
        )
    assert snapshot(store) == before


CHILD = """
import sys, os, resource, time
from pathlib import Path
from vnfsbuild.store.store import Store
from vnfsbuild.trust import verify_trust
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.errors import VnfsbuildError
store, path, trust, now, how = Store(Path(sys.argv[1])), Path(sys.argv[2]), *sys.argv[3:]
trust = verify_trust(
    Path(trust).read_bytes(), pinned=None, now=int(now), verify_ed25519=verify_ed25519
)
def advance(count):
    if how == "hang":
        print("importing", flush=True)
        time.sleep(60)
if how == "full":
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.import_file(path, trust=trust, now=int(now), advance=advance)
except VnfsbuildError as error:
    sys.exit(f"{error.exit_status} {error}")
"""


def start_import(store, path, workshop, how="plain"):
    trust = path.with_suffix(".json")
    trust.write_bytes(workshop.signed_trust(workshop.trust()))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, store.path, path, trust, str(workshop.now), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_import_leaves_a_whole_store_and_the_next_writer_cleans_up(
    store, workshop, tmp_path
):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)
    path = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e"]).write(tmp_path / "toy.vnfs")
    with start_import(store, path, workshop, "hang") as child:
        assert child.stdout.readline() == "importing\n"
        assert list((store.path / ".incoming").iterdir())
        child.send_signal(signal.SIGKILL)
    left = {name: data for name, data in snapshot(store).items() if ".incoming" not in name}
    assert left == before
    assert [found.config.serial for found in store.list_capsules()] == [9]
    import_file(store, path, workshop)
    assert list((store.path / ".incoming").iterdir()) == []
    assert len(store.list_capsules()) == 2


def test_a_full_disk_is_told_and_leaves_the_store_as_it_was(store, workshop, tmp_path):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)
    path = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e" * 300_000]).write(
        tmp_path / "toy.vnfs"
    )
    with start_import(store, path, workshop, "full") as child:
        _, told = child.communicate()
    assert child.returncode == 1
    assert f"1 store {store.path}: File too large; it is as it was before" in told
    assert snapshot(store) == before


def test_two_processes_import_at_once(store, workshop, tmp_path):
    paths = [
        workshop.capsule(serial=serial).write(tmp_path / f"{serial}.vnfs") for serial in (1, 2, 2)
    ]
    children = [start_import(store, path, workshop) for path in paths]
    for child in children:
        with child:
            assert child.wait() == 0, child.stderr.read()
    found = store.list_capsules()
    assert [capsule.config.serial for capsule in found] == [2, 1]
    for capsule in found:
        store.verify(ref(f"toy@{capsule.digest}"), trust=workshop.trust(), now=workshop.now)


def test_threads_write_and_read_at_once(store, workshop):
    toys = [workshop.capsule(serial=serial) for serial in range(1, 9)]

    def work(toy):
        toy.add_to(store)
        seen = {found.digest for found in store.list_capsules()}
        if toy.head.capsule.config.serial % 2:
            store.delete(ref(f"toy@{toy.digest}"), force=True)
        return toy.digest in seen

    with ThreadPoolExecutor(4) as pool:
        # All of them have the same payloads: deleting one takes nothing that another has added.
        assert all(pool.map(work, toys))
    for found in store.list_capsules():
        store.verify(ref(f"toy@{found.digest}"), trust=workshop.trust(), now=workshop.now)


def test_a_writer_that_still_works_is_not_cleaned_up(store, workshop, tmp_path):
    one = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e"]).write(tmp_path / "one.vnfs")
    two = workshop.capsule(serial=2, payloads=[b"f", b"g", b"h", b"i", b"j"]).write(
        tmp_path / "two.vnfs"
    )
    started = []

    def advance(count):
        if not started:
            started.append(True)
            import_file(store, two, workshop)

    import_file(store, one, workshop, advance=advance)
    assert [found.config.serial for found in store.list_capsules()] == [2, 1]


def test_a_blob_that_is_deleted_while_an_import_relies_on_it_survives(store, workshop, tmp_path):
    held = workshop.capsule(serial=1)
    held.add_to(store)
    path = workshop.capsule(serial=2).write(tmp_path / "toy.vnfs")
    deleted = []

    def advance(count):
        if not deleted:
            deleted.extend(store.delete(ref("toy:1")).blobs)

    import_file(store, path, workshop, advance=advance)
    assert digest_of(b"source") in deleted
    store.verify(ref("toy"), trust=workshop.trust(), now=workshop.now)
