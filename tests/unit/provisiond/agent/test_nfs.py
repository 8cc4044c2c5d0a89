"""Blobs of an export: the same digests as by HTTP. The mount itself is for the laboratory."""

import os
import time

import pytest

from provisiond.agent.client import NetworkError
from provisiond.agent.distrust import Distrust
from provisiond.agent.fetch import Fetcher, Patience
from provisiond.agent.nfs import NfsSource, mount_argv, split_export
from provisiond.agent.obtain import open_raw
from provisiond.agent.sources import AbsentError
from provisiond.agent.supply import open_sources
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import LAYER_SQUASHFS, Descriptor

DATA = bytes(range(256)) * 4000
BLOB = Descriptor(LAYER_SQUASHFS, digest_of(DATA), len(DATA))
IMPATIENT = Patience(stall_seconds=0.3, tries=3, least_delay_seconds=0.01, most_delay_seconds=0.02)


class Export:
    """A directory as a server exports it; mounting is a link to it."""

    def __init__(self, directory, name, data=DATA):
        self.directory, self.name = directory / name, name
        (self.directory / "sha256").mkdir(parents=True)
        self.place = directory / "mounts" / name
        self.file = self.directory / "sha256" / BLOB.digest[7:]
        self.mounts, self.failures = [], 0
        if data is not None:
            self.file.write_bytes(data)

    def mount(self, export, directory):
        if self.failures:
            self.failures -= 1
            raise OSError("cannot be mounted: no route to host")
        self.mounts.append(export)
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.symlink_to(self.directory)

    def source(self):
        return NfsSource(
            f"{self.name}:/blobs", self.place, mount=self.mount,
            unmount=lambda path: path.unlink(), stall_seconds=IMPATIENT.stall_seconds,
        )  # fmt: skip


def fetch(tmp_path, *sources, told=None, **settings):
    told = [] if told is None else told
    path = tmp_path / "fetched"
    path.unlink(missing_ok=True)
    fetcher = Fetcher(sources, tell=told.append, patience=IMPATIENT, **settings)
    with open_raw(path) as file:
        file.write(b"before")
        fetcher.fetch_into(file, BLOB, where="layer 0")
    return path.read_bytes()[6:]


def test_a_blob_is_read_from_the_export_which_is_mounted_once(tmp_path):
    export = Export(tmp_path, "nfs1")
    source = export.source()
    for _ in range(2):
        assert fetch(tmp_path, source) == DATA
    assert export.mounts == ["nfs1:/blobs"]
    source.close()
    assert not os.path.lexists(export.place)


def test_an_export_that_cannot_be_mounted_is_tried_again_and_another_asked(tmp_path):
    first, second = Export(tmp_path, "nfs1"), Export(tmp_path, "nfs2")
    first.failures = 99
    told = []
    assert fetch(tmp_path, first.source(), second.source(), told=told) == DATA
    assert told == [
        "layer 0: nfs1:/blobs: cannot be mounted: no route to host; going on with nfs2:/blobs"
    ]
    first.failures = 2
    assert fetch(tmp_path, first.source()) == DATA


def test_wrong_bytes_by_nfs_are_refused_and_fetched_from_another(tmp_path):
    wrong = Export(tmp_path, "nfs1", DATA[:-1] + b"!")
    with pytest.raises(VerificationError, match="layer 0: found digest"):
        fetch(tmp_path, wrong.source())
    assert (tmp_path / "fetched").read_bytes() == b"before"
    wrong.place.unlink()
    distrust = Distrust()
    right = Export(tmp_path, "nfs2")
    assert fetch(tmp_path, wrong.source(), right.source(), distrust=distrust) == DATA
    assert distrust.report() == {"wrongMirrors": ["nfs1:/blobs: wrong bytes: layer 0"]}


