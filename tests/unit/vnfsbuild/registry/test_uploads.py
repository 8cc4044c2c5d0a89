"""Uploads, in parts and whole, and after breaks."""

import io
import random

import pytest

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.registry.answer import RegistryError
from vnfsbuild.registry.uploads import upload_blob

from .registries import (
    REPOSITORY,
    blob_of,
    digest_of,
)


def upload(registry, data, **words):
    told = []
    repository = registry.repository()
    words = {"advance": told.append, "part_bytes": 1000, **words}
    sent = upload_blob(repository, blob_of(data), lambda: io.BytesIO(data), **words)
    assert registry.blobs[REPOSITORY, digest_of(data)] == data
    assert sum(told) == len(data)
    return sent


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 4321])
def test_uploads_in_parts(registry, size):
    assert upload(registry, random.Random(size).randbytes(size))
    assert len(registry.requests("PATCH")) == max(0, (size - 1) // 1000)
    assert len(registry.requests("PUT")) == 1


@pytest.mark.parametrize("keeps", [True, False])
def test_an_upload_goes_on_after_a_broken_connection(registry, keeps):
    registry.keeps_uploads = keeps
    broken = []

    def twist(request):
        if request.command in ("PATCH", "PUT") and len(broken) < 3 and len(registry.asked) % 2:
            session = request.path.partition("?")[0].rpartition("/")[2]
            broken.append(session)
            request.receive_some(session, 321)
            return True
        return False

    registry.twist = twist
    data = random.Random(2).randbytes(5000)
    assert upload(registry, data)
    assert broken
    sent = sum(int(headers["Content-Length"]) for verb, _, headers in registry.asked
               if verb in ("PATCH", "PUT"))  # fmt: skip
    if keeps:
        assert len(registry.requests("POST")) == 1
        assert sent < 5000 + 3 * 1000


def test_an_upload_of_which_only_the_last_answer_was_lost(registry):
    def twist(request):
        if request.command == "PUT" and not registry.blobs:
            session = request.path.partition("?")[0].rpartition("/")[2]
            registry.blobs[REPOSITORY, digest_of(b"hello")] = request.body()
            del registry.uploads[session]
            request.cut()
            return True
        return False

    registry.twist = twist
    assert upload(registry, b"hello")
    assert len(registry.requests("PUT")) == 1


def test_a_registry_that_wants_blobs_whole(registry):
    def twist(request):
        if request.command == "PATCH":
            request.body()
            request.error(405, "UNSUPPORTED")
            return True
        return False

    registry.twist = twist
    assert upload(registry, bytes(5000))


def test_a_registry_that_names_the_least_part(registry):
    def twist(request):
        if request.command != "POST":
            return False
        registry.uploads["1"] = b""
        request.answer(202, Location="/v2/vnfs/toy/blobs/uploads/1", OCI_Chunk_Min_Length="3000")
        return True

    registry.twist = twist
    assert upload(registry, bytes(5000))
    assert len(registry.requests("PATCH")) == 1


def test_an_upload_that_fails_again_and_again_ends(registry):
    registry.twist = lambda request: request.command == "PATCH" and (request.cut() or True)
    with pytest.raises(RegistryError):
        upload(registry, bytes(5000))
    assert len(registry.requests("PATCH")) == 4


def test_bytes_that_changed_are_not_sent_for_ever(registry):
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        upload_blob(registry.repository(), blob_of(b"hello"), lambda: io.BytesIO(b"hellO"))
    assert len(registry.requests("PUT")) == 1
    with pytest.raises(VnfsbuildError, match="became shorter"):
        upload_blob(registry.repository(), blob_of(b"hello"), lambda: io.BytesIO(b"hell"))


def test_mounting(registry):
    registry.blobs["vnfs/base", digest_of(b"hello")] = b"hello"
    assert not upload(registry, b"hello", mount_from="vnfs/base")
    assert not registry.requests("PUT")
    assert upload(registry, b"other", mount_from="vnfs/base"), "it was not there after all"
    registry.mounts = False
    assert upload(registry, b"third", mount_from="vnfs/base")
