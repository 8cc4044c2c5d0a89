"""Signers of others: a program signs for a key whose secret half we never see.

``keys/NAME.signer`` says which: a token, a vault, a service with a second pair of eyes. It reads
what is to be signed from standard input and writes the signature to standard output, as 64 bytes
or as base64 of them. Whoever calls this must verify what came back.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.dsse import SIGNATURE_BYTES
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import read_bounded

TIMEOUT_SECONDS = 120.0
"""Long enough to find the token and touch it."""

MAX_COMMAND_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 1024


def load_command(path: Path) -> tuple[str, ...]:
    """Return the argv in the file *path*: one word a line, as it is; no shell reads it.

    Empty lines and those that begin with ``#`` are passed over. The first word is the program, by
    its absolute path.

    Raises:
        InputError: no such file, one that others own or may write, or not of this form.
    """
    data = read_bounded(path, limit_bytes=MAX_COMMAND_BYTES)
    status = path.stat()
    mode = status.st_mode & 0o777
    if status.st_uid not in (0, os.geteuid()):
        raise InputError(
            f"{path}: found the owner {status.st_uid}, expected root or who runs this: "
            "whoever writes here says which program we run",
            hint=f"look at it, then chown {os.geteuid()} {path}",
        )
    if mode & 0o022:
        raise InputError(
            f"{path}: found mode {mode:04o}, expected that only its owner can write: "
            "whoever writes here says which program we run",
            hint=f"chmod go-w {path}",
        )
    return parse_command(data, where=os.fspath(path))


def parse_command(data: bytes, *, where: str) -> tuple[str, ...]:
    """Return the argv that *data* is the text of.

    Raises:
        InputError: it is none.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8") from error
    words = tuple(line for line in lines if line and not line.startswith("#"))
    if not words or not words[0].startswith("/") or any("\0" in word for word in words):
        raise InputError(
            f"{where}: expected a program by its absolute path, and its arguments, a line for each"
        )
    return words


def ask_signer(
    argv: tuple[str, ...],
    message: bytes,
    *,
    where: str,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> bytes:
    """Return the 64 bytes that the program *argv* gave as its signature of *message*.

    It has our environment and our terminal: it may ask for a PIN.

    Raises:
        VnfsbuildError: it cannot be run, failed, took too long, or answered something else.
    """
    try:
        answer = tools.ask(
            argv,
            message,
            env=dict(os.environ),
            timeout_seconds=timeout_seconds,
            limit_bytes=MAX_ANSWER_BYTES,
        )
    except tools.ToolError as error:
        raise VnfsbuildError(
            f"{where}: {error.message}", hint="what the program said of it stands above"
        ) from error
    signature = _decode(answer)
    if signature is None:
        raise VnfsbuildError(
            f"{where}: {argv[0]}: answered {len(answer)} bytes that are no signature, "
            f"expected {SIGNATURE_BYTES} bytes, or base64 of them"
        )
    return signature


def _decode(answer: bytes) -> bytes | None:
    if len(answer) == SIGNATURE_BYTES:
        return answer
    try:
        decoded = base64.b64decode(b"".join(answer.split()), validate=True)
    except binascii.Error:
        return None
    return decoded if len(decoded) == SIGNATURE_BYTES else None