@pytest.mark.parametrize(
    ("data", "told"),
    [(None, "No such file"), (DATA[:-1], f"has {len(DATA) - 1} bytes, expected {len(DATA)}")],
)
def test_what_is_not_there_or_too_short_is_told(tmp_path, data, told):
    with pytest.raises(NetworkError, match=told):
        fetch(tmp_path, Export(tmp_path, "nfs1", data).source())


def test_a_file_that_gets_shorter_while_it_is_read_is_noticed(tmp_path):
    export = Export(tmp_path, "nfs1")
    source = export.source()
    stream = source.read(BLOB.digest, 0, size_bytes=BLOB.size_bytes)
    next(stream)  # the pipe holds less than what is left
    os.truncate(export.file, 300_000)
    with pytest.raises(OSError, match="broke off"):
        list(stream)


def test_a_server_that_falls_silent_is_left_and_nothing_hangs(tmp_path):
    """A FIFO that nobody writes to hangs whoever opens it, as a file of a dead server does."""
    silent, other = Export(tmp_path, "nfs1", None), Export(tmp_path, "nfs2")
    os.mkfifo(silent.file)
    told = []
    started = time.monotonic()
    assert fetch(tmp_path, silent.source(), other.source(), told=told) == DATA
    assert time.monotonic() - started < 3
    assert told == ["layer 0: nfs1:/blobs: no answer in time; going on with nfs2:/blobs"]
    assert not os.path.lexists(silent.place), "it is mounted anew when it is asked again"
    with pytest.raises(NetworkError, match="no answer in time"):
        fetch(tmp_path, silent.source())
    assert len(silent.mounts) == 1 + IMPATIENT.tries
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_cannot_be_unmounted_stops_nothing(tmp_path):
    def refuse(path):
        raise OSError("busy")

    export = Export(tmp_path, "nfs1")
    source = NfsSource("nfs1:/blobs", export.place, mount=export.mount, unmount=refuse)
    assert fetch(tmp_path, source) == DATA
    source.close()


def test_ranges_are_read(tmp_path):
    source = Export(tmp_path, "nfs1").source()
    fetcher = Fetcher([source], tell=print, patience=IMPATIENT)
    assert fetcher.read_range(BLOB.digest, 1000, 500, where="x") == DATA[1000:1500]


@pytest.mark.parametrize("export", ["nfs1", "nfs1:blobs", ":/blobs", "-o:/x", "a b:/x", "h:/x y"])
def test_what_is_no_export_is_refused(export):
    with pytest.raises(AbsentError, match="expected SERVER:/PATH"):
        split_export(export)


def test_it_is_mounted_so_that_a_silent_server_is_an_error(tmp_path):
    assert split_export("[fd00::1]:/blobs") == ("fd00::1", "/blobs")
    argv = mount_argv("10.87.0.1:/blobs", tmp_path, "10.87.0.1")
    assert argv[:3] == ["mount", "-t", "nfs4"]
    options = argv[4].split(",")
    assert {"ro", "soft", "proto=tcp", "addr=10.87.0.1"} <= set(options)
    assert argv[5:] == ["10.87.0.1:/blobs", str(tmp_path)]


def test_a_plan_says_which_it_is_and_each_node_has_its_own_order(tmp_path, world, keys):
    capsule = world.TestCapsule(keys)
    http = capsule.plan("http://near/blobs", "http://a/blobs", "http://b/blobs", near=1)
    with open_sources(http, run=tmp_path, patience=IMPATIENT) as sources:
        bases = [source.base for source in sources]
    assert bases[0] == "http://near/blobs"
    assert sorted(bases[1:]) == ["http://a/blobs", "http://b/blobs"]
    exports = ("nfs1:/blobs", "nfs2:/blobs")
    nfs = capsule.plan(transfer="nfs", nfs=exports)
    with open_sources(nfs, run=tmp_path, patience=IMPATIENT) as sources:
        assert sorted(source.base for source in sources) == list(exports)
        assert all(isinstance(source, NfsSource) for source in sources)
