"""Which of two versions of an RPM package is newer: as rpm itself says it (rpmvercmp)."""

from __future__ import annotations

import re
from itertools import zip_longest

_SEGMENT = re.compile(r"~|\^|[0-9]+|[A-Za-z]+")


def compare_rpm_versions(one: str, other: str) -> int:
    """Return less than, equal to or more than 0, as *one* is older, the same or newer.

    A version is ``[EPOCH:]VERSION-RELEASE``.
    """
    first, second = _split(one), _split(other)
    if first[0] != second[0]:
        return first[0] - second[0]
    return _compare(first[1], second[1]) or _compare(first[2], second[2])


def _split(text: str) -> tuple[int, str, str]:
    epoch, colon, rest = text.partition(":")
    if not colon or not epoch.isdecimal():
        epoch, rest = "0", text
    version, dash, release = rest.rpartition("-")
    return (int(epoch), version, release) if dash else (int(epoch), rest, "")


def _compare(one: str, other: str) -> int:
    for first, second in zip_longest(_SEGMENT.findall(one), _SEGMENT.findall(other), fillvalue=""):
        # "~" is older than the end, "^" newer than the end and older than anything else.
        for sign, at_end in (("~", -1), ("^", 1)):
            if first == second == sign:
                break
            if first == sign:
                return at_end if sign == "~" or not second else -1
            if second == sign:
                return -at_end if sign == "~" or not first else 1
        else:
            found = _compare_segment(first, second)
            if found:
                return found
    return 0


def _compare_segment(one: str, other: str) -> int:
    if not one or not other:
        return 1 if one else -1
    if one.isdecimal() != other.isdecimal():
        return 1 if one.isdecimal() else -1
    if one.isdecimal():
        return int(one) - int(other)
    return (one > other) - (one < other)
