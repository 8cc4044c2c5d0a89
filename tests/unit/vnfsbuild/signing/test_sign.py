"""``vnfsbuild sign``: one signature more, on a capsule of the store or in a file."""

import json
import random
import shutil
import subprocess

import pytest

from vnfsbuild.capsule import skim_capsule, verify_attestations, verify_file
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.reference import parse_reference
from vnfsbuild.reproduce import Reproduction
from vnfsbuild.sign import sign_file, sign_stored
from vnfsbuild.signing.keys import SecretKey, find_signing_key, load_trust
from vnfsbuild.store.store import Store
from vnfsbuild.variation import Variation

from ..referrers.test_provenance import make_lock, source_of

TOY = parse_reference("toy")


@pytest.fixture
def toy(workshop, run, places):
    """An unsigned capsule in the store and in a file; a site where dev and ops must both sign."""
    run("keys", "new", "dev")
    run("keys", "new", "ops")
    run("trust", "allow", "*", "--key", "dev", "--key", "ops", "--threshold", "2")
    toy = workshop.capsule(payloads=[source_of(make_lock()), b"k", b"i", b"r", b"m"], signers=())
    toy.add_to(Store(places.store))
    toy.write(places.store.parent / "toy.vnfs")
    return toy


def trust_of(places):
    return load_trust(places.site, now=0)


@pytest.mark.parametrize("what", ["toy", "toy.vnfs"])
def test_two_sign_one_after_the_other_and_then_it_may_run(run, toy, what):
    status, out, err = run("sign", what, "--key", "dev")
    assert (status, out) == (0, f"toy:1@{toy.digest}: signed by dev\n")
    assert "not trusted yet: toy@" in err
    assert "signed by 1 trusted keys, expected 2 of the 2" in err
    assert run("verify", what)[0] == 3
    status, out, err = run("sign", what, "--key", "ops")
    assert (status, out) == (0, f"toy:1@{toy.digest}: signed by ops\n")
    assert "not trusted" not in err
    assert run("verify", what)[0] == 0


@pytest.mark.parametrize("what", ["toy", "./toy.vnfs"])
def test_two_may_sign_at_once_and_the_document_tells(run, toy, what):
    status, out, _ = run("sign", what, "--key", "dev", "--key", "ops", "--json")
    facts = json.loads(out)
    assert (status, facts["trusted"], facts["reason"], len(facts["signers"])) == (0, True, None, 2)


def test_store_and_file_agree_to_the_byte(run, toy, tmp_path):
    for what in ("toy", "toy.vnfs"):
        assert run("sign", what, "--key", "dev", "--key", "ops")[0] == 0
    assert run("export", "toy", "two.vnfs")[0] == 0
    assert (tmp_path / "two.vnfs").read_bytes() == (tmp_path / "toy.vnfs").read_bytes()


def test_signing_again_changes_nothing(run, toy, tmp_path):
    run("sign", "toy.vnfs", "--key", "dev")
    before = (tmp_path / "toy.vnfs").read_bytes()
    assert run("sign", "toy.vnfs", "--key", "dev")[0] == 0
    assert (tmp_path / "toy.vnfs").read_bytes() == before


def test_no_tag_moves(run, toy, places, workshop):
    workshop.capsule(signers=()).add_to(Store(places.store))
    tags = {found.digest: found.tags for found in Store(places.store).list_capsules()}
    assert run("sign", f"toy@{toy.digest}", "--key", "dev")[0] == 0
    assert {found.digest: found.tags for found in Store(places.store).list_capsules()} == tags
    assert Store(places.store).get(parse_reference(f"toy@{toy.digest}")).signers


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["toy"], 2, "found keys dev, ops, expected to be told which signs"),
        (["toy", "--key", "nobody"], 2, "nobody.pem: No such file"),
        (["none", "--key", "dev"], 2, "none: no such capsule"),
        (["none.vnfs", "--key", "dev"], 2, "none.vnfs: No such file"),
        (["toy", "--key", "dev", "--mirror", "x"], 2, "are for --after-reproduce"),
    ],
)
def test_what_cannot_be_signed_is_told(run, toy, arguments, status, told):
    found, out, err = run("sign", *arguments)
    assert (found, out) == (status, "")
    assert told in err


def test_damaged_payloads_are_not_vouched_for(run, toy, places, tmp_path):
    data = bytearray((tmp_path / "toy.vnfs").read_bytes())
    data[-1500] ^= 1
    (tmp_path / "toy.vnfs").write_bytes(data)
    blob = Store(places.store).blob_path(digest_of(b"m"))
    blob.chmod(0o644)
    blob.write_bytes(b"n")
    for what in ("toy.vnfs", "toy"):
        status, out, _ = run("sign", what, "--key", "dev")
        assert (status, out) == (3, "")
    assert (tmp_path / "toy.vnfs").read_bytes() == data
    assert not Store(places.store).list_capsules()[0].signers


