"""Routes about rollouts; :mod:`provisiond.administration.rollouts` decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from provisiond.administration.rollouts import RolloutAdministration
from provisiond.api.bodies import read_flag, read_number, read_object, read_text, read_texts
from vnfsbuild.errors import InputError

MOST = 2**31


class RolloutRoutes:
    """For the application of administrators."""

    def __init__(self, rollouts: RolloutAdministration) -> None:
        self._rollouts = rollouts

    def add_to(self, app: web.Application) -> None:
        """Add the routes to *app*."""
        app.router.add_get("/v1/rollouts", self._list)
        app.router.add_get("/v1/rollouts/show", self._show)
        app.router.add_post("/v1/rollouts", self._start)
        app.router.add_post("/v1/rollouts/stop", self._stop)
        app.router.add_post("/v1/rollouts/resume", self._resume)

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response(self._rollouts.list_rollouts())

    async def _show(self, request: web.Request) -> web.Response:
        number = read_number(request, "id", most=MOST)
        return web.json_response(self._rollouts.show(number or None))

    async def _start(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        started = await self._rollouts.start(
            read_texts(value, "nodes"),
            reference=read_text(value, "capsule"),
            batch=read_text(value, "batch"),
            when=read_text(value, "when"),
        )
        return web.json_response(started)

    async def _stop(self, request: web.Request) -> web.Response:
        return web.json_response(await self._rollouts.stop(_number(await read_object(request))))

    async def _resume(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        retry = read_flag(value, "retry")
        return web.json_response(await self._rollouts.resume(_number(value), retry=retry))


def _number(value: Mapping[str, Any]) -> int | None:
    number = value.get("id")
    if number is not None and type(number) is not int:
        raise InputError(f"id: found {number!r:.80}, expected the number of a rollout")
    return number
