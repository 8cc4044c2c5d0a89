"""What a registry wants to see before it answers: the header ``WWW-Authenticate``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SCHEME = re.compile(r"(?:^|,)\s*(basic|bearer)(?=\s|,|$)", re.IGNORECASE)
_PARAMETER = re.compile(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """How to show who we are: by a login, or by a token that *realm* hands out."""

    bearer: bool
    realm: str = ""
    service: str = ""
    scopes: tuple[str, ...] = ()
    error: str = ""


def parse_challenges(header: str) -> Challenge | None:
    """Return what the header asks for, the better of several; None when nothing that we know."""
    # Words inside quotes are no schemes.
    blanked = re.sub(
        r'"(?:[^"\\]|\\.)*"', lambda found: '"' + "x" * (len(found[0]) - 2) + '"', header
    )
    starts = [(found.start(1), found[1].lower()) for found in _SCHEME.finditer(blanked)]
    found = []
    for number, (start, scheme) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(header)
        values = {
            name.lower(): (quoted or plain).replace('\\"', '"')
            for name, quoted, plain in _PARAMETER.findall(header[start:end])
        }
        found.append(
            Challenge(
                bearer=scheme == "bearer",
                realm=values.get("realm", ""),
                service=values.get("service", ""),
                scopes=tuple(values.get("scope", "").split()),
                error=values.get("error", ""),
            )
        )
    return next((item for item in found if item.bearer), found[0] if found else None)
