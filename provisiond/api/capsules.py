"""Routes about capsules that are here; :mod:`provisiond.administration.capsules` decides."""

from __future__ import annotations

from aiohttp import web

from provisiond.administration.capsules import CapsuleAdministration
from provisiond.api.bodies import read_flag, read_object, read_text, read_texts


class CapsuleRoutes:
    """For the application of administrators."""

    def __init__(self, capsules: CapsuleAdministration) -> None:
        self._capsules = capsules

    def add_to(self, app: web.Application) -> None:
        """Add the routes to *app*."""
        app.router.add_post("/v1/capsules/promote", self._promote)
        app.router.add_post("/v1/capsules/rollback", self._rollback)
        app.router.add_post("/v1/capsules/tag", self._tag)
        app.router.add_post("/v1/capsules/delete", self._delete)

    async def _promote(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        return web.json_response(await self._capsules.promote(read_text(value, "reference")))

    async def _rollback(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        return web.json_response(await self._capsules.rollback(read_text(value, "name")))

    async def _tag(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        tag = None if value.get("tag") is None else read_text(value, "tag")
        return web.json_response(await self._capsules.tag(read_text(value, "reference"), tag))

    async def _delete(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        references = read_texts(value, "references")
        force = read_flag(value, "force")
        return web.json_response(await self._capsules.delete(references, force=force))
