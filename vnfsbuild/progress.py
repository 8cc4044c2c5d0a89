"""How far long work is: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from vnfsbuild.listing import printable, render_size

LINE_SECONDS = 10.0
"""Where there is no terminal, a line is written this often."""


@contextlib.contextmanager
def bar(label: str, *, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how much of *total_bytes* is done; the block calls what it gets with each step."""
    label = printable(label)  # there may be the name of somebody else's file in it
    if sys.stderr.isatty():
        with _terminal_bar(label, total_bytes) as advance:
            yield advance
        return
    lines = _Lines(label, total_bytes)
    yield lines.advance
    lines.end()


@contextlib.contextmanager
def _terminal_bar(label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm  # only here: commands that end at once need not load it

    with tqdm(total=total_bytes, desc=label, unit="B", unit_scale=True, file=sys.stderr) as shown:

        def advance(count: int) -> None:
            shown.update(count)

        yield advance


class _Lines:
    def __init__(self, label: str, total_bytes: int) -> None:
        self._label = label
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._started = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        self._done_bytes += count
        now = time.monotonic()
        if now - self._told >= LINE_SECONDS:
            self._told = now
            percent = 100 * self._done_bytes // max(self._total_bytes, 1)
            _write(f"{self._label}: {percent} % of {render_size(self._total_bytes)}")

    def end(self) -> None:
        seconds = time.monotonic() - self._started
        _write(f"{self._label}: {render_size(self._done_bytes)} in {seconds:.1f} s")


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
