"""How a trust.json changes: a rule set, a key taken out, a longer life, other root keys. Pure.

Each change gives the next version whole. It holds the public keys that are named in it, no others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import InputError
from vnfsbuild.trust import Rule, Trust

DAY_SECONDS = 24 * 3600

_BRACKETS = re.compile(r"\[[^]]+\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleChange:
    """What is to be said of the capsules whose name matches *glob*; None: as it was."""

    glob: str
    keys: tuple[KeyId, ...] | None = None
    threshold: int | None = None
    least_serial: int | None = None
    builders: tuple[KeyId, ...] | None = None


def first_trust(
    public: Mapping[KeyId, bytes], *, root_keys: tuple[KeyId, ...], threshold: int, expires: int
) -> Trust:
    """Return version 1, with root keys and no rule: nothing is trusted yet.

    Raises:
        InputError: *threshold* is not one that so many keys can meet.
    """
    _require_threshold(len(set(root_keys)), threshold, of="the root")
    return Trust(
        version=1,
        expires=expires,
        keys={keyid: public[keyid] for keyid in root_keys},
        root_keys=tuple(sorted(set(root_keys))),
        root_threshold=threshold,
        rules=(),
    )


def with_rule(trust: Trust, change: RuleChange, public: Mapping[KeyId, bytes]) -> Trust:
    """Return the next version, in which *change* was made; *public* has the keys it names.

    A new rule comes before the first that is less specific (:func:`specificity`), since the first
    that matches a capsule's name counts. The order of the others stays.

    Raises:
        InputError: a new rule without keys, or a threshold that its keys cannot meet.
    """
    held = next((rule for rule in trust.rules if rule.name == change.glob), None)
    if held is None and not change.keys:
        raise InputError(
            f"rule {change.glob!r}: is new, and says of no key that it may sign", hint="--key NAME"
        )
    old = held or Rule(name=change.glob, keys=(), threshold=1, least_serial=0)
    rule = Rule(
        name=change.glob,
        keys=tuple(sorted(set(old.keys if change.keys is None else change.keys))),
        threshold=old.threshold if change.threshold is None else change.threshold,
        least_serial=old.least_serial if change.least_serial is None else change.least_serial,
        builders=tuple(sorted(set(old.builders if change.builders is None else change.builders))),
    )
    _require_threshold(len(rule.keys), rule.threshold, of=f"rule {rule.name!r}")
    rules = list(trust.rules)
    if held is not None:
        rules[rules.index(held)] = rule
    else:
        mine = specificity(rule.name)
        after = (at for at, other in enumerate(rules) if specificity(other.name) < mine)
        rules.insert(next(after, len(rules)), rule)
    return _next(trust, public, rules=tuple(rules))


def without_rule(trust: Trust, glob: str) -> Trust:
    """Return the next version, without the rule *glob*.

    Raises:
        InputError: there is none.
    """
    rules = tuple(rule for rule in trust.rules if rule.name != glob)
    if len(rules) == len(trust.rules):
        raise InputError(
            f"rule {glob!r}: trust.json (version {trust.version}) has none",
            hint="vnfsbuild trust show",
        )
    return _next(trust, {}, rules=rules)


def without_key(trust: Trust, keyid: KeyId, *, name: str) -> Trust:
    """Return the next version, in which *keyid*, called *name*, counts nowhere.

    Raises:
        InputError: it counts nowhere now; or a rule, or the root, could not be met without it.
    """
    if keyid not in trust.keys:
        raise InputError(
            f"key {name}: trust.json (version {trust.version}) does not name it; "
            "there is nothing to revoke",
            hint="vnfsbuild keys list",
        )
    rules = []
    for rule in trust.rules:
        keys = _less(rule.keys, keyid)
        if len(keys) < rule.threshold and keyid in rule.keys:
            raise InputError(
                f"key {name}: without it the rule {rule.name!r} has {_keys(len(keys))} "
                f"and wants {rule.threshold}: no capsule could meet it",
                hint=f"vnfsbuild trust allow '{rule.name}' --key OTHER… names its keys anew; "
                f"trust allow '{rule.name}' --remove drops it",
            )
        rules.append(replace(rule, keys=keys, builders=_less(rule.builders, keyid)))
    roots = _less(trust.root_keys, keyid)
    if len(roots) < trust.root_threshold:
        raise InputError(
            f"key {name}: without it trust.json has {_keys(len(roots), 'root key')} "
            f"and wants {trust.root_threshold}: nobody could change it any more",
            hint="vnfsbuild trust renew --root OTHER… names the root keys anew",
        )
    return _next(trust, {}, rules=tuple(rules), root_keys=roots)


def renewed(
    trust: Trust,
    public: Mapping[KeyId, bytes],
    *,
    root_keys: tuple[KeyId, ...] | None,
    root_threshold: int | None,
) -> Trust:
    """Return the next version, with other root keys, or another threshold for them.

    Raises:
        InputError: the root keys cannot meet the threshold.
    """
    keys = trust.root_keys if root_keys is None else tuple(sorted(set(root_keys)))
    threshold = trust.root_threshold if root_threshold is None else root_threshold
    _require_threshold(len(keys), threshold, of="the root")
    return _next(trust, public, root_keys=keys, root_threshold=threshold)


def good_for(trust: Trust, days: int, *, now: int) -> Trust:
    """Return *trust*, but that it expires *days* from *now*."""
    return replace(trust, expires=now + days * DAY_SECONDS)


def is_same(one: Trust, two: Trust) -> bool:
    """Tell whether the two say the same, whatever their versions."""
    return replace(one, version=two.version) == two


def specificity(glob: str) -> tuple[bool, int, int]:
    """Return how much *glob* says: a plain name most; then by letters, and ``?`` before ``*``."""
    simple = _BRACKETS.sub("?", glob)
    wild = simple.count("?"), simple.count("*")
    return simple == glob and not any(wild), len(simple) - sum(wild), wild[0] - wild[1]


def _next(
    trust: Trust,
    public: Mapping[KeyId, bytes],
    *,
    rules: tuple[Rule, ...] | None = None,
    root_keys: tuple[KeyId, ...] | None = None,
    root_threshold: int | None = None,
) -> Trust:
    rules = trust.rules if rules is None else rules
    roots = trust.root_keys if root_keys is None else root_keys
    known = {**trust.keys, **public}
    named = {*roots, *(keyid for rule in rules for keyid in (*rule.keys, *rule.builders))}
    return Trust(
        version=trust.version + 1,
        expires=trust.expires,
        keys={keyid: known[keyid] for keyid in sorted(named)},
        root_keys=roots,
        root_threshold=trust.root_threshold if root_threshold is None else root_threshold,
        rules=rules,
    )


def _require_threshold(count: int, threshold: int, *, of: str) -> None:
    if not 1 <= threshold <= count:
        raise InputError(
            f"{of}: found the threshold {threshold} and {_keys(count)}, "
            "expected at least 1 and no more than there are keys"
        )


def _less(keys: tuple[KeyId, ...], keyid: KeyId) -> tuple[KeyId, ...]:
    return tuple(item for item in keys if item != keyid)


def _keys(count: int, what: str = "key") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
