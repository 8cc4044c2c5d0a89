"""trust.json: who may sign what, and who may change that."""

import json
from dataclasses import replace

import pytest

from vnfsbuild.digest import render_json
from vnfsbuild.errors import VerificationError
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.trust import Rule, parse_trust, render_trust, verify_trust


def verify(data, workshop, *, pinned=None, now=None):
    return verify_trust(
        data, pinned=pinned, now=now or workshop.now, verify_ed25519=verify_ed25519, where="here"
    )


def test_trust_is_read_back(workshop):
    trust = workshop.trust("dev", "ops", threshold=2, glob="debian-*", least_serial=3)
    assert parse_trust(render_trust(trust), where="x") == trust


def test_trust_signed_by_its_root_key_is_taken_where_none_is_held(workshop):
    trust = workshop.trust()
    assert verify(workshop.signed_trust(trust), workshop) == trust


def test_trust_signed_by_another_key_is_refused(workshop):
    data = workshop.signed_trust(workshop.trust(), "dev")
    with pytest.raises(VerificationError, match="here: signed by 0 root keys of version 1"):
        verify(data, workshop)


def test_expired_trust_is_refused(workshop):
    data = workshop.signed_trust(workshop.trust())
    with pytest.raises(VerificationError, match="here: version 1 has expired"):
        verify(data, workshop, now=workshop.later)


def test_a_newer_trust_takes_the_place_of_the_held_one_and_an_older_does_not(workshop):
    first, second = workshop.trust(), workshop.trust("ops", version=2)
    assert verify(workshop.signed_trust(second), workshop, pinned=first) == second
    with pytest.raises(VerificationError, match="found version 1, expected at least 2"):
        verify(workshop.signed_trust(first), workshop, pinned=second)
    assert verify(workshop.signed_trust(first), workshop, pinned=first) == first


def test_the_same_version_with_other_content_is_refused(workshop):
    with pytest.raises(VerificationError, match="another version 1 than the one that is held"):
        verify(workshop.signed_trust(workshop.trust("ops")), workshop, pinned=workshop.trust())


def test_new_root_keys_must_be_signed_by_the_held_ones(workshop):
    new = workshop.key("new")
    held = workshop.trust()
    changed = replace(
        held,
        version=2,
        keys={**held.keys, new.key_id: new.public_key},
        root_keys=(new.key_id,),
    )
    with pytest.raises(VerificationError, match="signed by 0 root keys of version 1, expected 1"):
        verify(workshop.signed_trust(changed, "new"), workshop, pinned=held)
    assert verify(workshop.signed_trust(changed, "new", "root"), workshop, pinned=held)


def test_the_first_rule_that_matches_is_the_one(workshop):
    trust = workshop.trust("dev", "ops")
    one, two = (
        Rule(name=glob, keys=trust.rules[0].keys, threshold=count, least_serial=0)
        for glob, count in (("debian-*", 2), ("*", 1))
    )
    trust = replace(trust, rules=(one, two))
    assert trust.rule_for("debian-13") is one
    assert trust.rule_for("rocky-9") is two
    with pytest.raises(VerificationError, match=r"rocky-9: no rule of trust.json \(version 1\)"):
        replace(trust, rules=(one,)).rule_for("rocky-9")


BAD = {
    "one key more": lambda value: value.update(x=1),
    "no version": lambda value: value.pop("version"),
    "a version that is text": lambda value: value.update(version="1"),
    "a time below zero": lambda value: value.update(expires=-1),
    "keys that are a list": lambda value: value.update(keys=[]),
    "a key with another id": lambda value: value["keys"].update({"00": value["keys"].popitem()[1]}),
    "a key of three bytes": lambda value: value["keys"].update({"00": "AAAA"}),
    "no root": lambda value: value.pop("root"),
    "a root that is text": lambda value: value.update(root="x"),
    "an unknown root key": lambda value: value["root"].update(keys=["00"]),
    "root keys that are a text": lambda value: value["root"].update(keys="00"),
    "root keys that are lists": lambda value: value["root"].update(keys=[[]]),
    "no root key": lambda value: value["root"].update(keys=[], threshold=0),
    "a root key twice": lambda value: value["root"].update(
        keys=value["root"]["keys"] * 2, threshold=2
    ),
    "more signatures than root keys": lambda value: value["root"].update(threshold=2),
    "no root signature needed": lambda value: value["root"].update(threshold=0),
    "a rule without signatures": lambda value: value["rules"][0].update(threshold=0),
    "a rule with an unknown key": lambda value: value["rules"][0].update(keys=["00"]),
    "a rule that wants too much": lambda value: value["rules"][0].update(threshold=2),
    "a rule with more": lambda value: value["rules"][0].update(x=1),
    "a rule that is text": lambda value: value.update(rules=["x"]),
    "rules that are a number": lambda value: value.update(rules=7),
    "a rule whose name is a number": lambda value: value["rules"][0].update(name=7),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_no_trust_is_refused(workshop, change):
    value = json.loads(render_trust(workshop.trust()))
    change(value)
    with pytest.raises(VerificationError, match=r"^here: "):
        parse_trust(render_json(value), where="here")


def test_not_one_bit_of_trust_json_may_differ(workshop):
    data = workshop.signed_trust(workshop.trust())
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            verify(bytes(flipped), workshop)
