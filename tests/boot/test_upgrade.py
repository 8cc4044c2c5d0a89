"""Running virtual nodes go over to another capsule; what that sends is counted by the server."""

import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from provisiond.lab.laboratory import console_tail, open_laboratory
from provisiond.lab.machine import Machine
from provisiond.lab.network import BRIDGE
from vnfsbuild.build import build_capsule
from vnfsbuild.manifest import parse_manifest
from vnfsbuild.reference import parse_reference
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings

pytestmark = [pytest.mark.boot, pytest.mark.long, pytest.mark.xdist_group("compute")]

COMPUTE = "debian-13-compute"
MINIMAL = "debian-13-minimal"
MORE_PACKAGES = ("htop", "strace", "tmux")
BOOT_SECONDS = 900
ROLLOUT_SECONDS = 1500


def build_variant(built, directory, name, change):
    """Return the .vnfs file of a capsule of the recipe *name*, which *change* has changed."""
    places = replace(built.places, store=directory / "store")
    without = shutil.ignore_patterns("recipe.lock*")
    shutil.copytree(places.share / "recipes" / name, directory / name, ignore=without)
    recipe = directory / name / "recipe.toml"
    recipe.write_text(change(recipe.read_text()))
    build_capsule(directory / name, places, timings=Timings(), key_name=None)
    path = directory / "capsule.vnfs"
    Store(places.store).export(parse_reference(name), path)
    return path


def add_packages(text):
    lines = "".join(f'    "{name}",\n' for name in MORE_PACKAGES)
    return text.replace("install = [\n", f"install = [\n{lines}", 1)


def never_start(text):
    """The capsule's init finds no program to go on with; the node resets itself."""
    return text.replace("arguments = [", 'arguments = ["init=/no/such", ', 1)


@pytest.fixture(scope="session")
def more_packages(built, tmp_path_factory) -> Path:
    return build_variant(built, tmp_path_factory.mktemp("more"), COMPUTE, add_packages)


@pytest.fixture(scope="session")
def never_starting(built, tmp_path_factory) -> Path:
    return build_variant(built, tmp_path_factory.mktemp("never"), MINIMAL, never_start)


@dataclass
class Cluster:
    """Virtual nodes, and what was sent to them."""

    laboratory: object
    machines: tuple

    def boot(self, bootstrap, capsule):
        """Let all become ready with *capsule*; return its digest."""
        self.laboratory.import_file(bootstrap)
        digest = self.bring(capsule, promote=True)["digest"]
        client = self.laboratory.client
        name = next(item["name"] for item in client.get("/v1/capsules") if item["digest"] == digest)
        client.post(
            "/v1/settings/set",
            {"scope": "defaults", "subjects": [""], "values": {"vnfs": name, "method": "kexec"}},
        )
        for machine in self.machines:
            self.laboratory.power_on(machine)
        self.until(lambda: self.ready_with(digest), BOOT_SECONDS)
        return digest

    def bring(self, capsule, *, promote=False):
        with Path(capsule).open("rb") as file:
            where = f"/v1/capsules?promote={int(promote)}"
            return self.laboratory.client.upload(where, file, Path(capsule).stat().st_size)

    def ready_with(self, digest):
        nodes = self.laboratory.nodes()
        ready = [node for node in nodes if node["ready"] and node["capsule"] == digest]
        return len(ready) == len(self.machines)

    def upgrade(self, brought, **words):
        value = {"nodes": ["n*"], "batch": "1", "when": "idle", **words}
        value["capsule"] = f"{brought['name']}@{brought['digest']}"
        return self.laboratory.client.post("/v1/rollouts", value)

    def rollout(self):
        return self.laboratory.client.get("/v1/rollouts/show?id=0")

    def until(self, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                tails = [console_tail(self.laboratory, item, 30) for item in self.machines]
                pytest.fail("\n".join([str(self.laboratory.nodes()), *map(str, tails)]))
            time.sleep(1)

    def sent_bytes(self):
        """Return what left the server's interface, whatever it was: headers and check-ins too."""
        argv = [*shlex.split(self.laboratory.enter_words), "cat", "/proc/net/dev"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.strip().startswith(BRIDGE))
        return int(line.partition(":")[2].split()[8])

    def rootfs_bytes(self, digest):
        blob = Store(self.laboratory.state_dir / "store").blob_path(digest)
        return parse_manifest(blob.read_bytes()).layers[0].size_bytes


def check_upgrade(settings, bootstrap, capsule, more):
    """Two nodes go over, one after the other; return the share of the rootfs that each was sent."""
    machines = tuple(Machine(number=number, memory_mib=2048) for number in (1, 2))
    with open_laboratory(settings) as laboratory:
        cluster = Cluster(laboratory, machines)
        old = cluster.boot(bootstrap, capsule)
        boots = {node["name"]: node["bootId"] for node in laboratory.nodes()}
        brought = cluster.bring(more)
        before = cluster.sent_bytes()
        cluster.upgrade(brought)
        cluster.until(lambda: cluster.rollout()["state"] != "running", ROLLOUT_SECONDS)
        sent_bytes = cluster.sent_bytes() - before
        shown = cluster.rollout()
        assert (shown["state"], shown["counts"]["ready"]) == ("done", 2), shown
        assert cluster.ready_with(brought["digest"])
        assert brought["digest"] != old
        for node in laboratory.nodes():
            assert node["bootId"] == boots[node["name"]], "no firmware took part"
            assert node["attributes"]["vnfs"] == f"{brought['name']}@{brought['digest']}"
            assert node["report"]["failedUnits"] == []
        return sent_bytes / len(machines) / cluster.rootfs_bytes(brought["digest"])


def check_fallback(settings, bootstrap, capsule, broken):
    """A capsule that does not start: the rollout stops, the node comes back with what it ran."""
    machines = tuple(Machine(number=number, memory_mib=1024) for number in (1, 2))
    with open_laboratory(settings) as laboratory:
        cluster = Cluster(laboratory, machines)
        old = cluster.boot(bootstrap, capsule)
        cluster.upgrade(cluster.bring(broken))
        cluster.until(lambda: cluster.rollout()["state"] != "running", ROLLOUT_SECONDS)
        shown = cluster.rollout()
        assert shown["state"] == "stopped", shown
        assert shown["reason"].startswith("n00001: ")
        assert [member["state"] for member in shown["members"]] == ["failed", "waiting"]
        cluster.until(lambda: cluster.ready_with(old), BOOT_SECONDS)
        assert b"has no program /no/such" in laboratory.console(machines[0]).read_bytes()
        assert laboratory.console(machines[1]).read_bytes().count(b"starting the capsule") == 1
        return shown["reason"]


def test_two_nodes_go_over_and_fetch_what_they_lack(built, compute_capsule, more_packages):
    share = check_upgrade(built.settings(), built.bootstrap, compute_capsule, more_packages)
    assert share <= 0.10, f"{100 * share:.1f} % of the rootfs layer"


def test_a_capsule_that_does_not_start_stops_it_and_the_node_falls_back(built, never_starting):
    check_fallback(built.settings(), built.bootstrap, built.capsule, never_starting)
