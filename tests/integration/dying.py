"""Writers of a store that die. Run by test_store_kill.py, in a process with one thread that forks.

``everywhere``: all that the store does to the disk goes by the functions in CALLS. A child counts
them and ends, as by SIGKILL (nothing of Python runs any more), before the k-th; a write is cut in
the middle. The parent looks at what was left, for k = 1, 2, … until a child gets to its end.

``at random``: workers do this and that to one store at once, and tell what they have done; the
parent kills one after the other, whatever it is doing, and another takes its place.
"""

import io
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.unit.vnfsbuild.conftest import NOW, Workshop
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.store.check import check_store
from vnfsbuild.store.pins import load_pins
from vnfsbuild.store.repair import repair_store
from vnfsbuild.store.store import Store

CALLS = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "unlink", "fchmod", "ftruncate")
DIED = 137

workshop = Workshop()


class Deadline:
    """Ends the process at the k-th change."""

    def __init__(self, last):
        self.last = last
        self.count = 0

    def step(self):
        self.count += 1
        return self.count == self.last

    def wrap(self, call):
        def counted(*args, **words):
            if self.step():
                os._exit(DIED)
            return call(*args, **words)

        return counted

    def install(self):
        for name in CALLS:
            setattr(os, name, self.wrap(getattr(os, name)))
        # mkstemp keeps its own reference to the module, whose function this is.
        plain_open, plain_write, plain_fdopen = os.open, os.write, os.fdopen

        def opened(path, flags, *args, **words):
            if flags & os.O_CREAT and self.step():
                os._exit(DIED)
            return plain_open(path, flags, *args, **words)

        def written(descriptor, data):
            if self.step():
                plain_write(descriptor, data[: len(data) // 2])
                os._exit(DIED)
            return plain_write(descriptor, data)

        deadline = self

        class Torn(io.FileIO):
            def write(self, data):
                if deadline.step():
                    super().write(bytes(data)[: len(data) // 2])
                    os._exit(DIED)
                return super().write(data)

        def fdopened(descriptor, mode="r", *args, **words):
            if mode == "wb":
                return io.BufferedWriter(Torn(descriptor, "wb"))
            return plain_fdopen(descriptor, mode, *args, **words)

        os.open, os.write, os.fdopen = opened, written, fdopened


def toy(serial, **words):
    own = [f"source {serial}".encode(), b"kernel!", b"initrd" * 100, b"root" * 99, b"modules"]
    return workshop.capsule(serial=serial, payloads=own, **words)


def add(store, *serials):
    for serial in serials:
        toy(serial).add_to(store)


def attach(store, data):
    blob = store.add_blob(data, media_type="text/x")
    store.attach(ref("toy"), blob, artifact_type="text/x")


def spoil(store, digest):
    path = store.blob_path(digest)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def repair(store):
    repair_store(store, check_store(store).blobs, drop=True, say=lambda line: None)


def litter(store):
    """Leave what a builder leaves that dies before its capsule is whole."""
    store.add_blob(b"litter", media_type="text/x")
    (store.path / ".incoming/abandoned").mkdir()
    (store.path / ".incoming/abandoned/blob").write_bytes(b"x")
    (store.path / ".index.json.abandoned").write_bytes(b"x")


def import_capsule(store, capsule):
    path = store.path.parent / "toy.vnfs"
    store.import_file(path, trust=workshop.trust(), now=NOW)


def write_file(store, serial):
    toy(serial).write(store.path.parent / "toy.vnfs")


STORIES = {
    # name: what is there before, what is done; each is one change, or its parts are named
    "the first capsule": (lambda s: None, lambda s: add(s, 1)),
    "the next capsule": (lambda s: add(s, 1), lambda s: add(s, 2)),
    "a new signature": (
        lambda s: add(s, 1),
        lambda s: toy(1, signers=("ops",)).add_to(s),
    ),
    "import into an empty store": (
        lambda s: write_file(s, 1), lambda s: import_capsule(s, 1),
    ),
    "import beside another": (
        lambda s: (add(s, 1), write_file(s, 2)), lambda s: import_capsule(s, 2),
    ),
    "import that mends": (
        lambda s: (add(s, 1), write_file(s, 1), spoil(s, digest_of(toy(1).config))),
        lambda s: import_capsule(s, 1),
    ),
    "attach": (lambda s: add(s, 1), lambda s: attach(s, b"one")),
    "attach in the place of another": (
        lambda s: (add(s, 1), attach(s, b"one")), lambda s: attach(s, b"two"),
    ),
    "tag": (lambda s: add(s, 1, 2), lambda s: s.tag(ref("toy:1"), "stable")),
    "untag": (
        lambda s: (add(s, 1, 2), s.tag(ref("toy:1"), "stable")),
        lambda s: s.untag(ref("toy:stable")),
    ),
    "promote": (lambda s: add(s, 1, 2, 3), lambda s: s.promote(ref("toy:1"))),
    "rollback": (lambda s: add(s, 1, 2), lambda s: s.rollback("toy")),
    "delete one of two": (lambda s: add(s, 1, 2), lambda s: s.delete(ref("toy:1"))),
    "delete the last": (lambda s: add(s, 1), lambda s: s.delete(ref("toy"))),
    "delete the old ones": (
        lambda s: add(s, 1, 2, 3, 4), lambda s: s.delete_old(["toy"], keep=1),
    ),
    "gc": (lambda s: (add(s, 1), litter(s)), lambda s: s.gc()),
    "the first pin": (
        lambda s: add(s, 1), lambda s: s.pin(ref("toy"), owner="me", reason="why"),
    ),
    "a second pin": (
        lambda s: (add(s, 1, 2), s.pin(ref("toy:1"), owner="me", reason="why")),
        lambda s: s.pin(ref("toy:2"), owner="me", reason="because"),
    ),
    "a repair that mends blobs and pins": (
        lambda s: (
            add(s, 1, 2), s.pin(ref("toy:1"), owner="me", reason="why"),
            spoil(s, toy(1).digest), (s.path / "pins/me.json").write_bytes(b"x"),
        ),
        lambda s: repair(s),
    ),
    "a repair that mends the index": (
        lambda s: (
            add(s, 1, 2), attach(s, b"one"), s.tag(ref("toy:1"), "stable"),
            (s.path / "oci-layout").write_bytes(b"x"),
            spoil(s, s.load_index().referrers[toy(2).digest].digest),
            (s.path / "index.json").write_bytes((s.path / "index.json").read_bytes() + b" "),
        ),
        lambda s: repair(s),
    ),
    "unpin": (
        lambda s: (add(s, 1), s.pin(ref("toy"), owner="me", reason="why")),
        lambda s: s.unpin(toy(1).digest, owner="me"),
    ),
}  # fmt: skip


def state_of(store):
    """Return all that an administrator sees of a store."""
    return {
        "capsules": {
            found.digest: [
                list(found.tags),
                list(found.signers),
                [item.blob.digest for item in found.attachments],
            ]
            for found in store.list_capsules()
        },
        "pins": [[pin.owner, pin.digest, pin.reason] for pin in load_pins(store.path)],
    }


def files_of(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def in_child(work):
    """Run *work* in a child; return the status that it ended with."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            work()
            status = 0
        except BaseException as error:  # noqa: BLE001 - told by the status, and in words
            sys.stderr.write(f"child: {error!r}\n")
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_everywhere(name, directory):
    """Return a line for each fault, and how many places there were to die at."""
    before, act = STORIES[name]
    template = directory / "template"
    template.mkdir()
    before(Store(template / "store"))
    is_mending = "mends" in name
    old = None if is_mending else state_of(Store(template / "store"))
    clean = directory / "clean"
    shutil.copytree(template, clean)
    act(Store(clean / "store"))
    new = state_of(Store(clean / "store"))
    Store(clean / "store").gc()
    faults, last = [], 0
    while True:
        last += 1
        place = directory / f"at-{last}"
        shutil.copytree(template, place)

        def dying(place=place, last=last):
            Deadline(last).install()
            act(Store(place / "store"))

        status = in_child(dying)
        if status not in (0, DIED):
            faults.append(f"{last}: ended with {status}")
        faults += [f"{last}: {fault}" for fault in judge(place, old, new, files_of(clean), act)]
        shutil.rmtree(place)
        if status == 0:
            return faults, last - 1


def judge(place, old, new, clean, act):
    """Say what is wrong with what a dead process left; then do what it was to do, and collect."""
    store = Store(place / "store")
    is_mending = old is None
    faults, seen = [], None
    if store.path.exists() and not is_mending:
        checked = check_store(store)
        faults += [
            f"{finding.subject}: {finding.text}"
            for finding in checked.findings
            if finding.is_damage
        ]
        # A reader sees the state before or after; several steps may lie between them.
        seen = state_of(store)
        if seen not in (old, new) and not set(old["capsules"]) <= set(seen["capsules"]) <= set(
            new["capsules"]
        ):
            faults.append(f"found {json.dumps(seen)}")
        for digest in seen["capsules"]:
            trust = workshop.trust("dev", "ops")
            store.verify(ref(f"toy@{digest}"), trust=trust, now=NOW)
    if store.path.exists() and not is_mending:
        store.gc()
        if state_of(store) != seen:
            faults.append("gc has changed what there is")
        left = check_store(store).findings if (store.path / "index.json").exists() else ()
        faults += [f"after gc: {item.subject}: {item.text}" for item in left]
    if seen != new:
        act(Store(store.path))
    if state_of(store) != new:
        faults.append(f"then: found {json.dumps(state_of(store))}")
    Store(store.path).gc()
    if files_of(place) != clean:
        faults.append(f"then: {set(files_of(place)) ^ set(clean)} are left or gone")
    return faults


class Worker:
    """Does this and that, with capsules of its own name whose payloads others have as well."""

    def __init__(self, directory, number, seed):
        self.name = f"toy{number}"
        self.store_path = directory / "store"
        self.files = directory / f"files-{number}"
        self.files.mkdir(exist_ok=True)
        self.log = os.open(directory / f"log-{number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.random = random.Random(seed)

    def tell(self, what, serial):
        os.write(self.log, f"{what} {serial}\n".encode())

    def capsule(self, serial):
        own = [b"source", b"kernel!", b"initrd" * 100, f"root {serial % 5}".encode(), b"modules"]
        return workshop.capsule(name=self.name, serial=serial, payloads=own)

    def run(self):
        while True:
            store = Store(self.store_path)
            try:
                self.step(store)
            except VnfsbuildError as error:
                # Refused, since it is current, or not there: told, and the store is as it was.
                if error.exit_status != 2:
                    self.tell(f"error {error!r}", 0)
                    raise

    def step(self, store):
        serial = self.random.randrange(1, 8)
        reference = ref(f"{self.name}:{serial}")
        what = self.random.choice(
            ["import", "import", "add", "delete", "delete", "old", "tag", "untag", "promote",
             "rollback", "attach", "pin", "unpin", "gc"]
        )  # fmt: skip
        if what == "import":
            path = self.capsule(serial).write(self.files / "toy.vnfs")
            store.import_file(path, trust=workshop.trust(), now=NOW)
            self.tell("has", serial)
        elif what == "add":
            self.capsule(serial).add_to(store)
            self.tell("has", serial)
        elif what == "delete":
            self.tell("deletes", serial)
            store.delete(reference, force=self.random.random() < 0.3)
        elif what == "old":
            for old in range(1, 8):
                self.tell("deletes", old)
            store.delete_old([self.name], keep=3)
        else:
            self.step_more(store, what, reference)

    def step_more(self, store, what, reference):
        if what == "tag":
            store.tag(reference, "stable")
        elif what == "untag":
            store.untag(ref(f"{self.name}:stable"))
        elif what == "promote":
            store.promote(reference)
        elif what == "rollback":
            store.rollback(self.name)
        elif what == "attach":
            blob = store.add_blob(self.random.randbytes(20), media_type="text/x")
            store.attach(reference, blob, artifact_type="text/x")
        elif what == "pin":
            store.pin(reference, owner=self.name, reason="it runs")
        elif what == "unpin":
            store.unpin(self.capsule(reference.tag.isdigit() and int(reference.tag)).digest,
                        owner=self.name)  # fmt: skip
        else:
            store.gc()


def kill_at_random(directory, kills, seed, workers=3):
    """Return a line for each fault."""
    chance = random.Random(seed)
    living = {}
    started = 0

    def start(number):
        nonlocal started
        started += 1
        pid = os.fork()
        if pid == 0:
            try:
                Worker(directory, number, seed * 1000 + started).run()
            finally:
                os._exit(99)
        living[number] = pid

    for number in range(workers):
        start(number)
    faults = []
    for _ in range(kills):
        time.sleep(chance.uniform(0.001, 0.08))
        number = chance.randrange(workers)
        status = end(living[number])
        faults += [f"worker {number} ended by itself"] if status != -signal.SIGKILL else []
        start(number)
        store = Store(directory / "store")
        if store.path.exists() and chance.random() < 0.2:
            damage = [item for item in check_store(store).findings if item.is_damage]
            faults += [f"{item.subject}: {item.text}" for item in damage]
    for pid in living.values():
        end(pid)
    return faults + judge_workers(directory, workers)


def end(pid):
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def judge_workers(directory, workers):
    store = Store(directory / "store")
    faults = [f"{item.subject}: {item.text}" for item in check_store(store).findings
              if item.is_damage]  # fmt: skip
    there = {f"{item.name}:{item.config.serial}" for item in store.list_capsules()}
    done = 0
    for number in range(workers):
        last = {}
        for line in (directory / f"log-{number}").read_text().splitlines():
            what, serial = line.rsplit(" ", 1)
            last[serial] = what
            done += 1
            faults += [line] if what.startswith("error") else []
        for serial, what in last.items():
            if what == "has" and f"toy{number}:{serial}" not in there:
                faults.append(f"toy{number}:{serial} was acknowledged, and is gone")
    for item in store.list_capsules():
        store.verify(ref(f"{item.name}@{item.digest}"), trust=workshop.trust(), now=NOW)
    store.gc()
    # Void pins may stay: they are their owner's.
    left = [item for item in check_store(store).findings if item.kind != "stale pin"]
    faults += [f"after gc: {item.subject}: {item.text}" for item in left]
    sys.stderr.write(f"{done} changes told, {len(there)} capsules at the end\n")
    return faults


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    if mode == "everywhere":
        found, places = die_everywhere(sys.argv[3], place)
        answer = {"places": places, "faults": found}
    else:
        found = kill_at_random(place, int(sys.argv[3]), int(sys.argv[4]))
        answer = {"faults": found}
    sys.stdout.write(json.dumps(answer))
