"""Overlays, from the folder to the running node: the real daemon, agent and verbs."""

import subprocess

import pytest

from provisiond.agent.client import Client as AgentClient
from provisiond.agent.node import Node
from provisiond.agent.readyscripts import Outcome
from provisiond.agent.running import Running
from provisiond.agent.site import load_site
from provisiond.agent.system import System
from provisiond.protocol import Checkin

from .daemon import BOOT, eventually, hwaddr, site

pytestmark = pytest.mark.integration

TOML = """
description = "what the site adds"
[[file]]
path = "etc/site.conf"
mode = "0640"
[[run]]
when = ["/etc/site.conf"]
command = ["sh", "-c", "echo reloaded for $VNFS_CHANGED"]
"""


@pytest.fixture(scope="module")
def made():
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        folders = made.directory / "overlays"
        (folders / "local/files/etc").mkdir(parents=True)
        (folders / "local/overlay.toml").write_text(TOML)
        (folders / "local/files/etc/site.conf.j2").write_text("rack={{ tags.rack }}\n")
        text = made.config.read_text()
        wanted = '# directory = "/etc/provisiond/overlays"'
        assert wanted in text
        made.config.write_text(text.replace(wanted, f'directory = "{folders}"'))
        made.serve()
        made.build("laid")
        assert made.ctl("vnfs", "import", "laid").returncode == 0
        yield made


def ok(made, *words):
    done = made.ctl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_running_node_follows_its_overlay(made, tmp_path):
    _, cpio = made.get("/boot/site.cpio?mac=52-54-00-86-00-21")
    subprocess.run(["cpio", "--extract", "--quiet", "--make-directories"], input=cpio,
                   cwd=tmp_path, check=True)  # fmt: skip
    site_directory = tmp_path / "vnfs/site"
    agent = AgentClient(load_site(site_directory))
    checkin = Checkin(hwaddrs=(hwaddr(33),), boot_id=BOOT, state="init")
    with made.inside():
        name = agent.checkin(checkin).plan.name
    for key, value in (("vnfs", "laid"), ("overlays", "local"), ("tag.rack", "r1")):
        ok(made, "node", "set", key, value, name)
    with made.inside():
        answer = agent.checkin(checkin)
    assert (answer.plan.action, answer.plan.reason) == ("boot", "")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    node = Node(
        node_id=answer.plan.node_id, name=name, boot_id=BOOT, node_key=answer.node_key,
        hwaddrs=(hwaddr(33),), uuid=None, capsule=answer.plan.capsule.digest, checkin_seconds=1,
    )  # fmt: skip
    running = Running(
        node, agent, run=tmp_path / "vnfs", root=root, scripts=root / "etc/vnfs/ready.d",
        system=System(lambda *, wait=False: "running", list), tell=[].append,
        set_clock=lambda seconds: None,
    )  # fmt: skip

    def once():
        with made.inside():
            assert running.say(Outcome("", ""))
            news = running.refresh()
            assert running.say(Outcome("", ""))
        return news

    assert once()
    assert (root / "etc/site.conf").read_text() == "rack=r1\n"
    assert (root / "etc/site.conf").stat().st_mode & 0o7777 == 0o640
    assert (root / "etc/hostname").read_text() == f"{name}\n"
    assert (root / "etc/ssh/ssh_host_ed25519_key").stat().st_mode & 0o7777 == 0o600
    assert not once()
    ok(made, "node", "set", "tag.rack", "r2", name)
    assert once()
    assert (root / "etc/site.conf").read_text() == "rack=r2\n"
    (shown,) = made.client.get(f"/v1/nodes?nodes={name}")
    assert "reloaded for /etc/site.conf" in shown["report"]["change.d"]
    assert "overlayFault" not in shown["report"]
    ok(made, "node", "unset", "overlays", name)
    assert once()
    assert not (root / "etc/site.conf").exists()
    assert (root / "etc/hostname").exists()


def test_the_verbs(made, tmp_path):
    made.checkin(34)
    (name,) = [n["name"] for n in made.client.get("/v1/nodes") if n["nodeId"] == hwaddr(34)]
    text = ok(made, "overlay", "list")
    assert "built in" in text
    assert "what the site adds" in text
    ok(made, "node", "set", "vnfs", "laid", name)
    ok(made, "node", "set", "overlays", "local,munge", name)
    done = made.ctl("overlay", "check", name)
    assert done.returncode == 2
    told = "overlay local: files/etc/site.conf.j2 line 1: 'dict object' has no attribute 'rack'"
    assert told in done.stderr
    ok(made, "node", "set", "tag.rack", "r9", name)
    assert ok(made, "overlay", "check", name) == "1 nodes: no fault\n"
    assert ok(made, "overlay", "show", name, "/etc/site.conf") == "rack=r9\n"
    assert "munge:munge" in ok(made, "overlay", "show", name)
    refused = made.ctl("overlay", "show", name, "/etc/munge/munge.key")
    assert refused.returncode == 2
    assert "--secrets" in refused.stderr
    key = ok(made, "overlay", "show", name, "/etc/munge/munge.key", "--secrets")
    assert len(key) == 128
    answer = made.checkin(34, boot="f" * 32)
    headers = {
        "X-Node-Id": hwaddr(34), "X-Boot-Id": "f" * 32, "X-Node-Key": answer["nodeKey"],
    }  # fmt: skip
    status, data = made.overlay(answer["plan"]["overlay"]["digest"], headers)
    assert status == 200
    assert key.encode() in data


def test_a_folder_that_is_changed_counts_for_who_boots(made):
    folder = made.directory / "overlays/later"
    (folder / "files").mkdir(parents=True)
    (folder / "files/later").write_text("1")
    eventually(lambda: "later" in ok(made, "overlay", "list"))
    (folder / "overlay.toml").write_text("secret = 'yes'\n")
    eventually(lambda: made.ctl("overlay", "check").returncode == 2)
    done = made.ctl("overlay", "check")
    assert "overlay later: overlay.toml: secret: found 'yes', expected true or false" in done.stderr
    (folder / "overlay.toml").unlink()
    eventually(lambda: made.ctl("overlay", "check").returncode == 0)


def test_a_capsule_is_configured_by_its_name(made, tmp_path):
    done = made.ctl("vnfs", "configure", "laid")
    assert done.returncode == 2
    assert "no terminal" in done.stderr
    (tmp_path / "password").write_text("correct horse\n")
    (tmp_path / "more.toml").write_text('ntp = ["a.example.org"]\n[sysctl]\n"vm.swappiness" = 1\n')
    text = ok(made, "vnfs", "configure", "laid", "--set", "timezone=Europe/Berlin", "--from",
              tmp_path / "more.toml", "--root-password-file", tmp_path / "password")  # fmt: skip
    assert "laid: root_password = set" in text
    assert "correct horse" not in text
    made.checkin(35)
    (name,) = [n["name"] for n in made.client.get("/v1/nodes") if n["nodeId"] == hwaddr(35)]
    ok(made, "node", "set", "vnfs", "laid", name)
    assert ok(made, "overlay", "show", name, "/etc/timezone") == "Europe/Berlin\n"
    assert ok(made, "overlay", "show", name, "/etc/sysctl.d/90-vnfs.conf") == "vm.swappiness = 1\n"
    held = ok(made, "overlay", "show", name, "/etc/vnfs/passwords", "--secrets")
    assert held.startswith("root:$6$")
    bad = made.ctl("vnfs", "configure", "laid", "--set", "timezne=UTC")
    assert bad.returncode == 2
    assert "did you mean 'timezone'" in bad.stderr
