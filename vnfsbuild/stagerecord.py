"""What each stage of a recipe's last build was made of, and so why the next one makes it anew."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.files import write_atomic
from vnfsbuild.inputs import StageInputs, tell_changes

logger = logging.getLogger(__name__)

FOLDER = "builds"
REUSED, MADE, NEEDLESS = "reused", "made", "not needed"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageReport:
    """What became of a stage of a build."""

    stage: str
    recipe: str
    what: str
    """``reused``, ``made`` or ``not needed``: a later one was reused"""
    why: tuple[str, ...] = ()
    """it was made: what of its inputs was changed since the last build"""


def make_reports(
    inputs: Sequence[StageInputs], told: Mapping[str, str], before: Mapping[str, Any]
) -> tuple[StageReport, ...]:
    """Return what became of the stages *inputs*, and of the payloads that *told* has by name.

    *told*: key of a stage, or name of a payload → ``made`` or ``reused``; *before* is what
    :func:`load_record` returned before the build.
    """
    changed: dict[str, bool] = {}
    found = []
    for item in inputs:
        row = before.get(_name(item))
        changed[item.key] = row is not None and row["key"] != item.key
        what = told.get(item.key, NEEDLESS)
        why: list[str] = []
        if what == MADE:
            below = changed.get(item.below, False) if item.below else False
            why = _explain(item, row, below_changed=below)
        found.append(StageReport(stage=item.stage, recipe=item.recipe, what=what, why=tuple(why)))
    keys = {item.key for item in inputs}
    top = inputs[-1].recipe if inputs else ""
    for name, what in told.items():
        if name not in keys:
            found.append(StageReport(stage=name, recipe=top, what=what))
    return tuple(found)


def load_record(cache: Path, recipe: Path) -> dict[str, Any]:
    """Return what the last build of the recipe in the directory *recipe* was made of; or nothing.

    Stage → its key and the parts of its inputs.
    """
    try:
        found = json.loads(_path(cache, recipe).read_bytes())
        return {
            name: {"key": str(row["key"]), "parts": dict(row["parts"])}
            for name, row in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save_record(cache: Path, recipe: Path, inputs: Sequence[StageInputs]) -> None:
    """Note what the build of the recipe in the directory *recipe* was made of."""
    rows = {_name(item): {"key": item.key, "parts": dict(item.parts)} for item in inputs}
    path = _path(cache, recipe)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, render_json(rows))
    except OSError as error:
        logger.warning("cache: %s: %s", path, error.strerror)


def _explain(item: StageInputs, row: Mapping[str, Any] | None, *, below_changed: bool) -> list[str]:
    if row is None:
        return ["it was never built here"]
    told = tell_changes(item, row["parts"], below_changed=below_changed)
    return told or ["it was not in the cache any more"]


def _name(item: StageInputs) -> str:
    return f"{item.recipe} {item.stage}"


def _path(cache: Path, recipe: Path) -> Path:
    name = digest_of(str(recipe.resolve()).encode()).removeprefix("sha256:")[:16]
    return cache / FOLDER / f"{name}.json"
