"""Differences are named by path and kind."""

from dataclasses import replace

from vnfsbuild.compare import Difference, Item, compare_items

FILE = Item(type="file", mode=0o644, mtime=100, content="sha256:" + "ab" * 32)


def kinds(found, expected):
    return [
        (item.path, item.kind)
        for item in compare_items("layer rootfs", found=found, expected=expected)
    ]


def test_the_same_has_no_difference():
    assert kinds({"a": FILE}, {"a": replace(FILE)}) == []


def test_every_kind_is_named():
    changed = replace(
        FILE, mode=0o600, uid=7, mtime=5, content="sha256:" + "cd" * 32, xattrs={"user.x": b"1"}
    )
    found = {"a": changed, "b": replace(FILE, type="link", content="a"), "d": FILE}
    expected = {"a": FILE, "b": FILE, "c": FILE}
    assert kinds(found, expected) == [
        ("a", "mode"),
        ("a", "owner"),
        ("a", "mtime"),
        ("a", "content"),
        ("a", "xattrs"),
        ("b", "type"),
        ("c", "missing"),
        ("d", "extra"),
    ]


def test_it_is_told_what_was_found_and_what_expected():
    (difference,) = compare_items(
        "layer rootfs", found={"a": replace(FILE, mode=0o4755)}, expected={"a": FILE}
    )
    assert str(difference) == "layer rootfs: a: mode: found 4755, expected 0644"


def test_what_is_not_there_needs_no_values():
    difference = Difference(payload="initrd", path="init", kind="missing")
    assert str(difference) == "initrd: init: missing"
