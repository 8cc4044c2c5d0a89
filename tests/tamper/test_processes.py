"""A sample of the table by the real programs, each with a bound on memory and time."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from . import judges, ways
from .anatomy import spans
from .claims import CLAIMS
from .forge import REGIONS, Forgery

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 1024**3
"""Of address space; Python with its libraries takes a quarter of it."""
LIMIT_SECONDS = 60

GOOD = Forgery().file()


def run(desk, store, *words):
    """Run ``vnfsbuild`` in a process; return the verdict."""
    argv = [sys.executable, "-m", "vnfsbuild", "--store", store, "--site", desk.site, *words]
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES)),
    )
    return judges.read_words(done.returncode, done.stdout, done.stderr)


def flipped(region):
    start, end = spans(Forgery())[region][0]
    return ways.last_bit_flipped(GOOD, start, end)


def with_header(way, region="source"):
    start = spans(Forgery())[region][0][0]
    return GOOD[: start - 512] + ways.HEADER_WAYS[way](GOOD[start - 512 : start]) + GOOD[start:]


SAMPLE = {
    **{f"bit flipped in {region}": flipped(region) for region in REGIONS[::3]},
    "bit flipped in a tar header": flipped("tar header"),
    "bit flipped in padding": flipped("padding"),
    "ends early": GOOD[:-512],
    "goes on": GOOD + b"\0",
    **{
        way: with_header(way)
        for way in ("path with ..", "symbolic link", "length 2^63", "length 8 GiB less one")
    },
    "manifest of 8 GiB": with_header("length 8 GiB less one", "manifest"),
    **{
        claim: CLAIMS[claim].forgery.file()
        for claim in ("other key", "too few signatures", "older than the least serial")
    },
    "lists without end": Forgery(edits={"index": ways.JSON_WAYS["never closed"]}).file(),
}


@pytest.mark.parametrize("verb", ["verify", "import"])
def test_the_good_file_is_taken(desk, tmp_path, verb):
    assert run(desk, tmp_path / "store", verb, desk.good).status == 0


@pytest.mark.parametrize("row", SAMPLE)
def test_a_file(desk, tmp_path, row):
    file = tmp_path / "toy.vnfs"
    file.write_bytes(SAMPLE[row])
    verb = "import" if list(SAMPLE).index(row) % 2 else "verify"
    run(desk, tmp_path / "store", verb, file).is_refusal()
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {".lock", "oci-layout", "index.json"}


@pytest.mark.parametrize("region", ["index", "manifest", "kernel"])
def test_a_store_with_a_file_of_terabytes(desk, tmp_path, region):
    paths = Forgery().lay_out(tmp_path / "store")
    ways.FILE_WAYS["terabytes of nothing"](paths[region], None)
    run(desk, tmp_path / "store", "verify", "toy").is_refusal()


def test_an_endless_file(desk, tmp_path):
    run(desk, tmp_path / "store", "verify", "/dev/zero").is_refusal()
    run(desk, tmp_path / "store", "import", "/dev/zero").is_refusal()
