"""The values that attributes can have: text → value. Each parser raises :class:`InputError`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from vnfsbuild.errors import InputError
from vnfsbuild.reference import parse_reference

DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z")

_WORDS: Mapping[str, bool] = {
    "true": True, "yes": True, "1": True, "on": True,
    "false": False, "no": False, "0": False, "off": False,
}  # fmt: skip
_HWADDR = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?:(?::[0-9a-f]{2}){14})?\Z")
_PUBLIC_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]{40,}={0,3}(?: [ -~]*)?\Z")
_PASSWORD_HASH = re.compile(r"\$[0-9a-z]{1,8}\$[!-9;-~]{8,}\Z")


def parse_bool(text: str) -> bool:
    """Return what *text* says: true or false, yes or no, on or off, 1 or 0."""
    if text.lower() not in _WORDS:
        raise InputError(f"found {text!r}, expected true or false")
    return _WORDS[text.lower()]


def parse_capsule(text: str) -> str:
    """Return *text* as the reference of a capsule or bootstrap."""
    return str(parse_reference(text))


def parse_ipv4(text: str) -> str:
    """Return *text* as an IPv4 address."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise InputError(f"found {text!r:.80}, expected an IPv4 address") from error


def parse_ip(text: str) -> str:
    """Return *text* as an IP address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InputError(f"found {text!r:.80}, expected an IP address") from error


def parse_ip_interface(text: str) -> str:
    """Return *text* as an IP address with the prefix length of its network."""
    try:
        if "/" in text:
            return str(ipaddress.ip_interface(text))
    except ValueError:
        pass
    raise InputError(
        f"found {text!r:.80}, expected an address with its prefix length, as 10.1.0.7/16"
    )


def parse_ascii(text: str) -> str:
    """Return *text* when it is printable ASCII."""
    if not text.isprintable() or not text.isascii():
        raise InputError(f"found {text!r:.80}, expected printable ASCII")
    return text


def parse_line(text: str) -> str:
    """Return *text* when it is printable."""
    if not text.isprintable():
        raise InputError(f"found {text!r:.80}, expected one printable line")
    return text


def parse_password_hash(text: str) -> str:
    """Return *text* when it is the hash of a password, or ``*``."""
    if text != "*" and not _PASSWORD_HASH.match(text):
        # What was typed may be the password itself: it is not shown.
        raise InputError(
            "found something else, expected a password hash as crypt(5) has it, or '*' for none",
            hint="openssl passwd -6 asks for the password and prints its hash",
        )
    return text


def parse_hwaddr(text: str) -> str:
    """Return *text* as a hardware address is written here: lower case, colons.

    Raises:
        InputError: it is none.
    """
    hwaddr = text.strip().lower().replace("-", ":")
    if not _HWADDR.match(hwaddr):
        raise InputError(f"found {text!r:.80}, expected a hardware address as 52:54:00:12:34:56")
    return hwaddr


def parse_path(text: str) -> str:
    """Return *text* as an absolute path without blanks."""
    if not re.fullmatch(r"(?:/[!-.0-~]+)+|/", text) or "/../" in f"{text}/":
        raise InputError(f"found {text!r:.80}, expected an absolute path")
    return text


def parse_public_key(text: str) -> str:
    """Return *text* as one line of authorized_keys: type, key, comment; no options."""
    if not _PUBLIC_KEY.match(text):
        raise InputError(
            f"found {text!r:.80}, expected an ssh public key",
            hint="the one line of ~/.ssh/id_ed25519.pub, whole",
        )
    return text


def matching(pattern: str | re.Pattern[str], expected: str) -> Callable[[str], str]:
    """Return a parser of what *pattern* matches as a whole; *expected* says what that is."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise InputError(f"found {text!r:.80}, expected {expected}")
        return text

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser of one of *words*."""

    def parse(text: str) -> str:
        if text not in words:
            raise InputError(f"found {text!r:.80}, expected {' or '.join(words)}")
        return text

    return parse


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of the whole numbers from *least* to *most*."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and least <= int(text) <= most:
            return int(text)
        raise InputError(f"found {text!r:.80}, expected {least} to {most}")

    return parse


parse_web_address = matching(
    r"https?://(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?",
    "an address as http://mirror.example.org/blobs",
)
parse_device = matching(DEVICE, "the name of a network device")
parse_host = matching(
    r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::\d{1,5})?", "a host name or an address"
)
parse_overlay_name = matching(r"-?[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "the name of an overlay")
parse_user = matching(r"[a-z_][a-z0-9_-]{0,30}", "the name of a user or a group")
parse_tmpfs_size = matching(
    r"(?:100|[1-9]\d?)%|[1-9]\d{0,11}[kmg]", "a share of the memory or a size, as 50% or 2g"
)
parse_mount_source = matching(r"[!-~]+", "what is mounted, as nfs1:/export/home")
parse_time_zone = matching(
    r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+){0,2}", "a time zone as Europe/Berlin"
)
parse_bond_mode = one_of(
    "balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb",
    "balance-alb",
)  # fmt: skip
