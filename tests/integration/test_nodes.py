"""Nodes, groups, defaults and documents by the commands that people type."""

import json
import os
import pty
import subprocess
import tomllib

import pytest

from .daemon import ROOT, hwaddr, site

pytestmark = pytest.mark.integration


@pytest.fixture
def made():
    with site(init=("--no-dnsmasq", "--user", "")) as found:
        yield found.serve()


def ctl(made, *words, status=0):
    done = made.ctl(*words)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_groups_defaults_and_what_counts(made):
    made.build()
    ctl(made, "vnfs", "import", "debian-13-minimal")
    for number in (1, 2, 3):
        made.checkin(number)
    assert ctl(made, "group", "add", "compute", "n0000[1-2]") == (
        "n00001: in the group compute\nn00002: in the group compute\n"
    )
    assert ctl(made, "group", "add", "gpu") == "gpu: added\n"
    assert ctl(made, "group", "set", "vnfs", "debian-13-minimal", "compute") == (
        "compute: vnfs = debian-13-minimal\n"
    )
    ctl(made, "group", "set", "kernel_arguments", "+nosmt", "compute")
    ctl(made, "defaults", "set", "kernel_arguments", "quiet")
    ctl(made, "defaults", "set", "timezone", "UTC")
    assert ctl(made, "defaults", "show") == "kernel_arguments=quiet\ntimezone=UTC\n"
    assert json.loads(ctl(made, "defaults", "show", "--json")) == {
        "kernel_arguments": ["quiet"], "timezone": "UTC",
    }  # fmt: skip
    shown = ctl(made, "node", "show", "n00001")
    for line in (
        "n00001: kernel_arguments=quiet nosmt (defaults, group compute)",
        "n00001: vnfs=debian-13-minimal (group compute)", "n00001: timezone=UTC (defaults)",
        "n00001: method=auto (built in)", "n00001: groups=compute", "n00001: approved=no",
        "n00001: enabled=true (built in)", "n00001: dns= (built in)",
    ):  # fmt: skip
        assert f"{line}\n" in shown
    assert "n00001: authority.image=debian-13-minimal:1@" in shown
    assert ", signed by sha256:" in shown or ", signed by " in shown
    assert "n00001: authority.site=https://10.86.0.1:8987, by the certificate authority" in shown
    assert "n00001: authority.bootstrap=nobody: bootstrap is not in the store\n" in shown
    assert made.checkin(1)["plan"]["reason"] == (
        "n00001 waits for approval; provisionctl node approve n00001"
    )
    assert ctl(made, "group", "approve", "compute") == "n00001: approved\nn00002: approved\n"
    plan = made.checkin(1)["plan"]
    assert (plan["action"], plan["kernelArguments"]) == ("boot", ["panic=60", "quiet", "nosmt"])
    assert "n00001" in ctl(made, "group", "status", "compute")
    # The strongest group counts, and the node before all.
    ctl(made, "group", "disable", "gpu")
    ctl(made, "node", "set", "groups", "gpu compute", "n00001")
    assert ctl(made, "node", "list", "enabled=false", "--json").count('"nodeId"') == 1
    ctl(made, "node", "enable", "n00001")
    assert "enabled=true (node)" in ctl(made, "node", "show", "n00001")
    ctl(made, "node", "unset", "enabled", "n00001")
    assert "enabled=false (group gpu)" in ctl(made, "node", "show", "n00001")
    ctl(made, "group", "enable", "gpu")
    ctl(made, "group", "unset", "enabled", "gpu")
    assert ctl(made, "group", "list").splitlines()[1:] == [
        "compute  2      debian-13-minimal  kernel_arguments",
        "gpu      1      -                  -",
    ]  # fmt: skip
    assert ctl(made, "group", "show", "compute") == (
        "compute: nodes=n00001 n00002\ncompute: vnfs=debian-13-minimal\n"
        "compute: kernel_arguments=+ nosmt\n"
    )
    assert json.loads(ctl(made, "group", "show", "gpu", "--json"))[0]["nodes"] == ["n00001"]
    ctl(made, "group", "rename", "gpu", "accel")
    ctl(made, "group", "replace", "accel", "n00003")
    ctl(made, "group", "remove", "compute", "n00002")
    listed = ctl(made, "node", "list").splitlines()
    assert [line.split()[4] for line in listed[1:]] == ["compute", "-", "accel"]
    assert ctl(made, "group", "delete", "accel", "compute") == "accel: deleted\ncompute: deleted\n"
    ctl(made, "defaults", "unset", "timezone", "kernel_arguments")
    assert ctl(made, "defaults", "show") == ""
    # The words of the article's time still do.
    done = made.daemon("node", "set", "vnfs", "debian-13-minimal", "n0000[1-9]")
    assert done.returncode == 0, done.stderr
    assert "warning: 6 of the nodes named are not known: n00004" in done.stderr


