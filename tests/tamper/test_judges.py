"""The judges can say yes: each takes the good capsule, so that a no means something."""

import io

import pytest

from vnfsbuild.capsule import make_head, write_capsule
from vnfsbuild.digest import digest_of

from . import judges
from .forge import PAYLOADS, REGIONS, Forgery


def test_the_forger_writes_what_we_write(tmp_path):
    documents = {}
    for region, data in Forgery().members("toy"):
        documents.setdefault(region, []).append(data)
    (manifest,), (config,) = documents["manifest"], documents["config"]
    head = make_head(manifest, config, documents["envelope"], documents["provenance"])
    blobs = {digest_of(data): data for _, _, data in PAYLOADS}
    write_capsule(tmp_path / "toy.vnfs", head, lambda digest: io.BytesIO(blobs[digest]))
    assert (tmp_path / "toy.vnfs").read_bytes() == Forgery().file()
    assert {region for region, _ in Forgery().members("toy")} == set(REGIONS)


@pytest.mark.parametrize("judge", [judges.VerifyFile, judges.ImportFile, judges.NodeServerImport])
def test_the_good_file_is_taken(desk, judge):
    assert judge(desk).of_file(desk.good).status == 0


@pytest.mark.parametrize(
    "judge", [judges.VerifyStored, judges.ExportStored, judges.Node, judges.FreshNode]
)
def test_the_good_store_is_taken(desk, tmp_path, judge):
    Forgery().lay_out(tmp_path / "store")
    verdict = judge(desk).of_store(tmp_path / "store")
    assert verdict.status == 0, verdict
