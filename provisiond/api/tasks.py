"""Routes of administrators for tasks of running nodes."""

from __future__ import annotations

from aiohttp import web

from provisiond.administration.tasks import TaskAdministration
from provisiond.api.bodies import read_flag, read_object, read_text, read_texts
from vnfsbuild.errors import InputError


class TaskRoutes:
    """Values of requests ⇄ calls of the administration of tasks."""

    def __init__(self, tasks: TaskAdministration) -> None:
        self._tasks = tasks

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/nodes/task", self.give)

    async def give(self, request: web.Request) -> web.Response:
        """Give nodes a task."""
        value = await read_object(request)
        seconds = value.get("timeoutSeconds", 600)
        if type(seconds) is not int:
            raise InputError(f"timeoutSeconds: found {seconds!r:.80}, expected a whole number")
        given = await self._tasks.give(
            read_text(value, "kind"),
            read_texts(value, "nodes"),
            every_node=read_flag(value, "all"),
            phase=read_text(value, "phase") if value.get("phase") is not None else "",
            timeout_seconds=seconds,
        )
        return web.json_response(given)
