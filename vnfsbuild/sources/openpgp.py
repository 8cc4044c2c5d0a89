"""Signatures of repositories: what gpgv says of them, with one keyring and no other.

What counts is what gpgv itself took out of the signed text, so that nothing around it gets in.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.errors import InputError, VerificationError

MAX_KEY_BYTES = 4 * 1024 * 1024

# OpenPGP's numbers of MD5, SHA-1 and RIPEMD-160: a signature over one of them says nothing.
_WEAK_HASHES = {"1", "2", "3"}

_FAULTS = {
    "BADSIG": "the signature of {} is of another text",
    "EXPKEYSIG": "signature of {}, an expired key",
    "EXPSIG": "signature of {}, which has expired",
    "NO_PUBKEY": "signed by key {}, which is another one",
    "REVKEYSIG": "signature of {}, a revoked key",
}

_PREFIX = "[GNUPG:] "


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A text and whose signatures on it are good."""

    text: bytes
    keys: tuple[str, ...]
    """fingerprints of primary keys, sorted"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What gpgv said of the signatures on one text."""

    good: tuple[str, ...]
    """fingerprints of primary keys, sorted"""
    faults: tuple[str, ...]
    """what is wrong with the others, in words"""
    broken: bool
    """whether a signature is not of this text, or there is more than one text"""


def read_key(path: Path) -> bytes:
    """Return the OpenPGP keys in the file *path*, which may be armoured.

    Raises:
        InputError: there is no such file, or it holds none.
    """
    try:
        data = path.read_bytes()[:MAX_KEY_BYTES]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected OpenPGP keys") from error
    keys = dearmor(data, where=str(path)) if data.lstrip().startswith(b"-----BEGIN") else data
    # A public key packet, of the old or the new format.
    if not keys or keys[0] not in (0x98, 0x99, 0x9A, 0xC6):
        raise InputError(
            f"{path}: holds no OpenPGP public key", hint=f"gpg --export --armor NAME >{path}"
        )
    return keys


def dearmor(data: bytes, *, where: str) -> bytes:
    """Return what the armoured blocks of *data* hold, one after the other.

    Raises:
        InputError: it is not armour of a public key.
    """
    found = b""
    body: list[str] | None = None
    for line in data.decode("latin-1").splitlines():
        word = line.strip()
        if word == "-----BEGIN PGP PUBLIC KEY BLOCK-----":
            body = []
        elif word == "-----END PGP PUBLIC KEY BLOCK-----" and body is not None:
            found += _decode(body, where)
            body = None
        elif body is not None:
            body.append(word)
    if body is not None or not found:
        raise InputError(f"{where}: no whole armoured public key")
    return found


def verify_clearsigned(data: bytes, *, keys: bytes, gpgv: Sequence[str], where: str) -> Signed:
    """Return the text inside the clear-signed *data*, when one of *keys* signed it.

    Raises:
        VerificationError: none of *keys* did, or it was changed.
    """
    with tempfile.TemporaryDirectory(prefix="vnfsbuild.") as name:
        work = Path(name)
        (work / "signed").write_bytes(data)
        argv = ["--output", str(work / "text"), str(work / "signed")]
        status = _run_gpgv(gpgv, argv, keys=keys, work=work)
        signers = _verify_status(status, where=where)
        return Signed(text=(work / "text").read_bytes(), keys=signers)


def verify_detached(
    data: bytes, signature: bytes, *, keys: bytes, gpgv: Sequence[str], where: str
) -> Signed:
    """Return *data*, when *signature* is one of *keys*' on it.

    Raises:
        VerificationError: it is not.
    """
    with tempfile.TemporaryDirectory(prefix="vnfsbuild.") as name:
        work = Path(name)
        (work / "text").write_bytes(data)
        (work / "signature").write_bytes(signature)
        argv = [str(work / "signature"), str(work / "text")]
        status = _run_gpgv(gpgv, argv, keys=keys, work=work)
        return Signed(text=data, keys=_verify_status(status, where=where))


def parse_status(text: str) -> Status:
    """Return what the lines that gpgv writes to its status descriptor mean."""
    good: set[str] = set()
    faults = []
    said_good = False
    words_of = [line.removeprefix(_PREFIX).split() for line in text.splitlines()]
    for words in words_of:
        match words:
            case ["NEWSIG" | "GOODSIG" as word, *_]:
                said_good = word == "GOODSIG"
            case ["VALIDSIG", _, _, _, _, _, _, _, hash_number, _, fingerprint, *_]:
                if hash_number in _WEAK_HASHES:
                    faults.append(f"signature of {fingerprint} by a broken hash")
                elif said_good:
                    good.add(fingerprint)
            case [word, key, *_] if word in _FAULTS:
                faults.append(_FAULTS[word].format(key))
    heads = [words[0] for words in words_of if words]
    broken = "BADSIG" in heads or heads.count("PLAINTEXT") > 1
    return Status(good=tuple(sorted(good)), faults=tuple(faults), broken=broken)


def _verify_status(status: Status, *, where: str) -> tuple[str, ...]:
    if status.good and not status.broken:
        return status.good
    told = "; ".join(dict.fromkeys(status.faults)) or "no signature"
    raise VerificationError(
        f"{where}: not signed by the key that was named for it: {told}",
        hint="another mirror; or, when the repository has a new key, put that one there",
    )


def _run_gpgv(gpgv: Sequence[str], args: Sequence[str], *, keys: bytes, work: Path) -> Status:
    (work / "keys.gpg").write_bytes(keys)
    with (work / "status").open("w+b") as status:
        number = status.fileno()
        argv = [*gpgv, "--status-fd", str(number), "--keyring", str(work / "keys.gpg"), *args]
        try:
            tools.run(argv, pass_fds=(number,))
        except tools.ToolError:
            # It also fails when one signature of several is by a key that it was not given.
            if status.seek(0, 2) == 0:
                raise
        status.seek(0)
        return parse_status(status.read().decode("utf-8", "replace"))


def _decode(body: Sequence[str], where: str) -> bytes:
    # Headers end at the first empty line; the checksum begins with "=".
    start = body.index("") + 1 if "" in body else 0
    text = "".join(line for line in body[start:] if not line.startswith("="))
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InputError(f"{where}: armour is damaged: {error}") from error
