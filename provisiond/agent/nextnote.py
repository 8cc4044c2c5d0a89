"""What a running node tells of the capsule that it is to go over to: ``/run/vnfs/next.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from provisiond.agent.notes import NEXT, read_note, write_note
from provisiond.planned import NextReport, next_report_value, parse_next_report
from vnfsbuild.errors import InputError


def load_note(run: Path) -> Optional[NextReport]:
    """Return how far this node is with it; none, when there is nothing to tell."""
    try:
        return parse_next_report(read_note(run / NEXT))
    except InputError:
        return None


def save_note(run: Path, report: NextReport) -> None:
    """Let each check-in tell *report* from now on."""
    write_note(run / NEXT, next_report_value(report))


def remove_note(run: Path) -> None:
    """Let check-ins tell nothing any more."""
    (run / NEXT).unlink(missing_ok=True)
