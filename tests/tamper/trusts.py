"""Texts of trust.json that must not count, and why.

The site holds version 5: root key ``root``, and a rule by which dev and ops sign everything. A row
is another text, as somebody can make who holds the keys that it is signed by.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass

from vnfsbuild.digest import render_json
from vnfsbuild.dsse import key_id
from vnfsbuild.trust import TRUST, render_trust

from . import ways
from .conftest import FAR, good_trust
from .forge import SIGNERS, WORKSHOP, envelope, sign, signature


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    told: str
    make: Callable[[], bytes]
    only_when_held: bool = False
    """Whether it can only be told by who holds version 5 already; else anybody refuses it."""


def trusted(**words):
    """Return the trust of the site, changed."""
    fields = {"threshold": 2, "least_serial": 2, "expires": FAR, "version": 6, **words}
    return WORKSHOP.trust(*SIGNERS, **fields)


def by(*roots, kind=TRUST, **words):
    """Return what makes the text of a changed trust, signed by *roots*."""
    return lambda: sign(render_trust(trusted(**words)), *(roots or ("root",)), kind=kind)


def rooted(keys, threshold, *signers):
    """Return what makes a trust whose root keys are others."""

    def make():
        public = [WORKSHOP.key(name).public_key for name in keys]
        trust = trusted()
        trust = dataclasses.replace(
            trust,
            keys={**trust.keys, **{key_id(key): key for key in public}},
            root_keys=tuple(sorted(key_id(key) for key in public)),
            root_threshold=threshold,
        )
        return sign(render_trust(trust), *signers, kind=TRUST)

    return make


def saying(change, *roots):
    """Return what makes a trust whose JSON was changed before it was signed, rightly."""

    def make():
        value = json.loads(render_trust(trusted()))
        change(value)
        return sign(render_json(value), *(roots or ("root",)), kind=TRUST)

    return make


def written(way):
    """Return what makes a trust whose JSON is in another form; it is signed as it stands."""
    return lambda: sign(ways.JSON_WAYS[way](render_trust(trusted())), "root", kind=TRUST)


def wrapped(way):
    """Return what makes an envelope in another form around a good trust."""
    return lambda: ways.JSON_WAYS[way](by()())


def bytes_of(way):
    """Return what tampers with the bytes of the good text."""
    return lambda: way(good_trust(), 0, len(good_trust()))


def rule(**changes):
    """Return the change of the only rule."""
    return lambda value: value["rules"][0].update(changes)


def root(**changes):
    """Return the change of what is said of root keys."""
    return lambda value: value["root"].update(changes)


def half_signed():
    """Return a trust whose signature is one over another text."""
    text = render_trust(trusted())
    return envelope(text, signature("root", text + b" ", kind=TRUST), kind=TRUST)


def slack():
    """Return a good text whose base64 has other unused bits: the same to a lenient reader."""
    text = by()()
    payload = json.loads(text)["payload"]
    for last in "AEIMQUYcgkosw048BCDFGHJKLNOPRSTVWXZabdefhijlmnpqrtuvxyz":
        position = len(payload.rstrip("=")) - 1
        other = payload[:position] + last + payload[position + 1 :]
        if other != payload and base64.b64decode(other) == base64.b64decode(payload):
            return text.replace(payload.encode(), other.encode())
    return text.replace(b'"payloadType"', b' "payloadType"')  # there are no unused bits


EVE = WORKSHOP.key("eve")
EVE_KEY = base64.b64encode(EVE.public_key).decode()
DEV_ID = WORKSHOP.key("dev").key_id

TRUSTS = {
    "older version": Row("found version 4, expected at least 5", by(version=4), True),
    "version 0": Row("found version 0, expected at least 5", by(version=0), True),
    "same version, other content": Row("another version 5", by(version=5, least_serial=0), True),
    "same version, more keys": Row("another version 5", by(version=5, threshold=1), True),
    "newer, signed by nobody we know": Row("signed by 0 root keys", by("eve")),
    "newer, signed by a key that signs capsules": Row("signed by 0 root keys", by("dev")),
    "newer, signed by both that sign capsules": Row("signed by 0 root keys", by(*SIGNERS)),
    "expired": Row("has expired", by(expires=1)),
    "expired when it began": Row("has expired", by(expires=0)),
    "new root keys, not signed by the old": Row(
        "signed by 0 root keys of version 5", rooted(["eve"], 1, "eve"), True
    ),
    "new root keys, not signed by the new": Row(
        "signed by 0 root keys of version 6", rooted(["eve"], 1, "root")
    ),
    "two root keys, signed by one": Row(
        "signed by 1 root keys of version 6, expected 2", rooted(["root", "eve"], 2, "root")
    ),
    "signed as a capsule's manifest": Row(
        "signed as", by(kind="application/vnd.oci.image.manifest.v1+json")
    ),
    "signature over another text": Row("not that of|not over these", half_signed),
    "root threshold 0": Row("impossible threshold", saying(root(threshold=0))),
    "root threshold 2 of 1": Row("impossible threshold", saying(root(threshold=2))),
    "no root keys": Row("impossible threshold", saying(root(keys=[], threshold=0))),
    "root key that is not listed": Row("unknown keys", saying(root(keys=["0" * 64]))),
    "root key twice, for a threshold of 2": Row(
        "", saying(root(keys=[WORKSHOP.key("root").key_id] * 2, threshold=2))
    ),
    "threshold 0": Row("impossible threshold", saying(rule(threshold=0))),
    "threshold 3 of 2": Row("impossible threshold", saying(rule(threshold=3))),
    "threshold -1": Row("whole number", saying(rule(threshold=-1))),
    "threshold true": Row("whole number", saying(rule(threshold=True))),
    "threshold as text": Row("whole number", saying(rule(threshold="1"))),
    "key of a rule that is not listed": Row("unknown keys", saying(rule(keys=[EVE.key_id]))),
    "key of a rule twice": Row("", saying(rule(keys=[DEV_ID, DEV_ID]))),
    "keys of a rule in another order": Row(
        "", saying(lambda value: value["rules"][0]["keys"].reverse())
    ),
    "keys of a rule that are text": Row("", saying(rule(keys=DEV_ID))),
    "another key under a known id": Row(
        "not the key with this id",
        saying(lambda value: value["keys"].update({DEV_ID: EVE_KEY})),
    ),
    "a key of 31 bytes": Row(
        "not the key", saying(lambda value: value["keys"].update({DEV_ID: "A" * 40}))
    ),
    "a key that is no base64": Row(
        "trust.json", saying(lambda value: value["keys"].update({DEV_ID: "***"}))
    ),
    "keys that are a list": Row("trust.json", saying(lambda value: value.update(keys=[EVE_KEY]))),
    "rules that are an object": Row("", saying(lambda value: value.update(rules={"name": "*"}))),
    "rule that is text": Row("", saying(lambda value: value.update(rules=["*"]))),
    "rule without a name": Row("", saying(lambda value: value["rules"][0].pop("name"))),
    "rule with a name that is a number": Row("", saying(rule(name=7))),
    "rule that says more": Row("more than the format", saying(rule(more=1))),
    "least serial -1": Row("whole number", saying(rule(leastSerial=-1))),
    "least serial as a float": Row("canonical|whole", written("float")),
    "says more": Row("more than the format", saying(lambda value: value.update(more=1))),
    "says less": Row("trust.json", saying(lambda value: value.pop("rules"))),
    "version -1": Row("whole number", saying(lambda value: value.update(version=-1))),
    "version as text": Row("whole number", saying(lambda value: value.update(version="6"))),
    "version null": Row("whole number", saying(lambda value: value.update(version=None))),
    "no expiry": Row("trust.json", saying(lambda value: value.pop("expires"))),
    "expiry null": Row("whole number", saying(lambda value: value.update(expires=None))),
    "unused bits of base64 set": Row("canonical", slack),
    **{f"payload: {way}": Row("", written(way)) for way in ways.JSON_WAYS},
    **{f"envelope: {way}": Row("", wrapped(way)) for way in ways.JSON_WAYS},
    **{
        f"bytes: {way.__name__.replace('_', ' ')}": Row("", bytes_of(way)) for way in ways.BYTE_WAYS
    },
}
"""What was done to it → the row."""

FORBIDS = {
    "least serial 4": Row("found serial 3, expected at least 4", by(least_serial=4)),
    "other keys": Row(
        "untrusted|expected 2",
        saying(lambda value: value.update(
            keys={**value["keys"], EVE.key_id: EVE_KEY},
            rules=[{**value["rules"][0], "keys": [EVE.key_id], "threshold": 1}],
        )),
    ),
    "no rule for this name": Row("no rule", saying(rule(name="toys*"))),
    "no rules": Row("no rule", saying(lambda value: value.update(rules=[]))),
    "first rule counts, not the kinder second": Row(
        "found serial 3, expected at least 9",
        saying(lambda value: value["rules"].insert(
            0, {**value["rules"][0], "name": "t*", "leastSerial": 9})),
    ),
}  # fmt: skip
"""Newer and rightly signed: these count, and by them the capsule may not run."""
