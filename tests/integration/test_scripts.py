"""Finalize scripts run in a tree of their own world: no host, no network, no traces."""

import os
import shutil
from pathlib import Path

import pytest

from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.places import find_places
from vnfsbuild.scripts import run_scripts
from vnfsbuild.toolstree import ensure_tools_tree

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="run by an ordinary user; namespaces want root"),
]


@pytest.fixture(scope="module")
def tools_tree():
    return ensure_tools_tree("build", find_places().cache)


@pytest.fixture
def root(tmp_path, tools_tree):
    """A tree with a shell."""
    root = tmp_path / "root"
    for name in ("bin", "dev", "etc", "proc", "run", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(tools_tree / "usr/bin/busybox", root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    return root


@pytest.fixture
def run(tmp_path, root, tools_tree):
    def run_script(text, name="x.sh"):
        (tmp_path / name).write_text(text)
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        try:
            run_scripts(
                root,
                [name],
                directory=tmp_path,
                tools_tree=tools_tree,
                scratch=scratch,
                epoch=7,
                log=tmp_path / "log",
            )
        finally:
            assert list(scratch.iterdir()) == []

    return run_script


def test_a_script_has_the_tree_as_its_root_and_a_clean_environment(run, root, monkeypatch):
    monkeypatch.setenv("PLANTED", "canary")
    run("#!/bin/sh\necho hello >/etc/x\nbusybox env >/etc/env\nbusybox uname -n >/etc/name\n")
    assert (root / "etc/x").read_text() == "hello\n"
    assert (root / "etc/name").read_text() == "localhost\n"
    env = dict(line.split("=", 1) for line in (root / "etc/env").read_text().splitlines())
    assert env.keys() <= {
        "PATH", "LC_ALL", "TZ", "HOME", "SOURCE_DATE_EPOCH", "DEBIAN_FRONTEND",
        "PWD", "SHLVL", "OLDPWD", "_",
    }  # fmt: skip
    assert (env["HOME"], env["SOURCE_DATE_EPOCH"]) == ("/root", "7")


def test_it_sees_no_process_of_the_host_and_leaves_none(run, root, tmp_path):
    run("#!/bin/sh\necho /proc/[0-9]* >/etc/seen\nbusybox sleep 1000 >/tmp/x 2>&1 &\n")
    seen = (root / "etc/seen").read_text().split()
    assert len(seen) < 10
    assert str(os.getpid()) not in [path.rpartition("/")[2] for path in seen]
    left = [path for path in Path("/proc").glob("[0-9]*/root") if _points_to(path, root)]
    assert left == []


def _points_to(link, root):
    try:
        return str(root) in os.readlink(link)
    except OSError:
        return False


def test_what_it_leaves_in_run_and_tmp_is_gone(run, root):
    run("#!/bin/sh\nfor name in run tmp var/tmp dev; do echo >/$name/x; done\n")
    for name in ("run", "tmp", "var/tmp", "dev"):
        assert list((root / name).iterdir()) == []


def test_a_failing_script_is_told_with_status_and_last_words(run, tmp_path):
    with pytest.raises(VnfsbuildError) as raised:
        run("#!/bin/sh\necho so far so good\necho no such thing >&2\nexit 7\n", "make-x.sh")
    assert raised.value.exit_status == 1
    assert raised.value.message == (
        "scripts.finalize: make-x.sh: exit status 7; its last words:\nso far so good\nno such thing"
    )
    assert raised.value.hint == f"all that it said: {tmp_path / 'log'}"
    assert "no such thing" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "command",
    [
        "busybox wget -O /dev/null http://192.0.2.1/",
        "busybox wget -O /dev/null http://192.0.2.1/ || true",
        "busybox nslookup example.org || true",
        "busybox nc -w 1 127.0.0.1 80 || true",
    ],
)
def test_a_script_that_tries_the_network_is_refused_even_when_it_does_not_mind(run, command):
    with pytest.raises(InputError) as raised:
        run(f"#!/bin/sh\n{command}\n")
    assert "scripts.finalize: x.sh: tried the network (" in raised.value.message
    assert "files.copy" in raised.value.hint


def test_ipv6_fails_too(run):
    with pytest.raises(VnfsbuildError, match="exit status 1"):
        run("#!/bin/sh\nbusybox nc -w 1 2001:db8::1 80\n")


def test_an_interpreter_that_the_tree_lacks_is_told(run):
    with pytest.raises(VnfsbuildError, match=r"scripts\.finalize: x\.sh: exit status"):
        run("#!/usr/bin/absent\n")
