from dataclasses import replace

from click.testing import CliRunner

from provisiond.lab.command import lab, verdict
from provisiond.lab.machine import Machine
from provisiond.lab.watch import Outcome

READY = Outcome(machine=Machine(number=1), name="n00001", state="ready", is_ready=True, reason="")
FAILED = replace(
    READY, name="n00002", state="failed", is_ready=False, reason="failed: no luck\nmore of it"
)


def test_all_ready_is_no_reason_to_complain():
    assert verdict([READY, READY]) is None


def test_the_first_that_is_not_ready_is_named_with_the_first_line_of_its_reason():
    told = "laboratory: 2 of 3 nodes not ready: n00002: failed: no luck"
    assert verdict([READY, FAILED, replace(FAILED, name="n00003")]) == told


def test_the_reason_may_be_missing():
    assert (
        verdict([replace(FAILED, reason="")])
        == "laboratory: 1 of 1 nodes not ready: n00002: failed"
    )


def test_there_is_help_for_each_verb():
    for words in (["--help"], ["run", "--help"], ["list", "--help"], ["stop", "--help"]):
        done = CliRunner().invoke(lab, words)
        assert done.exit_code == 0
        assert "Usage:" in done.output


def test_a_capsule_must_be_named():
    done = CliRunner().invoke(lab, ["run"])
    assert done.exit_code == 2
    assert "--capsule" in done.output
