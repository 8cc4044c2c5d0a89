"""Each way in which a file is not as it was has its own word."""

import os
import stat

import pytest

from vnfsbuild.inside.filechanges import Kind, compare_trees, find_comparable
from vnfsbuild.inside.union import make_union

from ..layer_vectors import CAPABILITY, EPOCH, entry


def union(*entries):
    return make_union([[entry(".", stat.S_IFDIR), *entries]])


def kinds(before, after, *, other=()):
    changes = compare_trees(union(*before), union(*after), other_contents=set(other))
    return {change.path: list(map(str, change.kinds)) for change in changes}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ({}, {"mode": 0o600}, "mode"),
        ({}, {"uid": 5}, "owner"),
        ({}, {"gid": 5}, "owner"),
        ({}, {"size_bytes": 1}, "content"),
        ({}, {"xattrs": CAPABILITY}, "xattrs"),
        ({}, {"mtime": EPOCH + 1}, "time"),
        ({"kind": stat.S_IFLNK, "target": "a"}, {"kind": stat.S_IFLNK, "target": "b"}, "target"),
        (
            {"kind": stat.S_IFCHR, "device": os.makedev(1, 3)},
            {"kind": stat.S_IFCHR, "device": os.makedev(1, 5)},
            "content",
        ),
        ({}, {"kind": stat.S_IFDIR, "mode": 0o755, "uid": 3}, "type"),
    ],
)
def test_kinds(before, after, kind):
    assert kinds([entry("a", **before)], [entry("a", **after)]) == {"a": [kind]}
    assert kinds([entry("a", **before)], [entry("a", **before)]) == {}


def test_what_came_and_went():
    assert kinds([entry("a"), entry("b")], [entry("b"), entry("c")]) == {
        "a": ["removed"],
        "c": ["added"],
    }


def test_several_at_once_and_contents_of_the_same_size():
    before = entry("a", size_bytes=5)
    after = entry("a", size_bytes=5, mode=0o600, uid=1, mtime=0)
    assert kinds([before], [after], other=["a"]) == {"a": ["content", "mode", "owner", "time"]}


def test_only_the_time():
    (change,) = compare_trees(
        union(entry("a")), union(entry("a", mtime=3)), other_contents=frozenset()
    )
    assert change.only_time
    assert change.kinds == (Kind.TIME,)


def test_contents_are_read_only_where_they_may_differ():
    before = union(
        entry("same", size_bytes=3), entry("larger", size_bytes=3), entry("empty"), entry("gone"),
        entry("link", stat.S_IFLNK, target="x"),
    )  # fmt: skip
    after = union(
        entry("same", size_bytes=3), entry("larger", size_bytes=4), entry("empty"),
        entry("link", stat.S_IFLNK, target="x"),
    )  # fmt: skip
    assert find_comparable(before, after, same_layers=()) == ["same"]
    assert find_comparable(before, after, same_layers={(0, 0)}) == []
