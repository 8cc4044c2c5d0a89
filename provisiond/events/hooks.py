"""Programs that a site wants run when something happens: where they are, and running one.

``DIRECTORY/KIND/PROGRAM`` is run for each event of that kind. It gets the event as JSON on its
standard input and in no other way: nothing that a node said stands in an argument or a variable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from provisiond.protocol import clean
from vnfsbuild.tools import base_environment

KINDS = (
    "node.new", "node.state", "node.condition", "node.task", "mirror.wrong", "capsule.promoted",
    "rollout.started", "rollout.batch", "rollout.stopped", "rollout.resumed", "rollout.done",
)  # fmt: skip
"""The events that programs are run for."""
TAIL_BYTES = 2000
"""So much of the end of what a program says is kept."""
READ_BYTES = 65536
LEFT_OPEN_SECONDS = 0.5
"""How long output is waited for that children of an ended program may hold open."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """What there is to run."""

    programs: Mapping[str, Path]
    """By ``KIND/NAME``."""
    faults: Mapping[str, str]
    """What is there and is not run: path → why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a program ended."""

    fault: str
    """What went wrong; empty: nothing."""
    output: str
    """The end of what it said, in one line."""


def kind_of(key: str) -> str:
    """Return the kind of event that the program *key* is for."""
    return key.partition("/")[0]


def find_hooks(directory: Path | None) -> Hooks:
    """Return the programs below *directory*; a directory that is not there has none.

    A program that others than its owner may write, or that belongs to neither root nor us, is not
    run: it would let its writer be this daemon.
    """
    programs: dict[str, Path] = {}
    faults: dict[str, str] = {}
    for folder in _list(directory, faults):
        if folder.name not in KINDS:
            faults[str(folder)] = f"expected a directory named for one of {', '.join(KINDS)}"
            continue
        for path in _list(folder, faults):
            fault = _find_fault(folder) or _find_fault(path)
            if fault is None:
                programs[f"{folder.name}/{path.name}"] = path
            elif fault:
                faults[str(path)] = fault
    return Hooks(programs=programs, faults=faults)


def _list(directory: Path | None, faults: dict[str, str]) -> list[Path]:
    """Return what is in *directory*, but for what editors leave behind."""
    if directory is None:
        return []
    try:
        found = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        faults[str(directory)] = error.strerror or str(error)
        return []
    return [path for path in found if not path.name.startswith(".") and path.name[-1] != "~"]


def _find_fault(path: Path) -> str | None:
    """Return why *path* is not run, or used as a directory; None when nothing speaks against it."""
    try:
        found = path.stat()
    except OSError as error:
        return error.strerror or str(error)
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return f"found mode {stat.S_IMODE(found.st_mode):04o}, expected one that only its owner \
may write"
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to the user {found.st_uid}, expected root"
    if stat.S_ISREG(found.st_mode) and not os.access(path, os.X_OK):
        return "is not executable; chmod +x"
    return None


async def run_hook(path: Path, event: bytes, *, timeout_seconds: float) -> Outcome:
    """Run *path* with *event* on its standard input, to its end or for *timeout_seconds*."""
    tail = bytearray()
    async with _output() as (output, theirs):
        try:
            # A file in memory and no pipe: a program that was started has all of its event, even
            # when we are killed in the next moment.
            with os.fdopen(os.memfd_create("event"), "w+b") as given:
                given.write(event)
                given.seek(0)
                process = await asyncio.create_subprocess_exec(
                    path, stdin=given, stdout=theirs, stderr=theirs,
                    env=base_environment(), cwd="/", start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            return Outcome(fault=f"cannot be run: {error.strerror or error}", output="")
        finally:
            os.close(theirs)
        fault = await _attend(process, output, tail, timeout_seconds=timeout_seconds)
    if not fault and process.returncode:
        fault = f"ended with status {process.returncode}"
    said = clean(" ".join(tail.decode("utf-8", "replace").split()), limit=TAIL_BYTES)
    return Outcome(fault=fault, output=said)


@contextlib.asynccontextmanager
async def _output() -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """Give the block what reads a pipe, and the descriptor that writes to it.

    Not asyncio's own: it takes a program for running as long as children hold its output open.
    """
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    try:
        yield reader, theirs
    finally:
        transport.close()


async def _attend(
    process: asyncio.subprocess.Process,
    output: asyncio.StreamReader,
    tail: bytearray,
    *,
    timeout_seconds: float,
) -> str:
    """Read what *process* says until it ends, or is ended; return what went wrong."""
    reading = asyncio.create_task(_read_tail(output, tail))
    fault = ""
    try:
        async with asyncio.timeout(timeout_seconds):
            await process.wait()
    except TimeoutError:
        fault = f"was ended: it ran for more than {timeout_seconds:g} s"
    finally:
        # It, and what it started and left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait([reading], timeout=LEFT_OPEN_SECONDS)
        reading.cancel()
    await process.wait()
    return fault


async def _read_tail(output: asyncio.StreamReader, tail: bytearray) -> None:
    while data := await output.read(READ_BYTES):
        tail += data
        del tail[:-TAIL_BYTES]
