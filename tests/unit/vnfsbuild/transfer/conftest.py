import pytest

from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.store.store import Store
from vnfsbuild.transfer import ranges
from vnfsbuild.transfer.chunkindex import make_chunk_index
from vnfsbuild.transfer.chunks import (
    render_chunk_index,
)
from vnfsbuild.transfer.importurl import import_url

from .published import KERNEL, MODULES, NEWER, ROOTFS
from .rangeserver import serve_files


@pytest.fixture
def server():
    with serve_files() as found:
        yield found


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(ranges, "RETRY_SECONDS", 0.01)


@pytest.fixture
def older(workshop):
    return workshop.capsule(payloads=[b"source", KERNEL, b"initrd", ROOTFS, MODULES])


@pytest.fixture
def newer(workshop):
    return workshop.capsule(serial=2, payloads=[b"newer", KERNEL, b"initrd", NEWER, MODULES])


@pytest.fixture
def publish(server, tmp_path, workshop):
    """Put a capsule on the server, with its chunk index, as ``export --chunks`` writes both."""

    def publish(toy, path="/toy.vnfs", index=True):
        server.files[path] = toy.write(tmp_path / "published").read_bytes()
        if index:
            store = Store(tmp_path / "publisher")
            toy.add_to(store)
            made = make_chunk_index(store, store.get(ref(f"toy@{toy.digest}")))
            server.files[f"{path}.chunks"] = render_chunk_index(made)
        return server.files[path]

    return publish


@pytest.fixture
def bring(server, store, tmp_path, workshop):
    def bring(path="/toy.vnfs", **words):
        return import_url(
            server.url(path),
            store,
            **{
                "trust": workshop.trust(),
                "now": workshop.now,
                "cache": tmp_path / "cache",
                **words,
            },
        )

    return bring