def test_a_signer_that_fails_leaves_store_and_file_as_they_were(toy, places, tmp_path):
    def fail(message):
        raise VnfsbuildError("no token")

    key = find_signing_key(places.site, "dev")
    broken = SecretKey(name="x", public_key=bytes(32), sign=fail)
    before = (tmp_path / "toy.vnfs").read_bytes()
    for sign in (
        lambda: sign_file(tmp_path / "toy.vnfs", [key, broken]),
        lambda: sign_stored(Store(places.store), TOY, [key, broken]),
    ):
        with pytest.raises(VnfsbuildError, match="no token"):
            sign()
    assert (tmp_path / "toy.vnfs").read_bytes() == before
    assert not Store(places.store).get(TOY).signers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "store", "toy.vnfs"]


def test_a_file_that_is_replaced_while_it_is_signed_stays_as_it_is(toy, places, tmp_path, workshop):
    path = tmp_path / "toy.vnfs"
    other = workshop.capsule(name="other", signers=())

    def replace(message):
        other.write(path)
        return key.sign(message)

    key = find_signing_key(places.site, "dev")
    sly = SecretKey(name="dev", public_key=key.public_key, sign=replace)
    with pytest.raises(VerificationError, match="was replaced while it was signed"):
        sign_file(path, [sly])
    assert skim_capsule(path).name == "other"


# After building it again


def reproduced(toy, *, rebuilt=None):
    """Return what stands in for an hour of building: the bytes that came out are the toy's."""

    def reproduce(capsule, places, **words):
        return Reproduction(
            name="toy", digest=toy.digest, rebuilt=rebuilt or toy.digest,
            variation=Variation(
                uid=None, gid=None, host_name=None, processor=None, in_memory=False,
                environment={}, varied={"clock": "no"}, not_varied={},
            ),
            differences=(), details="",
        )  # fmt: skip

    return reproduce


@pytest.mark.parametrize("what", ["toy", "toy.vnfs"])
def test_a_release_host_signs_what_it_has_built_too(run, toy, places, monkeypatch, what):
    monkeypatch.setattr("vnfsbuild.commands.sign.reproduce", reproduced(toy))
    status, out, err = run("sign", what, "--after-reproduce", "--key", "dev", "--key", "ops")
    assert (status, out) == (0, f"toy:1@{toy.digest}: signed by dev, ops\n")
    assert f"the same: {toy.digest}" in err
    head = skim_capsule(places.store.parent / "toy.vnfs") if what != "toy" else (
        Store(places.store).get(TOY).head
    )  # fmt: skip
    trust = trust_of(places)
    assert set(verify_attestations(head, trust=trust)) == set(trust.rules[0].keys)


@pytest.mark.parametrize("what", ["toy", "toy.vnfs"])
def test_other_bytes_are_not_signed(run, toy, places, monkeypatch, what):
    other = reproduced(toy, rebuilt=digest_of(b"other"))
    monkeypatch.setattr("vnfsbuild.commands.sign.reproduce", other)
    before = (places.store.parent / "toy.vnfs").read_bytes()
    status, out, err = run("sign", what, "--after-reproduce", "--key", "dev")
    assert (status, out) == (3, "")
    assert "not the same bytes, so it was not signed" in err
    assert (places.store.parent / "toy.vnfs").read_bytes() == before
    found = Store(places.store).get(TOY)
    assert (found.signers, found.attesters) == ((), ())


def test_what_was_built_is_signed_whatever_the_tag_means_by_now(
    run, toy, places, monkeypatch, workshop
):
    def reproduce(*words, **more):
        workshop.capsule(signers=()).add_to(Store(places.store))
        return reproduced(toy)(*words, **more)

    monkeypatch.setattr("vnfsbuild.commands.sign.reproduce", reproduce)
    assert run("sign", "toy", "--after-reproduce", "--key", "dev")[0] == 0
    signers = {found.digest: found.signers for found in Store(places.store).list_capsules()}
    assert len(signers[toy.digest]) == 1
    assert sorted(map(len, signers.values())) == [0, 1]


def test_a_file_that_became_another_is_not_signed(run, toy, places, monkeypatch, workshop):
    path = places.store.parent / "toy.vnfs"

    def reproduce(*words, **more):
        workshop.capsule(signers=()).write(path)
        return reproduced(toy)(*words, **more)

    monkeypatch.setattr("vnfsbuild.commands.sign.reproduce", reproduce)
    status, _, err = run("sign", "toy.vnfs", "--after-reproduce", "--key", "dev")
    assert status == 3
    assert "it was replaced while it was built again" in err
    assert not skim_capsule(path).envelopes


# By hand


