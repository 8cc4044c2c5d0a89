"""References: NAME[:TAG][@DIGEST]."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.errors import InputError
from vnfsbuild.reference import Reference, parse_name, parse_reference

DIGEST = "sha256:" + "0" * 64

names = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}", fullmatch=True)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,9}", fullmatch=True)


@given(names, tags, st.none() | st.just(DIGEST))
def test_a_reference_is_read_back(name, tag, digest):
    reference = Reference(name, tag, digest)
    assert parse_reference(str(reference)) == reference


def test_a_bare_name_means_current():
    assert parse_reference("toy") == Reference("toy", "current", None)
    assert str(parse_reference("toy:current")) == "toy"
    assert str(parse_reference(f"toy:7@{DIGEST}")) == f"toy:7@{DIGEST}"


@pytest.mark.parametrize(
    "bad",
    [
        "", ":", "@", "Toy", "toy:", "toy@", ":7", "toy:7:8", "toy:-x", "toy: x", "toy\n", "toy/x",
        "../toy", "-toy", "toy-", "to..y", "to.-y", "to___y", "toy@sha256:00", f"toy@{DIGEST}0",
        "toy:" + "x" * 129, "x" * 129, "tóy",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(bad):
    with pytest.raises(InputError):
        parse_reference(bad)


def test_a_long_name_of_nothing_but_dashes_is_refused_at_once():
    with pytest.raises(InputError):
        parse_name("a" + "-" * 100_000 + "!", where="x")


@pytest.mark.parametrize("bad", [None, 7, b"toy"])
def test_a_name_is_text(bad):
    with pytest.raises(InputError, match="here: found name"):
        parse_name(bad, where="here")
