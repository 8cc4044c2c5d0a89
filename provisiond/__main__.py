"""``python -m provisiond``, and the program ``provisiond``."""

from __future__ import annotations

import sys

from provisiond.cli import daemon, run


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(daemon))


if __name__ == "__main__":
    main()
