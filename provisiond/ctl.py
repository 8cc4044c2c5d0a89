"""The program ``provisionctl``."""

from __future__ import annotations

import sys

from provisiond.cli import control, run


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(control))


if __name__ == "__main__":
    main()
