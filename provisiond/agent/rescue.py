"""Rescue: shells on the consoles and ssh for the keys of the site, for as long as the plan says so.

The keys, and the node's own host key, are those of its overlay: ssh knows the host it talks to.
"""

from __future__ import annotations

import base64
import binascii
import io
import socket
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

from provisiond.agent.client import split_server
from provisiond.agent.console import Tell
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError

SCRIPT = Path("/usr/lib/vnfs/rescue")
AUTHORIZED_KEYS = "root/.ssh/authorized_keys"
HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
END_SECONDS = 5

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
}
_KEY_TYPE = b"ssh-ed25519"
_MAGIC = b"openssh-key-v1\0"


@dataclass(frozen=True)
class SshFiles:
    """What of a node's overlay ssh needs."""

    authorized_keys: bytes = b""
    host_key: bytes = b""
    """In dropbear's form; empty: the node has none, or no secrets are given to it."""


def find_ssh_files(overlay: bytes) -> SshFiles:
    """Return what the tar *overlay* has for ssh.

    Raises:
        VerificationError: it is no tar, or its host key is not one.
    """
    found = {AUTHORIZED_KEYS: b"", HOST_KEY: b""}
    try:
        with tarfile.open(fileobj=io.BytesIO(overlay)) as archive:
            for member in archive:
                name = member.name[2:] if member.name.startswith("./") else member.name
                file = archive.extractfile(member) if name in found else None
                if file is not None:
                    found[name] = file.read()
    except tarfile.TarError as error:
        raise VerificationError(f"overlay: not a tar archive: {error}") from error
    key = found[HOST_KEY]
    return SshFiles(found[AUTHORIZED_KEYS], make_dropbear_key(key) if key.strip() else b"")


def make_dropbear_key(openssh: bytes) -> bytes:
    """Return the Ed25519 private key *openssh*, which is not encrypted, as dropbear reads it.

    Raises:
        VerificationError: it is no such key.
    """
    lines = openssh.decode("ascii", "replace").splitlines()
    text = "".join(line.strip() for line in lines if not line.startswith("-----"))
    try:
        data = base64.b64decode(text, validate=True)
        if not data.startswith(_MAGIC):
            raise ValueError("another form")
        rest = data[len(_MAGIC) :]
        for expected in (b"none", b"none", b""):
            found, rest = _take(rest)
            if found != expected:
                raise ValueError("it is encrypted")
        rest = rest[4:]  # how many keys: one
        _, rest = _take(rest)
        inner, _ = _take(rest)
        kind, inner = _take(inner[8:])  # after two check numbers
        public, inner = _take(inner)
        private, _ = _take(inner)
    except (ValueError, binascii.Error, struct.error) as error:
        raise VerificationError(f"overlay: {HOST_KEY}: not a key of ssh: {error}") from error
    if kind != _KEY_TYPE or len(public) != 32 or len(private) != 64:
        raise VerificationError(f"overlay: {HOST_KEY}: found {kind!r:.40}, expected {_KEY_TYPE!r}")
    return struct.pack(">I", len(kind)) + kind + struct.pack(">I", len(private)) + private


def _take(data: bytes) -> Tuple[bytes, bytes]:
    """Return the string that *data* begins with, as ssh writes it, and the rest."""
    (size,) = struct.unpack(">I", data[:4])
    if len(data) < 4 + size:
        raise ValueError("it is cut off")
    return data[4 : 4 + size], data[4 + size :]


def own_address(server: str) -> str:
    """Return the address that this machine talks to *server* from; empty when it cannot."""
    try:
        host, port = split_server(server)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Nothing is sent.
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except (OSError, InputError):
        return ""


class Rescue:
    """The shells, and what ssh needs below *root*."""

    def __init__(self, *, run: Path, tell: Tell, root: Path, script: Path = SCRIPT) -> None:
        """*root* is the root of the bootstrap: accounts and keys are written there."""
        self._run = run
        self._tell = tell
        self._root = root
        self._script = script
        self._process: Optional["subprocess.Popen[bytes]"] = None

    @property
    def is_on(self) -> bool:
        """Whether the shells are there."""
        return self._process is not None and self._process.poll() is None

    def start(self, files: SshFiles) -> None:
        """Let in who has a key of *files*, from now on; open the shells when they are not there.

        Raises:
            VnfsbuildError: it cannot be started.
        """
        host_key = self._write(files)
        if self.is_on:
            return
        argv = [str(self._script), *([str(host_key)] if host_key else [])]
        try:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise VnfsbuildError(f"rescue: {self._script}: {error.strerror}") from error
        keys = [line for line in files.authorized_keys.splitlines() if line.strip()]
        if not keys:
            self._tell(
                "rescue: no ssh: this node has no authorized_key; "
                "provisionctl defaults set authorized_key.NAME 'ssh-ed25519 …'"
            )

    def stop(self) -> None:
        """End the shells, when there are any, and what listens for ssh."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write(self, files: SshFiles) -> Optional[Path]:
        """Write what ssh reads; return where the host key is, if there is one."""
        try:
            for name, text in ACCOUNTS.items():
                path = self._root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="ascii")
            for directory in ("root", "root/.ssh"):
                (self._root / directory).mkdir(mode=0o700, exist_ok=True)
                (self._root / directory).chmod(0o700)
            _write_private(self._root / AUTHORIZED_KEYS, files.authorized_keys)
            if not files.host_key:
                return None
            path = self._run / "rescue.hostkey"
            _write_private(path, files.host_key)
            return path
        except OSError as error:
            raise VnfsbuildError(f"rescue: {error.filename}: {error.strerror}") from error


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
