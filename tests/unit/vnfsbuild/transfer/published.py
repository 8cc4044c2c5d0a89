"""Capsules that a web server has, and what an import of them must leave."""

import random
from pathlib import Path

from vnfsbuild.reference import parse_reference as ref

ROOT = Path(__file__).resolve().parents[4]

MEGABYTE = 1024 * 1024
ROOTFS = random.Random(1).randbytes(2 * MEGABYTE)
NEWER = ROOTFS[: MEGABYTE // 2] + b"three packages" * 1000 + ROOTFS[MEGABYTE // 2 :]
MODULES = random.Random(2).randbytes(MEGABYTE)
KERNEL = random.Random(3).randbytes(300_000)


def left_over(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache/incoming").iterdir())


def require_same(store, toy):
    held = store.get(ref(f"toy@{toy.digest}"))
    assert held.envelopes == toy.envelopes
    for payload in held.manifest.payloads:
        assert store.blob_path(payload.digest).read_bytes() == toy.blobs[payload.digest]
