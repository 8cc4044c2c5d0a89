"""Events: told at once, kept by the database, found again; and the states that they tell of."""

import asyncio
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisiond.events.events import GAP, KEPT, Event, EventLog, Wanted, parse_event
from provisiond.nodes.states import KEPT_FAILURES, NO_WORD, is_ready, phase_seconds
from provisiond.protocol import clean, parse_checkin
from provisiond.watch import _find_told, _tell_silence
from vnfsbuild.errors import InputError

NAME = "debian-13-minimal"


def is_harmless(text):
    """No letter that drives a terminal, turns the writing round, or is none."""
    return all(unicodedata.category(letter)[0] != "C" for letter in text)


# What nodes say

NASTY = (
    "\x00\x07\x08\x1b\x7f\x85\x9b\xad\r\t\v\f\u061c\u200b\u200e\u2028\u2029\u202e\u2066\u2069"
    "\ufeff\ud800\U000e0041"
)
LETTERS = st.characters(categories=None, codec=None) | st.sampled_from(NASTY + "\n a")


def test_each_nasty_letter_is_replaced():
    assert clean(NASTY) == "?" * len(NASTY)


@given(st.text(LETTERS, max_size=3000))
def test_what_is_cleaned_drives_nothing(text):
    shown = clean(text)
    assert len(shown) <= 200
    assert is_harmless(shown.replace("\n", ""))
    assert not set(shown) & set("\u2028\u2029\u202a\u202b\u202e\u2066\u2069\u200b\ufeff\x85")
    assert clean(shown) == shown


@given(st.text(LETTERS, max_size=4000))
def test_an_event_is_one_harmless_line(text):
    log = EventLog()
    log.add("node.state", f"failed: {text}", now=1.0)
    (event,) = log.since(0)
    assert is_harmless(event.text)
    assert "\n" not in event.text
    assert len(event.text) <= 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=80), inner),
    max_leaves=10,
)
GOOD = {"protocol": 1, "hwaddrs": ["52:54:00:00:00:01"], "bootId": "0" * 32, "state": "init"}


@given(
    st.dictionaries(
        st.sampled_from(["hwaddrs", "uuid", "state", "detail", "nodeKey", "plan", "capsule",
                         "report", "waitSeconds", "trustVersion", "protocol"]),
        JSON,
        max_size=3,
    ),
    st.text(LETTERS, max_size=3000),
    st.dictionaries(
        st.text(LETTERS, max_size=100),
        st.text(LETTERS, max_size=300) | st.lists(st.text(LETTERS), max_size=3),
    ),
)  # fmt: skip
def test_a_checkin_is_refused_or_clean(odd, detail, report):
    for value in ({**GOOD, **odd}, {**GOOD, "detail": detail, "report": report}):
        try:
            checkin = parse_checkin(value)
        except InputError:
            continue
        texts = [checkin.detail, checkin.state, *checkin.hwaddrs, *checkin.report]
        for item in checkin.report.values():
            texts += item if isinstance(item, list) else [str(item)]
        assert all(is_harmless(text.replace("\n", "")) and len(text) <= 2000 for text in texts)


# The log


def test_events_are_found_by_what_they_are():
    log = EventLog()
    log.add("node.new", "a", now=1.0, node="n1")
    log.add("node.state", "b", now=2.0, node="n1", state="ready")
    log.add("node.state", "c", now=3.0, node="n2", state="failed")
    log.add("capsule.promoted", "d", now=4.0)

    def texts(**words):
        return "".join(event.text for event in log.find(Wanted(**words)))

    assert texts() == "abcd"
    assert texts(since=2) == "cd"
    assert texts(after=2.0) == "bcd"
    assert texts(kinds=("node.state",)) == "bc"
    assert texts(nodes=("n1",)) == "ab"
    assert texts(since=1, kinds=("node.state",), nodes=("n1",)) == "b"
    # The reader saw a daemon whose database is gone.
    assert texts(since=99) == "abcd"


def test_who_waits_is_not_woken_for_what_he_did_not_ask_for():
    async def story():
        log = EventLog()
        waiting = asyncio.create_task(log.wait(Wanted(kinds=("b",)), wait_seconds=5))
        await asyncio.sleep(0.01)
        log.add("a", "", now=1.0)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        log.add("b", "", now=1.0)
        assert len(await asyncio.wait_for(waiting, 1)) == 1

    asyncio.run(story())


def test_an_event_of_a_later_version_can_be_read():
    event = Event(id=1, time=1.0, kind="node.new", node="n1", text="x")
    assert parse_event({**event.value(), "colour": "red"}) == event


def test_events_outlive_the_daemon_and_ids_are_not_used_again(in_world):
    async def first(world):
        await world.machine(1).says()
        await world.parts.registry.save_events()
        return world.parts.events.since(0)

    async def second(world):
        assert world.parts.events.since(0) == told
        await world.machine(1).says("failed", detail="disk")
        (new,) = world.parts.events.find(Wanted(since=told[-1].id, kinds=("node.state",)))
        assert new.id > GAP

    told = in_world(first)
    assert [event.kind for event in told] == ["node.new", "node.state", "node.plan"]
    in_world(second)


