"""The verbs that tell who built a capsule and what is in it."""

import json
import os

import pytest

from vnfsbuild import cli
from vnfsbuild.packageset import MEDIA_TYPE as PACKAGES
from vnfsbuild.places import find_places
from vnfsbuild.reference import parse_reference
from vnfsbuild.referrers.publish import publish
from vnfsbuild.referrers.sbom import make_sbom
from vnfsbuild.store.store import Store

from .test_provenance import make_lock, source_of

TOY = parse_reference("toy")
FAR_AWAY = 2**33


@pytest.fixture
def places(tmp_path, monkeypatch, workshop):
    """A site that lets dev sign, and believes dev and ops about builds."""
    for name in ("store", "cache", "site"):
        monkeypatch.setenv(f"VNFS_{name.upper()}", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    places = find_places()
    places.site.mkdir()
    trust = workshop.trust("dev", builders=("ops",), expires=FAR_AWAY)
    (places.site / "trust.json").write_bytes(workshop.signed_trust(trust))
    return places


@pytest.fixture
def run(places, capfd):
    """Run a command line in this process: exit status, output, errors."""

    def run(*arguments):
        status = cli.run([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


@pytest.fixture
def toy(workshop, places):
    toy = workshop.capsule(payloads=[source_of(make_lock()), b"k", b"i", b"r", b"m"])
    store = Store(places.store)
    toy.add_to(store)
    publish(store, TOY, key=workshop.key())
    return toy


def test_verify_names_the_builders_and_counts_them(run, places, toy, workshop):
    dev, ops = (workshop.key(name).key_id for name in ("dev", "ops"))
    status, out, _ = run("verify", "toy")
    assert (status, out) == (
        0,
        f"toy:1@{toy.digest}: verified, signed by {dev[:12]}, built by {dev[:12]}\n",
    )
    assert run("verify", "toy", "--rebuilt-by", 1)[0] == 0
    status, out, err = run("verify", "toy", "--rebuilt-by", 2)
    assert (status, out) == (3, "")
    assert f"built by 1 builder whose word counts ({dev[:12]}); expected 2" in err
    assert "hint: vnfsbuild reproduce toy --attest" in err
    stranger = workshop.attestation("far", toy.manifest)
    Store(places.store).add_envelopes(TOY, attestations=[stranger])
    status, _, err = run("verify", "toy", "--rebuilt-by", 2)
    assert status == 3
    assert f"and by 1 not trusted ({workshop.key('far').key_id[:12]})" in err
    Store(places.store).add_envelopes(TOY, attestations=[workshop.attestation("ops", toy.manifest)])
    for what in ("toy", "toy.vnfs"):
        if what == "toy.vnfs":
            run("export", "toy")
        status, out, _ = run("verify", what, "--rebuilt-by", 2, "--json")
        assert status == 0
        assert json.loads(out)["builders"] == sorted((dev, ops))
    assert run("verify", "toy", "--rebuilt-by", 3)[0] == 3
    assert run("verify", "toy", "--rebuilt-by", 0)[0] == 2


def test_show_tells_who_built_it_and_what_is_beside_it(run, places, toy, workshop):
    store = Store(places.store)
    store.attach(TOY, store.add_blob(b"set", media_type=PACKAGES), artifact_type=PACKAGES)
    store.add_envelopes(TOY, attestations=[workshop.attestation("far", toy.manifest)])
    dev, far = (workshop.key(name).key_id for name in ("dev", "far"))
    status, out, _ = run("show", "toy")
    assert status == 0
    told = next(line for line in out.splitlines() if line.startswith("built by:"))
    assert f"{dev[:12]} ({dev})" in told
    assert f"{far[:12]} ({far}, not trusted)" in told
    rows = [line.split("  ")[0] for line in out.partition("\n\n")[2].splitlines()]
    assert set(rows[-2:]) == {"(SBOM)", "(package set)"}
    facts = json.loads(run("show", "toy", "--json")[1])
    assert {item["keyId"]: item["counts"] for item in facts["attestations"]} == {
        dev: True,
        far: False,
    }
    assert {item["what"] for item in facts["attachments"]} == {"SBOM", "package set"}
    assert facts["trusted"] is True


def test_show_says_what_verify_would_say(run, places, toy, workshop):
    said = workshop.predicate("ops", toy.manifest, buildType="make")
    lie = workshop.attestation("ops", toy.manifest, predicate=said)
    Store(places.store).add_envelopes(TOY, attestations=[lie])
    status, _, err = run("verify", "toy")
    assert status == 3
    facts = json.loads(run("show", "toy", "--json")[1])
    assert facts["trusted"] is False
    assert facts["reason"] in err
    assert not any(item["counts"] for item in facts["attestations"])


def test_the_bill_of_materials_is_printed_from_store_and_file(run, toy, tmp_path):
    run("export", "toy")
    expected = make_sbom(toy.head.capsule, make_lock())
    for what in ("toy", "toy.vnfs", f"toy@{toy.digest}"):
        status, out, err = run("sbom", what)
        assert (status, out.encode()) == (0, expected)
    assert run("sbom", "toy", "--out", tmp_path / "x.json") == (0, f"{tmp_path / 'x.json'}\n", "")
    assert (tmp_path / "x.json").read_bytes() == expected
    status, out, err = run("sbom", "toy", "--out", tmp_path / "no/x.json")
    assert (status, out) == (1, "")
    assert "x.json: cannot be written" in err


def test_there_is_none_of_what_is_not_there_or_damaged(run, places, toy, tmp_path):
    assert run("sbom", "boy")[0] == 2
    assert run("sbom", "./boy.vnfs")[0] == 2
    run("export", "toy")
    data = bytearray((tmp_path / "toy.vnfs").read_bytes())
    data[-1500] ^= 1
    (tmp_path / "toy.vnfs").write_bytes(data)
    status, out, _ = run("sbom", "toy.vnfs")
    assert (status, out) == (3, "")


def test_a_key_is_for_attesting(run, toy):
    status, _, err = run("reproduce", "toy", "--key", "dev")
    assert status == 2
    assert "--key: nothing is signed without --attest" in err
    status, _, err = run("reproduce", "toy", "--attest")
    assert status == 2
    assert "found no key, expected one to attest with" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_told_first(run, toy, tmp_path):
    run("export", "toy")
    run("keys", "new", "mine")
    (tmp_path / "toy.vnfs").chmod(0o444)
    status, _, err = run("reproduce", "./toy.vnfs", "--attest")
    assert status == 2
    assert "may not be written" in err
