"""How many nodes of a rollout go over at a time. Pure."""

from __future__ import annotations

import re

from vnfsbuild.errors import InputError

_PERCENT = re.compile(r"([0-9]{1,3})%\Z")
_COUNT = re.compile(r"[0-9]{1,7}\Z")


def parse_batch(text: str) -> str:
    """Return *text* as the size of batches: ``10%`` of the nodes, or ``5`` of them.

    Raises:
        InputError: it is none.
    """
    percent, count = _PERCENT.match(text), _COUNT.match(text)
    good = 1 <= int(percent[1]) <= 100 if percent else bool(count) and int(text) >= 1
    if not good:
        raise InputError(
            f"batch: found {text!r:.40}, expected a share as 10%, or a number of nodes"
        )
    return text


def batch_size(text: str, total: int) -> int:
    """Return how many of *total* nodes are in a batch: at most the share, and at least one."""
    percent = _PERCENT.match(text)
    return max(1, total * int(percent[1]) // 100) if percent else int(text)
