"""How finalize scripts are run, and when one is told to have tried the network."""

import sys
from pathlib import Path

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.resolve import load_recipe
from vnfsbuild.sandbox import SET_HOST_NAME
from vnfsbuild.scripts import count_attempts, run_scripts, script_argv, script_env

from .test_recipe import LEAST

SNMP = """\
Ip: Forwarding DefaultTTL InReceives OutNoRoutes ReasmTimeout
Ip: 2 64 0 3 0
Tcp: RtoAlgorithm RtoMin
Tcp: 1 200
"""


def test_a_script_sees_the_tree_and_nothing_of_the_host():
    argv = script_argv(
        Path("/w/root"), Path("/w/x.sh"), counters=Path("/w/counters"), tools_tree=Path("/t")
    )
    start = argv.index("sh")
    assert argv[:start] == [
        "unshare", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
        "--", sys.executable, "-SI", "-c", SET_HOST_NAME, "localhost",
    ]  # fmt: skip
    assert argv[start + 3 : start + 5] == ["sh", "/w/counters"]
    assert argv[start + 5 :] == [
        sys.executable, "-SI", "/t/usr/lib/python3/dist-packages/mkosi/sandbox.py",
        "--bind", "/w/root", "/",
        "--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp",
        "--proc", "/proc", "--dev", "/dev",
        "--ro-bind", "/w/x.sh", "/run/vnfs/x.sh",
        "--chdir", "/",
        "--", "/run/vnfs/x.sh",
    ]  # fmt: skip


def test_its_environment_has_the_epoch_and_no_secrets():
    assert script_env(7) == {
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
        "SOURCE_DATE_EPOCH": "7",
    }


@pytest.mark.parametrize(
    ("counters", "count"), [(SNMP, 3), (SNMP.replace(" 3 ", " 0 "), 0), ("", 0), ("Ip: X\n", 0)]
)
def test_what_had_no_way_out_is_counted(counters, count):
    assert count_attempts(counters) == count


def test_a_script_without_an_interpreter_is_told_before_it_is_run(tmp_path):
    (tmp_path / "x.sh").write_text("echo\n")
    with pytest.raises(InputError, match=r"scripts\.finalize: x\.sh: found no '#!'"):
        run_scripts(
            tmp_path,
            ["x.sh"],
            directory=tmp_path,
            tools_tree=tmp_path,
            scratch=tmp_path,
            epoch=0,
            log=tmp_path / "log",
        )


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.toml").write_text(f"{LEAST}[scripts]\nfinalize = ['x.sh', 'y/z.sh']\n")
    (tmp_path / "y").mkdir()
    for name in ("x.sh", "y/z.sh"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    return tmp_path


def test_scripts_are_files_of_the_recipe(recipe):
    assert {item.path for item in load_recipe(recipe).files} == {"x.sh", "y/z.sh"}


def test_a_script_that_is_not_there_is_told(recipe):
    (recipe / "x.sh").unlink()
    with pytest.raises(InputError, match=r"scripts\.finalize: .*/x\.sh: no such file"):
        load_recipe(recipe)


def test_a_link_is_no_script(recipe):
    (recipe / "x.sh").unlink()
    (recipe / "x.sh").symlink_to("/bin/true")
    with pytest.raises(InputError, match=r"scripts\.finalize"):
        load_recipe(recipe)
