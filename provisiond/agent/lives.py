"""The lives of the agent that end by themselves: each loads what it needs, and no more."""

from __future__ import annotations

from provisiond.agent.console import Tell, describe, tell_consoles, tell_journal
from vnfsbuild.errors import VnfsbuildError


def live(life: str) -> int:
    """Live the life called *life*; return the exit status. What failed is told."""
    tell: Tell = tell_consoles if life == "bootstrap" else tell_journal
    try:
        _LIVES[life]()
    except VnfsbuildError as error:
        tell(describe(error, error.hint))
        return error.exit_status
    return 0


def _bootstrap() -> None:
    from provisiond.agent.bootstrap import bootstrap

    bootstrap()


def _checkin() -> None:
    from provisiond.agent.running import run_checkin

    run_checkin()


def _drivers() -> None:
    from provisiond.agent.drivers import tell_undriven

    tell_undriven()


def _halt() -> None:
    from provisiond.agent.running import run_halt

    run_halt()


def _work() -> None:
    from provisiond.agent.work import run_work

    run_work()


_LIVES = {
    "bootstrap": _bootstrap,
    "checkin": _checkin,
    "drivers": _drivers,
    "halt": _halt,
    "work": _work,
}
