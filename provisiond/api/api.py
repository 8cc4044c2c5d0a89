"""Routes: HTTP ⇄ the service and the administration. What is decided, is decided there.

Three applications: for agents (TLS), for firmware and blobs (plain), for administrators (Unix
socket). docs/checkin-protocol.md has what each takes and answers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from provisiond.administration.administration import Administration
from provisiond.api.bodies import read_ascii, read_number, read_object
from provisiond.api.capsules import CapsuleRoutes
from provisiond.api.nodes import NodeRoutes, SettingsRoutes, TransferRoutes
from provisiond.api.overlays import OverlayRoutes
from provisiond.catalogue import Catalogue
from provisiond.dnsmasq_config import BIOS_LOADER, EFI_LOADER
from provisiond.events.events import Wanted
from provisiond.nodes.database import DatabaseError
from provisiond.nodes.values import parse_hwaddr
from provisiond.protocol import MAX_CHECKIN_BYTES, parse_checkin, render_answer
from provisiond.refusals import UPLOADED, NotThere, Refused, TooMany
from provisiond.service import Service
from vnfsbuild.digest import READ_SIZE_BYTES, Digest, parse_digest
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_ADMIN_BYTES = 64 * 1024 * 1024
"""An export of 100 000 nodes fits."""
MAX_EVENT_WAIT_SECONDS = 60
PRIVILEGED_PORTS = 1024

_HEX = re.compile(r"[0-9a-f]{64}\Z")

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
    except VnfsbuildError as error:
        status = next(status for kind, status in _STATUSES if isinstance(error, kind))
        return _error(status, error.message, hint=error.hint, exit_status=error.exit_status)
    except web.HTTPException as error:
        return _error(HTTPStatus(error.status), error.reason, exit_status=2)
    except Exception:
        logger.exception("%s %s: a bug, please report it", request.method, request.path)
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "the node server has a bug; its log says")


def make_agent_app(service: Service) -> web.Application:
    """Return the application that agents talk to."""

    async def checkin(request: web.Request) -> web.Response:
        peer = _verified_peer(request)
        # Not named here: it would be kept for as long as the answer waits.
        answer = await service.checkin(parse_checkin(await read_object(request)), peer=peer)
        return web.Response(body=render_answer(answer), content_type="application/json")

    async def overlay(request: web.Request) -> web.Response:
        peer = _verified_peer(request)
        digest = parse_digest(request.match_info["digest"], where="overlay")
        data = service.overlay(
            node_id=request.headers.get("X-Node-Id", ""),
            boot_id=request.headers.get("X-Boot-Id", ""),
            node_key=read_ascii(request.headers.get("X-Node-Key")),
            digest=digest,
            peer=peer,
        )
        return web.Response(body=data, content_type="application/x-tar")

    app = web.Application(middlewares=[tell_errors], client_max_size=MAX_CHECKIN_BYTES)
    app.router.add_post("/v1/checkin", checkin)
    app.router.add_get("/v1/overlay/{digest}", overlay)
    return app


def make_boot_app(
    service: Service,
    catalogue: Catalogue,
    *,
    script: str,
    render_site: Callable[[], bytes],
    loaders: Path,
) -> web.Application:
    """Return the application that firmware talks to, and that has the signed blobs.

    *loaders* is the directory with iPXE, *script* what iPXE runs, *render_site* makes site.cpio.
    """

    def file(path: Path) -> web.StreamResponse:
        if not path.is_file():
            raise NotThere(f"{path.name}: no such file")
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    async def boot_script(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=script)

    async def bootstrap(request: web.Request) -> web.StreamResponse:
        files = await service.bootstrap_for(parse_hwaddr(request.query.get("mac", "")))
        return file(files.kernel if request.path.endswith("/kernel") else files.initrd)

    async def site(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=render_site())

    async def loader(request: web.Request) -> web.StreamResponse:
        return file(loaders / request.path.rpartition("/")[2])

    async def blob(request: web.Request) -> web.StreamResponse:
        text = request.match_info["hex"]
        if not _HEX.match(text):
            raise InputError(f"blob: found {text!r:.80}, expected 64 hexadecimal digits")
        return file(catalogue.blob_path(Digest(f"sha256:{text}")))

    app = web.Application(middlewares=[tell_errors], client_max_size=1024)
    app.router.add_get("/boot.ipxe", boot_script)
    app.router.add_get("/boot/kernel", bootstrap)
    app.router.add_get("/boot/initrd", bootstrap)
    app.router.add_get("/boot/site.cpio", site)
    app.router.add_get(f"/boot/{EFI_LOADER}", loader)
    app.router.add_get(f"/boot/{BIOS_LOADER}", loader)
    app.router.add_get("/blobs/sha256/{hex}", blob)
    return app


def make_admin_app(
    administration: Administration, *, is_allowed: Callable[[web.Request], bool], incoming: Path
) -> web.Application:
    """Return the application of administrators; uploads are kept in *incoming* for a while."""
    routes = _AdminRoutes(administration, incoming)

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_allowed(request):
            raise Refused(
                "this user may not administer nodes, expected root or a member of the group",
                hint="sudo provisionctl …, or provisiond.toml: group",
            )
        return await handler(request)

    app = web.Application(middlewares=[tell_errors, admit], client_max_size=MAX_ADMIN_BYTES)
    NodeRoutes(administration.nodes).add_to(app)
    SettingsRoutes(administration.settings).add_to(app)
    TransferRoutes(administration.transfer).add_to(app)
    CapsuleRoutes(administration.capsules).add_to(app)
    OverlayRoutes(administration.overlays).add_to(app)
    app.router.add_get("/v1/status", routes.status)
    app.router.add_get("/v1/capsules", routes.list_capsules)
    app.router.add_post("/v1/capsules", routes.import_capsule)
    app.router.add_get("/v1/events", routes.events)
    return app


class _AdminRoutes:
    def __init__(self, administration: Administration, incoming: Path) -> None:
        self._administration = administration
        self._incoming = incoming

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._administration.status())

    async def list_capsules(self, _request: web.Request) -> web.Response:
        return web.json_response(self._administration.list_capsules())

    async def import_capsule(self, request: web.Request) -> web.Response:
        promote = request.query.get("promote", "1") == "1"
        try:
            with tempfile.NamedTemporaryFile(dir=self._incoming, suffix=".vnfs") as file:
                async for chunk in request.content.iter_chunked(READ_SIZE_BYTES):
                    await asyncio.to_thread(file.write, chunk)
                file.flush()
                stored = await self._import(Path(file.name), promote=promote)
        except OSError as error:
            raise VnfsbuildError(
                f"{self._incoming}: {error.strerror}; nothing was imported",
                hint=f"df -h {self._incoming} shows how much space there is",
            ) from error
        return web.json_response(stored)

    async def _import(self, path: Path, *, promote: bool) -> dict[str, Any]:
        try:
            return await self._administration.import_file(path, promote=promote)
        except VnfsbuildError as error:
            # Whoever uploaded it knows it by another name.
            error.message = error.message.replace(str(path), UPLOADED)
            raise

    async def events(self, request: web.Request) -> web.Response:
        since = read_number(request, "since", most=2**53)
        after = read_number(request, "after", most=2**53)
        wait_seconds = read_number(request, "wait", most=MAX_EVENT_WAIT_SECONDS)
        wanted = Wanted(since=since, after=after, kinds=frozenset(request.query.getall("kind", [])))
        return web.json_response(
            await self._administration.events(
                wanted, request.query.getall("nodes", []), wait_seconds=wait_seconds
            )
        )


def _verified_peer(request: web.Request) -> str:
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


def _error(
    status: HTTPStatus, message: str, *, hint: str | None = None, exit_status: int = 1
) -> web.Response:
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    value = {"error": message, "hint": hint, "exitStatus": exit_status}
    return web.json_response(value, status=status, headers=headers)
