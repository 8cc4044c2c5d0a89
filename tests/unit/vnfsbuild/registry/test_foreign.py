"""Archives that other programs wrote: read in any order, believed nothing, refused with words."""

import contextlib
import io
import json
import os
import random
import tarfile
import tracemalloc

import pytest

from vnfsbuild.capsule import referrers_tag
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.manifest import OCI_INDEX, OCI_MANIFEST, SIGNATURE, parse_manifest
from vnfsbuild.reference import Reference
from vnfsbuild.referrers.attachment import make_carried, render_attachment
from vnfsbuild.registry.foreign import LayoutSource, import_layout, open_layout

from .registries import digest_of


def blob_path(data):
    return f"blobs/sha256/{digest_of(data)[7:]}"


def entry(data, kind=OCI_MANIFEST, tag=None, **more):
    notes = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data), **notes, **more}


def make_files(*toys, signed="index"):
    """Return the files of a layout as skopeo (*signed* in an index) or oras (listed) writes it."""
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}\n'}
    listed = []
    for toy in toys:
        for data in (toy.manifest, toy.config, *toy.blobs.values(), b"{}"):
            files[blob_path(data)] = data
        listed.append(entry(toy.manifest, tag=str(json.loads(toy.config)["serial"])))
        signatures = []
        for envelope in toy.envelopes:
            data = render_attachment(make_carried(toy.manifest, envelope, artifact_type=SIGNATURE))
            files[blob_path(data)], files[blob_path(envelope)] = data, envelope
            signatures.append(entry(data))
        if signed == "index":
            index = json.dumps({"schemaVersion": 2, "manifests": signatures}, indent=2).encode()
            files[blob_path(index)] = index
            listed.append(entry(index, OCI_INDEX, referrers_tag(toy.digest)))
        else:
            listed += signatures
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": listed}, indent=1).encode()
    return files


def write_directory(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path, files, *, form=tarfile.PAX_FORMAT, extra=()):
    names = list(files)
    random.Random(5).shuffle(names)
    with tarfile.open(path, "w", format=form) as tar:
        tar.addfile(member("blobs", kind=tarfile.DIRTYPE))
        for name in names:
            tar.addfile(member(f"./{name}", len(files[name])), io.BytesIO(files[name]))
        tar.addfile(member("manifest.json", 2), io.BytesIO(b"[]"))
        for item in extra:
            tar.addfile(item)
    return path


def member(name, size=0, kind=tarfile.REGTYPE, target=""):
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname, made.mode, made.uid = size, kind, target, 0o777, 1000
    return made


@pytest.fixture
def read(store, workshop):
    def work(path, tag=None):
        show = lambda head: contextlib.nullcontext(lambda count: None)  # noqa: E731
        return import_layout(path, tag, store, trust=workshop.trust(), now=workshop.now, show=show)

    return work


@pytest.mark.parametrize("signed", ["index", "listed"])
@pytest.mark.parametrize(
    "form", [None, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
)
def test_layouts_of_others(read, store, workshop, tmp_path, signed, form):
    toy = workshop.capsule(signers=("dev", "other"))
    files = make_files(toy, signed=signed)
    if form is None:
        path = write_directory(tmp_path / "layout", files)
    else:
        path = write_tar(tmp_path / "layout.tar", files, form=form)
    found = read(path)
    assert found.digest == toy.digest
    assert len(found.envelopes) == 2
    assert store.verify(Reference("toy"), trust=workshop.trust(), now=workshop.now)


def test_one_of_several_is_chosen_by_its_tag(read, store, workshop, tmp_path):
    old, new = workshop.capsule(), workshop.capsule(serial=2)
    path = write_directory(tmp_path / "layout", make_files(old, new))
    with pytest.raises(InputError, match="found 2 capsules") as caught:
        read(path)
    assert "1, 2" in caught.value.hint
    assert read(path, "1").digest == old.digest
    assert read(path, "2").digest == new.digest
    with pytest.raises(InputError, match="found 0 capsules with the tag '3'"):
        read(path, "3")


def refused(read, store, path, words, error=VnfsbuildError):
    with pytest.raises(error, match=words) as caught:
        read(path)
    assert store.list_capsules() == ()
    return caught.value


def test_without_its_signature(read, store, workshop, tmp_path):
    toy = workshop.capsule(signers=())
    error = refused(read, store, write_tar(tmp_path / "x", make_files(toy)), "not signed")
    assert referrers_tag(toy.digest) in error.hint


@pytest.mark.parametrize("how", ["flip", "cut", "more", "gone"])
@pytest.mark.parametrize("what", range(5))
def test_a_damaged_payload(read, store, workshop, tmp_path, what, how):
    toy = workshop.capsule(payloads=[b"source", b"kernel", b"initrd", b"rootfs", b"modules"])
    files = make_files(toy)
    name = blob_path(toy.blobs[parse_manifest(toy.manifest).payloads[what].digest])
    data = files.pop(name)
    changed = {"flip": b"X" + data[1:], "cut": data[:-1], "more": data + b"x", "gone": None}[how]
    if changed is not None:
        files[name] = changed
    refused(read, store, write_tar(tmp_path / "x", files), None, VerificationError)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (member("../evil"), "leads out"),
        (member("/etc/passwd"), "leads out"),
        (member("blobs/../../evil"), "leads out"),
        (member("blobs/sha256/link", kind=tarfile.SYMTYPE, target="/etc/shadow"), "plain file"),
        (member("other", kind=tarfile.LNKTYPE, target="index.json"), "plain file"),
        (member("pipe", kind=tarfile.FIFOTYPE), "plain file"),
        (member("sda", kind=tarfile.BLKTYPE), "plain file"),
        (member("index.json"), "stands there twice"),
        (member("./oci-layout"), "stands there twice"),
    ],
)
def test_members_that_have_no_business_there(read, store, workshop, tmp_path, item, words):
    path = write_tar(tmp_path / "x", make_files(workshop.capsule()), extra=[item])
    refused(read, store, path, words, VerificationError)