def commands():
    """Return the blocks of commands in docs/verify-by-hand.md, in order."""
    from .test_trust_changes import ROOT

    text = (ROOT / "docs/verify-by-hand.md").read_text(encoding="utf-8")
    return [
        block.partition("\n")[2] for block in text.split("```")[1::2] if block.startswith("sh\n")
    ]


BY_HAND = "set -eu\n"


def verify_by_hand(directory, *, root, capsule="toy.vnfs"):
    """Do what the document says, in an empty environment with its three names set."""
    work = directory / "by-hand"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    script = BY_HAND + "\n".join(commands())
    env = {
        "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "CAPSULE": str(directory / capsule),
        "TRUST": str(directory / "site/trust.json"), "ROOT_KEY": root,
    }  # fmt: skip
    return subprocess.run(
        ["sh", "-c", script], cwd=work, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def signed(run, toy, places, tmp_path):
    """A file that dev and ops have signed, and the id of the root key, known by another way."""
    run("sign", "toy.vnfs", "--key", "dev", "--key", "ops")
    verify_file(tmp_path / "toy.vnfs", trust=trust_of(places), now=0)
    return trust_of(places).root_keys[0]


def test_a_good_capsule_passes_by_hand(signed, toy, tmp_path):
    done = verify_by_hand(tmp_path, root=signed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{toy.digest}: toy, serial 1, signed by 2, expected 2"


def test_by_hand_attestations_do_not_disturb(run, toy, places, tmp_path, monkeypatch):
    monkeypatch.setattr("vnfsbuild.commands.sign.reproduce", reproduced(toy))
    run("sign", "toy.vnfs", "--after-reproduce", "--key", "dev", "--key", "ops")
    done = verify_by_hand(tmp_path, root=trust_of(places).root_keys[0])
    assert done.returncode == 0, done.stdout + done.stderr


def test_too_few_signatures_fail_by_hand(run, toy, places, tmp_path):
    run("sign", "toy.vnfs", "--key", "dev")
    done = verify_by_hand(tmp_path, root=trust_of(places).root_keys[0])
    assert done.returncode != 0
    assert "signed by 1 of 2" in done.stdout + done.stderr


def test_another_root_key_fails_by_hand(signed, tmp_path):
    assert verify_by_hand(tmp_path, root="0" * 64).returncode != 0


def test_an_expired_trust_fails_by_hand(run, signed, tmp_path, monkeypatch):
    import time

    from vnfsbuild.signing.trustfile import change_trust
    from vnfsbuild.signing.trustrules import good_for

    now = int(time.time())
    change_trust(tmp_path / "site", lambda trust: good_for(
        type(trust)(trust.version + 1, 0, trust.keys, trust.root_keys, 1, trust.rules), 1,
        now=now - 86401,
    ), now=now - 90000)  # fmt: skip
    done = verify_by_hand(tmp_path, root=signed)
    assert done.returncode != 0


def test_a_serial_that_is_too_low_fails_by_hand(run, signed, tmp_path):
    run("trust", "allow", "*", "--least-serial", "2")
    assert verify_by_hand(tmp_path, root=signed).returncode != 0


def test_what_was_tampered_with_fails_by_hand(signed, tmp_path):
    good = (tmp_path / "toy.vnfs").read_bytes()
    dice = random.Random(7)
    # Padding and the fields of tar headers mean nothing to tar: what is in the files counts.
    spots = [spot for spot in range(len(good) - 1024) if good[spot] != 0]
    found = []
    for spot in dice.sample(spots, 12):
        data = bytearray(good)
        data[spot] ^= 1 << dice.randrange(8)
        (tmp_path / "toy.vnfs").write_bytes(data)
        found.append(verify_by_hand(tmp_path, root=signed).returncode)
    assert sum(1 for status in found if status) >= 10, found
    text = (tmp_path / "site/trust.json").read_text()
    (tmp_path / "toy.vnfs").write_bytes(good)
    for old, new in (('"payload":"ey', '"payload":"ez'), ('"sig":"', '"sig":"A')):
        assert old in text
        (tmp_path / "site/trust.json").write_text(text.replace(old, new, 1))
        assert verify_by_hand(tmp_path, root=signed).returncode != 0


def test_each_payload_counts_by_hand(signed, toy, tmp_path):
    good = (tmp_path / "toy.vnfs").read_bytes()
    for digest, content in toy.blobs.items():
        name = b"blobs/sha256/" + digest[7:].encode()
        start = good.index(name.ljust(100, b"\0") + b"0000644\0") + 512
        assert good[start : start + len(content)] == content
        data = bytearray(good)
        data[start] ^= 1
        (tmp_path / "toy.vnfs").write_bytes(data)
        assert verify_by_hand(tmp_path, root=signed).returncode != 0
