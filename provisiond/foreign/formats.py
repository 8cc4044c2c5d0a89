"""Which format a file has, and the reader of each."""

from __future__ import annotations

import re

from provisiond.foreign.dhcpd import parse_dhcpd
from provisiond.foreign.draft import Foreign
from provisiond.foreign.table import parse_table
from provisiond.foreign.warewulf import parse_nodes_conf

READERS = {"csv": parse_table, "dhcpd": parse_dhcpd, "nodes.conf": parse_nodes_conf}

_YAML = re.compile(r"^(?:nodeprofiles|nodes)[ \t]*:", re.MULTILINE)
_DHCPD = re.compile(r"\bhardware\s+(?:ethernet|infiniband)\b|\bhost\s+\S+\s*\{", re.IGNORECASE)


def detect_format(text: str) -> str:
    """Return the format that *text* seems to have."""
    if _YAML.search(text):
        return "nodes.conf"
    return "dhcpd" if _DHCPD.search(text) else "csv"


def parse_foreign(text: str, *, where: str, file_format: str | None) -> Foreign:
    """Return the nodes that *text* names; without a format it is looked for.

    Raises:
        InputError: with every fault, each with its line.
    """
    return READERS[file_format or detect_format(text)](text, where=where)
