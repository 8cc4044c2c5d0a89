"""``python -m vnfsbuild``, and the program ``vnfsbuild``."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from vnfsbuild.cli import run

TERMINATED = 143
"""128 and the number of SIGTERM, as a shell tells it."""


def main() -> None:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run())


def _terminate(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C: what is half-done is removed on the way out."""
    sys.exit(TERMINATED)


if __name__ == "__main__":
    main()