def test_nodes_are_added_renamed_replaced_and_deleted(made):
    made.checkin(1)
    ctl(made, "group", "add", "compute", "n00001")
    assert ctl(made, "node", "add", hwaddr(9), "login", "--set", "debug=true", "--set",
               "tag.rack=r 1", "--group", "compute") == "login\n"  # fmt: skip
    assert ctl(made, "node", "rename", "n00001", "worker") == "worker: renamed, was n00001\n"
    assert made.checkin(1)["plan"]["name"] == "worker"
    ctl(made, "node", "approve", "worker")
    key = made.checkin(1)["nodeKey"]
    made.checkin(1, words={"nodeKey": key})
    ctl(made, "node", "set", "tag.rack", "r7", "worker")
    assert ctl(made, "node", "replace", "worker", hwaddr(7)) == f"worker: is {hwaddr(7)} now\n"
    (shown,) = json.loads(ctl(made, "node", "show", "worker", "--json"))
    assert (shown["nodeId"], shown["attributes"], shown["groups"], shown["state"]) == (
        hwaddr(7), {"tag.rack": "r7"}, ["compute"], None,
    )  # fmt: skip
    # The machine that it was is a new node, whatever key it shows.
    answer = made.checkin(1, words={"nodeKey": key})
    assert (answer["plan"]["name"], answer.get("nodeKey")) == ("n00001", None)
    assert ctl(made, "node", "list", "tag.rack=r*", "--json").count('"nodeId"') == 2
    assert ctl(made, "node", "delete", "@compute") == "login: deleted\nworker: deleted\n"
    made.stop()
    made.serve()
    assert [node["name"] for node in made.client.get("/v1/nodes")] == ["n00001"]
    assert "compute" in ctl(made, "group", "list")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("node", "set", "debgu", "1", "n00001"), "not known; did you mean 'debug'?"),
        (("node", "set", "debug", "1", "n00002"), "found no node n00002; did you mean 'n00001'?"),
        (("node", "set", "debug", "1", "n00001", "n00002"), "found no node n00002"),
        (("node", "set", "debug", "1", "state=ready"), "found no node that is meant by"),
        (("node", "unset", "debgu", "n00001"), "did you mean 'debug'?"),
        (("node", "list", "@comptue"), "group comptue: not known; did you mean 'compute'?"),
        (("node", "status", "stat=x"), "filter stat=…"),
        (("node", "status", "state=redy"), "did you mean 'ready'?"),
        (("node", "add", "x"), "expected a hardware address"),
        (("node", "add", hwaddr(5), "--set", "debug"), "--set: found 'debug', expected KEY=VALUE"),
        (("node", "rename", "n1", "n2"), "found no node n1"),
        (("node", "replace", "n00001", hwaddr(1)), "is an address of n00001 already"),
        (("group", "set", "debug", "1", "none"), "group none: not known"),
        (("group", "set", "address", "10.86.0.7", "compute"), "expected it for node only"),
        (("group", "add", "a b"), "group name: found 'a b'"),
        (("group", "status", "none"), "group none: not known"),
        (("group", "rename", "compute", "compute"), "there is a group compute already"),
        (("defaults", "set", "root_password", "hunter2"), "expected a password hash"),
        (("defaults", "unset", "debgu"), "did you mean 'debug'?"),
        (("import", "/none"), "/none: "),
        (("node", "import", "/none"), "/none: "),
    ],
)
def test_mistakes_about_nodes_are_told_with_their_status(shared, words, told):
    if not shared.client.get("/v1/groups"):
        shared.ctl("node", "add", hwaddr(1), "n00001")
        shared.ctl("group", "add", "compute")
    before = shared.client.get("/v1/export?secrets=1")
    error = ctl(shared, *words, status=2)
    assert told in error
    assert "hunter2" not in error
    assert shared.client.get("/v1/export?secrets=1") == before


