"""The errors that are told to people, and the exit statuses they become.

A message reads *where: what was found, what was expected*; a hint is the next thing to type.
Anything that is not a :class:`VnfsbuildError` is a bug, and is reported as one.
"""

from __future__ import annotations

from typing import Optional

MAX_LINE_CHARACTERS = 800
"""What a line that quotes what somebody sent is cut to."""


class VnfsbuildError(Exception):
    """Something failed in a way that a person can act on; exit status 1."""

    exit_status = 1

    def __init__(self, message: str, *, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InputError(VnfsbuildError):
    """What was given cannot be used as it is: a recipe, an option, a file; exit status 2."""

    exit_status = 2


class VerificationError(VnfsbuildError):
    """Bytes that no trusted authority vouches for, or that are not what was signed; status 3.

    The message quotes what somebody sent, so it is made one printable line of bounded length.
    """

    exit_status = 3

    def __init__(self, message: str, *, hint: Optional[str] = None) -> None:
        super().__init__(quote_untrusted(message), hint=hint)


def quote_untrusted(text: str) -> str:
    """Return *text* as one line that drives no terminal: the middle of a long one is left out."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    if len(shown) <= MAX_LINE_CHARACTERS:
        return shown
    half = MAX_LINE_CHARACTERS // 2
    return f"{shown[:half]} … {shown[-half:]}"


def render_error(error: VnfsbuildError) -> str:
    """Return *error* as it is shown: one line, and one more for the hint."""
    text = f"error: {error.message}"
    return f"{text}\nhint: {error.hint}" if error.hint else text
