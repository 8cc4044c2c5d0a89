"""What agents ask for: HTTP ⇄ the service. docs/checkin-protocol.md has what is said.

Without aiohttp's application, its router and its middlewares, unlike the other ports: each of them
keeps a coroutine, or several, for every node that waits, and there are two paths.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from provisiond.api.bodies import read_ascii, read_object
from provisiond.api.failures import BUG, answer_bug, answer_error
from provisiond.protocol import MAX_CHECKIN_BYTES, parse_checkin, render_answer
from provisiond.refusals import Refused
from provisiond.service import Service
from vnfsbuild.digest import parse_digest
from vnfsbuild.errors import VnfsbuildError

logger = logging.getLogger(__name__)

AgentHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

CHECKIN = "/v1/checkin"
OVERLAY = "/v1/overlay/"
PRIVILEGED_PORTS = 1024


def make_agent_handler(service: Service) -> AgentHandler:
    """Return what answers the requests of agents, errors too."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.path.startswith(OVERLAY):
                return _overlay(service, request)
            if request.path != CHECKIN:
                raise web.HTTPNotFound
            _verify_method(request, "POST")
            peer = _verified_peer(request)
            # Not named here: it would be kept for as long as the answer waits.
            found = await service.checkin(
                parse_checkin(await read_object(request, limit_bytes=MAX_CHECKIN_BYTES)), peer=peer
            )
            return web.Response(body=render_answer(found), content_type="application/json")
        except (VnfsbuildError, web.HTTPException) as error:
            return answer_error(error)
        except Exception:
            logger.exception(BUG, request.method, request.path)
            return answer_bug()

    return answer


def _overlay(service: Service, request: web.BaseRequest) -> web.Response:
    _verify_method(request, "GET", "HEAD")
    peer = _verified_peer(request)
    data = service.overlay(
        node_id=request.headers.get("X-Node-Id", ""),
        boot_id=request.headers.get("X-Boot-Id", ""),
        node_key=read_ascii(request.headers.get("X-Node-Key")),
        digest=parse_digest(request.path.removeprefix(OVERLAY), where="overlay"),
        peer=peer,
    )
    return web.Response(body=data, content_type="application/x-tar")


def _verify_method(request: web.BaseRequest, *allowed: str) -> None:
    if request.method not in allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)


def _verified_peer(request: web.BaseRequest) -> str:
    """Return the address that a request comes from.

    Raises:
        Refused: from a port that any user of a node can use.
    """
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer:
        raise Refused("the connection has no peer any more")
    address, port = str(peer[0]), int(peer[1])
    if port >= PRIVILEGED_PORTS:
        raise Refused(f"found source port {port}, expected one below {PRIVILEGED_PORTS}")
    return address
