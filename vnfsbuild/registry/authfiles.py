"""Logins of registries, as docker and podman keep them: we never write any, nor print one.

Looked for in this order, the first file that has one for the repository or its host wins:
``REGISTRY_AUTH_FILE`` (then no other), ``$XDG_RUNTIME_DIR/containers/auth.json``,
``~/.config/containers/auth.json``, ``~/.docker/config.json`` (``DOCKER_CONFIG`` names another
directory). Credential helpers are asked as docker asks them.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import read_bounded
from vnfsbuild.tools import capture

MAX_FILE_BYTES = 1024 * 1024
TOKEN_USER = "<token>"
"""The user's name by which credential helpers say that the secret is an identity token."""
DOCKER_HUB = "docker.io"
DOCKER_HUB_KEYS = ("index.docker.io", "registry-1.docker.io")

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """Who we are for a registry. Not to be shown."""

    user: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)
    """to be exchanged for a token, instead of user and password"""
    source: str = ""
    """the file that it is from, for messages"""

    @property
    def basic(self) -> str:
        """Return the value of a header ``Authorization`` for it."""
        text = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(text).decode("ascii")


def find_login(
    host: str, repository: str, environment: Mapping[str, str] | None = None
) -> Login | None:
    """Return the login for *repository* of the registry *host*; None where there is none.

    Raises:
        InputError: a file of logins cannot be read.
        VnfsbuildError: a credential helper failed.
    """
    env = os.environ if environment is None else environment
    for path in auth_files(env):
        if path.exists():
            login = _login_of(path, host, repository, env)
            if login is not None:
                return login
    return None


def auth_files(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where logins may be, the file that counts first first."""
    if env.get("REGISTRY_AUTH_FILE"):
        return (Path(env["REGISTRY_AUTH_FILE"]),)
    home = Path(env.get("HOME") or "/")
    runtime = Path(env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    return (
        runtime / "containers/auth.json",
        # Where podman keeps them without XDG_RUNTIME_DIR.
        Path(f"/run/containers/{os.getuid()}/auth.json"),
        Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json",
        Path(env.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
    )


def _login_of(path: Path, host: str, repository: str, env: Mapping[str, str]) -> Login | None:
    document = _load(path)
    for key in _keys(host, repository):
        helper = _table(document, "credHelpers", path).get(key)
        if helper:
            return _ask(str(helper), key, path, env)
    auths = _table(document, "auths", path)
    normal = {_normal(key): value for key, value in auths.items()}
    for key in _keys(host, repository):
        entry = auths.get(key, normal.get(key))
        if isinstance(entry, dict) and (entry.get("auth") or entry.get("identitytoken")):
            return _parse_entry(entry, where=f"{path}: {key}", source=str(path))
    store = document.get("credsStore")
    if store:
        server = f"https://{DOCKER_HUB_KEYS[0]}/v1/" if host == DOCKER_HUB else host
        return _ask(str(store), server, path, env)
    return None


def _keys(host: str, repository: str) -> list[str]:
    """Return under which names a login may stand, the narrowest first (podman has narrow ones)."""
    parts = [host, *repository.split("/")]
    narrowing = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return [*narrowing, *(DOCKER_HUB_KEYS if host == DOCKER_HUB else ())]


def _normal(key: str) -> str:
    """Return the host that docker's long keys mean: ``https://HOST/v1/``."""
    if "://" not in key:
        return key
    return key.partition("://")[2].partition("/")[0]


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bounded(path, limit_bytes=MAX_FILE_BYTES) or b"{}")
    except ValueError as error:
        raise InputError(f"{path}: not JSON, expected logins of docker or podman") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected logins of docker or podman")
    return value


def _table(document: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {key}: expected a table")
    return value


def _parse_entry(entry: dict[str, Any], *, where: str, source: str) -> Login:
    try:
        text = base64.b64decode(str(entry.get("auth") or ""), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        # Not chained: the error holds what it could not decode.
        del error
        raise InputError(f"{where}: auth is not base64 of USER:PASSWORD") from None
    user, _, password = text.partition(":")
    token = entry.get("identitytoken")
    return Login(
        user=user,
        password=password.rstrip("\0"),
        identity_token=str(token) if token else None,
        source=source,
    )


def _ask(helper: str, server: str, path: Path, env: Mapping[str, str]) -> Login | None:
    """Ask the program ``docker-credential-HELPER``, in the environment of who called us."""
    if not _HELPER.match(helper):
        raise InputError(f"{path}: found credential helper {helper!r}, expected a program's name")
    program = f"docker-credential-{helper}"
    said = capture([program, "get"], env=env, stdin=server.encode(), statuses=(0, 1))
    try:
        answer = json.loads(said)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        told = said.decode("utf-8", "replace").strip()
        if "not found" in told:
            return None
        raise VnfsbuildError(
            f"{program}: gave no login for {server}", hint=f"podman login {server}; or docker login"
        ) from None
    token = secret if user == TOKEN_USER else None
    return Login(user=user, password=secret, identity_token=token, source=program)
