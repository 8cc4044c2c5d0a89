"""In which order a node asks the servers that have the same: each node in one of its own. Pure."""

from __future__ import annotations

import hashlib
from typing import Sequence, Tuple


def spread(items: Sequence[str], node_id: str) -> Tuple[str, ...]:
    """Return *items*, each once, in the order of the node *node_id*.

    The same for the same node and items, whatever order these are listed in; over many nodes each
    order is as frequent as any other, so that one server which is gone burdens all others alike.
    Another server in the list moves only those nodes that it is the first for.
    """
    return tuple(sorted(dict.fromkeys(items), key=lambda item: (_rank(item, node_id), item)))


def order_blobs(blobs: Sequence[str], near: int, node_id: str) -> Tuple[str, ...]:
    """Return where *node_id* asks for blobs: the first *near* of *blobs*, then the others."""
    order = spread(blobs[:near], node_id) + spread(blobs[near:], node_id)
    return tuple(dict.fromkeys(order))


def _rank(item: str, node_id: str) -> bytes:
    return hashlib.sha256(f"{node_id}\0{item}".encode()).digest()
