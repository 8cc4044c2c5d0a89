"""Where a plan says that blobs are, as sources in the order of this node."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from provisiond.agent.fetch import Patience, Source
from provisiond.agent.nfs import NfsSource
from provisiond.agent.order import order_blobs, spread
from provisiond.agent.sources import HttpSource
from provisiond.protocol import Plan


@contextmanager
def open_sources(plan: Plan, *, run: Path, patience: Patience) -> Iterator[Sequence[Source]]:
    """Yield the servers of *plan*; connections and mounts (below *run*) are gone at the end."""
    sources: Sequence[Source]
    if plan.transfer == "nfs":
        exports = spread(plan.nfs, plan.node_id)
        sources = [
            NfsSource(export, run / "nfs" / str(number), stall_seconds=patience.stall_seconds)
            for number, export in enumerate(exports)
        ]
    else:
        bases = order_blobs(plan.blobs, plan.near, plan.node_id)
        sources = [HttpSource(base, stall_seconds=patience.stall_seconds) for base in bases]
    try:
        yield sources
    finally:
        for source in sources:
            source.close()
