"""Who waits for a change of a machine, and what wakes them.

Each of ten thousand nodes that wait has one of these objects: they are kept small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType


class Changed:
    """What one who waits is woken by: an event with a deadline.

    Not :class:`asyncio.Event` with a timeout around it, which takes a kilobyte more.
    """

    __slots__ = ("_end", "_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        self._end: asyncio.TimerHandle | None = None

    def is_set(self) -> bool:
        """Tell whether something changed since :meth:`clear`."""
        return self._is_set

    def clear(self) -> None:
        """Forget what was told."""
        self._is_set = False

    def set(self) -> None:
        """Tell that something changed."""
        self._is_set = True
        self._wake()

    def wait(self, seconds: float) -> Awaitable[None]:
        """Return what ends once something has changed, or after *seconds*. One at a time may wait.

        Not a coroutine, which would be there for as long as it waits.
        """
        if self._is_set or seconds <= 0:
            # Others have their turn, whatever the caller does in a loop.
            return asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._end = loop.call_later(seconds, self._wake)
        return self._waiter

    def forget(self) -> None:
        """Wake nobody any more."""
        if self._end is not None:
            self._end.cancel()
        self._end = self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self.forget()


class Watchers:
    """All who wait, by the hardware address that their machine was booted from."""

    def __init__(self) -> None:
        # Tuples, as there is mostly one: a set takes four times as much.
        self._changed: dict[str, tuple[Changed, ...]] = {}

    def __len__(self) -> int:
        return len(self._changed)

    def wake(self, hwaddr: str) -> None:
        """Tell those who watch the machine *hwaddr* that something changed."""
        for changed in self._changed.get(hwaddr, ()):
            changed.set()

    def wake_all(self) -> None:
        """Tell all who watch a machine that something changed."""
        for hwaddr in self._changed:
            self.wake(hwaddr)

    def watch(self, hwaddr: str) -> Watch:
        """Return what watches the machine that booted from *hwaddr*, while its block runs."""
        return Watch(self, hwaddr)

    def add(self, hwaddr: str, changed: Changed) -> None:
        """Wake *changed*, too, from now on."""
        self._changed[hwaddr] = (*self._changed.get(hwaddr, ()), changed)

    def discard(self, hwaddr: str, changed: Changed) -> None:
        """Wake *changed* no more."""
        left = tuple(item for item in self._changed.get(hwaddr, ()) if item is not changed)
        if left:
            self._changed[hwaddr] = left
        else:
            self._changed.pop(hwaddr, None)


class Watch(Changed):
    """Gives its block what is set by each change for one machine."""

    __slots__ = ("_hwaddr", "_watchers")

    def __init__(self, watchers: Watchers, hwaddr: str) -> None:
        super().__init__()
        self._watchers = watchers
        self._hwaddr = hwaddr

    def __enter__(self) -> Changed:
        self._watchers.add(self._hwaddr, self)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._watchers.discard(self._hwaddr, self)
        self.forget()
