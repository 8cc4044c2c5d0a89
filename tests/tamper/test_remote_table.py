"""The table again, for what comes by the network: refused, before a payload is asked for."""

import re

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.store.store import Store

from . import ways
from .anatomy import spans
from .claims import CAPSULES, CLAIMS, DEEP_VALUES, SIGNATURES
from .forge import PAYLOADS, REGIONS, WORKSHOP, Forgery
from .remotes import ImportUrl, Pull, serving

GOOD = Forgery()


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VNFS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("judge", [ImportUrl, Pull])
def test_the_good_one_is_taken(desk, server, tmp_path, judge):
    assert judge(desk, server).of_forgery(GOOD, tmp_path / "store").status == 0


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_at_a_url_that_claims(desk, server, tmp_path, claim):
    row = CLAIMS[claim]
    verdict = ImportUrl(desk, server).of_forgery(row.forgery, tmp_path / "store").is_refusal()
    assert re.search(row.told, verdict.line), verdict.line
    assert not list((tmp_path / "cache").rglob("*.whole")), "a payload was fetched"


@pytest.mark.parametrize(
    "way",
    [way for way in ways.BYTE_WAYS if way is not ways.file_ends_in_it],  # as before it
    ids=lambda way: way.__name__,
)
@pytest.mark.parametrize("region", REGIONS)
def test_bytes_of_a_file_at_a_url(desk, server, tmp_path, region, way):
    data = way(GOOD.file(), *spans(GOOD)[region][0])
    ImportUrl(desk, server).of_bytes(data, tmp_path / "store").is_refusal()


OF_REGISTRIES = {
    claim: row
    for claim, row in {**SIGNATURES, **CAPSULES, **DEEP_VALUES}.items()
    # A registry announces nothing, and where bytes are missing it is asked again and again.
    if row.forgery.announced_type is None and not row.is_late
}


@pytest.mark.parametrize("claim", OF_REGISTRIES)
def test_a_registry_that_claims(desk, server, tmp_path, claim):
    """Refused; or what nobody signs was left out, and what came is good all the same."""
    row, judge, store = CLAIMS[claim], Pull(desk, server), tmp_path / "store"
    verdict = judge.of_forgery(row.forgery, store)
    if verdict.status:
        # A document that is too large is not read to its end: status 1.
        verdict.is_refusal(1, 2, 3)
        assert not judge.asked_for(row.forgery.payloads[-1][2]), "a payload was fetched"
    else:
        trust = load_trust(desk.site, now=WORKSHOP.now)
        found = Store(store).verify(parse_reference("toy"), trust=trust, now=WORKSHOP.now)
        assert found.digest == digest_of(dict(GOOD.members("toy"))["manifest"])


@pytest.mark.parametrize("region", [name for name, _, _ in PAYLOADS])
@pytest.mark.parametrize("way", ways.FLIPS, ids=lambda way: way.__name__)
def test_a_registry_with_other_payloads(desk, server, tmp_path, region, way):
    judge = Pull(desk, server)
    data = {name: data for name, _, data in PAYLOADS}[region]
    assert judge.of_forgery(GOOD, tmp_path / "store").status == 0
    for path, (page, headers) in list(server.pages.items()):
        if page == data:
            server.pages[path] = (way(page, 0, len(page)), headers)
    words = ("pull", "--plain-http", f"oci://{judge.host}/x/toy")
    judge.run(tmp_path / "other", *words).is_refusal(3)
