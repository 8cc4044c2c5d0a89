"""Typed reads of parsed TOML that collect every fault, each with its key path.

Readers return a harmless value for a faulty key and go on, so that people see all that is wrong
with a document at once; :meth:`Faults.verify` raises when something was.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from vnfsbuild.errors import InputError

NOT_YET = "not yet supported by this version of vnfsbuild"


class Faults:
    """What is wrong with the document *where*."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, key: str, fault: str) -> None:
        """Note that the value at *key* has a *fault*."""
        self.found.append(f"{self.where}: {key}: {fault}" if key else f"{self.where}: {fault}")

    def verify(self, *, hint: str | None = None) -> None:
        """Raise when there was a fault.

        Raises:
            InputError: with all faults, a line each.
        """
        if self.found:
            raise InputError("\n".join(self.found), hint=hint)


class Table:
    """A table of the document; each reader marks its key as known, :meth:`close` faults others."""

    def __init__(self, values: Mapping[str, Any], *, faults: Faults, path: str = "") -> None:
        self._values = values
        self._faults = faults
        self._path = path
        self._known: list[str] = []

    def fault(self, key: str, fault: str) -> None:
        """Note a *fault* of the value at *key*."""
        self._faults.add(self._at(key), fault)

    def has(self, key: str) -> bool:
        """Tell whether there is a value at *key*, whatever it is."""
        return self._get(key) is not None

    def text(
        self,
        key: str,
        default: str | None = None,
        *,
        choices: Sequence[str] = (),
        later: Sequence[str] = (),
    ) -> str:
        """Return the text at *key*; without a *default* it must be there.

        With *choices* it must be one of them; one of *later* is told to be not yet supported.
        """
        value = self._get(key, required=default is None)
        if value is None:
            return default or ""
        if not isinstance(value, str) or (not value and default != ""):
            self._expected(key, value, "text")
            return default or ""
        if value in later:
            self.fault(key, f"{value!r} is {NOT_YET}")
        elif choices and value not in choices:
            near = difflib.get_close_matches(value, choices, 1)
            meant = f"; {near[0]!r} is near" if near else ""
            self._expected(key, value, f"{_one_of(choices)}{meant}")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return the text at *key*, None when there is none."""
        return self.text(key, "") or None

    def matching(self, key: str, pattern: re.Pattern[str], expected: str, default: str = "") -> str:
        """Return the text at *key*, which must match *pattern* whole, as *expected* says."""
        value = self.text(key, default or None)
        if value and value != default and not pattern.fullmatch(value):
            self._expected(key, value, expected)
        return value

    def texts(
        self, key: str, pattern: re.Pattern[str] | None = None, expected: str = "text"
    ) -> tuple[str, ...]:
        """Return the list of texts at *key*, empty when it is not there."""
        value = self._get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self._expected(key, value, "a list")
            return ()
        good = []
        for position, item in enumerate(value):
            fits = isinstance(item, str) and item and (not pattern or pattern.fullmatch(item))
            if fits:
                good.append(item)
            else:
                self._expected(f"{key}[{position}]", item, expected)
        return tuple(dict.fromkeys(good))

    def flag(self, key: str, default: bool) -> bool:
        """Return the true or false at *key*."""
        value = self._get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self._expected(key, value, "true or false")
        return default

    def number(self, key: str, default: int | None = None, *, least: int = 0, most: int) -> int:
        """Return the whole number at *key*, from *least* to *most*."""
        value = self._get(key, required=default is None)
        if value is None:
            return least if default is None else default
        if type(value) is not int or not least <= value <= most:
            self._expected(key, value, f"a whole number from {least} to {most}")
            return least if default is None else default
        return value

    def table(self, key: str, *, required: bool = False) -> Table:
        """Return the table at *key*, an empty one when it is not there."""
        value = self._get(key, required=required)
        if value is not None and not isinstance(value, dict):
            self._expected(key, value, f"a table: [{self._at(key)}]")
            value = None
        return Table(value or {}, faults=self._faults, path=self._at(key))

    def tables(self, key: str) -> list[Table]:
        """Return the tables of the array at *key*."""
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._expected(key, value, f"tables: [[{self._at(key)}]]")
            return []
        return [
            Table(item, faults=self._faults, path=f"{self._at(key)}[{position}]")
            for position, item in enumerate(value)
        ]

    def not_yet(self, *keys: str) -> None:
        """Fault each of *keys* that is there: part of the format, but not implemented so far."""
        for key in keys:
            if self._get(key) is not None:
                self.fault(key, NOT_YET)

    def close(self) -> None:
        """Fault every key that no reader asked for, and name the nearest known one."""
        for key in self._values:
            if key in self._known:
                continue
            near = difflib.get_close_matches(key, self._known, 1, cutoff=0.5)
            known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._known)}"
            self.fault(key, f"unknown key; {known}")

    def _get(self, key: str, *, required: bool = False) -> Any:
        if key not in self._known:
            self._known.append(key)
        if required and key not in self._values:
            self.fault(key, "missing")
        return self._values.get(key)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _expected(self, key: str, value: Any, expected: str) -> None:
        self.fault(key, f"found {value!r}, expected {expected}")


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Return the document that the TOML *text* holds.

    Raises:
        InputError: it is not TOML; the message has line and column.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not TOML: {error}") from error


def _one_of(choices: Sequence[str]) -> str:
    quoted = [repr(choice) for choice in choices]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
