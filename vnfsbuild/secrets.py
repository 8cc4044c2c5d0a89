"""Secrets that got into a root tree, or into the recipe's own files, by mistake.

A capsule goes through many hands, and all nodes share it: keys and passwords come with a node's
overlay, or are made at its boot. What looks like one stops the build. Looked at are the names of
files, and what small files hold; large ones and programs are passed over, for speed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from pathlib import Path, PurePosixPath

from vnfsbuild.errors import InputError
from vnfsbuild.tree import is_named

SMALL_BYTES = 128 * 1024
"""Files up to this size are read whole."""
HEAD_BYTES = 4096
"""What is read of larger ones."""

HINT = (
    "secrets come with a node's overlay, or are made at its boot; if it is none, name its path"
    " in [secrets] allow"
)

# What a secret is by its name alone, as a glob of the path's last parts.
NAMES = (
    ("munge.key", "a munge key"),
    ("*.keytab", "a Kerberos key table"),
    ("krb5kdc/.k5.*", "a Kerberos master key"),
    ("krb5kdc/stash", "a Kerberos master key"),
    (".git-credentials", "passwords of git"),
    (".pgpass", "passwords of PostgreSQL"),
    (".vault-token", "a token of Vault"),
    ("*.p12", "a PKCS #12 key store"),
    ("*.pfx", "a PKCS #12 key store"),
    ("*.jks", "a Java key store"),
    ("*.kdbx", "a KeePass database"),
    ("secring.gpg", "a GnuPG secret keyring"),
    ("private-keys-v1.d/*.key", "a GnuPG secret key"),
    ("jwt_hs256.key", "a Slurm JWT key"),
    ("slurm.key", "a Slurm key"),
    ("credential.secret", "systemd's credential key"),
    ("random-seed", "a random seed"),
)

# What may stand in a file: (a cheap sign of it, a proof, what it is). The proof asks for a key's
# own characters, so that programs and manuals that only talk of keys pass.
_BASE64 = rb"[A-Za-z0-9+/]"
_CRYPT64 = rb"[./A-Za-z0-9]"
_SALT = _CRYPT64 + rb"{1,86}\$" + _CRYPT64
_HASH = "a password hash"
CONTENTS = tuple(
    (sign, re.compile(proof), kind)
    for sign, proof, kind in (
        (
            b"PRIVATE KEY",
            rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n|\\r)+"
            rb"(?:[A-Za-z-]+:[^\n]*\n|\s)*" + _BASE64 + rb"{16}",
            "a private key (PEM)",
        ),
        (b"SSH PRIVATE KEY FILE FORMAT", rb"\ASSH PRIVATE KEY FILE FORMAT", "a private key (SSH)"),
        (b"PuTTY-User-Key-File", rb"\APuTTY-User-Key-File-\d", "a private key (PuTTY)"),
        (b"AGE-SECRET-KEY-1", rb"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}", "a private key (age)"),
        (b"untrusted comment", rb"\Auntrusted comment: [^\n]*secret key", "a minisign key"),
        (b"PrivateKey", rb"(?m)^\s*PrivateKey\s*=\s*" + _BASE64 + rb"{43}=", "a WireGuard key"),
        # But not the one that stands in every manual.
        (b"AKIA", rb"\bAKIA(?!.{9}EXAMPLE)[0-9A-Z]{16}\b", "an AWS access key"),
        (
            b"aws_secret_access_key",
            rb"aws_secret_access_key\s*=\s*" + _BASE64 + rb"{40}\b",
            "an AWS secret key",
        ),
        *(
            (sign, rb"\b" + sign + rb"[A-Za-z0-9]{36}\b", "a GitHub token")
            for sign in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")
        ),
        (b"github_pat_", rb"\bgithub_pat_\w{60,}", "a GitHub token"),
        (b"glpat-", rb"\bglpat-[\w-]{20}\b", "a GitLab token"),
        (b"xox", rb"\bxox[abprs]-[\w-]{20,}", "a Slack token"),
        (b"_authToken", rb"_authToken\s*=\s*[\w-]{16,}", "an npm token"),
        (b'"auths"', rb'"auth"\s*:\s*"' + _BASE64 + rb'{8,}={0,2}"', "passwords of a registry"),
        (b"client-key-data", rb"client-key-data:\s*" + _BASE64 + rb"{40}", "a Kubernetes key"),
        (b"password", rb"(?m)^\s*machine\s+\S+\s+login\s+\S+\s+password\s+\S", "a .netrc password"),
        (b"psk=", rb"(?m)^\s*psk=\S{8,}", "the password of a wireless network"),
        (b"$1$", rb"\$1\$" + _SALT + rb"{22}\b", _HASH),
        (b"$apr1$", rb"\$apr1\$" + _SALT + rb"{22}\b", _HASH),
        (b"$2", rb"\$2[abxy]\$\d\d\$" + _CRYPT64 + rb"{53}", _HASH),
        (b"$5$", rb"\$5\$(?:rounds=\d+\$)?" + _SALT + rb"{43}", _HASH),
        (b"$6$", rb"\$6\$(?:rounds=\d+\$)?" + _SALT + rb"{86}", _HASH),
        (b"$y$", rb"\$y\$" + _CRYPT64 + rb"+\$" + _SALT + rb"{43}", _HASH),
        (b"$gy$", rb"\$gy\$" + _CRYPT64 + rb"+\$" + _SALT + rb"{43}", _HASH),
        (b"{SSHA", rb"\{SSHA(?:256|512)?\}" + _BASE64 + rb"{32}", _HASH),
    )
)  # fmt: skip

_ANY_NAME = re.compile("|".join(translate(PurePosixPath(glob).name) for glob, _ in NAMES))
_DER_NAMES = (".der", ".key", ".pk8", ".priv")
_DER_KEY = re.compile(
    rb"\A\x30(?:\x81.|\x82..|[^\x80-\xff])\x02\x01[\x00\x01][\x02\x30]", re.DOTALL
)

# What begins or ends like these is no text; .pyc files are made from files that are looked at.
_PASSED_OVER = (b"\x7fELF", b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh", b"\x89PNG")
_NOT_READ = (".ko", ".ko.xz", ".ko.zst", ".mo", ".pyc", ".so")

_ACCOUNTS = {"etc/passwd": False, "etc/shadow": False, "etc/gshadow": True}
"""Files of accounts → whether nothing in a password's place means that there is none to be had."""
_LOCKED = ("", "x", "LK", "NP")


