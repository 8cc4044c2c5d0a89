"""Faults are collected, told with their key path, and unknown keys get a suggestion."""

import re

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.fields import Faults, Table, parse_toml


def table(values):
    faults = Faults("x.toml")
    return Table(values, faults=faults), faults


def test_good_values_come_back_without_faults():
    top, faults = table({"a": "text", "b": ["x", "x", "y"], "c": True, "d": 3, "e": {"f": ""}})
    assert top.text("a") == "text"
    assert top.texts("b") == ("x", "y")
    assert top.flag("c", False) is True
    assert top.number("d", most=9) == 3
    assert top.table("e").text("f", "") == ""
    top.close()
    faults.verify()


@pytest.mark.parametrize(
    ("values", "read", "told"),
    [
        ({}, lambda t: t.text("a"), "x.toml: a: missing"),
        ({"a": 1}, lambda t: t.text("a"), "x.toml: a: found 1, expected text"),
        ({"a": ""}, lambda t: t.text("a"), "x.toml: a: found '', expected text"),
        (
            {"a": "debain"},
            lambda t: t.text("a", choices=("debian", "fedora")),
            "x.toml: a: found 'debain', expected 'debian' or 'fedora'; 'debian' is near",
        ),
        (
            {"a": "later"},
            lambda t: t.text("a", choices=("now",), later=("later",)),
            "x.toml: a: 'later' is not yet supported by this version of vnfsbuild",
        ),
        ({"a": "x"}, lambda t: t.texts("a"), "x.toml: a: found 'x', expected a list"),
        ({"a": ["x", 2]}, lambda t: t.texts("a"), "x.toml: a[1]: found 2, expected text"),
        (
            {"a": ["x y"]},
            lambda t: t.texts("a", re.compile(r"\S+"), "one word"),
            "x.toml: a[0]: found 'x y', expected one word",
        ),
        ({"a": 1}, lambda t: t.flag("a", True), "x.toml: a: found 1, expected true or false"),
        (
            {"a": True},
            lambda t: t.number("a", most=5),
            "x.toml: a: found True, expected a whole number from 0 to 5",
        ),
        (
            {"a": 6},
            lambda t: t.number("a", 1, most=5),
            "x.toml: a: found 6, expected a whole number from 0 to 5",
        ),
        ({"a": 1}, lambda t: t.table("a"), "x.toml: a: found 1, expected a table: [a]"),
        ({"a": {}}, lambda t: t.tables("a"), "x.toml: a: found {}, expected tables: [[a]]"),
        (
            {"a": [{}, {"b": 1}]},
            lambda t: [item.text("b", "") for item in t.tables("a")],
            "x.toml: a[1].b: found 1, expected text",
        ),
        (
            {"a": 1},
            lambda t: t.not_yet("a"),
            "x.toml: a: not yet supported by this version of vnfsbuild",
        ),
    ],
)
def test_a_faulty_value_is_told_with_its_path(values, read, told):
    top, faults = table(values)
    read(top)
    assert faults.found == [told]


def test_unknown_keys_name_the_nearest_known_one():
    top, faults = table({"instal": 1, "zebra": 2})
    top.texts("install")
    top.texts("remove")
    top.close()
    assert faults.found == [
        "x.toml: instal: unknown key; did you mean 'install'?",
        "x.toml: zebra: unknown key; known: install, remove",
    ]


def test_all_faults_are_raised_at_once():
    top, faults = table({"a": 1})
    top.text("a")
    top.text("b")
    with pytest.raises(InputError) as raised:
        faults.verify(hint="mend it")
    assert raised.value.message == "x.toml: a: found 1, expected text\nx.toml: b: missing"
    assert raised.value.hint == "mend it"


def test_what_is_no_toml_is_told_with_its_line():
    with pytest.raises(InputError, match=r"x\.toml: not TOML: .*line 2"):
        parse_toml("a = 1\nb =\n", where="x.toml")
