"""How a node gets into its capsule, when the plan leaves that to the node. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from vnfsbuild.digest import Digest
from vnfsbuild.errors import VnfsbuildError

CARRIED_OVER = ("panic", "vnfs", "console")
"""Kernel arguments that a pivot takes along, by what is before ``=`` or ``.``: the inits read them
from a file, and consoles are those of the kernel that runs."""


@dataclass(frozen=True)
class Resolved:
    """What ``auto`` comes to, or what the plan asks for."""

    method: str
    why: str = ""
    """For people; empty where there was nothing to choose."""
    can_pivot: bool = False
    """Whether a pivot would do, should memory not suffice for a kexec."""


def resolve_method(
    planned: str,
    *,
    kernel: Digest,
    running: Optional[str],
    wanted: Sequence[str],
    command_line: str,
) -> Resolved:
    """Return how a capsule with *kernel* is entered when the plan says *planned*.

    ``auto`` is a pivot when that kernel is the *running* one, by digest, and was started with the
    arguments *wanted*: *command_line* is what it has. Else it is a kexec.

    Raises:
        VnfsbuildError: the plan asks for a pivot into another kernel.
    """
    same = kernel == running
    lacking = missing_arguments(wanted, command_line)
    if planned == "pivot":
        refuse_other_kernel(kernel, running)
        why = f"not given to the running kernel: {' '.join(lacking)}" if lacking else ""
        return Resolved("pivot", why, can_pivot=True)
    if planned == "kexec":
        # Asked for by name: memory alone does not make it something else.
        return Resolved("kexec")
    if not same:
        return Resolved("kexec", "the capsule has another kernel than the one that runs")
    if lacking:
        why = f"the kernel that runs is the capsule's, but lacks {' '.join(lacking)}"
        return Resolved("kexec", why, can_pivot=True)
    return Resolved("pivot", "the kernel that runs is the capsule's", can_pivot=True)


def missing_arguments(wanted: Sequence[str], command_line: str) -> Tuple[str, ...]:
    """Return those of *wanted* that are not on *command_line* and that a pivot cannot make good."""
    given = set(command_line.split())
    return tuple(
        word
        for word in wanted
        if word not in given and word.partition("=")[0].partition(".")[0] not in CARRIED_OVER
    )


def refuse_other_kernel(capsule: Digest, running: Optional[str]) -> None:
    """Return when the capsule's kernel is the *running* one, by the digest of its file.

    Raises:
        VnfsbuildError: it is another: its modules would not load.
    """
    if capsule != running:
        raise VnfsbuildError(
            f"method pivot: the bootstrap runs the kernel {running or 'unknown'}, "
            f"the capsule has {capsule}",
            hint="use the method auto, or a bootstrap with this kernel",
        )
