"""``agent.pyz LIFE``: ``bootstrap``, or in the capsule ``run``, which starts the others.

Loads next to nothing: of ``run``, all that is loaded stays in memory.
"""

from __future__ import annotations

import sys

LIVES = ("bootstrap", "checkin", "drivers", "halt", "run", "work")


def main() -> int:
    """Live one of the agent's lives; return the exit status."""
    words = sys.argv[1:]
    if words == ["run"]:
        from provisiond.agent.waiter import run

        run()
        return 0
    if len(words) != 1 or words[0] not in LIVES:
        sys.stderr.write(f"usage: agent.pyz {'|'.join(LIVES)}\n")
        return 2
    from provisiond.agent.lives import live

    return live(words[0])


if __name__ == "__main__":
    sys.exit(main())
