"""The machine of rollouts alone: whatever nodes do, it never does what must not be."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisiond.nodes.batches import batch_size, parse_batch
from provisiond.nodes.rollout import (
    ACTIVE,
    BOOTING,
    DONE,
    FAILED,
    READY,
    RUNNING,
    STOPPED,
    UNDER_WAY,
    WAITING,
    Member,
    Patience,
    Rollout,
    Seen,
    advance,
    may_go,
    resume,
    stop,
)
from provisiond.planned import NextReport
from vnfsbuild.errors import InputError

OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64
PATIENCE = Patience(fetch_seconds=50, leave_seconds=50, boot_seconds=50)


def make(count, **words):
    words = {"batch": "10%", "when": "now", **words}
    return Rollout(
        id=1, capsule="c", digest=NEW, reference="c", created=0.0,
        members={f"n{number}": Member() for number in range(count)}, **words,
    )  # fmt: skip


def running(name, **words):
    value = {
        "name": name, "state": "ready", "capsule": OLD, "boot_id": "1", "own": "c",
        "assigned": OLD, "runs": f"c@{OLD}",
    }  # fmt: skip
    return Seen(**{**value, **words})


def fleet(rollout, **words):
    return {node_id: running(node_id, **words) for node_id in rollout.members}


@pytest.mark.parametrize(
    ("text", "total", "size"),
    [("10%", 100, 10), ("10%", 19, 1), ("10%", 3, 1), ("100%", 7, 7), ("33%", 10, 3), ("5", 3, 5)],
)
def test_sizes_of_batches(text, total, size):
    assert batch_size(parse_batch(text), total) == size


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "1.5%", "ten", "-1", "5 %", "1e3"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="batch"):
        parse_batch(text)


def step(rollout, seen, now=1.0):
    done = advance(rollout, seen, now=now, patience=PATIENCE)
    for node_id, value in done.assign.items():
        seen[node_id] = replace(
            seen[node_id], own=value, assigned=NEW if value and NEW in value else OLD
        )
    return done.rollout


def test_nothing_happens_twice_for_what_is_seen_once():
    rollout = make(4, batch="2")
    seen = fleet(rollout)
    first = step(rollout, seen)
    again = advance(first, seen, now=2.0, patience=PATIENCE)
    assert again.rollout == first
    assert not again.assign
    assert not again.told


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"silent": True}, "silent"),
        ({"refusal": "n0 is disabled"}, "disabled"),
        ({"state": "failed", "detail": "ready.d/1 failed"}, "ready.d"),
        ({"next": NextReport(NEW, "failed", "memory", "1.1")}, "memory"),
        ({"next": NextReport(NEW, "failed", "", "1.1")}, "did not say why"),
    ],
)
def test_why_a_node_fails_that_still_runs_what_it_ran(words, reason):
    rollout = make(3, batch="2")
    seen = fleet(rollout)
    rollout = step(rollout, seen)
    seen["n0"] = replace(seen["n0"], **words)
    rollout = step(rollout, seen, now=2.0)
    assert rollout.state == STOPPED
    assert rollout.reason.startswith("n0: ")
    assert reason in rollout.reason
    assert [member.state for member in rollout.members.values()] == [FAILED, WAITING, WAITING]
    assert {item.own for item in seen.values()} == {"c"}


@pytest.mark.parametrize(("before", "state"), [("", FAILED), ("fan", READY)])
def test_a_node_that_comes_up_unhealthy_has_failed_unless_it_was(before, state):
    rollout = make(2, batch="1")
    seen = fleet(rollout, unhealthy=before)
    rollout = step(rollout, seen)
    seen["n0"] = replace(seen["n0"], capsule=NEW, unhealthy="fan")
    rollout = step(rollout, seen, now=2.0)
    assert rollout.members["n0"].state == state
    assert rollout.state == (STOPPED if state == FAILED else RUNNING)


def test_a_word_of_an_earlier_try_counts_for_nothing():
    rollout = make(1, batch="1")
    seen = fleet(rollout, next=NextReport(NEW, "failed", "memory", "1.7"))
    rollout = step(step(rollout, seen), seen)
    assert rollout.state == RUNNING
    seen["n0"] = replace(seen["n0"], next=NextReport(NEW, "fetched", "", "0.1"))
    assert step(rollout, seen).go_since is None


def test_who_does_not_get_on_fails_after_a_while():
    rollout = make(1, batch="1")
    seen = fleet(rollout)
    rollout = step(rollout, seen)
    assert step(rollout, seen, now=50.0).state == RUNNING
    stopped = step(rollout, seen, now=60.0)
    assert "an older agent?" in stopped.reason
    seen = fleet(rollout, next=NextReport(NEW, "fetched", "", "1.1"), own="c@x", assigned=NEW)
    gone = step(rollout, seen, now=10.0)
    assert may_go(gone, "n0")
    assert step(gone, seen, now=59.0).state == RUNNING
    assert "has not left" in step(gone, seen, now=61.0).reason
    idle = replace(gone, when="idle")
    assert step(idle, seen, now=1e6).state == RUNNING, "jobs may take as long as they like"


def test_a_node_that_was_started_anew_meanwhile_boots_what_it_is_assigned():
    rollout = make(1, batch="1")
    seen = fleet(rollout)
    rollout = step(rollout, seen)
    seen["n0"] = replace(seen["n0"], state="init", boot_id="2")
    rollout = step(rollout, seen, now=2.0)
    assert rollout.members["n0"].state == BOOTING
    seen["n0"] = replace(seen["n0"], state="ready", capsule=NEW)
    rollout = step(rollout, seen, now=3.0)
    assert (rollout.state, rollout.members["n0"].state) == (DONE, READY)


def test_a_node_that_was_shut_down_does_not_hold_the_others_up_for_ever():
    rollout = make(1, batch="1", when="idle")
    seen = fleet(rollout, next=NextReport(NEW, "fetched", "", "1.1"))
    rollout = step(step(rollout, seen), seen, now=2.0)
    assert may_go(rollout, "n0")
    seen["n0"] = replace(seen["n0"], state="halted", heard=100.0)
    assert step(rollout, seen, now=150.0).state == RUNNING, "it may be about to start again"
    assert step(rollout, seen, now=151.0).reason == "n0: was shut down"


def test_a_node_that_was_starting_when_its_turn_came_goes_over_once_it_is_up():
    rollout = make(2, batch="1")
    seen = fleet(rollout)
    seen["n0"] = replace(seen["n0"], state="fetching")
    rollout = step(rollout, seen)
    assert rollout.members["n0"].state == BOOTING
    seen["n0"] = replace(seen["n0"], state="ready")
    rollout = step(rollout, seen, now=40.0)
    assert (rollout.state, rollout.members["n0"].state) == (RUNNING, ACTIVE)
    assert step(rollout, seen, now=80.0).state == RUNNING
    seen["n0"] = replace(seen["n0"], next=NextReport(NEW, "fetched", "", "1.1"))
    assert may_go(step(rollout, seen, now=81.0), "n0")


def test_a_node_that_was_starting_has_its_turn_later_when_the_rollout_was_stopped():
    rollout = make(1, batch="1")
    seen = fleet(rollout)
    seen["n0"] = replace(seen["n0"], state="booting")
    rollout = step(rollout, seen)
    rollout = administer(rollout, seen, "stop", now=2.0)
    seen["n0"] = replace(seen["n0"], state="ready")
    rollout = step(rollout, seen, now=3.0)
    assert rollout.members["n0"].state == WAITING
    assert seen["n0"].own == "c"


def test_nobody_fails_for_what_a_server_that_was_off_could_not_hear():
    rollout = make(2, batch="2")
    seen = fleet(rollout)
    rollout = step(rollout, seen)
    seen["n0"] = replace(seen["n0"], state="booting", capsule=NEW)
    rollout = step(rollout, seen, now=2.0)
    off = replace(PATIENCE, deaf_from=10.0, deaf_until=1000.0)
    assert advance(rollout, seen, now=1001.0, patience=off).rollout.state == RUNNING
    assert advance(rollout, seen, now=1001.0, patience=PATIENCE).rollout.state == STOPPED
    assert advance(rollout, seen, now=1050.0, patience=off).rollout.state == STOPPED


SAYS = st.sampled_from(
    ["fetch", "jump", "up", "fail", "silent", "reset", "delete", "admin", "stop", "resume", "retry"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SAYS, st.integers(0, 7)), max_size=60), st.integers(0, 99))
def test_whatever_nodes_do(story, seed):
    """Never more than a batch under way; never a new one after a failure; nobody is forgotten."""
    chance = random.Random(seed)
    rollout = make(8, batch="3", when=chance.choice(["idle", "now"]))
    seen, now = fleet(rollout), 0.0
    for word, number in story:
        now += chance.choice([0.1, 5.0, 60.0])
        before = rollout
        if word in ("stop", "resume", "retry"):
            rollout = administer(rollout, seen, word, now=now)
        elif f"n{number}" in seen:
            live(seen, f"n{number}", word, rollout)
        rollout = step(rollout, seen, now=now)
        judge(rollout, before, seen)


def administer(rollout, seen, word, *, now):
    if word == "stop" and rollout.state == RUNNING:
        done = stop(rollout, seen, reason="x", now=now)
        for key, value in done.assign.items():
            seen[key] = replace(seen[key], own=value, assigned=OLD)
        return done.rollout
    if word != "stop" and rollout.state == STOPPED:
        return resume(rollout, retry=word == "retry", now=now).rollout
    return rollout


def judge(rollout, before, seen):
    """Compare what has become of *before* with what must always hold."""
    states = [member.state for member in rollout.members.values()]
    assert len(states) == 8
    assert states.count(ACTIVE) <= 3
    if rollout.number != before.number:
        assert not any(
            before.members[key].state in UNDER_WAY and member.state in UNDER_WAY
            for key, member in rollout.members.items()
        ), "a batch began while another one was under way"
    assert rollout.state != STOPPED or ACTIVE not in states
    assert rollout.state != DONE or not {WAITING, *UNDER_WAY} & set(states)
    for key, member in rollout.members.items():
        if may_go(rollout, key):
            assert member.state == ACTIVE
            assert seen[key].own == rollout.target, "it leaves for what it is assigned"
        if member.state == WAITING and key in seen:
            assert seen[key].own == "c", "it is assigned what it was"


def live(seen, node_id, word, rollout):
    """Let a node do *word*, if it can."""
    item, attempt = seen[node_id], rollout.attempt
    if word == "fetch" and item.state == "ready" and may_go(rollout, node_id) is not None:
        seen[node_id] = replace(item, next=NextReport(NEW, "fetched", "", attempt))
    elif word == "jump" and may_go(rollout, node_id):
        seen[node_id] = replace(item, state="booting", capsule=NEW, next=None)
    elif word == "up" and item.state in ("booting", "init"):
        capsule = NEW if item.state == "booting" else item.assigned
        seen[node_id] = replace(item, state="ready", capsule=capsule)
    elif word == "fail" and may_go(rollout, node_id) is not None:
        seen[node_id] = replace(item, next=NextReport(NEW, "failed", "no", attempt))
    elif word == "silent":
        seen[node_id] = replace(item, silent=not item.silent)
    elif word == "reset":
        seen[node_id] = replace(item, state="init", boot_id=item.boot_id + "x", next=None)
    elif word == "delete":
        del seen[node_id]
