"""How errors are answered: as JSON, with a status that says whose fault it is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from provisiond.nodes.database import DatabaseError
from provisiond.refusals import NotThere, Refused, TooMany
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError

logger = logging.getLogger(__name__)

BUG = "%s %s: a bug, please report it"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUSES: tuple[tuple[type[VnfsbuildError], HTTPStatus], ...] = (
    (Refused, HTTPStatus.FORBIDDEN),
    (NotThere, HTTPStatus.NOT_FOUND),
    (TooMany, HTTPStatus.SERVICE_UNAVAILABLE),
    (DatabaseError, HTTPStatus.SERVICE_UNAVAILABLE),
    (InputError, HTTPStatus.BAD_REQUEST),
    (VerificationError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (VnfsbuildError, HTTPStatus.INTERNAL_SERVER_ERROR),
)
"""The first that an error is one of gives its status."""


@web.middleware
async def tell_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as JSON: what was found and what to do, or that it is a bug of ours."""
    try:
        return await handler(request)
    except (VnfsbuildError, web.HTTPException) as error:
        return answer_error(error)
    except Exception:
        logger.exception(BUG, request.method, request.path)
        return answer_bug()


def answer_error(error: VnfsbuildError | web.HTTPException) -> web.Response:
    """Return what was found and what to do."""
    if isinstance(error, web.HTTPException):
        return _answer(HTTPStatus(error.status), error.reason, exit_status=2)
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    return _answer(status, error.message, hint=error.hint, exit_status=error.exit_status)


def answer_bug() -> web.Response:
    """Return that it is a bug of ours; what it is, is in the log."""
    return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the node server has a bug; its log says")


def _answer(
    status: HTTPStatus, message: str, *, hint: str | None = None, exit_status: int = 1
) -> web.Response:
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    value = {"error": message, "hint": hint, "exitStatus": exit_status}
    return web.json_response(value, status=status, headers=headers)
