"""A node of an RPM distribution: from power-on to ready, its packages as rpm installed them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provisiond.lab.laboratory import python_paths
from vnfsbuild.build import build_capsule
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings

from ..integration import rpmworld

pytestmark = [pytest.mark.boot, pytest.mark.long, pytest.mark.timeout(1800)]

# Said on the node; the first word that fails keeps it from being ready.
CHECK = """
set -e
. /etc/os-release
test "$ID $VERSION_ID" = "rocky 9.4"
test "$(findmnt --noheadings --output FSTYPE /)" = overlay
systemctl is-active ssh
systemctl is-active systemd-networkd
test -s /etc/ssh/ssh_host_ed25519_key
test "$(id --user munge)" = 201
id --user _chrony
setpriv --reuid 65534 --clear-groups ping -c 1 127.0.0.1
grep --quiet selinux=0 /proc/cmdline
test -s /var/lib/rpm/rpmdb.sqlite
test ! -e /var/lib/dnf/history.sqlite
"""


@pytest.fixture(scope="module")
def capsule(built, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("rpm")
    places = replace(built.places, store=directory / "store")
    recipe = rpmworld.make_recipe(
        directory / rpmworld.NAME, directory / "mirror", built.places.cache
    )
    build_capsule(recipe, places, timings=Timings(), key_name=None)
    path = directory / "capsule.vnfs"
    Store(places.store).export(parse_reference(rpmworld.NAME), path)
    return path


def test_a_node_of_an_rpm_distribution_becomes_ready(built, capsule):
    argv = [
        sys.executable, "-m", "provisiond.ctl", "lab", "run", "--nodes", "1", "--timeout", "900",
        "--capsule", str(capsule), "--bootstrap", str(built.bootstrap), "--check", CHECK, "--json",
    ]  # fmt: skip
    places = {"VNFS_SITE": str(built.places.site), "VNFS_CACHE": str(built.places.cache)}
    env = {**os.environ, **places, **python_paths()}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    (node,) = json.loads(done.stdout)["nodes"]
    assert node["ready"] is True
    assert node["failedUnits"] == []