def test_all_that_is_set_goes_out_and_in(made, tmp_path):
    made.checkin(1)
    secret = "$6$saltsalt$0123456789abcdefghijklmnopqrstuvwxyz"
    told = ctl(made, "defaults", "set", "root_password", secret)
    assert told == "defaults: root_password = set\n"
    argv = made._argv("provisiond.ctl", "--socket", made.socket)
    done = subprocess.run(
        [*argv, "node", "set", "root_password", "-", "n00001"], input=f"{secret}x\n", text=True,
        capture_output=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "n00001: root_password = set\n"
    assert f"{secret}x" in ctl(made, "export", "--secrets")
    ctl(made, "node", "unset", "root_password", "n00001")
    ctl(made, "group", "add", "compute", "*")
    ctl(made, "node", "set", "tag.rack", "r 7", "*")
    file, again = tmp_path / "nodes.toml", tmp_path / "again.toml"
    ctl(made, "export", file)
    ctl(made, "export", again)
    assert file.read_bytes() == again.read_bytes()
    assert ctl(made, "export") == file.read_text()
    assert "saltsalt" not in file.read_text()
    assert tomllib.loads(file.read_text())["nodes"]["n00001"]["tag"] == {"rack": "r 7"}
    ctl(made, "export", "--secrets", again)
    assert "saltsalt" in again.read_text()
    assert again.stat().st_mode & 0o777 == 0o600
    assert ctl(made, "import", file) == ""
    text = file.read_text().replace('"r 7"', '"r 8"').replace("[groups.compute]", "[groups.all]")
    file.write_text(text.replace('groups = ["compute"]\n', 'groups = ["all"]\n'))
    told = ("- group compute\n+ group all\n~ node n00001: groups: compute → all\n"
            "~ node n00001: tag.rack: r 7 → r 8\n")  # fmt: skip
    assert sorted(ctl(made, "import", file, "--dry-run").splitlines()) == sorted(told.splitlines())
    assert "r 7" in ctl(made, "export")
    ctl(made, "import", file)
    assert ctl(made, "export") == file.read_text()
    assert ctl(made, "import", file, "--json") == '{\n  "applied": false,\n  "changes": []\n}\n'
    assert "root_password=set" in ctl(made, "defaults", "show")
    ctl(made, "import", again)
    assert ctl(made, "export", "--secrets") == again.read_text()
    file.write_text("format = 1\n[defaults]\ndebgu = 1\n[nodes.N]\n")
    error = ctl(made, "import", file, status=2)
    assert f"{file}: defaults.debgu: " in error
    assert f"{file}: nodes.N: " in error


def test_nodes_of_another_system_come_in(made, tmp_path):
    file = tmp_path / "dhcpd.conf"
    file.write_text(
        f'host a {{ hardware ethernet {hwaddr(1)}; fixed-address 10.86.0.20; }}\ninclude "x";\n'
    )
    dry = made.ctl("node", "import", file, "--dry-run")
    assert dry.stdout.splitlines() == [
        "+ node a", "+ node a: address: 10.86.0.20", "+ node a: approved: administrator",
        f"+ node a: hwaddrs: {hwaddr(1)}",
    ]  # fmt: skip
    assert dry.stderr == f"note: {file}:2: include x: not followed; import that file too\n"
    assert made.client.get("/v1/nodes") == []
    assert ctl(made, "node", "import", file, "--format", "dhcpd") == dry.stdout
    assert ctl(made, "node", "import", file) == ""
    table = tmp_path / "nodes.csv"
    table.write_text(f"name,mac\na,{hwaddr(2)}\nB B,{hwaddr(3)}\n")
    assert f"{table}:3: node name: found 'b b'" in ctl(made, "node", "import", table, status=2)
    table.write_text(f"name,mac\na,{hwaddr(2)}\n")
    assert f"{table}:2: a is {hwaddr(1)} here; provisionctl node replace a" in (
        ctl(made, "node", "import", table, status=2)
    )


def on_terminal(made, answer, *words):
    """Run provisionctl on a terminal, answer its question, and return what it shows."""
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        made._argv("provisiond.ctl", "--socket", made.socket, *words),
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, answer)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:
        pass
    asking.wait(20)
    os.close(ours)
    return shown.decode()


def test_questions_are_asked_on_a_terminal_only(made):
    made.checkin(1)
    ctl(made, "group", "add", "compute", "n00001")
    for words, question in (
        (("node", "delete", "n*"), "Delete 1 nodes?"),
        (("node", "replace", "n00001", hwaddr(7)), f"Make {hwaddr(7)} the node n00001?"),
        (("group", "delete", "compute"), "Delete compute, with 1 nodes in it?"),
    ):
        assert question in on_terminal(made, b"n\n", *words)
    assert ctl(made, "group", "show", "compute") == "compute: nodes=n00001\n"
    assert "compute: deleted" in on_terminal(made, b"y\n", "group", "delete", "compute")
    assert "n00001: deleted" in on_terminal(made, b"", "node", "delete", "--yes", "n*")