def find_secret(path: str, head: bytes) -> str | None:
    """Return what kind of secret the file *path* is, which begins with *head*; None: it is none."""
    if not head:
        return None
    name = path.rpartition("/")[2]
    if _ANY_NAME.match(name):
        for glob, kind in NAMES:
            parts = glob.count("/") + 1
            if fnmatchcase("/".join(path.split("/")[-parts:]), glob):
                return kind
    if head.startswith(_PASSED_OVER):
        return None
    if name.endswith(_DER_NAMES) and _DER_KEY.match(head):
        return "a private key (DER)"
    for sign, proof, kind in CONTENTS:
        if sign in head and proof.search(head):
            return kind
    return None


def verify_no_secrets(root: Path, *, allow: Sequence[str], exclude: Sequence[str] = ()) -> None:
    """Raise when something in the tree *root* looks like a secret.

    *allow* and *exclude* are globs of paths below the root, a ``*`` within one part: what may look
    like one, and what is in no layer anyhow.

    Raises:
        InputError: with every such path and what it looks like.
    """
    found = _find_passwords(root)
    skipped = [glob.split("/") for glob in (*allow, *exclude)]
    for path, size_bytes in _walk(root, "", skipped):
        if path.endswith(_NOT_READ):
            continue
        kind = find_secret(path, _read_head(root / path, size_bytes))
        if kind:
            found.append(f"{path}: found {kind}")
    _refuse(found, "all nodes would share it")


def verify_no_secrets_in_sources(
    sources: Mapping[str, Path], *, allow: Sequence[str], copied: str | None
) -> None:
    """Raise when one of a recipe's own files, name → file, looks like a secret.

    *allow* names them as they are called in the tree, for those below the directory *copied*.

    Raises:
        InputError: with every such file and what it looks like.
    """
    found = []
    for name, path in sorted(sources.items()):
        if path.is_symlink() or not path.is_file():
            continue
        inside = name.removeprefix(f"{copied}/") if copied else name
        if is_named(name, allow) or is_named(inside, allow):
            continue
        kind = find_secret(name, _read_head(path, path.stat().st_size))
        if kind:
            found.append(f"{path}: found {kind}")
    _refuse(found, "it would be in the capsule's source")


def find_passwords(text: str, *, empty_is_locked: bool) -> list[tuple[str, str]]:
    """Return (account, what was found) for those in *text*, as in /etc/shadow, that are not locked.

    A lock in front of a hash takes the hash out of nobody's hands.
    """
    found = []
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        password = rest.partition(":")[0]
        if not password and not empty_is_locked and name:
            found.append((name, "an empty password"))
        elif password.strip("!*") not in _LOCKED:
            found.append((name, "a password hash"))
    return found


def _find_passwords(root: Path) -> list[str]:
    found = []
    for path, empty_is_locked in _ACCOUNTS.items():
        if (root / path).is_file():
            text = (root / path).read_text(encoding="utf-8", errors="replace")
            for name, what in find_passwords(text, empty_is_locked=empty_is_locked):
                found.append(f"{path}: {name}: found {what}, expected a locked account")
    return found


def _refuse(found: Sequence[str], why: str) -> None:
    if found:
        raise InputError(
            "\n".join([f"what looks like a secret, and {why}:", *(f"  {line}" for line in found)]),
            hint=HINT,
        )


def _walk(root: Path, below: str, skipped: Sequence[Sequence[str]]) -> Iterator[tuple[str, int]]:
    """Yield path and size of the regular files below, those left out that *skipped* names."""
    with os.scandir(root / below) as listed:
        entries = sorted(listed, key=lambda entry: entry.name)
    for entry in entries:
        rest = [parts[1:] for parts in skipped if fnmatchcase(entry.name, parts[0])]
        if [] in rest:
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, path, rest)
        elif entry.is_file(follow_symlinks=False):
            yield path, entry.stat(follow_symlinks=False).st_size


def _read_head(path: Path, size_bytes: int) -> bytes:
    if not size_bytes:
        return b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return os.read(descriptor, size_bytes if size_bytes <= SMALL_BYTES else HEAD_BYTES)
    finally:
        os.close(descriptor)
