"""Routes: HTTP ⇄ the service and the administration. What is decided, is decided there.

Two applications: for firmware and blobs (plain), for administrators (Unix socket). What agents ask
for is in :mod:`provisiond.api.agents`. docs/checkin-protocol.md has what each takes and answers.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from provisiond.administration.administration import Administration
from provisiond.api.bodies import read_number
from provisiond.api.boot import BootRoutes
from provisiond.api.capsules import CapsuleRoutes
from provisiond.api.failures import Handler, tell_errors
from provisiond.api.nodes import NodeRoutes, SettingsRoutes, TransferRoutes
from provisiond.api.overlays import OverlayRoutes
from provisiond.api.rollouts import RolloutRoutes
from provisiond.api.tasks import TaskRoutes
from provisiond.catalogue import Catalogue
from provisiond.events.events import Wanted
from provisiond.firmware import Firmware
from provisiond.refusals import UPLOADED, Refused
from vnfsbuild.digest import READ_SIZE_BYTES
from vnfsbuild.errors import VnfsbuildError

MAX_ADMIN_BYTES = 64 * 1024 * 1024
"""An export of 100 000 nodes fits."""
MAX_EVENT_WAIT_SECONDS = 60


def make_boot_app(
    firmware: Firmware,
    catalogue: Catalogue,
    *,
    script: str,
    render_site: Callable[[bytes], bytes],
    loaders: Path,
) -> web.Application:
    """Return the application that firmware talks to, and that has the signed blobs.

    *loaders* is the directory with iPXE, *script* what iPXE runs, *render_site* makes site.cpio.
    """

    app = web.Application(middlewares=[tell_errors], client_max_size=1024)
    routes = BootRoutes(
        firmware, catalogue, script=script, render_site=render_site, loaders=loaders
    )
    routes.add_to(app)
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
    TaskRoutes(administration.tasks).add_to(app)
    OverlayRoutes(administration.overlays).add_to(app)
    RolloutRoutes(administration.rollouts).add_to(app)
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
