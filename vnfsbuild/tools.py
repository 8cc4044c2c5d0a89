"""Programs of others. The only importer of :mod:`subprocess` in vnfsbuild.

Programs are given as argv lists that pure functions made; the environment is built anew, not
inherited, so that nothing of the caller's locale, time zone or configuration gets into what is
built. Long-lived children belong to whoever supervises them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vnfsbuild.errors import VnfsbuildError

logger = logging.getLogger(__name__)

PACKAGES = {
    "apt-get": "apt",
    "dnsmasq": "dnsmasq-base",
    "dpkg": "dpkg",
    "gpgv": "gpgv",
    "ip": "iproute2",
    "kexec": "kexec-tools",
    "mkfs.erofs": "erofs-utils",
    "mksquashfs": "squashfs-tools",
    "mount": "mount",
    "newgidmap": "uidmap",
    "newuidmap": "uidmap",
    "openssl": "openssl",
    "qemu-system-x86_64": "qemu-system-x86",
    "tar": "tar",
    "unshare": "util-linux",
    "zstd": "zstd",
}
"""Program → the Debian package that has it."""

TAIL_LINES = 20
ANSWER_POLL_SECONDS = 0.25
STOP_SECONDS = 10
"""How long a program gets to clean up when we are interrupted, before it is killed."""


class ToolError(VnfsbuildError):
    """A program is missing or failed."""


def base_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that programs get: fixed, and *extra*."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **(extra or {}),
    }


def is_installed(name: str) -> bool:
    """Tell whether there is a program *name*."""
    return shutil.which(name, path=base_environment()["PATH"]) is not None


def find_program(name: str) -> Path:
    """Return where the program *name* is.

    Raises:
        ToolError: it is not installed; the hint names the package.
    """
    found = shutil.which(name, path=base_environment()["PATH"])
    if found is None:
        raise ToolError(f"{name}: program not found", hint=_install_hint(name))
    return Path(found)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> None:
    """Run *argv* to its end; its output goes to the debug log, and to the file *log*.

    Raises:
        ToolError: the program is missing, failed or was killed; with its last lines.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("%s", shlex.join(words))
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    sink = log.open("a", encoding="utf-8") if log else None
    try:
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=base_environment(env),
            cwd=cwd,
            pass_fds=pass_fds,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            with _stopped_on_error(process):
                for line in process.stdout:
                    tail.append(line.rstrip())
                    logger.debug("  %s", tail[-1])
                    if sink:
                        sink.write(line)
    except OSError as error:
        raise _unstarted(words, error) from error
    finally:
        if sink:
            sink.close()
    if process.returncode:
        raise _failed(words, process.returncode, "\n".join(tail))


def capture(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    statuses: Collection[int] = (0,),
) -> bytes:
    """Run *argv* to its end and return what it wrote to standard output.

    It may end with any exit status of *statuses*: some programs answer by it.

    Raises:
        ToolError: the program is missing, failed or was killed; with its last lines of errors.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("%s", shlex.join(words))
    try:
        done = subprocess.run(
            words,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env=base_environment(env),
            cwd=cwd,
            check=False,
        )
    except OSError as error:
        raise _unstarted(words, error) from error
    if done.returncode not in statuses:
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").splitlines()
        raise _failed(words, done.returncode, "\n".join(lines[-TAIL_LINES:]))
    return done.stdout


def feed(
    argv: Sequence[str | os.PathLike[str]],
    write: Callable[[IO[bytes]], None],
    *,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run *argv* to its end; *write* gives it what it reads from standard input.

    Raises:
        ToolError: the program is missing, failed or was killed; with its last lines.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("%s", shlex.join(words))
    # Not a pipe: nobody reads while we write.
    with tempfile.TemporaryFile() as told:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=told,
                stderr=subprocess.STDOUT,
                env=base_environment(env),
            )
        except OSError as error:
            raise _unstarted(words, error) from error
        # One that reads no further has a reason, and tells it below; closing may meet it too.
        unread = contextlib.suppress(BrokenPipeError)
        with unread, process, _stopped_on_error(process), unread:
            assert process.stdin is not None
            write(process.stdin)
        told.seek(0)
        lines = told.read().decode("utf-8", "replace").splitlines()
    for line in lines:
        logger.debug("  %s", line)
    if process.returncode:
        raise _failed(words, process.returncode, "\n".join(lines[-TAIL_LINES:]))


def converse(
    argv: Sequence[str | os.PathLike[str]],
    answer: Callable[[int], bytes],
    *,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run *argv*, which writes a line when it waits for *answer*; return all that it writes then.

    *answer* gets the number of its process and returns what it reads next. Its errors go to ours.

    Raises:
        ToolError: the program is missing, failed or was killed.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("%s", shlex.join(words))
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=base_environment(env)
        )
    except OSError as error:
        raise _unstarted(words, error) from error
    said = b""
    with process, _stopped_on_error(process):
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline():
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(answer(process.pid))
                process.stdin.close()
            said = process.stdout.read()
    if process.returncode:
        raise _failed(words, process.returncode, "")
    return said


def ask(
    argv: Sequence[str | os.PathLike[str]],
    question: bytes,
    *,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float,
    limit_bytes: int,
) -> bytes:
    """Run *argv*, which reads *question* and writes a short answer; return that.

    It keeps our terminal and our standard error: it may have to talk to people.

    Raises:
        ToolError: the program is missing, failed, did not end in time or wrote too much.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("%s", shlex.join(words))
    deadline = time.monotonic() + timeout_seconds
    # Files, not pipes: children that it leaves behind would hold a pipe open.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write(question)
        asked.seek(0)
        try:
            process = subprocess.Popen(words, stdin=asked, stdout=said, env=base_environment(env))
        except OSError as error:
            raise _unstarted(words, error) from error
        with process, _stopped_on_error(process):
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(ANSWER_POLL_SECONDS)
                if process.returncode is None and time.monotonic() >= deadline:
                    raise ToolError(f"{words[0]}: no answer within {timeout_seconds:g} s")
                if os.fstat(said.fileno()).st_size > limit_bytes:
                    raise ToolError(f"{words[0]}: answered more than {limit_bytes} bytes")
        said.seek(0)
        answer = said.read(limit_bytes + 1)
    if process.returncode:
        raise _failed(words, process.returncode, "")
    if len(answer) > limit_bytes:
        raise ToolError(f"{words[0]}: answered more than {limit_bytes} bytes")
    return answer


@contextlib.contextmanager
def _stopped_on_error(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Leave no child behind that goes on working when we were interrupted."""
    try:
        yield
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def _unstarted(words: Sequence[str], error: OSError) -> ToolError:
    if isinstance(error, FileNotFoundError) and error.filename == words[0]:
        return ToolError(f"{words[0]}: program not found", hint=_install_hint(words[0]))
    place = f"{error.filename}: " if error.filename not in (None, words[0]) else ""
    return ToolError(f"{words[0]}: {place}{error.strerror}")


def _failed(words: Sequence[str], status: int, tail: str) -> ToolError:
    how = f"killed by {_signal_name(-status)}" if status < 0 else f"exit status {status}"
    told = f":\n{tail}" if tail else ""
    return ToolError(
        f"{Path(words[0]).name}: {how}{told}", hint=f"to try again: {shlex.join(words)}"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _install_hint(program: str) -> str:
    package = PACKAGES.get(Path(program).name)
    return f"apt-get install {package}" if package else "vnfsbuild doctor tells what is missing"
