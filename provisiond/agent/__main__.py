"""``agent.pyz bootstrap`` and ``agent.pyz run``."""

from __future__ import annotations

import sys
from typing import List, Optional

from provisiond.agent.console import Tell, describe, tell_consoles, tell_journal
from vnfsbuild.errors import VnfsbuildError


def main(argv: Optional[List[str]] = None) -> int:
    """Live one of the agent's lives; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    tell: Tell = tell_journal
    # Imported when wanted: neither life needs the other's code in memory.
    try:
        if words == ["bootstrap"]:
            tell = tell_consoles
            from provisiond.agent.bootstrap import bootstrap

            bootstrap()
            return 0
        if words == ["run"]:
            from provisiond.agent.running import run

            run()
            return 0
    except VnfsbuildError as error:
        tell(describe(error, error.hint))
        return error.exit_status
    sys.stderr.write("usage: agent.pyz bootstrap|run\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