def test_a_state_and_its_event_are_written_together(in_world):
    """Whoever was answered finds both after a crash: nothing is written but what was awaited."""

    async def story(world):
        await world.machine(1).says()
        await world.machine(1).says("failed", detail="disk")
        stored = world.parts.registry._database.load_events()
        assert [value["text"] for value in stored if value["kind"] == "node.state"] == [
            "init", "failed: disk",
        ]  # fmt: skip
        assert world.parts.events.kept == stored[-1]["id"]

    in_world(story)


def test_the_database_keeps_no_more_than_the_log(in_world):
    async def story(world):
        for number in range(KEPT + 10):
            world.parts.events.add("x", str(number), now=1.0)
        await world.parts.registry.save_events()
        stored = world.parts.registry._database.load_events()
        assert len(stored) == KEPT
        assert stored[0]["text"] == "10"
        assert world.parts.events.forgotten == 10

    in_world(story)


# States


async def assigned(world, *, serials=(1, 2)):
    """Return a machine that came to ready with the first capsule, and the digests of all."""
    digests = [await world.import_capsule(serial=serials[0])]
    machine = world.machine(1)
    await machine.says()
    await world.administration.nodes.set_attribute("vnfs", NAME, ["n00001"])
    await machine.says()
    await machine.says("ready", capsule=digests[0])
    await machine.says("halted")
    for serial in serials[1:]:
        world.now += 1
        digests.append(await world.import_capsule(serial=serial))
    return digests


def shown(world):
    return world.administration.nodes.list_nodes(["n00001"])[0]


@pytest.mark.parametrize("how", ["told", "silent"])
def test_after_three_failures_a_node_falls_back_and_says_so(in_world, how):
    async def story(world):
        good, bad = await assigned(world)
        for boot in (2, 3, 4):
            machine = world.machine(1, boot=boot)
            answer = await machine.says()
            assert answer.plan.capsule.digest == bad, boot
            await machine.says("fetching", capsule=bad)
            if how == "told":
                await machine.says("failed", capsule=bad, detail="layer rootfs: damaged")
                await machine.says("halted")
            else:
                await machine.says("booting", capsule=bad)
                world.now += 400
        machine = world.machine(1, boot=5)
        answer = await machine.says()
        assert answer.plan.capsule.digest == good
        assert "failed 3 times on n00001, which boots its last good one" in answer.plan.reason
        assert "provisionctl node retry n00001" in answer.plan.reason
        assert "fallback" in shown(world)["conditions"]
        assert shown(world)["reason"] == answer.plan.reason
        assert shown(world)["planned"] == good
        assert shown(world)["lastError"] == ("layer rootfs: damaged" if how == "told" else NO_WORD)
        await machine.says("ready", capsule=good)
        # It runs, and still it is told that this is not what it was assigned.
        assert shown(world)["conditions"] == ["fallback"]
        assert shown(world)["ready"] is True
        await machine.says("halted")
        assert (await world.machine(1, boot=6).says()).plan.capsule.digest == good
        return bad

    in_world(story)


def test_a_node_that_fell_back_tries_again_when_told_or_given_another(in_world):
    async def story(world):
        _, bad = await assigned(world)
        machine = world.machine(1, boot=2)
        for _ in range(3):
            await machine.says("fetching", capsule=bad)
            await machine.says("failed", capsule=bad)
        assert (await machine.says("failed")).plan.capsule.digest != bad
        assert shown(world)["lastError"] == "the node did not say why"
        await world.administration.nodes.retry(["n00001"])
        assert (await machine.says("failed")).plan.capsule.digest == bad
        assert shown(world)["failures"] == {}
        for _ in range(3):
            await machine.says("fetching", capsule=bad)
            await machine.says("failed", capsule=bad)
        newer = await world.import_capsule(serial=3)
        assert (await machine.says("failed")).plan.capsule.digest == newer

    in_world(story)


def test_one_that_comes_up_has_not_failed_in_a_row(in_world):
    async def story(world):
        _, newer = await assigned(world)
        machine = world.machine(1, boot=2)
        for state in ("fetching", "failed", "fetching", "failed", "booting", "ready"):
            await machine.says(state, capsule=newer)
        assert shown(world)["failures"] == {}
        assert shown(world)["lastGood"] == newer
        await machine.says("failed", capsule=newer)
        assert shown(world)["failures"] == {newer: 1}

    in_world(story)


def test_a_node_that_was_never_good_goes_on_trying(in_world):
    async def story(world):
        digest = await world.import_capsule()
        machine = world.machine(1)
        await machine.says()
        await world.administration.nodes.set_attribute("vnfs", NAME, ["n00001"])
        for _ in range(5):
            await machine.says("fetching", capsule=digest)
            assert (await machine.says("failed", capsule=digest)).plan.capsule.digest == digest
        assert shown(world)["failures"] == {digest: 5}
        assert "fallback" not in shown(world)["conditions"]

    in_world(story)


