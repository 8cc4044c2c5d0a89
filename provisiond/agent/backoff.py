"""How long to wait before trying again: longer each time, and never all nodes at once."""

from __future__ import annotations

import random
from typing import Iterator


def delays(
    *, least_seconds: float, most_seconds: float, random_source: random.Random
) -> Iterator[float]:
    """Yield delays that double from *least_seconds* to *most_seconds*, each cut by up to half."""
    step = least_seconds
    while True:
        yield step * random_source.uniform(0.5, 1.0)
        step = min(step * 2, most_seconds)
