"""trust.json on a node: kept, replaced by a newer one only, and what that does to the capsule."""

import base64
import json
import os

import pytest

from provisiond.agent import heldtrust
from provisiond.agent.ed25519 import verify_ed25519
from provisiond.agent.heldtrust import HeldTrust, replace_file
from provisiond.agent.node import Node
from provisiond.agent.papers import Papers, judge, load_papers, render_papers
from provisiond.agent.running import Running
from provisiond.agent.standing import Standing
from provisiond.agent.system import System
from provisiond.protocol import Answer
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError


@pytest.fixture
def hold(keys):
    def hold(data=None, **words):
        return HeldTrust(data or keys.trust(), where="held", verify_ed25519=verify_ed25519, **words)

    return hold


def test_a_newer_one_takes_the_place_and_is_kept(hold, keys, world):
    kept = []
    held = hold(keep=kept.append)
    newer = keys.trust(version=5)
    assert held.version == 1
    assert held.take(world.b64(newer), now=world.NOW)
    assert (held.version, held.data, kept) == (5, newer, [newer])
    assert not held.take(world.b64(newer), now=world.NOW)
    assert kept == [newer]


REFUSED = {
    "older": ({"version": 1}, "found version 1, expected at least 2"),
    "of this version with other content": ({"version": 2, "least_serial": 9}, "another version 2"),
    "expired": ({"version": 3, "expires": 1}, "version 3 has expired"),
    "by other root keys": ({"version": 3, "roots": True}, "signed by 0 root keys"),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_follow_on_it_is_refused_and_it_stays(hold, keys, world, change, told):
    data = keys.trust(version=2)
    held = hold(data, keep=lambda data: pytest.fail("kept"))
    if "roots" in change:
        change = {**change, "roots": [keys.signer]}
    with pytest.raises(VerificationError, match=told):
        held.take(world.b64(keys.trust(**change)), now=world.NOW)
    assert (held.version, held.data) == (2, data)


def test_a_site_of_strangers_is_refused_however_well_it_is_signed(hold, world):
    held = hold()
    with pytest.raises(VerificationError, match="signed by 0 root keys of version 1, expected 1"):
        held.take(world.b64(world.Keys().trust(version=3)), now=world.NOW)


@pytest.mark.parametrize("text", ["", "rubbish", "e30=", base64.b64encode(b"\0" * 999).decode()])
def test_what_is_no_trust_is_refused(hold, world, text):
    held = hold()
    with pytest.raises(VerificationError):
        held.take(text, now=world.NOW)
    assert held.version == 1


def test_an_expired_one_says_whom_to_believe_next(hold, keys, world):
    held = hold(keys.trust(expires=1))
    assert held.take(world.b64(keys.trust(version=2)), now=world.NOW)


def test_one_that_does_not_hold_vouches_for_nothing(hold, keys, world):
    held = hold(keys.trust(roots=[keys.signer]))
    assert held.version is None
    with pytest.raises(VerificationError, match="held: signed by 0 root keys"):
        held.take(world.b64(keys.trust(version=2)), now=world.NOW)


def test_when_it_cannot_be_kept_nothing_has_changed(hold, keys, world):
    def full(data):
        raise OSError(28, "No space left on device")

    held = hold(keep=full)
    with pytest.raises(OSError, match="No space"):
        held.take(world.b64(keys.trust(version=2)), now=world.NOW)
    assert held.version == 1


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "trust.json"
    path.write_bytes(b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644

    def fail(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heldtrust.os, "fchmod", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"newer")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["trust.json"]


# The capsule that runs


@pytest.fixture
def capsule(world, keys):
    return world.TestCapsule(keys)


def papers_of(capsule):
    return Papers(capsule.manifest, capsule.config, (capsule.envelope,))


def test_papers_are_read_back_and_other_things_are_not_papers(tmp_path, capsule):
    path = tmp_path / "capsule.json"
    assert load_papers(path) is None
    path.write_bytes(render_papers(papers_of(capsule)))
    assert load_papers(path) == papers_of(capsule)
    for text in ("{}", "[]", "", '{"manifest":1}', '{"config":"","envelopes":3,"manifest":""}'):
        path.write_text(text)
        with pytest.raises(VerificationError, match=r"capsule.json: not a capsule's papers"):
            load_papers(path)


def test_papers_of_another_capsule_are_refused(keys, world, capsule):
    trust = HeldTrust(keys.trust(), where="x", verify_ed25519=verify_ed25519).get()
    other = digest_of(b"other")
    with pytest.raises(VerificationError, match="manifest: found digest"):
        judge(papers_of(capsule), other, trust=trust, now=1, verify_ed25519=verify_ed25519)


@pytest.fixture
def site(world, tmp_path, authority, node_server, keys, capsule):
    made = world.write_site(tmp_path / "site", authority, [node_server.url], keys.trust())
    (tmp_path / "site/capsule.json").write_bytes(render_papers(papers_of(capsule)))
    return made


def stand(tmp_path, capsule, told=None):
    return Standing(
        tmp_path / "site", capsule.digest, tell=(told if told is not None else []).append,
        verify_ed25519=verify_ed25519,
    )  # fmt: skip


def test_a_key_that_is_revoked_loses_the_verdict_and_another_trust_gives_it_back(
    site, tmp_path, capsule, keys, world
):
    told = []
    standing = stand(tmp_path, capsule, told)
    assert standing.report(now=world.NOW) == {"untrusted": "", "trustRefused": ""}
    revoked = keys.trust(version=2, signer=keys.other)
    standing.take(world.b64(revoked), now=world.NOW)
    assert standing.version == 2
    assert (tmp_path / "site/trust.json").read_bytes() == revoked
    assert "signed by 0 trusted keys" in standing.report(now=world.NOW)["untrusted"]
    standing.take(world.b64(keys.trust(version=3)), now=world.NOW)
    assert standing.report(now=world.NOW)["untrusted"] == ""
    assert [line.split(":")[0] for line in told] == [
        "trust.json", "this capsule may not run", "trust.json", "this capsule may run",
    ]  # fmt: skip


def test_what_was_taken_over_counts_after_a_restart(site, tmp_path, capsule, keys, world):
    stand(tmp_path, capsule).take(world.b64(keys.trust(version=2, least_serial=9)), now=world.NOW)
    again = stand(tmp_path, capsule)
    assert again.version == 2
    assert "expected at least 9" in again.report(now=world.NOW)["untrusted"]


def test_a_trust_that_expires_while_it_runs_is_noticed(site, tmp_path, capsule, world):
    standing = stand(tmp_path, capsule)
    assert standing.report(now=world.NOW)["untrusted"] == ""
    assert "has expired" in standing.report(now=world.NOW + 2000)["untrusted"]


def test_one_that_is_refused_is_told_once_and_reported(site, tmp_path, capsule, keys, world):
    told = []
    standing = stand(tmp_path, capsule, told)
    for _ in range(3):
        standing.take(world.b64(keys.trust(version=0)), now=world.NOW)
    report = standing.report(now=world.NOW)
    assert "found version 0, expected at least 1" in report["trustRefused"]
    assert len(told) == 1
    standing.take(world.b64(keys.trust()), now=world.NOW)
    assert standing.report(now=world.NOW)["trustRefused"] == ""


def test_signatures_are_verified_once_per_trust(site, tmp_path, capsule, keys, world):
    """Programs that a node starts every minute would disturb its jobs."""
    count = []

    def verify(*words):
        count.append(words)
        verify_ed25519(*words)

    standing = Standing(tmp_path / "site", capsule.digest, tell=[].append, verify_ed25519=verify)
    for _ in range(5):
        standing.report(now=world.NOW)
    assert len(count) == 2, "one of trust.json, one of the capsule"


def test_without_papers_nothing_is_said(site, tmp_path, capsule, world):
    (tmp_path / "site/capsule.json").unlink()
    assert stand(tmp_path, capsule).report(now=world.NOW)["untrusted"] == ""


def test_papers_that_are_broken_are_told(site, tmp_path, capsule, world):
    (tmp_path / "site/capsule.json").write_text("{}")
    assert "not a capsule's papers" in stand(tmp_path, capsule).report(now=world.NOW)["untrusted"]


def test_the_running_agent_tells_its_version_and_at_once_what_a_newer_one_says(
    site, tmp_path, capsule, keys, world, node_server, make_client, monkeypatch
):
    monkeypatch.setenv("PATH", "/nonexistent")  # a capsule need not have openssl

    def answer(checkin):
        newer = world.b64(keys.trust(version=2, signer=keys.other))
        return Answer(
            world.waiting(), world.NOW, trust=newer if checkin.trust_version < 2 else None
        )

    node_server.answer = answer
    node = Node(
        node_id=world.NODE_ID, name="n00001", boot_id="1" * 32, node_key=world.NODE_KEY,
        hwaddrs=(world.NODE_ID,), uuid=None, capsule=capsule.digest, checkin_seconds=3600,
    )  # fmt: skip
    running = Running(
        node, make_client(site), run=tmp_path, scripts=tmp_path / "none", tell=[].append,
        system=System(lambda wait=False: "running", list), set_clock=lambda seconds: None,
    )  # fmt: skip
    running.step()
    first, second = node_server.checkins
    assert (first.trust_version, first.report["untrusted"]) == (1, "")
    assert second.trust_version == 2
    assert "signed by 0 trusted keys" in second.report["untrusted"]
    assert (first.state, second.state) == ("ready", "ready")
    assert json.loads((tmp_path / "site/trust.json").read_bytes())
