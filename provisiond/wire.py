"""Typed reads from JSON that somebody sent. Standard library and vnfsbuild's floor 0 only."""

from __future__ import annotations

import re
from typing import Any, Optional, Tuple

from vnfsbuild.digest import Digest, parse_digest
from vnfsbuild.errors import InputError

MAX_DETAIL_CHARACTERS = 2000


def clean(text: str, *, limit: int = 200) -> str:
    """Return *text* as it may be shown: no control characters, at most *limit* long."""
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


class Fields:
    """Typed reads from a JSON object, with errors that say where."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{where}: found {type(value).__name__}, expected an object")
        self._value = value
        self._where = where

    def get(self, key: str) -> Any:
        return self._value.get(key)

    def text(self, key: str, *, pattern: Optional["re.Pattern[str]"] = None) -> Optional[str]:
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or (pattern and not pattern.match(value)):
            raise InputError(f"{self._where}: {key}: found {value!r:.80}, expected another form")
        return value

    def required(self, key: str, *, pattern: Optional["re.Pattern[str]"] = None) -> str:
        value = self.text(key, pattern=pattern)
        if value is None:
            raise InputError(f"{self._where}: {key}: missing")
        return value

    def choice(self, key: str, choices: Tuple[str, ...], *, default: Optional[str] = None) -> str:
        value = self.required(key) if default is None else self.text(key) or default
        if value not in choices:
            raise InputError(
                f"{self._where}: {key}: found {value!r:.80}, expected {', '.join(choices)}"
            )
        return value

    def integer(self, key: str, *, least: int, most: int, default: Optional[int] = None) -> int:
        value = self._value.get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise InputError(
                f"{self._where}: {key}: found {value!r:.80}, expected {least} to {most}"
            )
        return value

    def flag(self, key: str) -> bool:
        value = self._value.get(key, False)
        if type(value) is not bool:
            raise InputError(f"{self._where}: {key}: found {value!r:.80}, expected true or false")
        return value

    def optional_integer(self, key: str, *, least: int, most: int) -> Optional[int]:
        if self._value.get(key) is None:
            return None
        return self.integer(key, least=least, most=most)

    def texts(
        self,
        key: str,
        *,
        pattern: Optional["re.Pattern[str]"] = None,
        least: int = 0,
        most: int = 256,
    ) -> Tuple[str, ...]:
        value = self._value.get(key, [])
        good = isinstance(value, list) and least <= len(value) <= most
        if not good or not all(
            isinstance(item, str) and (pattern is None or pattern.match(item)) for item in value
        ):
            raise InputError(f"{self._where}: {key}: found {value!r:.80}, expected a list of texts")
        return tuple(value)

    def digest(self, key: str) -> Optional[Digest]:
        value = self.text(key)
        return None if value is None else parse_digest(value, where=f"{self._where}: {key}")
