"""What the inits read of kernel command lines and words, by the shell and the programs of nodes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import vnfsbuild.initrd
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes its root"),
]


@pytest.fixture
def shell(tmp_path):
    for path in ("bin", "proc", "dev", "mnt", "sys"):
        (tmp_path / path).mkdir()
    tools = ensure_tools_tree("build", find_places().cache)
    shutil.copy(tools / "usr/bin/busybox", tmp_path / "bin/busybox")
    for name in ("dd", "grep", "mount"):
        (tmp_path / "bin" / name).symlink_to("busybox")
    shutil.copy(Path(vnfsbuild.initrd.__file__).parent / "functions.sh", tmp_path)

    def run(script, *, line="", words=""):
        (tmp_path / "proc/cmdline").write_text(line + "\n")
        (tmp_path / "proc/uptime").write_text("12.34 56.78\n")
        (tmp_path / "words").write_text(words)
        text = f"VNFS_LOG=/log VNFS_WORDS=/words; . /functions.sh; {script}"
        argv = ["unshare", "--mount", "chroot", str(tmp_path), "/bin/busybox", "sh", "-c", text]
        env = {"PATH": "/bin:/usr/bin:/sbin:/usr/sbin"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
        assert done.stderr == "", done
        return done.stdout

    run.root = tmp_path
    return run


@pytest.mark.parametrize(
    ("line", "words", "found"),
    [
        ("a=1 vnfs.ip=x b=2", "", "x"),
        ("vnfs.ip=x vnfs.ip=y", "", "y"),
        ("vnfs.ip=x", "vnfs.vlan=3\nvnfs.ip=of=node\n", "of=node"),
        ("quiet vnfs.ip", "", "1"),
        ("vnfs.ipx=1 * /bin/*", "", ""),
    ],
)
def test_the_nodes_own_word_counts_and_of_several_the_last(shell, line, words, found):
    assert shell("argument vnfs.ip", line=line, words=words) == f"{found}\n"


@pytest.mark.parametrize(
    ("word", "options", "told"),
    [
        ("", "mode=0755", ""),
        ("vnfs.tmpfs=30%", "mode=0755,size=30%", ""),
        ("vnfs.tmpfs=2g", "mode=0755,size=2g", ""),
        ("vnfs.tmpfs=0%", "mode=0755", "vnfs.tmpfs=0%: found no size, expected as 50% or 2g"),
        ("vnfs.tmpfs=much", "mode=0755", "vnfs.tmpfs=much: found no size"),
        ("vnfs.tmpfs=5g,mode=777", "mode=0755", "found no size"),
    ],
)
def test_the_root_may_take_what_the_site_says(shell, word, options, told):
    assert shell("tmpfs_options", line=word) == f"{options}\n"
    log = shell.root / "log"
    assert told in (log.read_text() if log.exists() else "")


def test_a_full_root_is_an_error_of_who_writes(shell):
    script = (
        "mount -t tmpfs -o $(tmpfs_options) tmpfs /mnt; "
        "dd if=/bin/busybox of=/mnt/x bs=1k count=1500 2>/said || echo full; grep -c space /said"
    )
    assert shell(script, line="vnfs.tmpfs=1m") == "full\n1\n"


def test_what_is_told_is_kept_with_the_time_and_a_trace_is_told_only_on_demand(shell):
    (shell.root / "sys/class/tty/console").mkdir(parents=True)
    (shell.root / "sys/class/tty/console/active").write_text("tty0 ttyS0\n")
    shell("tell one two; trace three")
    assert (shell.root / "log").read_text() == "12.34 one two\n12.34 debug: three\n"
    for console in ("tty0", "ttyS0"):
        assert (shell.root / "dev" / console).read_text() == "vnfs: one two\n"
    shell("trace four", line="vnfs.debug")
    assert (shell.root / "dev/ttyS0").read_text() == "vnfs: debug: four\n"
