"""A Slurm cluster: nodes of debian-13-compute, slurmctld beside the node server, a job on both.

munge's key and slurm.conf come to the nodes by overlays, and to slurmctld from the same overlays.
"""

import os
import shlex
import subprocess
import sys
import time

import pytest

from provisiond.lab.laboratory import console_tail, open_laboratory, python_paths
from provisiond.lab.machine import Machine
from provisiond.lab.network import ADDRESS
from provisiond.lab.watch import find_sight

from .slurm import controller

pytestmark = [
    pytest.mark.boot,
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.xdist_group("compute"),
]

NAME = "debian-13-compute"
KEY = "/etc/munge/munge.key"
TIMEOUT_SECONDS = 600
MACHINES = tuple(Machine(number=number, cpus=1) for number in (1, 2))


def test_srun_answers_from_both_nodes(built, compute_capsule, tmp_path):
    with open_laboratory(built.settings()) as laboratory:
        laboratory.import_file(built.bootstrap)
        laboratory.import_file(compute_capsule)
        ctl = Provisionctl(laboratory)
        for key, value in {
            "vnfs": NAME,
            "overlays": "munge,slurm-conf",
            "slurm": "head",
            "slurm_address": str(ADDRESS.ip),
            "slurm_cluster": "lab",
            "tag.slurm": "RealMemory=800",
        }.items():
            ctl("defaults", "set", key, value)
        # An administrator knows the first one. The second is let in by registration alone.
        ctl("node", "add", MACHINES[0].hwaddr, "n00001")
        for machine in MACHINES:
            laboratory.power_on(machine)
        for machine in MACHINES:
            wait_until_ready(laboratory, machine)
        with controller(
            tmp_path, built.places.cache, enter=shlex.split(laboratory.enter_words), name="head",
            key=ctl("overlay", "show", "n00001", KEY, "--secrets"),
            config=ctl("overlay", "show", "n00001", "/etc/slurm/slurm.conf"),
        ) as head:  # fmt: skip
            only_who_is_approved_has_the_key(head, ctl, laboratory)
            one_gives_its_slurm_conf_up(head, ctl, laboratory)
            one_more_is_added(head, ctl, laboratory)
        for machine in MACHINES:
            assert find_sight(laboratory.nodes(), machine).report["failedUnits"] == []


def only_who_is_approved_has_the_key(head, ctl, laboratory):
    assert KEY in ctl("overlay", "show", "n00001").decode()
    assert KEY not in ctl("overlay", "show", "n00002").decode()
    wait_for_nodes(head, {"n00001"}, laboratory)
    assert srun(head, "--nodes=1") == ["n00001"]
    assert nodes_that_are_idle(head) == {"n00001"}
    # Its key comes while it runs, and with it munged and slurmd.
    ctl("node", "approve", "n00002")
    wait_for_nodes(head, {"n00001", "n00002"}, laboratory)
    assert srun(head, "--nodes=2") == ["n00001", "n00002"]


def one_gives_its_slurm_conf_up(head, ctl, laboratory):
    """While it runs; from then on slurmd asks slurmctld for it."""
    ctl("node", "set", "overlays", "+-slurm-conf slurm", "n00002")
    wait_for_change(laboratory, MACHINES[1], "systemctl restart slurmd.service: done")
    wait_for_nodes(head, {"n00001", "n00002"}, laboratory)
    assert srun(head, "--nodes=2", "--mem=700") == ["n00001", "n00002"]
    told = srun(head, "--nodelist=n00002", program=("ls", "/etc/slurm"))
    assert "slurmd.options" in told
    assert "slurm.conf" not in told


def one_more_is_added(head, ctl, laboratory):
    """Those that run are told of it by their overlay, slurmctld by the administrator."""
    before = find_sight(laboratory.nodes(), MACHINES[0]).report["overlay"]
    ctl("node", "add", Machine(number=3).hwaddr, "n00003", "--set", "address=10.87.1.99")
    config = ctl("overlay", "show", "n00001", "/etc/slurm/slurm.conf")
    assert b"NodeName=n00003 NodeAddr=10.87.1.99 RealMemory=800\n" in config
    head.reconfigure(config)
    wait_for_overlay(laboratory, MACHINES[0], before)
    wait_for_nodes(head, {"n00001", "n00002"}, laboratory)
    assert srun(head, "--nodelist=n0000[1-2]") == ["n00001", "n00002"]


class Provisionctl:
    """``provisionctl`` as an administrator types it."""

    def __init__(self, laboratory):
        self._socket = str(laboratory.socket)

    def __call__(self, *words):
        argv = [sys.executable, "-m", "provisiond.ctl", "--socket", self._socket, *words]
        env = {**os.environ, **python_paths()}
        done = subprocess.run(argv, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def wait_until_ready(laboratory, machine):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        seen = find_sight(laboratory.nodes(), machine)
        if seen is not None and seen.state == "ready":
            assert seen.report["failedUnits"] == []
            return
        told = f"{seen}\n{console_tail(laboratory, machine, 40)}"
        assert laboratory.ended(machine) is None, told
        assert seen is None or seen.state != "failed", told
        assert time.monotonic() < deadline, told
        time.sleep(0.3)


def wait_for_nodes(head, names, laboratory):
    """Wait until slurmctld has *names* to give work to."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while nodes_that_are_idle(head) != names:
        if time.monotonic() > deadline:
            consoles = "\n".join(console_tail(laboratory, machine, 30) for machine in MACHINES)
            shown = head.run("/usr/bin/sinfo", "--Node", "--long")
            pytest.fail(f"{shown}\n{head.log()}\n{laboratory.nodes()}\n{consoles}")
        time.sleep(1)


def wait_for_change(laboratory, machine, wanted):
    """Wait until *machine* says that a change of its overlay was followed by *wanted*."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        report = find_sight(laboratory.nodes(), machine).report
        if wanted in report.get("change.d", ""):
            return
        assert time.monotonic() < deadline, report
        time.sleep(1)


def wait_for_overlay(laboratory, machine, before):
    """Wait until *machine* has another overlay than *before*, and slurmd was told."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        report = find_sight(laboratory.nodes(), machine).report
        if report["overlay"] != before:
            assert "systemctl reload-or-restart slurmd.service: done" in report["change.d"]
            return
        assert time.monotonic() < deadline, report
        time.sleep(1)


def nodes_that_are_idle(head):
    told = head.run("/usr/bin/sinfo", "--noheader", "--Node", "--states=idle", "--responding",
                    "--format=%N")  # fmt: skip
    return set(told.split())


def srun(head, *options, program=("hostname",)):
    """Run *program* as a job; return the words of all nodes, sorted."""
    return sorted(head.run("/usr/bin/srun", *options, *program, seconds=120).split())
