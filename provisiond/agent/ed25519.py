"""The Ed25519 primitive of a node: the ``openssl`` program."""

from __future__ import annotations

import os
import subprocess
from typing import List

from vnfsbuild.dsse import SPKI_PREFIX
from vnfsbuild.errors import VerificationError, VnfsbuildError

TIMEOUT_SECONDS = 60


def verify_argv(key: int, signature: int, message: int) -> List[str]:
    """Return the argv that verifies what these file descriptors hold.

    ``-rawin``: Ed25519 signs the message itself, not a digest of it.
    """
    return [
        "openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin",
        "-inkey", f"/proc/self/fd/{key}",
        "-sigfile", f"/proc/self/fd/{signature}",
        "-in", f"/proc/self/fd/{message}",
    ]  # fmt: skip


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Return when *signature* is that of *public_key* over *message*.

    Raises:
        VerificationError: it is not, or the key is none.
        VnfsbuildError: the program cannot be run.
    """
    # Files in memory that no other process can open, not names in a directory.
    contents = (SPKI_PREFIX + public_key, signature, message)
    descriptors = [os.memfd_create("vnfs-verify") for _ in contents]
    try:
        for descriptor, data in zip(descriptors, contents):  # noqa: B905  # as old as Python 3.9
            os.write(descriptor, data)
        status = _run(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    if status != 0:
        raise VerificationError("the signature is not that of the key over these bytes")


def _run(descriptors: List[int]) -> int:
    try:
        return subprocess.run(
            verify_argv(*descriptors),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            # No configuration file, so no providers and engines but the built-in ones.
            env={"PATH": os.environ.get("PATH", os.defpath), "OPENSSL_CONF": os.devnull},
            pass_fds=descriptors,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VnfsbuildError(f"openssl: cannot be run: {error}") from error
