"""The values that provisiond.toml can have: from what TOML gives.

Each reader raises :class:`ValueError` with what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from provisiond.nodes.model import parse_pattern
from provisiond.nodes.values import parse_web_address
from vnfsbuild.errors import InputError

REGISTRATIONS = ("ask", "open", "closed")

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z")
_EXPORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):/[!-~]*\Z")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,200}[a-z0-9])?\Z")


def as_path(value: Any) -> Path:
    """Return *value* as an absolute path."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("expected an absolute path")
    return Path(value)


def as_optional_path(value: Any) -> Path | None:
    """Return *value* as an absolute path, or none."""
    return None if value == "" else as_path(value)


def as_text(value: Any) -> str:
    """Return *value* as printable text."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("expected text")
    return value


def as_database(value: Any) -> str:
    """Return *value* as where the database is, or nothing."""
    if value != "" and not (isinstance(value, str) and value.startswith("postgresql://")):
        raise ValueError("expected postgresql://USER@HOST/NAME, or nothing")
    return str(value)


def as_device(value: Any) -> str:
    """Return *value* as the name of a network device."""
    if not isinstance(value, str) or not _DEVICE.match(value):
        raise ValueError("expected the name of a network device")
    return value


def as_domain(value: Any) -> str:
    """Return *value* as a DNS domain, or nothing."""
    if not isinstance(value, str) or (value and not _LABEL.match(value)):
        raise ValueError("expected a DNS domain")
    return value


def as_interface(value: Any) -> IPv4Interface:
    """Return *value* as an address with its prefix length."""
    if not isinstance(value, str) or "/" not in value:
        raise ValueError("expected an address with its prefix length, as 10.87.0.1/24")
    try:
        return IPv4Interface(value)
    except ValueError:
        raise ValueError("expected an address with its prefix length, as 10.87.0.1/24") from None


def as_range(value: Any) -> tuple[IPv4Address, IPv4Address]:
    """Return *value* as two addresses, the lower first."""
    try:
        first, last = (IPv4Address(part.strip()) for part in value.split("-"))
    except (ValueError, AttributeError):
        raise ValueError("expected two addresses, as 10.87.0.100-10.87.0.199") from None
    if last < first:
        raise ValueError("expected the lower address first")
    return first, last


def as_optional_address(value: Any) -> IPv4Address | None:
    """Return *value* as an IPv4 address, or none."""
    if value == "":
        return None
    try:
        return IPv4Address(as_text(value))
    except ValueError:
        raise ValueError("expected an IPv4 address") from None


def as_addresses(value: Any) -> tuple[IPv4Address, ...]:
    """Return *value* as a list of IPv4 addresses."""
    if not isinstance(value, list):
        raise ValueError("expected a list of IPv4 addresses")
    try:
        return tuple(IPv4Address(as_text(item)) for item in value)
    except ValueError:
        raise ValueError("expected a list of IPv4 addresses") from None


def as_bool(value: Any) -> bool:
    """Return *value* as true or false."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def as_integer(least: int, most: int) -> Callable[[Any], int]:
    """Return a reader of the whole numbers from *least* to *most*."""

    def parse(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"expected {least} to {most}")
        return value

    return parse


def as_arguments(value: Any) -> tuple[str, ...]:
    """Return *value* as a list of words."""
    good = isinstance(value, list) and all(
        isinstance(item, str) and item.isascii() and item.isprintable() and item.split() == [item]
        for item in value
    )
    # iPXE expands ${…} in the text that these go into.
    if not good or any("${" in item for item in value):
        raise ValueError("expected a list of words without blanks")
    return tuple(value)


def as_web_addresses(*schemes: str) -> Callable[[Any], tuple[str, ...]]:
    """Return a reader of lists of URLs of these *schemes*."""

    def parse(value: Any) -> tuple[str, ...]:
        told = " or ".join(f"{scheme}://" for scheme in schemes)
        try:
            good = isinstance(value, list) and all(
                parse_web_address(item).partition(":")[0] in schemes for item in value
            )
        except (InputError, TypeError):
            good = False
        if not good:
            raise ValueError(f"expected a list of addresses that begin with {told}")
        return tuple(item.rstrip("/") for item in value)

    return parse


def as_exports(value: Any) -> tuple[str, ...]:
    """Return *value* as a list of NFS exports."""
    if not isinstance(value, list) or not all(
        isinstance(item, str) and _EXPORT.match(item) for item in value
    ):
        raise ValueError("expected a list of exports, as 10.87.0.1:/blobs")
    return tuple(value)


def as_registration(value: Any) -> str:
    """Return *value* as how new nodes are let in."""
    if value not in REGISTRATIONS:
        raise ValueError(f"expected {', '.join(REGISTRATIONS)}")
    return str(value)


def as_pattern(value: Any) -> str:
    """Return *value* as a pattern of names."""
    try:
        parse_pattern(as_text(value))
    except InputError:
        raise ValueError("expected letters and then '#' signs, as n####") from None
    return str(value)
