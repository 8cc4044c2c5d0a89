"""The scripts of the overlay slurm-drain, run by a real shell against a Slurm in a few lines."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import provisiond

SCRIPTS = Path(provisiond.__file__).parent / "builtin/slurm-drain/scripts"
OURS = "vnfs: goes over to another capsule"

SCONTROL = """\
#!/usr/bin/python3
import json, sys
path = {state!r}
state = json.load(open(path))
if state.get("away"):
    sys.exit("slurm_load_node error: Unable to contact slurm controller")
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
if "show" in sys.argv:
    reason = f" Reason={{state['reason']}} [root@2026]" if state["reason"] else ""
    told = f"State={{state['state']}} ThreadsPerCore=1{{reason}}"
    print(f"NodeName={{sys.argv[-1]}} Arch=x86_64 CPUAlloc=0 {{told}}")
else:
    if words["state"] == "drain":
        state["state"] += "+DRAIN"
        state["reason"] = words["reason"]
    else:
        state["state"] = state["state"].replace("+DRAIN", "")
        state["reason"] = ""
    json.dump(state, open(path, "w"))
"""
SQUEUE = '#!/bin/sh\nprintf "11\\n12\\n"\n'


@pytest.fixture
def slurm(tmp_path):
    path = tmp_path / "state.json"
    directory = tmp_path / "bin"
    directory.mkdir()
    scontrol = SCONTROL.format(state=str(path)).replace(
        "#!/usr/bin/python3", f"#!{os.path.realpath('/proc/self/exe')}"
    )
    for name, text in (("scontrol", scontrol), ("squeue", SQUEUE)):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)

    class Slurm:
        def put(self, **state):
            path.write_text(json.dumps({"state": "IDLE", "reason": "", **state}))

        def get(self):
            value = json.loads(path.read_text())
            return value["state"], value["reason"]

        def run(self, word, *, with_slurm=True):
            places = f"{directory}:" if with_slurm else ""
            done = subprocess.run(
                ["/bin/sh", str(SCRIPTS / "50-slurm"), word],
                env={"PATH": f"{places}/usr/bin:/bin"}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            return done.returncode, done.stdout.strip()

    return Slurm()


def test_an_idle_node_is_drained_and_may_leave(slurm):
    slurm.put()
    assert slurm.run("drain") == (0, "")
    assert slurm.get() == ("IDLE+DRAIN", OURS)
    assert slurm.run("drain") == (0, "")
    assert slurm.run("resume") == (0, "")
    assert slurm.get() == ("IDLE", "")


@pytest.mark.parametrize("state", ["MIXED", "ALLOCATED", "IDLE+COMPLETING"])
def test_a_node_with_jobs_is_drained_and_waits(slurm, state):
    slurm.put(state=state)
    status, said = slurm.run("drain")
    assert (status, said) == (75, f"2 jobs, state {state}+DRAIN")
    assert slurm.get()[1] == OURS


def test_whom_an_administrator_has_drained_stays_drained(slurm):
    slurm.put(state="IDLE+DRAIN", reason="bad fan")
    assert slurm.run("drain") == (0, "")
    assert slurm.run("resume") == (0, "")
    assert slurm.get() == ("IDLE+DRAIN", "bad fan")


def test_a_controller_that_is_away_is_waited_for(slurm):
    slurm.put(away=True)
    status, said = slurm.run("drain")
    assert status == 75
    assert "slurmctld does not answer" in said


def test_without_slurm_nothing_holds_a_node_up(slurm):
    assert slurm.run("drain", with_slurm=False) == (0, "")
    assert slurm.run("resume", with_slurm=False) == (0, "")
