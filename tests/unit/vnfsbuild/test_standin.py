"""Which calls are answered with a stand-in, and what it stands for in the tree list."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild import standin
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.layer import Entry
from vnfsbuild.standin import make_filter, resolve_stand_ins

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
MKNOD, MKNODAT, CHOWN, FCHOWN, LCHOWN, FCHOWNAT = 133, 259, 92, 93, 94, 260


def decide(call, *arguments, architecture=X86_64):
    """Return what the filter says, by running it as the kernel would."""
    words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = {0: call, 4: architecture, **{16 + 8 * at: word for at, word in enumerate(words)}}
    program, at, held = make_filter(), 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x20:
            held = data[operand]
        elif code == 0x54:
            held &= operand
        elif code == 0x15:
            at += yes if held == operand else no
        elif code == 0x35:
            at += yes if held >= operand else no
        else:
            return operand


IDS = st.one_of(st.integers(0, 65_519), st.just(0xFFFFFFFF))
LARGE = st.integers(65_520, 2**32 - 2)


@given(user=IDS, group=IDS, large=LARGE)
def test_only_owners_that_a_namespace_may_lack_are_looked_at(user, group, large):
    for call in (CHOWN, LCHOWN, FCHOWN):
        assert decide(call, 0, user, group) == ALLOW
        assert decide(call, 0, large, group) == NOTIFY
        assert decide(call, 0, user, large) == NOTIFY
    assert decide(FCHOWNAT, 0, 0, user, group) == ALLOW
    assert decide(FCHOWNAT, 0, 0, large, group) == NOTIFY
    assert decide(FCHOWNAT, 0, 0, user, large) == NOTIFY


@given(mode=st.integers(0, 0o7777))
def test_of_nodes_only_devices_are_looked_at(mode):
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert decide(MKNOD, 0, kind | mode, 0x103) == NOTIFY
        assert decide(MKNODAT, 0, 0, kind | mode, 0x103) == NOTIFY
    for kind in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
        assert decide(MKNOD, 0, kind | mode) == ALLOW
        assert decide(MKNODAT, 0, 0, kind | mode) == ALLOW


@given(call=st.integers(0, 500), arguments=st.lists(st.integers(0, 2**32 - 1), max_size=6))
def test_all_other_calls_are_none_of_ours(call, arguments):
    if call not in (MKNOD, MKNODAT, CHOWN, FCHOWN, LCHOWN, FCHOWNAT):
        assert decide(call, *arguments) == ALLOW
    assert decide(call, *arguments, architecture=I386) == ALLOW


def node(path="d", mode=stat.S_IFCHR | 0o666, **rest):
    return Entry(path=path, mode=mode, mtime=0, size_bytes=0, **{"uid": 0, "gid": 0, **rest})


@pytest.fixture
def found(monkeypatch, tmp_path):
    found = standin.StandIns(
        devices={(tmp_path.stat().st_dev, 7): (stat.S_IFBLK, os.makedev(8, 17))},
        users={60_578: 70_000},
        groups={60_578: 80_000},
    )
    monkeypatch.setattr(standin, "_FOUND", found)
    return found


def test_a_stand_in_becomes_what_it_stands_for(found, tmp_path):
    (entry,) = resolve_stand_ins([node(inode=7, uid=60_578, gid=60_578)], tmp_path)
    assert entry == node(
        mode=stat.S_IFBLK | 0o666, device=os.makedev(8, 17), inode=7, uid=70_000, gid=80_000
    )


def test_all_else_stays_as_it_is(found, tmp_path):
    entries = [
        node(device=os.makedev(1, 3)),
        node(mode=stat.S_IFREG | 0o644, inode=7, uid=5, gid=60_579),
        node(mode=stat.S_IFDIR | 0o755),
    ]
    assert resolve_stand_ins(entries, tmp_path) == entries


def test_a_device_of_which_nobody_knows_is_refused(found, tmp_path):
    with pytest.raises(VnfsbuildError, match="srv/x: found a device node without a number"):
        resolve_stand_ins([node("srv/x", inode=8)], tmp_path)
