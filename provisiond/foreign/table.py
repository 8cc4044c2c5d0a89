"""Nodes in a table: CSV with a header, parted by commas, semicolons or tabs."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from provisiond.foreign.draft import Draft, Foreign, ForeignNode
from provisiond.nodes.attributes import NODE, find_attribute, known_keys, nearest
from vnfsbuild.errors import InputError

COLUMNS = {
    "name": ("name", "node", "hostname", "host", "nodename"),
    "hwaddr": ("hwaddr", "mac", "mac_address", "macaddr", "hardware_address", "hwaddress"),
    "groups": ("groups", "group"),
    "address": ("address", "ip", "ipaddr", "ip_address", "ipv4"),
    "bmc_address": ("bmc_address", "bmc", "ipmi", "ipmi_address", "bmc_ip"),
    "vnfs": ("vnfs", "capsule", "image"),
}
"""What a column is → how it may be called; others are called as the attribute."""
DELIMITERS = ",;\t"

_ALIASES = {alias: column for column, aliases in COLUMNS.items() for alias in aliases}


def parse_table(text: str, *, where: str) -> Foreign:
    """Return the nodes of a table; its first row names the columns, ``#`` begins a comment.

    Raises:
        InputError: with every fault, each with its line.
    """
    draft = Draft(where)
    rows = _rows(text)
    first, header = next(rows, (1, []))
    columns = [_column(draft, first, name) for name in header]
    for column in sorted({item for item in columns if item}):
        if columns.count(column) > 1:
            draft.fault(first, f"column {column}: stands there twice")
    if "hwaddr" not in columns:
        draft.fault(first, f"found the columns {', '.join(header) or 'none'}, expected one that is "
                           f"called {' or '.join(COLUMNS['hwaddr'][:3])}")  # fmt: skip
        return draft.finish()
    for line, row in rows:
        _read_row(draft, line, columns, row)
    return draft.finish()


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of the rows that are not empty and no comments."""
    lines = ["" if line.startswith("#") else line for line in text.splitlines()]
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield reader.line_num, cells


def _column(draft: Draft, line: int, name: str) -> str | None:
    """Return what the column *name* is: ``name``, ``hwaddr``, ``groups``, or an attribute."""
    alias = _ALIASES.get(name.strip().lower().replace(" ", "_").replace("-", "_"))
    if alias is not None:
        return alias
    try:
        find_attribute(name)
        return name
    except InputError:
        near = nearest(name, [*_ALIASES, *known_keys()])
        draft.fault(line, f"column {name!r:.80}: not known{near}")
        return None


def _read_row(draft: Draft, line: int, columns: list[str | None], row: list[str]) -> None:
    if len(row) > len(columns):
        draft.fault(line, f"found {len(row)} cells, expected {len(columns)} at most")
        return
    cells = {column: cell for column, cell in zip(columns, row, strict=False) if column and cell}
    if "hwaddr" not in cells:
        draft.fault(line, "found no hardware address")
        return
    hwaddr = draft.hwaddr(line, cells.pop("hwaddr"))
    name = draft.name(line, cells.pop("name")) if "name" in cells else None
    groups = tuple(dict.fromkeys(cells.pop("groups", "").replace(";", " ").split()))
    for group in groups:
        draft.group(line, group, {})
    attributes = {key: draft.value(line, key, cell, scope=NODE) for key, cell in cells.items()}
    if hwaddr is not None:
        draft.node(
            ForeignNode(
                line=line,
                name=name,
                hwaddrs=(hwaddr,),
                attributes={key: item for key, item in attributes.items() if item is not None},
                groups=groups,
            )
        )