def test_a_node_cannot_make_the_server_remember_without_end(in_world):
    async def story(world):
        machine = world.machine(1)
        for number in range(50):
            digest = f"sha256:{number:064x}"
            await machine.says("fetching", capsule=digest)
            await machine.says("failed", capsule=digest)
        assert len(shown(world)["failures"]) == KEPT_FAILURES

    in_world(story)


def test_the_seconds_of_each_phase(in_world):
    async def story(world):
        machine = world.machine(1)
        for state, seconds in (("init", 3), ("fetching", 7.25), ("booting", 20), ("ready", 5)):
            await machine.says(state)
            world.now += seconds
        assert shown(world)["phaseSeconds"] == {
            "init": 3, "fetching": 7.2, "booting": 20, "ready": 5,
        }  # fmt: skip
        await machine.says("halted")
        world.now += 1000
        assert shown(world)["phaseSeconds"]["ready"] == 5
        assert "halted" not in shown(world)["phaseSeconds"]
        assert phase_seconds(None, now=1.0) == {}

    in_world(story)


def test_failed_units_are_the_reason_of_a_node_that_runs(in_world):
    async def story(world):
        await world.machine(1).says("ready", report={"failedUnits": ["chrony.service"]})
        assert shown(world)["reason"] == "failed units: chrony.service"
        await world.machine(1).says("ready", report={"failedUnits": []})
        assert shown(world)["reason"] == ""

    in_world(story)


@pytest.mark.parametrize(
    ("state", "conditions", "ready"),
    [("ready", (), True), ("ready", ("untrusted", "fallback"), True), ("ready", ("late",), False),
     ("ready", ("dead",), False), ("ready", ("conflict",), False), ("failed", (), False),
     (None, (), False)],
)  # fmt: skip
def test_who_is_ready(state, conditions, ready):
    assert is_ready(state, conditions) is ready


# Silence


def silence(world, silent):
    return _tell_silence(world.parts, world.service, silent)


def test_silence_and_its_end_are_told_once(in_world):
    async def story(world):
        machine = world.machine(1)
        await machine.says("ready")
        silent = {}
        for seconds in (131, 1, 500, 1):
            world.now += seconds
            silent = silence(world, silent)
        assert world.events("node.condition") == ["late", "dead"]
        await machine.says("ready")
        silence(world, silent)
        assert world.events("node.condition") == ["late", "dead", "dead is over"]
        assert world.parts.events.since(0)[-1].ended

    in_world(story)


def test_a_restart_tells_no_silence_again_and_makes_none(in_world):
    async def first(world):
        await world.machine(1).says("ready")
        world.now += 700
        await world.machine(2).says("ready")
        silence(world, {})
        await world.parts.registry.save_note("listening", world.now)
        assert world.events("node.condition") == ["dead"]

    async def second(world):
        # The daemon was down for a day: nobody could be heard.
        silent = silence(world, _find_told(world.parts))
        assert world.events("node.condition") == ["dead"]
        assert [
            world.administration.view.conditions(node)
            for node in sorted(world.parts.registry.nodes.values(), key=lambda node: node.name)
        ] == [("dead",), ()]
        world.now += 131
        silence(world, silent)
        assert world.events("node.condition") == ["dead", "late"]

    in_world(first)
    in_world(second, starts_at=700 + 86400)


def test_untrusted_is_told_when_it_begins_and_ends(in_world):
    async def story(world):
        machine = world.machine(1)
        for reason in ("revoked", "revoked", ""):
            await machine.says("ready", report={"untrusted": reason})
        assert world.events("node.condition") == ["untrusted is over"]
        await machine.says("ready", report={"untrusted": "x"})
        assert world.events("node.condition")[1:] == ["untrusted: x"]
        assert replace(world.parts.events.since(0)[-1], id=0).condition == "untrusted"

    in_world(story)


# Floods


def test_strangers_do_not_drive_out_what_happened(in_world):
    async def story(world):
        await world.import_capsule()
        for number in range(1, 200):
            await world.machine(number).says()
        refused = world.events("node.refused")
        assert len(refused) == 60
        assert refused[-1].endswith("(and no more of it is told in this minute)")
        world.now += 60
        await world.machine(1).says()
        assert len(world.events("node.refused")) == 60  # the same as before of this machine
        await world.machine(200).says()
        assert len(world.events("node.refused")) == 61
        assert world.events("capsule.promoted")

    in_world(story, registration="closed")


def test_a_node_that_changes_its_state_all_the_time_is_not_told_all_the_time(in_world):
    async def story(world):
        for number in range(200):
            await world.machine(1, boot=number).says("failed" if number % 2 else "init")
        assert len(world.events("node.state")) == 60
        await world.machine(2).says()
        assert world.events("node.state")[-1] == "init"
        assert shown(world)["state"] == "failed"

    in_world(story)
