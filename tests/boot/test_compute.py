"""A compute node is ready without what is its cluster's own, and works as soon as it has it."""

import json
import os
import subprocess
import sys

import pytest

from provisiond.lab.laboratory import python_paths

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900), pytest.mark.xdist_group("compute")]

# Said on the node; the first word that fails keeps it from being ready.
CHECK = """
set -e
systemctl is-active chrony ssh rsyslog systemd-resolved systemd-networkd
for unit in munge slurmd; do test "$(systemctl is-active $unit)" = inactive; done
test -s /etc/ssh/ssh_host_ed25519_key
test "$(id --user munge) $(id --user slurm)" = "201 64030"
locale --all-locales | grep --quiet en_US.utf8
head --bytes=128 /dev/urandom >/etc/munge/munge.key
systemctl start munge
munge --no-input | unmunge | grep --quiet Success
"""


def test_a_compute_node_is_ready_and_gets_to_work_with_its_clusters_key(built, compute_capsule):
    argv = [
        sys.executable, "-m", "provisiond.ctl", "lab", "run", "--nodes", "1", "--timeout", "400",
        "--capsule", str(compute_capsule), "--bootstrap", str(built.bootstrap),
        "--check", CHECK, "--json",
    ]  # fmt: skip
    places = {"VNFS_SITE": str(built.places.site), "VNFS_CACHE": str(built.places.cache)}
    env = {**os.environ, **places, **python_paths()}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    (node,) = json.loads(done.stdout)["nodes"]
    assert (node["ready"], node["failedUnits"]) == (True, [])
