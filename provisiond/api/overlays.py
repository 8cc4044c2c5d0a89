"""Routes about overlays; :mod:`provisiond.administration.overlays` decides."""

from __future__ import annotations

from aiohttp import web

from provisiond.administration.overlays import OverlayAdministration
from vnfsbuild.errors import InputError


class OverlayRoutes:
    """For the application of administrators."""

    def __init__(self, overlays: OverlayAdministration) -> None:
        self._overlays = overlays

    def add_to(self, app: web.Application) -> None:
        """Add the routes to *app*."""
        app.router.add_get("/v1/overlays", self._list)
        app.router.add_get("/v1/overlays/show", self._show)
        app.router.add_get("/v1/overlays/check", self._check)

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response(self._overlays.list_overlays())

    async def _show(self, request: web.Request) -> web.Response:
        query = request.query
        if "node" not in query:
            raise InputError("node: missing: whose overlay")
        secrets = query.get("secrets") == "1"
        return web.json_response(
            self._overlays.show(query["node"], query.get("path"), secrets=secrets)
        )

    async def _check(self, request: web.Request) -> web.Response:
        return web.json_response(await self._overlays.check(request.query.getall("nodes", [])))
