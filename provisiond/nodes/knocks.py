"""How running nodes are told that there is something for them, without waiting for the minute.

A node that checks in says where it listens, and a word. A datagram with that word makes it check
in at once, and the word is used up: what is overheard is worth nothing. One that is lost costs no
more than the time until the next check-in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from provisiond.tasks import Knock

Send = Callable[[str, int, bytes], None]
"""Sends a datagram to an address and port."""

AT_ONCE = 50
PAUSE_SECONDS = 0.1
"""So many at once, with so long between: they come back by TLS, and all together would wait."""


class Knocks:
    """The words of nodes, in memory: after a restart each has told a new one within a minute."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._known: dict[str, tuple[str, Knock]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, node_id: str, peer: str, knock: Knock | None) -> None:
        """Keep how the node at the address *peer* can be told; None: it cannot."""
        if knock is None:
            self._known.pop(node_id, None)
        else:
            self._known[node_id] = (peer, knock)

    def knock(self, node_ids: Iterable[str]) -> None:
        """Tell these nodes, soon; returns at once."""
        task = asyncio.get_running_loop().create_task(self._knock(list(node_ids)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _knock(self, node_ids: list[str]) -> None:
        for count, node_id in enumerate(node_ids, start=1):
            known = self._known.pop(node_id, None)
            if known is not None:
                peer, knock = known
                self._send(peer, knock.port, knock.word.encode("ascii"))
            if count % AT_ONCE == 0:
                await asyncio.sleep(PAUSE_SECONDS)
