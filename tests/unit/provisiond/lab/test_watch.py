from dataclasses import replace

import pytest

from provisiond.lab.machine import Machine
from provisiond.lab.watch import (
    Outcome,
    describe_change,
    find_sight,
    judge,
    outcome_value,
    phase_seconds,
    render_outcomes,
)

MACHINE = Machine(number=1)
CAPSULE = "sha256:" + "a" * 64
NODE = {
    "name": "n00001",
    "nodeId": MACHINE.hwaddr,
    "hwaddrs": [MACHINE.hwaddr],
    "state": "ready",
    "detail": "",
    "reason": "",
    "conditions": [],
    "bootId": "0" * 32,
    "planned": CAPSULE,
    "capsule": CAPSULE,
    "phases": {"init": 1012.0, "fetching": 1013.0, "booting": 1020.5, "ready": 1041.0},
    "report": {
        "uptimeCentiseconds": 1800,
        "memoryUsedKib": 120 * 1024,
        "memoryTotalKib": 976 * 1024,
        "failedUnits": [],
    },
}


def sight(**changes):
    found = find_sight([{**NODE, **changes}], MACHINE)
    assert found is not None
    return found


def test_a_machine_is_found_by_its_hardware_address():
    other = {**NODE, "nodeId": "52:54:00:00:00:99", "hwaddrs": ["52:54:00:00:00:99"]}
    assert find_sight([other], MACHINE) is None
    assert find_sight([other, NODE], MACHINE) is not None
    assert find_sight([{**other, "hwaddrs": [MACHINE.hwaddr]}], MACHINE) is not None


def test_phases_are_seconds_since_power_on():
    assert phase_seconds(sight(), power_on=1000) == {
        "bootstrap up": 12.0,
        "fetched": 20.5,
        "kexec": 23.0,
        "ready": 41.0,
    }


def test_a_pivot_has_no_phase_kexec():
    """The kernel is still the bootstrap's: it started before the capsule was fetched."""
    report = {**NODE["report"], "uptimeCentiseconds": 3500}
    assert "kexec" not in phase_seconds(sight(report=report), power_on=1000)


def test_phases_that_were_not_reached_are_left_out():
    young = sight(state="fetching", phases={"init": 1012.0}, report={})
    assert phase_seconds(young, power_on=1000) == {"bootstrap up": 12.0}


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (None, {"state": None}, ("registered",)),
        (None, {"state": "init"}, ("registered", "bootstrap up")),
        ({"state": "init"}, {"state": "init"}, ()),
        (
            {"state": "init", "reason": ""},
            {"state": "init", "reason": "no capsule is assigned"},
            ("no capsule is assigned",),
        ),
        ({"state": "init"}, {"state": "fetching"}, ("fetching",)),
        ({"state": "fetching"}, {"state": "booting"}, ("fetched and verified, booting",)),
        ({"state": "booting"}, {"state": "ready"}, ("ready",)),
        (
            {"state": "fetching"},
            {"state": "failed", "detail": "layer: found sha256:1"},
            ("failed: layer: found sha256:1",),
        ),
        (
            {"state": "booting"},
            {"state": "init", "bootId": "1" * 32},
            ("started again", "bootstrap up"),
        ),
    ],
)
def test_changes_are_told(before, after, lines):
    old = None if before is None else sight(**before)
    assert describe_change(old, sight(**after)) == lines


def test_ready_with_the_planned_capsule_is_ready():
    outcome = judge(MACHINE, sight(), power_on=1000)
    assert outcome.is_ready
    assert (outcome.memory_used_kib, outcome.reason) == (120 * 1024, "")


def test_ready_with_another_capsule_is_not():
    outcome = judge(MACHINE, sight(capsule="sha256:" + "b" * 64), power_on=1000)
    assert not outcome.is_ready
    assert "expected sha256:aaaa" in outcome.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "failed", "detail": "check failed"}, "failed: check failed"),
        ({"state": "init", "reason": "no capsule is assigned"}, "init: no capsule is assigned"),
        ({"state": None}, "no word from it"),
        ({"state": "booting", "conditions": ["dead"]}, "booting (dead)"),
    ],
)
def test_the_reason_is_what_server_or_node_said(changes, reason):
    assert judge(MACHINE, sight(**changes), power_on=1000).reason == reason


def test_a_machine_that_nobody_heard_of_says_so():
    outcome = judge(MACHINE, None, power_on=1000)
    assert (outcome.name, outcome.is_ready) == ("machine1", False)
    assert outcome.reason == "the node server never heard of it"


def test_the_table_of_figures():
    done = judge(MACHINE, sight(), power_on=1000)
    never = judge(Machine(number=2, firmware="uefi"), None, power_on=1000)
    assert render_outcomes([done, never], is_emulated=True).splitlines() == [
        "Node      Firmware  Bootstrap up  Fetched  Kexec  Ready  Memory used",
        "n00001    bios      12.0          20.5     23.0   41.0   120 of 976 MiB",
        "machine2  uefi      -             -        -      -      -",
        "(seconds since power-on; emulated, so read ratios and not seconds)",
    ]


def test_figures_as_json():
    value = outcome_value(replace(judge(MACHINE, sight(), power_on=1000), reason="why"))
    assert value["seconds"]["ready"] == 41.0
    assert value["hwaddr"] == "52:54:00:87:00:01"
    assert (value["ready"], value["reason"]) == (True, "why")


def test_odd_reports_do_no_harm():
    odd = sight(report={"uptimeCentiseconds": "x", "memoryUsedKib": "y", "failedUnits": None})
    outcome = judge(MACHINE, odd, power_on=1000)
    assert isinstance(outcome, Outcome)
    assert (outcome.memory_used_kib, outcome.failed_units) == (None, ())
