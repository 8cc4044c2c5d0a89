"""Nodes in a ``dhcpd.conf`` of ISC: its ``host`` blocks, wherever they stand."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from provisiond.foreign.draft import Draft, Foreign, ForeignNode
from provisiond.nodes.attributes import NODE

_TOKEN = re.compile(r'#[^\n]*|"(?:\\.|[^"\\])*"|[{};,]|[^\s{};,#"]+|\s+|"')


@dataclass(kw_only=True, slots=True)
class _Block:
    line: int
    words: list[str]
    statements: list[tuple[int, list[str]]] = field(default_factory=list)
    groups: tuple[str, ...] = ()
    """The named groups around it, the innermost first."""


def parse_dhcpd(text: str, *, where: str) -> Foreign:
    """Return the nodes that the ``host`` blocks of *text* declare.

    ``hardware ethernet`` is the hardware address, ``option host-name`` or the block's own name the
    name, ``fixed-address`` the address, the named groups around it the groups.

    Raises:
        InputError: with every fault, each with its line.
    """
    draft = Draft(where)
    for block in _blocks(draft, text):
        if block.words[:1] == ["host"]:
            _read_host(draft, block)
    return draft.finish()


def _blocks(draft: Draft, text: str) -> Iterator[_Block]:
    """Yield every block once it is closed, with the statements that stand in it itself."""
    open_blocks: list[_Block] = []
    words: list[str] = []
    line = began = 1
    for token in _TOKEN.findall(text):
        if token == "{":
            around = tuple(
                block.words[1]
                for block in reversed(open_blocks)
                if block.words[:1] == ["group"] and len(block.words) > 1
            )
            open_blocks.append(_Block(line=began, words=words, groups=around))
            words = []
        elif token == "}":
            if not open_blocks:
                draft.fault(line, "found '}', and no block is open")
                return
            yield open_blocks.pop()
            words = []
        elif token == ";":
            _end_statement(draft, open_blocks, began, words)
            words = []
        elif token == '"':
            draft.fault(line, "found a text that does not end")
            return
        elif not token.isspace() and token[0] != "#" and token != ",":
            if not words:
                began = line
            words.append(token[1:-1] if token[0] == '"' else token)
        line += token.count("\n")
    for block in open_blocks:
        draft.fault(block.line, f"{' '.join(block.words)}: found no '}}' that ends it")


def _end_statement(draft: Draft, open_blocks: list[_Block], line: int, words: list[str]) -> None:
    if words[:1] == ["include"]:
        draft.note(line, f"include {' '.join(words[1:])}: not followed; import that file too")
    elif open_blocks and words:
        open_blocks[-1].statements.append((line, words))


def _read_host(draft: Draft, block: _Block) -> None:
    hwaddr = None
    attributes = {}
    name = block.words[1] if len(block.words) > 1 else ""
    line = block.line
    for at, words in block.statements:
        if words[0] == "hardware" and len(words) > 2:
            hwaddr = draft.hwaddr(at, words[2])
            if hwaddr is None:
                return
        elif words[:2] == ["option", "host-name"] and len(words) > 2:
            name, line = words[2], at
        elif words[0] == "fixed-address":
            address = _fixed_address(draft, at, words[1:])
            if address is not None:
                attributes["address"] = draft.value(at, "address", address, scope=NODE)
        elif words[:2] == ["deny", "booting"]:
            attributes["enabled"] = False
    if hwaddr is None:
        draft.note(block.line, f"host {name}: has no hardware address, left out")
        return
    for group in block.groups:
        draft.group(block.line, group, {})
    draft.node(
        ForeignNode(
            line=block.line,
            name=draft.name(line, name),
            hwaddrs=(hwaddr,),
            attributes={key: value for key, value in attributes.items() if value is not None},
            groups=block.groups,
        )
    )


def _fixed_address(draft: Draft, line: int, words: list[str]) -> str | None:
    """Return the first of the fixed addresses; names among them are not looked up."""
    found = []
    for word in words:
        try:
            found.append(str(ipaddress.IPv4Address(word)))
        except ValueError:
            draft.note(line, f"fixed-address {word}: not an IPv4 address, left out")
    for other in found[1:]:
        draft.note(line, f"fixed-address {other}: a second address, left out")
    return found[0] if found else None
