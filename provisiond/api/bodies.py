"""What requests bring, read with types and bounds: JSON bodies and queries."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from vnfsbuild.errors import InputError

BODY_SECONDS = 10
"""How long a client may take to send the body of a small request."""


async def read_object(
    request: web.BaseRequest, *, limit_bytes: int | None = None
) -> dict[str, Any]:
    """Return the object in the body, of which *request* keeps nothing.

    Without *limit_bytes* it may be as large as the application allows.

    Raises:
        HTTPRequestEntityTooLarge: it is larger.
        InputError: it is not JSON, not an object, or takes too long to come.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await _read(request, limit_bytes or request.client_max_size)
    except TimeoutError as error:
        if request.transport:
            request.transport.abort()
        raise InputError(f"body: not there after {BODY_SECONDS} seconds") from error
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"body: not JSON: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise InputError(f"body: found {type(value).__name__}, expected an object")
    return value


async def _read(request: web.BaseRequest, limit_bytes: int) -> bytes:
    data = bytearray()
    async for part in request.content.iter_any():
        data += part
        if len(data) > limit_bytes:
            raise web.HTTPRequestEntityTooLarge(limit_bytes, len(data))
    return bytes(data)


def read_text(value: Mapping[str, Any], key: str) -> str:
    """Return the text at *key*.

    Raises:
        InputError: there is none.
    """
    found = value.get(key)
    if not isinstance(found, str):
        raise InputError(f"{key}: found {found!r:.80}, expected text")
    return found


def read_texts(value: Mapping[str, Any], key: str) -> list[str]:
    """Return the list of texts at *key*.

    Raises:
        InputError: there is none.
    """
    found = value.get(key)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InputError(f"{key}: found {found!r:.80}, expected a list of texts")
    return found


def read_text_object(value: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return the object of texts at *key*; without one an empty one.

    Raises:
        InputError: it is something else.
    """
    found = value.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{key}: found {found!r:.80}, expected an object of texts")
    return {item: read_text(found, item) for item in found}


def read_flag(value: Mapping[str, Any], key: str) -> bool:
    """Return the truth value at *key*; without one false.

    Raises:
        InputError: it is something else.
    """
    found = value.get(key, False)
    if not isinstance(found, bool):
        raise InputError(f"{key}: found {found!r:.80}, expected true or false")
    return found


def read_number(request: web.Request, key: str, *, most: int) -> int:
    """Return the number *key* of the query; without one 0.

    Raises:
        InputError: it is none from 0 to *most*.
    """
    text = request.query.get(key, "0")
    with contextlib.suppress(ValueError):
        if 0 <= int(text) <= most:
            return int(text)
    raise InputError(f"{key}: found {text!r:.80}, expected 0 to {most}")


def read_ascii(text: str | None) -> str | None:
    """Return *text* when it is ASCII."""
    return text if text is not None and text.isascii() else None
