"""What a check-in is to a node, and what silence means."""

from dataclasses import replace

import pytest

from provisiond.nodes.model import Node, Session
from provisiond.nodes.states import (
    Admission,
    Timeouts,
    admit,
    advance_session,
    begin_session,
    find_conditions,
    has_key,
    hash_key,
    is_transition,
    shown_state,
)
from provisiond.protocol import Checkin, Plan

TIMEOUTS = Timeouts(checkin_seconds=60, node_seconds=600, boot_seconds=300, session_seconds=180)
HWADDR = "52:54:00:00:00:01"
BOOT, OTHER = "1" * 32, "2" * 32
KEY, WRONG = "a" * 64, "b" * 64
NOW = 1000.0
NODE = Node(node_id=HWADDR, name="n00001", hwaddrs=(HWADDR,), approved_by="administrator")
SESSION = Session(
    boot_id=BOOT, state="ready", since=0, hwaddr=HWADDR, peer="10.87.0.100", last_contact=NOW - 10,
    key_hash=hash_key(KEY), key_used=True,
)  # fmt: skip


def checkin(boot=BOOT, key=None, state="init"):
    return Checkin(hwaddrs=(HWADDR,), boot_id=boot, state=state, node_key=key)


@pytest.mark.parametrize(
    ("approved", "session", "boot", "key", "expected"),
    [
        # an approved node in the boot that is known
        (True, SESSION, BOOT, KEY, Admission.SAME_BOOT),
        (True, SESSION, BOOT, WRONG, Admission.WRONG_KEY),
        (True, SESSION, BOOT, None, Admission.WRONG_KEY),
        (True, replace(SESSION, key_used=False), BOOT, None, Admission.SAME_BOOT),
        (True, replace(SESSION, key_used=False), BOOT, WRONG, Admission.WRONG_KEY),
        (True, replace(SESSION, key_hash=None, key_used=False), BOOT, None, Admission.SAME_BOOT),
        (True, replace(SESSION, key_hash=None, key_used=False), BOOT, KEY, Admission.WRONG_KEY),
        # an approved node, another boot
        (True, None, BOOT, None, Admission.NEW_BOOT),
        (True, None, BOOT, KEY, Admission.WRONG_KEY),
        (True, SESSION, OTHER, None, Admission.CONFLICT),
        (True, SESSION, OTHER, KEY, Admission.WRONG_KEY),
        (True, replace(SESSION, last_contact=NOW - 180), OTHER, None, Admission.NEW_BOOT),
        (True, replace(SESSION, last_contact=NOW - 180), OTHER, KEY, Admission.WRONG_KEY),
        (True, replace(SESSION, state="halted"), OTHER, None, Admission.NEW_BOOT),
        (True, replace(SESSION, key_hash=None, key_used=False), OTHER, None, Admission.NEW_BOOT),
        # nobody gave an unapproved node a key, so none is asked for
        (False, None, BOOT, None, Admission.NEW_BOOT),
        (False, replace(SESSION, key_hash=None), BOOT, None, Admission.SAME_BOOT),
        (False, replace(SESSION, key_hash=None), BOOT, KEY, Admission.SAME_BOOT),
        (False, replace(SESSION, key_hash=None), OTHER, None, Admission.NEW_BOOT),
    ],
)
def test_admission(approved, session, boot, key, expected):
    node = replace(NODE, approved_by="administrator" if approved else None)
    assert admit(node, session, checkin(boot, key), now=NOW, timeouts=TIMEOUTS) is expected


def test_a_key_is_the_one_that_was_given():
    assert has_key(SESSION, KEY)
    assert not has_key(SESSION, WRONG)
    assert not has_key(replace(SESSION, key_hash=None), KEY)


def test_phases_keep_when_a_state_was_entered_last_and_init_first():
    session = begin_session(checkin(), peer="p", now=1.0)
    for now, state in (
        (2.0, "init"), (3.0, "fetching"), (4.0, "fetching"), (5.0, "failed"), (6.0, "init"),
        (7.0, "fetching"), (8.0, "booting"), (9.0, "ready"),
    ):  # fmt: skip
        session = advance_session(session, checkin(state=state), peer="p", now=now)
    assert session.phases == {
        "init": 1.0, "fetching": 7.0, "failed": 5.0, "booting": 8.0, "ready": 9.0,
    }  # fmt: skip
    assert session.since == 9.0


def test_progress_and_contact_are_no_transition_but_a_state_is():
    session = begin_session(checkin(), peer="p", now=1.0)
    again = advance_session(session, replace(checkin(), detail="10 %"), peer="p", now=2.0)
    assert is_transition(None, session)
    assert not is_transition(session, again)
    assert is_transition(again, advance_session(again, checkin(state="ready"), peer="p", now=3.0))
    assert is_transition(again, advance_session(again, checkin(key=KEY), peer="p", now=3.0))


@pytest.mark.parametrize(
    ("state", "silent", "shown", "conditions"),
    [
        ("init", 600, "init", ()),
        ("init", 601, "init", ("dead",)),
        ("booting", 300, "booting", ()),
        ("booting", 301, "failed", ()),
        ("ready", 130, "ready", ()),
        ("ready", 131, "ready", ("late",)),
        ("ready", 601, "ready", ("dead",)),
        ("halted", 10_000, "halted", ()),
    ],
)
def test_silence(state, silent, shown, conditions):
    session = replace(SESSION, state=state, last_contact=NOW - silent)
    plan = Plan(node_id=HWADDR, name="n00001", action="none")
    found = find_conditions(session, plan, enabled=True, conflict=False, now=NOW, timeouts=TIMEOUTS)
    assert found == conditions
    assert shown_state(session, now=NOW, timeouts=TIMEOUTS)[0] == shown


@pytest.mark.parametrize(
    ("state", "conditions"),
    [("init", ("waiting",)), ("failed", ("waiting",)), ("ready", ()), ("halted", ())],
)
def test_a_node_waits_when_its_plan_says_so(state, conditions):
    session = replace(SESSION, state=state)
    plan = Plan(node_id=HWADDR, name="n00001", action="wait", reason="x")
    found = find_conditions(session, plan, enabled=True, conflict=False, now=NOW, timeouts=TIMEOUTS)
    assert found == conditions


def test_a_node_that_never_came_has_no_state():
    assert shown_state(None, now=NOW, timeouts=TIMEOUTS) == (None, "")
    plan = Plan(node_id=HWADDR, name="n00001", action="wait")
    found = find_conditions(None, plan, enabled=False, conflict=True, now=NOW, timeouts=TIMEOUTS)
    assert found == ("disabled", "conflict")