@pytest.mark.parametrize("name", ["index.json", "manifest", "payload", "blobs", "blobs/sha256"])
@pytest.mark.parametrize("how", ["link", "pipe"])
def test_links_and_pipes_in_a_directory(read, store, workshop, tmp_path, name, how):
    toy = workshop.capsule()
    path = write_directory(tmp_path / "layout", make_files(toy))
    named = {"manifest": blob_path(toy.manifest), "payload": blob_path(b"kernel!")}
    target = path / named.get(name, name)
    target.rename(tmp_path / "moved")
    if how == "link":
        target.symlink_to(tmp_path / "moved")
    else:
        os.mkfifo(target)
    refused(read, store, path, "no link on the way|not a file|Not a directory", VerificationError)


@pytest.mark.parametrize(
    "index",
    [b"", b"{}", b"[]", b'{"manifests":{}}', b"\xff", b"[" * 100_000,
     b'{"manifests":[{"digest":"sha256:../../etc/passwd","size":1,"mediaType":"x"}]}'],
)  # fmt: skip
def test_an_index_that_is_none(read, store, workshop, tmp_path, index):
    files = {**make_files(workshop.capsule()), "index.json": index}
    refused(read, store, write_directory(tmp_path / "layout", files), None)


def test_indexes_within_indexes_end(read, store, workshop, tmp_path):
    toy = workshop.capsule()
    files = make_files(toy)
    inner = json.dumps({"manifests": [entry(toy.manifest)] * 900}).encode()
    for _ in range(6):
        files[blob_path(inner)] = inner
        inner = json.dumps({"manifests": [entry(inner, OCI_INDEX)] * 900}).encode()
    files["index.json"] = inner
    refused(read, store, write_directory(tmp_path / "layout", files), "found 0 capsules")


def test_what_is_no_archive(read, store, tmp_path):
    path = tmp_path / "file"
    for data in (b"", b"hello", random.Random(1).randbytes(5000)):
        path.write_bytes(data)
        refused(read, store, path, "not a tar archive|found no index", InputError)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member("index.json"))
    assert "unpack it first" in refused(read, store, path, "not a tar", InputError).hint
    refused(read, store, tmp_path / "nowhere", "No such file", InputError)
    (tmp_path / "empty").mkdir()
    refused(read, store, tmp_path / "empty", "expected an OCI image layout", InputError)


def test_headers_that_would_fill_the_memory(read, store, tmp_path):
    path = tmp_path / "bomb.tar"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 3 * 10**9
    path.write_bytes(header.tobuf(tarfile.PAX_FORMAT))
    os.truncate(path, 4 * 10**9)
    tracemalloc.start()
    try:
        refused(read, store, path, "too long a header", VerificationError)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    chain = tarfile.TarInfo("x")
    chain.type = tarfile.XHDTYPE
    path.write_bytes(chain.tobuf(tarfile.USTAR_FORMAT) * 5000)
    refused(read, store, path, None)


def test_a_large_payload_does_not_fill_the_memory(workshop, tmp_path):
    layer = bytes(30_000_000)
    toy = workshop.capsule(payloads=[b"s", b"k", b"i", layer, b"m"])
    path = write_tar(tmp_path / "x", make_files(toy))
    payload = parse_manifest(toy.manifest).layers[0]
    tracemalloc.start()
    try:
        with open_layout(path) as layout:
            source = LayoutSource(layout)
            assert source.choose(None) == toy.digest
            assert sum(map(len, source.open_payload(payload))) == len(layer)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
