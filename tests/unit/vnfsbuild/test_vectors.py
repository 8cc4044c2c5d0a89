"""The test vector of docs/capsule-format.md: the file, the document and the code agree."""

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

from vnfsbuild.capsule import verify_file
from vnfsbuild.dsse import key_id
from vnfsbuild.keys import verify_ed25519
from vnfsbuild.trust import verify_trust

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "tests/vectors/toy.vnfs"
TRUST = ROOT / "tests/vectors/toy.trust.json"
PAYLOADS = [f"{name}\n".encode() for name in ("source", "kernel", "initrd", "rootfs", "modules")]


@pytest.fixture(scope="module")
def document():
    text = (ROOT / "docs/capsule-format.md").read_text(encoding="utf-8")
    return text.partition("## Test vector")[2]


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
