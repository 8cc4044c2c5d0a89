"""What a new lock changes, told for review."""

from dataclasses import replace

import pytest

from vnfsbuild.changes import (
    Kind,
    compare_versions,
    make_changes,
    make_key_changes,
    render_changes,
)

from .test_lock import LOCK, PACKAGE


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1", "2"),
        ("9", "10"),
        ("1.0", "1.0.1"),
        ("1.0~rc1", "1.0"),
        ("1.0~~", "1.0~"),
        ("1.0~rc1-1", "1.0~rc2-1"),
        ("1.0-1", "1.0-1+deb13u1"),
        ("1.0-1+b1", "1.0-1+deb13u1"),
        ("2.41-12", "2.41-12+deb13u1"),
        ("9.9", "1:0.1"),
        ("1.0a", "1.0+"),
        ("1.0", "1.0a"),
        ("1-2-3", "1-2-10"),
        ("0", "0-0.1"),
    ],
)
def test_versions_are_ordered_as_debian_orders_them(lower, higher):
    assert compare_versions(lower, higher) < 0
    assert compare_versions(higher, lower) > 0


@pytest.mark.parametrize(("one", "other"), [("1.0", "1.0"), ("0:1", "1"), ("1.01", "1.1")])
def test_some_versions_are_equal(one, other):
    assert compare_versions(one, other) == 0


def named(name, version, sha256="ab" * 32):
    return replace(PACKAGE, name=name, version=version, sha256=sha256)


def test_changes_are_told_and_downgrades_first():
    before = replace(
        LOCK,
        packages=(named("down", "2"), named("gone", "1"), named("same", "1"), named("up", "1")),
        tools=(named("zstd", "1"),),
    )
    after = replace(
        LOCK,
        packages=(
            named("down", "1"),
            named("new", "1"),
            named("same", "1", "cd" * 32),
            named("up", "1.1"),
        ),
        tools=(named("zstd", "2"),),
    )
    changes = make_changes(before, after)
    assert [(item.name, item.kind) for item in changes] == [
        ("down", Kind.DOWN),
        ("gone", Kind.REMOVED),
        ("new", Kind.ADDED),
        ("same", Kind.OTHER_BYTES),
        ("up", Kind.UP),
        ("zstd", Kind.UP),
    ]
    assert render_changes(changes, ()) == [
        "DOWNGRADE: down 2 → 1",
        "added: new 1",
        "removed: gone 1",
        "other bytes: same 1 → 1",
        "up: up 1 → 1.1",
        "up: zstd 1 → 2 (tools)",
    ]


def test_a_first_lock_adds_everything():
    assert [item.kind for item in make_changes(None, LOCK)] == [Kind.ADDED]
    assert make_key_changes(None, LOCK) == ()


def test_other_keys_are_told():
    rows = tuple(replace(item, keys=("CD" * 20,)) for item in LOCK.repositories)
    changes = make_key_changes(LOCK, replace(LOCK, repositories=rows))
    assert render_changes((), changes) == [
        f"signed by other keys: debian-trixie: {'AB' * 20} → {'CD' * 20}"
    ]
