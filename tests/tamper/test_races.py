"""Files that change while they are read: what was judged is what is used."""

import os
import threading

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.store.store import Store

from . import judges
from .anatomy import spans
from .claims import CLAIMS
from .forge import PAYLOADS, WORKSHOP, Forgery

GOOD = Forgery().file()
FIRST_PAYLOAD = spans(Forgery())["source"][0][0]


@pytest.fixture
def trust(desk):
    return load_trust(desk.site, now=WORKSHOP.now)


@pytest.fixture
def store(tmp_path, trust):
    """A store that holds another capsule."""
    store = Store(tmp_path / "store")
    other = tmp_path / "other.vnfs"
    other.write_bytes(Forgery(config={**Forgery().config, "name": "other"}).file())
    store.import_file(other, trust=trust, now=WORKSHOP.now)
    return store


def piped(path, *pieces):
    """Give *pieces* to who reads *path*, which can be read once and not gone back in."""
    os.mkfifo(path)

    def write():
        try:
            with open(path, "wb") as pipe:
                for piece in pieces:
                    pipe.write(piece)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def assert_whole(store):
    held = store.get(parse_reference("toy"))
    for region, _, data in PAYLOADS:
        assert store.blob_path(digest_of(data)).read_bytes() == data, region
    assert digest_of(held.manifest_bytes) == held.digest


@pytest.mark.parametrize("verb", ["import", "verify"])
def test_a_file_is_read_once(desk, tmp_path, verb):
    """Nothing is judged that is then read again: a pipe serves as well."""
    thread = piped(tmp_path / "toy.vnfs", GOOD)
    command = judges.CommandLine(tmp_path / "store", desk.site)
    assert command.run(verb, tmp_path / "toy.vnfs").status == 0
    thread.join()


def test_payloads_that_change_after_the_verdict_are_refused(store, trust, tmp_path):
    """The head is the good one, and was judged, before a byte of the other payloads is written."""
    before = judges.snapshot(store.path)
    tampered = GOOD[FIRST_PAYLOAD:].replace(b"kernel", b"keenel")
    thread = piped(tmp_path / "toy.vnfs", GOOD[:FIRST_PAYLOAD], tampered)
    with pytest.raises(VerificationError, match="found digest"):
        store.import_file(tmp_path / "toy.vnfs", trust=trust, now=WORKSHOP.now)
    thread.join()
    assert judges.snapshot(store.path) == before


def test_what_was_read_already_may_change(store, trust, tmp_path):
    """The bytes that were judged are the bytes in the store, whatever the file says by now."""
    path = tmp_path / "toy.vnfs"
    path.write_bytes(GOOD)

    def overwrite(count):
        with path.open("r+b") as file:
            file.write(bytes(FIRST_PAYLOAD))

    store.import_file(path, trust=trust, now=WORKSHOP.now, advance=overwrite)
    assert path.read_bytes()[:FIRST_PAYLOAD] == bytes(FIRST_PAYLOAD)
    assert_whole(store)


def test_another_file_in_its_place_is_not_looked_at(store, trust, tmp_path):
    path = tmp_path / "toy.vnfs"
    path.write_bytes(GOOD)

    def replace(count):
        (tmp_path / "evil").write_bytes(b"evil")
        (tmp_path / "evil").replace(path)

    store.import_file(path, trust=trust, now=WORKSHOP.now, advance=replace)
    assert_whole(store)


def test_a_blob_that_changed_in_the_store_is_written_anew(store, trust, tmp_path):
    """What the store holds is not taken for what it is called."""
    path = tmp_path / "toy.vnfs"
    path.write_bytes(GOOD)
    store.import_file(path, trust=trust, now=WORKSHOP.now)
    for _, _, data in PAYLOADS:
        store.blob_path(digest_of(data)).write_bytes(b"tampered")
    store.import_file(path, trust=trust, now=WORKSHOP.now)
    assert_whole(store)


def test_blobs_that_change_under_a_running_server_do_not_run(desk, tmp_path):
    """A node fetches the good head, and the payloads are exchanged before it asks for these."""
    paths = Forgery().lay_out(tmp_path / "store")
    node = judges.Node(desk)
    with desk.server.keeping(tmp_path / "store"):
        mine = desk.server.world.state.store

        def exchange(path):
            if path == digest_of(dict(Forgery().members("toy"))["config"])[7:]:
                for region in ("kernel", "initrd", "layer 0"):
                    blob = mine / paths[region].relative_to(tmp_path / "store")
                    blob.write_bytes(bytes(blob.stat().st_size))

        desk.server.on_request = exchange
        try:
            verdict = node.boot()
        finally:
            desk.server.on_request = None
    assert verdict.is_refusal(3)
    assert "kernel: found digest" in verdict.told


@pytest.mark.parametrize("verb", ["verify", "import"])
def test_signatures_are_judged_before_payloads_are_read(desk, tmp_path, verb):
    """Nobody reads gigabytes to learn that they are not trusted: here there are none to read."""
    file = CLAIMS["other key"].forgery.file()
    first = spans(CLAIMS["other key"].forgery)["source"][0][0]
    (tmp_path / "toy.vnfs").write_bytes(file[:first])
    command = judges.CommandLine(tmp_path / "store", desk.site)
    assert "untrusted" in command.run(verb, tmp_path / "toy.vnfs").is_refusal(3).line
