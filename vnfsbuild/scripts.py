"""Finalize scripts: the recipe's own programs, run inside the root tree when all else is in it.

They see the tree as their root and nothing of the host: no network (not even a loopback), no
processes, no host name, an environment of our own. A script that asks for a name or an IPv4 address
fails the build even when it does not mind that nothing answers: what it would have done elsewhere
nobody knows. (IPv6 only fails: the kernel counts no attempt that lacks an address to send from.)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.sandbox import HOST_NAME, MKOSI, SET_HOST_NAME

# The counters are the namespace's own, and end with it.
_COUNT = """\
counters=$1
shift
"$@"
status=$?
cat /proc/net/snmp >"$counters"
exit $status
"""


def script_argv(root: Path, script: Path, *, counters: Path, tools_tree: Path) -> list[str]:
    """Return the argv that runs the file *script* in *root*, cut off from the host.

    What its network namespace counted in the end goes to the file *counters*.
    """
    inside = f"/run/vnfs/{script.name}"
    return [
        "unshare", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
        "--", sys.executable, "-SI", "-c", SET_HOST_NAME, HOST_NAME,
        "sh", "-c", _COUNT, "sh", str(counters),
        sys.executable, "-SI", str(tools_tree / MKOSI / "mkosi/sandbox.py"),
        "--bind", str(root), "/",
        "--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp",
        "--proc", "/proc", "--dev", "/dev",
        "--ro-bind", str(script), inside,
        "--chdir", "/",
        "--", inside,
    ]  # fmt: skip


def script_env(epoch: int) -> dict[str, str]:
    """Return what a script finds in its environment, besides PATH, LC_ALL and TZ."""
    return {
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
        "SOURCE_DATE_EPOCH": str(epoch),
    }


def count_attempts(counters: str) -> int:
    """Return how often something was sent that had no way out, by the kernel's *counters*."""
    rows = [line.split() for line in counters.splitlines() if line.startswith("Ip:")]
    return int(dict(zip(*rows, strict=True)).get("OutNoRoutes", 0)) if len(rows) == 2 else 0


def run_scripts(
    root: Path,
    scripts: Sequence[str],
    *,
    directory: Path,
    tools_tree: Path,
    scratch: Path,
    epoch: int,
    log: Path,
) -> None:
    """Run *scripts*, files below *directory*, one after the other inside *root*.

    Their output goes to the file *log* too. *scratch* is a directory for what they need meanwhile.

    Raises:
        InputError: no script, or one that tried the network.
        VnfsbuildError: one failed; with its status and its last words.
    """
    if scripts:
        log.write_text("", encoding="utf-8")
    for script in scripts:
        text = (directory / script).read_bytes()
        if not text.startswith(b"#!"):
            raise InputError(f"scripts.finalize: {script}: found no '#!' in its first line")
        counters = scratch / "counters"
        copy = scratch / Path(script).name
        copy.write_bytes(text)
        # Whatever the checkout made of its mode.
        copy.chmod(0o755)
        argv = script_argv(root, copy, counters=counters, tools_tree=tools_tree)
        failure = None
        try:
            tools.run(argv, env=script_env(epoch), log=log)
        except tools.ToolError as error:
            failure = error
        told = counters.read_text(encoding="ascii") if counters.exists() else ""
        for path in (counters, copy):
            path.unlink(missing_ok=True)
        _verify_ended_well(script, failure, count_attempts(told), log)


def _verify_ended_well(
    script: str, failure: tools.ToolError | None, attempts: int, log: Path
) -> None:
    where = f"scripts.finalize: {script}"
    _, _, words = failure.message.partition(":\n") if failure else ("", "", "")
    told = f"; its last words:\n{words}" if words else ""
    if attempts:
        raise InputError(
            f"{where}: tried the network ({attempts} times), which scripts do not have{told}",
            hint="bring what it fetches as a package, or as a file of the recipe (files.copy)",
        ) from failure
    if failure:
        how = failure.message.partition(":\n")[0].partition(": ")[2]
        raise VnfsbuildError(f"{where}: {how}{told}", hint=f"all that it said: {log}") from failure
