"""The test vectors of docs/capsule-format.md: the files, the document and the code agree."""

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

from vnfsbuild.capsule import skim_capsule, verify_attestations, verify_file
from vnfsbuild.dsse import key_id
from vnfsbuild.referrers.index import make_referrers
from vnfsbuild.referrers.publish import make_attestation, read_lock_of_file
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.trust import verify_trust

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "tests/vectors/toy.vnfs"
TRUST = ROOT / "tests/vectors/toy.trust.json"
ATTESTED = ROOT / "tests/vectors/attested.vnfs"
PAYLOADS = [f"{name}\n".encode() for name in ("source", "kernel", "initrd", "rootfs", "modules")]


@pytest.fixture(scope="module")
def document():
    text = (ROOT / "docs/capsule-format.md").read_text(encoding="utf-8")
    return text.partition("## Test vectors")[2]


def test_the_vector_is_what_is_written_today(workshop, tmp_path):
    toy = workshop.capsule(payloads=PAYLOADS)
    assert toy.write(tmp_path / "toy.vnfs").read_bytes() == FILE.read_bytes()
    assert workshop.signed_trust(workshop.trust()) == TRUST.read_bytes()


def test_the_vector_verifies_with_its_trust(workshop):
    trust = verify_trust(
        TRUST.read_bytes(), pinned=None, now=workshop.now, verify_ed25519=verify_ed25519
    )
    assert trust.expires == 1_700_001_000
    assert verify_file(FILE, trust=trust, now=workshop.now).config.name == "toy"


def test_the_document_tells_the_vector(document, workshop):
    data = FILE.read_bytes()
    assert f"{len(data)} bytes" in document
    assert f"`{hashlib.sha256(data).hexdigest()}`" in document
    public = workshop.key().public_key
    assert f"public key  {public.hex()}\n" in document
    assert f"key id      {key_id(public)}\n" in document
    assert workshop.capsule().config.decode() in document
    with tarfile.open(FILE) as tar:
        found = [(item.offset, Path(item.name).name, item.size) for item in tar]
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| (\d+) \|", document, re.MULTILINE)
    assert [(int(offset), name, int(size)) for offset, name, size in rows] == found


def test_the_attested_vector_holds_and_is_written_so_today(workshop):
    head, lock = read_lock_of_file(ATTESTED)
    keys = [workshop.key(name) for name in ("dev", "ops")]
    attestations = {make_attestation(head, lock, key) for key in keys}
    assert set(head.attestations) == attestations
    trust = workshop.trust("dev", builders=("ops",))
    assert verify_file(ATTESTED, trust=trust, now=workshop.now).digest == head.capsule.digest
    expected = tuple(sorted(key.key_id for key in keys))
    assert verify_attestations(head, trust=trust) == expected


def test_the_document_tells_the_attested_vector(document, workshop):
    data = ATTESTED.read_bytes()
    assert f"{len(data)} bytes" in document
    assert f"`{hashlib.sha256(data).hexdigest()}`" in document
    head = skim_capsule(ATTESTED)
    carried = make_referrers(head.manifest_bytes, head.envelopes, head.attestations).envelopes
    names = {workshop.key(name).key_id.encode(): name for name in ("dev", "ops")}
    told = [
        f"{'signature' if text in head.envelopes else 'attestation'} by `{name}`"
        for text in carried
        for keyid, name in names.items()
        if b'"signatures":[{"keyid":"' + keyid in text
    ]
    assert ", ".join(told) in document.replace("\n", " ")
