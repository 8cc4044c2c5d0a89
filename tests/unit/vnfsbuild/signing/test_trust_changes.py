"""trust.json as people change it: rules, keys, roots; one change at a time, and none lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfsbuild import cli
from vnfsbuild.dsse import make_envelope, parse_envelope, render_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.signing.keys import find_signing_key, load_trust, make_key, new_key, sign_manifest
from vnfsbuild.signing.trustfile import change_trust, find_keys, sign_trust
from vnfsbuild.signing.trustrules import (
    RuleChange,
    first_trust,
    is_same,
    specificity,
    with_rule,
    without_key,
    without_rule,
)
from vnfsbuild.store.store import Store
from vnfsbuild.trust import TRUST, Rule, Trust, parse_trust, render_trust

ROOT = Path(__file__).resolve().parents[4]
DAY = 24 * 3600


def now():
    return int(time.time())


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in ("store", "site", "cache"):
        monkeypatch.setenv(f"VNFS_{name.upper()}", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "site"


@pytest.fixture
def run(site, capfd):
    def run(*arguments, status=0):
        found = cli.run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert found == status, err
        return out if status == 0 and "--json" not in arguments else json.loads(out) if (
            status == 0
        ) else err  # fmt: skip

    return run


def held(site):
    return load_trust(site, now=0)


def name_of(site, keyid):
    return next(p.stem for p in (site / "keys").glob("*.pub") if keyid in find_keys(site, (p.stem,), None))  # fmt: skip # noqa: E501


# Rules


def test_a_rule_is_set_and_updated_and_dropped(run, site):
    for name in ("dev", "ops", "lab"):
        run("keys", "new", name)
    told = run("trust", "allow", "debian-*", "--key", "dev", "--key", "ops", "--threshold", "2",
               "--least-serial", "7", "--builder", "lab")  # fmt: skip
    assert "version 2" in told
    rule = held(site).rules[0]
    assert [name_of(site, key) for key in rule.keys] == sorted(
        ["dev", "ops"], key=lambda name: next(iter(find_keys(site, (name,), None)))
    )
    assert (rule.name, rule.threshold, rule.least_serial) == ("debian-*", 2, 7)
    assert [name_of(site, key) for key in rule.builders] == ["lab"]
    run("trust", "allow", "debian-*", "--least-serial", "8")
    assert held(site).rules[0] == Rule(rule.name, rule.keys, 2, 8, rule.builders)
    run("trust", "allow", "debian-*", "--no-builders", "--key", "dev", "--threshold", "1")
    trust = held(site)
    assert trust.rules[0].builders == ()
    assert [name_of(site, key) for key in trust.rules[0].keys] == ["dev"]
    assert {name_of(site, key) for key in trust.keys} == {"dev", "root"}, "no key is kept in vain"
    run("trust", "allow", "debian-*", "--remove")
    assert [rule.name for rule in held(site).rules] == ["*"]
    assert held(site).version == 5


def test_what_it_says_already_makes_no_new_version(run, site):
    run("keys", "new", "dev")
    assert "says so already" in run("trust", "allow", "*", "--key", "dev")
    assert held(site).version == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["*", "--threshold", "2"], "rule '*': found the threshold 2 and 1 key"),
        (["new-*"], "says of no key that it may sign"),
        (["new-*", "--remove"], "trust.json (version 1) has none"),
        (["*", "--key", "nobody"], "key 'nobody': found no such key"),
        (["*", "--key", "./nobody.pub"], "nobody.pub: No such file"),
        (["*", "--key", "0123456789ab"], "found no such key"),
        (["*", "--remove", "--key", "dev"], "--remove goes with no other option"),
        (["*", "--builder", "dev", "--no-builders"], "exclude each other"),
        (["*", "--key", "dev", "--least-serial", "-1"], "-1 is not in the range"),
        (["*", "--key", "dev", "--threshold", "0"], "0 is not in the range"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(run, site, arguments, told):
    run("keys", "new", "dev")
    before = (site / "trust.json").read_bytes()
    assert told in run("trust", "allow", *arguments, status=2)
    assert (site / "trust.json").read_bytes() == before


def test_a_rule_that_says_more_comes_first(run, site):
    run("keys", "new", "dev")
    for glob in ("debian-*", "a", "debian-13-*", "*-compute", "debian-13-minimal", "?", "[ab]*"):
        run("trust", "allow", glob, "--key", "dev")
    assert [rule.name for rule in held(site).rules] == [
        "debian-13-minimal", "a", "debian-13-*", "*-compute", "debian-*", "?", "[ab]*", "*",
    ]  # fmt: skip


globs = st.text("ab-*?[]", min_size=1, max_size=6)


@given(st.lists(globs, unique=True, max_size=8))
@settings(max_examples=200, deadline=None)
def test_whatever_the_order_they_were_made_in_rules_stand_by_what_they_say(names):
    key = make_envelope(TRUST, b"", [(bytes(32), lambda message: bytes(64))]).signatures[0][0]
    trust = first_trust({key: bytes(32)}, root_keys=(key,), threshold=1, expires=9)
    for name in names:
        trust = with_rule(trust, RuleChange(glob=name, keys=(key,)), {key: bytes(32)})
    found = [specificity(rule.name) for rule in trust.rules]
    assert found == sorted(found, reverse=True)
    assert trust.version == 1 + len(names)
    assert parse_trust(render_trust(trust), where="x") == trust
    for name in names:
        trust = without_rule(trust, name)
    assert trust.rules == ()


def test_rules_in_an_order_of_their_own_keep_it(workshop):
    trust = workshop.trust("dev", glob="*")
    rule = trust.rules[0]
    mine = Rule("x*", rule.keys, 1, 0)
    trust = Trust(1, trust.expires, trust.keys, trust.root_keys, 1, (rule, mine))
    changed = with_rule(trust, RuleChange(glob="x*", least_serial=3), {})
    assert [item.name for item in changed.rules] == ["*", "x*"]


def test_keys_are_named_by_name_by_file_and_by_id(run, site, tmp_path):
    run("keys", "new", "dev")
    made = make_key(tmp_path / "alice", "alice")
    (tmp_path / "alice/keys/alice.pub").rename(tmp_path / "alice.pub")
    run("trust", "allow", "a", "--key", "./alice.pub")
    assert held(site).rules[0].keys == (made.key_id,)
    assert "alice" in run("trust", "show")
    for word in (made.key_id, made.key_id[:12], "alice", "alice.pub"):
        run("trust", "allow", "b", "--key", word)
        assert held(site).rules[0].keys in ((made.key_id,), held(site).rules[1].keys)
        run("trust", "allow", "b", "--remove")
    (site / "keys/alice.pub").unlink()
    run("trust", "allow", "c", "--key", made.key_id[:12])
    assert held(site).rule_for("c").keys == (made.key_id,)


def test_a_file_does_not_take_the_name_of_another_key(run, site, tmp_path):
    run("keys", "new", "dev")
    make_key(tmp_path / "other", "dev")
    told = run("trust", "allow", "a", "--key", "other/keys/dev.pub", status=2)
    assert "another key is called dev here" in told


# What is shown


def test_trust_is_shown(run, site):
    for name in ("dev", "ops"):
        run("keys", "new", name)
    run("trust", "allow", "x", "--key", "dev", "--key", "ops", "--threshold", "2", "--builder",
        "ops", "--least-serial", "4")  # fmt: skip
    lines = run("trust", "show").splitlines()
    assert lines[0].startswith("version 2, expires on ")
    assert lines[0].endswith(("in 3649 days", "in 3650 days"))
    assert lines[1] == "root: root"
    assert lines[2] in (
        "x: 2 of dev, ops; serial 4 or later; rebuilt by ops",
        "x: 2 of ops, dev; serial 4 or later; rebuilt by ops",
    )
    assert lines[3] == "*: dev"
    facts = run("trust", "show", "--json")
    assert facts["rules"][0]["builders"][0]["name"] == "ops"
    assert (facts["version"], facts["expired"], facts["waiting"]) == (2, False, None)


def test_an_expired_trust_is_shown_and_renewed(run, site, workshop):
    new_key(site, "dev", now=now() - 20 * 365 * DAY)
    assert "EXPIRED on " in run("trust", "show")
    assert run("trust", "show", "--json")["expired"] is True
    told = run("trust", "allow", "a", "--key", "dev", status=2)
    assert "version 1 has expired\nhint: vnfsbuild trust renew" in told
    run("trust", "renew", "--days", "30")
    assert load_trust(site, now=now() + 29 * DAY).version == 2
    with pytest.raises(VerificationError, match="expired"):
        load_trust(site, now=now() + 31 * DAY)


def test_a_site_begins_with_trust_in_nobody(run, site):
    assert "no capsule is trusted yet" in run("trust", "init", "--days", "7")
    trust = held(site)
    assert (trust.version, trust.rules, len(trust.keys)) == (1, (), 1)
    assert now() + 6 * DAY < trust.expires <= now() + 7 * DAY
    assert "is there, and is not written over" in run("trust", "init", status=2)
    run("keys", "new", "dev")
    run("trust", "allow", "*", "--key", "dev")
    assert held(site).rules[0].name == "*"


# Revoking


@pytest.fixture
def toy(run, site, workshop, tmp_path):
    for name in ("dev", "ops"):
        run("keys", "new", name)
    toy = workshop.capsule(signers=())
    toy.envelopes = (sign_manifest(toy.manifest, find_signing_key(site, "dev")),)
    toy.add_to(Store(tmp_path / "store"))
    return toy


def test_a_revoked_key_counts_nowhere_and_what_that_costs_is_told(run, site, toy, capfd):
    run("trust", "allow", "*", "--key", "dev", "--key", "ops", "--builder", "dev")
    run("trust", "allow", "x", "--key", "ops", "--builder", "dev")
    status = cli.run(["keys", "revoke", "dev"])
    out, err = capfd.readouterr()
    assert status == 0
    assert out.endswith("version 4: dev counts nowhere\n")
    assert err.startswith(f"not trusted any more: toy@{toy.digest[7:19]}: signed by 0 trusted keys")
    trust = held(site)
    assert {name_of(site, key) for key in trust.keys} == {"ops", "root"}
    assert (site / "keys/dev.pem").exists()
    assert "signed by 0 trusted keys" in run("verify", "toy", status=3)
    assert "nothing to revoke" in run("keys", "revoke", "dev", status=2)


def test_what_lost_its_verdict_is_in_the_document_too(run, site, toy):
    document = run("trust", "allow", "*", "--least-serial", "2", "--json")
    assert [item["name"] for item in document["lost"]] == ["toy"]
    assert "expected at least 2" in document["lost"][0]["reason"]
    assert document["missingSignatures"] == 0


@pytest.mark.parametrize("by", ["name", "id", "file"])
def test_a_key_is_revoked_by_name_id_or_file(run, site, toy, tmp_path, by):
    run("trust", "allow", "*", "--key", "dev", "--key", "ops")
    keyid = next(iter(find_keys(site, ("dev",), None)))
    run("keys", "export", "dev", "--out", "x.pub")
    for path in (site / "keys").glob("dev.*"):
        if by != "name":
            path.unlink()
    run("keys", "revoke", {"name": "dev", "id": keyid, "file": "x.pub"}[by])
    assert keyid not in held(site).keys
    assert not (site / "keys/x.pub").exists()


def test_a_key_that_a_rule_or_the_root_needs_is_not_revoked(run, site, toy):
    before = (site / "trust.json").read_bytes()
    told = run("keys", "revoke", "dev", status=2)
    assert "without it the rule '*' has 0 keys and wants 1: no capsule could meet it" in told
    assert "hint: vnfsbuild trust allow '*' --key OTHER" in told
    told = run("keys", "revoke", "root", status=2)
    assert "nobody could change it any more\nhint: vnfsbuild trust renew --root OTHER" in told
    assert (site / "trust.json").read_bytes() == before


def test_a_root_key_is_replaced_and_the_old_one_is_worth_nothing(run, site):
    run("keys", "new", "dev")
    run("keys", "new", "root-2")
    old = held(site)
    run("trust", "renew", "--root", "root", "--root", "root-2")
    run("keys", "revoke", "root")
    trust = held(site)
    assert [name_of(site, key) for key in trust.root_keys] == ["root-2"]
    assert trust.version == 3
    # What the old root key signs on its own is not taken from now on.
    root = find_signing_key(site, "root")
    forged = render_trust(Trust(4, old.expires, old.keys, old.root_keys, 1, old.rules))
    (site / "forged.json").write_bytes(
        render_envelope(make_envelope(TRUST, forged, [(root.public_key, root.sign)]))
    )
    (site / "keys/root-2.pem").unlink()
    assert "1 more must" in run("trust", "sign", "--yes", site / "forged.json", status=2)
    assert held(site) == trust
    assert "version 4" in run("trust", "show", site / "forged.json")


def test_without_a_root_key_nothing_changes(run, site):
    run("keys", "new", "dev")
    (site / "keys/root.pem").unlink()
    before = (site / "trust.json").read_bytes()
    told = run("trust", "renew", "--days", "9", status=2)
    assert "found no root key that can sign version 2, 1 more must" in told
    assert (site / "trust.json").read_bytes() == before
    assert not (site / "trust.next.json").exists()


# Several root keys


class Holder:
    """Somebody who has one of the root keys, and a copy of what the others know."""

    def __init__(self, directory, monkeypatch):
        self.site = directory
        self._monkeypatch = monkeypatch

    def do(self, *arguments):
        self._monkeypatch.setenv("VNFS_SITE", str(self.site))
        yes = ["--yes"] if arguments[:2] == ("trust", "sign") else []
        return cli.run([*(str(argument) for argument in arguments), *yes])


@pytest.fixture
def holders(tmp_path, monkeypatch):
    """Three holders of a root key each, two of whom must sign; the first has trust.json."""
    monkeypatch.setenv("VNFS_STORE", str(tmp_path / "store"))
    found = {}
    for name in ("anna", "ben", "carl"):
        made = Holder(tmp_path / name, monkeypatch)
        make_key(made.site, name)
        found[name] = made
    for other in found.values():
        for name, holder in found.items():
            target = other.site / "keys" / f"{name}.pub"
            target.write_bytes((holder.site / "keys" / f"{name}.pub").read_bytes())
    return found["anna"], found["ben"], found["carl"]


def send(giver, name, taker):
    (taker.site / name).write_bytes((giver.site / name).read_bytes())


def test_root_holders_sign_one_after_the_other(holders, capfd):
    anna, ben, carl = holders
    roots = [word for name in ("anna", "ben", "carl") for word in ("--root", name)]
    assert anna.do("trust", "init", *roots, "--root-threshold", "2") == 0
    assert "1 more root key must sign" in capfd.readouterr().err
    assert not (anna.site / "trust.json").exists()
    assert anna.do("trust", "sign") == 2, "nobody signs twice"
    assert anna.do("keys", "new", "dev") == 2, "no trust.json is made beside the one that waits"
    send(anna, "trust.next.json", ben)
    assert ben.do("trust", "sign") == 0
    assert not (ben.site / "trust.next.json").exists()
    assert held(ben.site).root_threshold == 2
    for other in (anna, carl):
        send(ben, "trust.json", other)
    # A change: anna begins, carl ends it, from a file of any name.
    assert anna.do("trust", "renew", "--days", "50") == 0
    assert anna.do("trust", "renew", "--days", "60") == 2, "one waits"
    assert held(anna.site).version == 1
    (carl.site / "from-anna.json").write_bytes((anna.site / "trust.next.json").read_bytes())
    assert carl.do("trust", "sign", carl.site / "from-anna.json") == 0
    assert held(carl.site).version == 2
    # Ben has no secret half for what is complete: it is taken, for it is signed as it must be.
    send(carl, "trust.json", anna)
    (ben.site / "done.json").write_bytes((carl.site / "trust.json").read_bytes())
    (ben.site / "keys/ben.pem").unlink()
    assert ben.do("trust", "sign", ben.site / "done.json") == 0
    assert held(ben.site).version == 2


def test_a_change_that_was_overtaken_is_dropped_and_said(holders, capfd, caplog):
    anna, ben, _ = holders
    roots = ["--root", "anna", "--root", "ben"]
    anna.do("trust", "init", *roots, "--root-threshold", "2")
    send(anna, "trust.next.json", ben)
    ben.do("trust", "sign")
    send(ben, "trust.json", anna)
    (anna.site / "trust.next.json").unlink()
    anna.do("trust", "renew", "--days", "9")
    ben.do("trust", "renew", "--days", "8")
    (anna.site / "of-ben.json").write_bytes((ben.site / "trust.next.json").read_bytes())
    assert anna.do("trust", "sign", anna.site / "of-ben.json") == 0
    assert held(anna.site).version == 2
    assert (anna.site / "trust.next.json").exists()
    capfd.readouterr()
    assert anna.do("trust", "renew", "--days", "7") == 0
    assert "was overtaken, and is dropped" in caplog.text + capfd.readouterr().err


def test_a_wrong_signature_or_another_document_is_not_signed(holders, tmp_path):
    anna, ben, _ = holders
    anna.do("trust", "init", "--root", "anna", "--root", "ben", "--root-threshold", "2")
    path = anna.site / "trust.next.json"
    envelope = parse_envelope(path.read_bytes(), where="x")
    bad = [(keyid, bytes(64)) for keyid, _ in envelope.signatures]
    wrong = ben.site / "wrong.json"
    wrong.write_bytes(
        render_envelope(type(envelope)(envelope.payload_type, envelope.payload, tuple(bad)))
    )
    for text in (wrong.read_bytes(), b"{}", b"", path.read_bytes()[:-1], sign_manifest(
        b"{}", find_signing_key(anna.site, "anna")
    )):  # fmt: skip
        wrong.write_bytes(text)
        assert ben.do("trust", "sign", wrong) == 3
        assert wrong.read_bytes() == text
        assert not (ben.site / "trust.json").exists()
    assert ben.do("trust", "sign", ben.site / "none.json") == 2


def test_what_is_to_be_signed_is_shown_first_and_not_signed_unasked(holders, capfd):
    anna, ben, _ = holders
    anna.do("trust", "init", "--root", "anna", "--root", "ben", "--root-threshold", "2")
    send(anna, "trust.next.json", ben)
    capfd.readouterr()
    ben.do("keys", "list")
    assert cli.run(["trust", "sign"]) == 2
    err = capfd.readouterr().err
    assert "version 1, expires on" in err
    assert "no rule: no capsule may run" in err
    assert err.endswith("no terminal to ask at whether this is right\nhint: --yes\n")
    assert not (ben.site / "trust.json").exists()


def test_an_older_version_is_not_signed_again(run, site):
    run("keys", "new", "dev")
    (site / "old.json").write_bytes((site / "trust.json").read_bytes())
    run("trust", "renew", "--days", "9")
    with pytest.raises(VerificationError, match="found version 1, expected a later one than 2"):
        sign_trust(site, site / "old.json", now=now())


# Many at once, and the power cord


def start(site, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "vnfsbuild", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VNFS_SITE": str(site),
             "VNFS_STORE": str(site / "store")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_of_many_changes_at_once_none_is_lost(site):
    new_key(site, "dev", now=now())
    globs = [f"name-{number}" for number in range(8)]
    children = [start(site, "trust", "allow", glob, "--key", "dev") for glob in globs]
    for child in children:
        _, err = child.communicate()
        assert child.returncode == 0, err
    trust = load_trust(site, now=now())
    assert {rule.name for rule in trust.rules} == {*globs, "*"}
    assert trust.version == 1 + len(globs)


KILLED_CHANGES = """
import os, sys
from pathlib import Path
from vnfsbuild.signing.trustfile import change_trust
from vnfsbuild.signing.trustrules import RuleChange, with_rule
site, start = Path(sys.argv[1]), int(sys.argv[2])
for number in range(start, start + 100000):
    def decide(trust):
        return with_rule(trust, RuleChange(glob="*", least_serial=number), {})
    done = change_trust(site, decide, now=0)
    os.write(1, b"%d\\n" % number)
