"""Who we are for a registry: what its challenge asks for, from the logins that there are.

Logins come from docker's and podman's files (:mod:`.authfiles`), and only once the registry
asks. A password is sent to the registry, and to the server of tokens that it names: never without
TLS when the registry has it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.registry.authfiles import Login, find_login
from vnfsbuild.registry.challenge import Challenge, parse_challenges

logger = logging.getLogger(__name__)

TOKEN_SECONDS = 60
"""How long a token holds that does not say so."""
EARLY_SECONDS = 10
"""A token is renewed so long before its end."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Elsewhere(Protocol):
    """Sends requests to the server of tokens."""

    def send_elsewhere(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> bytes:
        """Return what it answers."""


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    until: float


class Credentials:
    """What is shown to the registry *host* when it asks; safe to be used by several threads."""

    def __init__(
        self,
        *,
        host: str,
        repository: str = "",
        plain_http: bool = False,
        find: Callable[[str, str], Login | None] = find_login,
    ) -> None:
        self._host = host
        self._repository = repository
        self._plain_http = plain_http
        self._find = find
        self._challenge: Challenge | None = None
        self._login: Login | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._lock = threading.Lock()

    def shown(self) -> str:
        """Return whose login it is, for messages: never the secret."""
        if self._login is None:
            return "no login"
        return f"that of {self._login.user or 'a token'} in {self._login.source}"

    def authorization(self, http: Elsewhere, scopes: tuple[str, ...]) -> str | None:
        """Return the value of ``Authorization``; None as long as the registry did not ask.

        Raises:
            VnfsbuildError: the server of tokens gives none.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if not self._challenge.bearer:
                return self._login.basic if self._login else None
            wanted = tuple(sorted({*scopes, *self._challenge.scopes}))
            held = self._tokens.get(wanted)
            if held is None or held.until <= time.monotonic():
                held = self._tokens[wanted] = self._fetch_token(http, wanted)
            return f"Bearer {held.value}"

    def take_challenge(self, header: str, scopes: tuple[str, ...], refused: str | None) -> bool:
        """Take what a registry said to a request; tell whether it makes sense to try again.

        *refused* is what was shown to it.
        """
        challenge = parse_challenges(header)
        if challenge is None:
            return False
        with self._lock:
            first = self._challenge is None
            if first:
                self._login = self._find(self._host, self._repository)
                self._warn()
            if challenge.bearer:
                shown = (refused or "").removeprefix("Bearer ")
                self._tokens = {
                    key: token for key, token in self._tokens.items() if token.value != shown
                }
            self._challenge = challenge
            # The same login would be refused again; another token may do.
            return challenge.bearer or (refused is None and self._login is not None)

    def _warn(self) -> None:
        name = self._host.rpartition(":")[0] or self._host
        if self._login and self._plain_http and name not in LOOPBACK:
            logger.warning("warning: %s: the login goes over the network in clear", self._host)

    def _fetch_token(self, http: Elsewhere, scopes: tuple[str, ...]) -> _Token:
        assert self._challenge is not None
        realm = self._challenge.realm
        allowed = ("https://", "http://") if self._plain_http else ("https://",)
        if not realm.startswith(allowed):
            raise VnfsbuildError(
                f"{self._host}: its server of tokens is {realm!r}, expected https://…"
            )
        asked = {"service": self._challenge.service} if self._challenge.service else {}
        if self._login and self._login.identity_token:
            form = {**asked, "scope": " ".join(scopes), "client_id": "vnfsbuild",
                    "grant_type": "refresh_token",
                    "refresh_token": self._login.identity_token}  # fmt: skip
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            body = urllib.parse.urlencode(form).encode()
            data = http.send_elsewhere("POST", realm, headers=headers, body=body)
        else:
            query = urllib.parse.urlencode([*asked.items(), *(("scope", item) for item in scopes)])
            headers = {"Authorization": self._login.basic} if self._login else {}
            url = f"{realm}{'&' if '?' in realm else '?'}{query}"
            data = http.send_elsewhere("GET", url, headers=headers, body=None)
        return _parse_token(data, where=realm)


def _parse_token(data: bytes, *, where: str) -> _Token:
    try:
        answer = json.loads(data)
        value = answer.get("token") or answer["access_token"]
        seconds = answer.get("expires_in") or TOKEN_SECONDS
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError("not a token")
        until = time.monotonic() + max(float(seconds) - EARLY_SECONDS, 1.0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise VnfsbuildError(f"{where}: found no token in the answer") from None
    return _Token(value, until)