"""


def test_a_kill_at_any_point_leaves_the_old_or_the_new(site):
    new_key(site, "dev", now=now())
    dice = random.Random(4)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    last = 0
    for _ in range(15):
        argv = [sys.executable, "-c", KILLED_CHANGES, str(site), str(last + 1)]
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as child:
            assert int(child.stdout.readline()) == last + 1
            time.sleep(dice.uniform(0, 0.02))
            child.send_signal(signal.SIGKILL)
            told = child.stdout.read().split()
        acknowledged = int(told[-1]) if told else last + 1
        trust = load_trust(site, now=now())
        assert trust.rules[0].least_serial in (acknowledged, acknowledged + 1)
        assert not (site / "trust.next.json").exists()
        last = trust.rules[0].least_serial
    assert load_trust(site, now=now()).version == last + 1


def test_a_change_that_fails_leaves_all_as_it_was(site):
    new_key(site, "dev", now=now())
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}

    def decide(trust):
        raise InputError("no")

    with pytest.raises(InputError):
        change_trust(site, decide, now=now())
    keyid = held(site).rules[0].keys[0]
    with pytest.raises(InputError, match="no capsule could meet it"):
        change_trust(site, lambda trust: without_key(trust, keyid, name="dev"), now=now())
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before


@given(st.integers(0, 2**32), st.lists(st.integers(0, 3), max_size=12))
@settings(max_examples=50, deadline=None)
def test_every_change_makes_a_version_that_can_be_met(seed, steps):
    dice = random.Random(seed)
    keys = {f"{number:064x}": bytes([number]) * 32 for number in range(1, 5)}
    ids = sorted(keys)
    trust = first_trust(keys, root_keys=tuple(ids[:2]), threshold=1, expires=9)
    for step in steps:
        before = trust
        some = tuple(dice.sample(ids, dice.randint(1, 4)))
        glob = dice.choice(["*", "a*", "ab"])
        try:
            if step < 2:
                change = RuleChange(
                    glob=glob, keys=some, threshold=dice.randint(1, 4), builders=some[:1]
                )
                trust = with_rule(trust, change, keys)
            elif step == 2:
                trust = without_key(trust, dice.choice(ids), name="x")
            else:
                trust = without_rule(trust, glob)
        except InputError:
            assert trust is before
            continue
        assert trust.version == before.version + 1
        assert not is_same(trust, before) or step < 2
        named = {key for rule in trust.rules for key in (*rule.keys, *rule.builders)}
        assert set(trust.keys) == named | set(trust.root_keys)
        for rule in trust.rules:
            assert 1 <= rule.threshold <= len(rule.keys)
        assert 1 <= trust.root_threshold <= len(trust.root_keys)
