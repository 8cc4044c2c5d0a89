"""Routes of administrators for nodes, groups, and what is set for many."""

from __future__ import annotations

from aiohttp import web

from provisiond.administration.nodes import NodeAdministration
from provisiond.administration.settings import SettingsAdministration
from provisiond.administration.transfer import Transfer
from provisiond.api.bodies import read_flag, read_object, read_text, read_text_object, read_texts
from provisiond.nodes.attributes import GROUP


class NodeRoutes:
    """Values of requests ⇄ calls of the administration of nodes."""

    def __init__(self, nodes: NodeAdministration) -> None:
        self._nodes = nodes

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/nodes", self.list_nodes)
        app.router.add_get("/v1/nodes/show", self.show_nodes)
        app.router.add_post("/v1/nodes", self.add_node)
        app.router.add_post("/v1/nodes/set", self.set_attribute)
        app.router.add_post("/v1/nodes/unset", self.unset_attributes)
        app.router.add_post("/v1/nodes/approve", self.approve)
        app.router.add_post("/v1/nodes/retry", self.retry)
        app.router.add_post("/v1/nodes/rename", self.rename)
        app.router.add_post("/v1/nodes/replace", self.replace)
        app.router.add_post("/v1/nodes/delete", self.delete)

    async def list_nodes(self, request: web.Request) -> web.Response:
        """Answer the nodes that are asked for."""
        return web.json_response(self._nodes.list_nodes(request.query.getall("nodes", [])))

    async def show_nodes(self, request: web.Request) -> web.Response:
        """Answer the nodes that are asked for, with who vouches for what runs there."""
        return web.json_response(self._nodes.show_nodes(request.query.getall("nodes", [])))

    async def add_node(self, request: web.Request) -> web.Response:
        """Add a node."""
        value = await read_object(request)
        added = await self._nodes.add_node(
            read_text(value, "hwaddr"),
            name=read_text(value, "name") if value.get("name") is not None else None,
            attributes=read_text_object(value, "attributes"),
            groups=read_texts(value, "groups") if value.get("groups") is not None else (),
        )
        return web.json_response(added)

    async def set_attribute(self, request: web.Request) -> web.Response:
        """Set an attribute of nodes."""
        value = await read_object(request)
        return web.json_response(
            await self._nodes.set_attribute(
                read_text(value, "key"), read_text(value, "value"), read_texts(value, "nodes")
            )
        )

    async def unset_attributes(self, request: web.Request) -> web.Response:
        """Unset attributes of nodes."""
        value = await read_object(request)
        keys, nodes = read_texts(value, "keys"), read_texts(value, "nodes")
        return web.json_response(await self._nodes.unset_attributes(keys, nodes))

    async def approve(self, request: web.Request) -> web.Response:
        """Approve nodes."""
        nodes = read_texts(await read_object(request), "nodes")
        return web.json_response(await self._nodes.approve(nodes))

    async def retry(self, request: web.Request) -> web.Response:
        """Forget how often nodes failed."""
        nodes = read_texts(await read_object(request), "nodes")
        return web.json_response(await self._nodes.retry(nodes))

    async def rename(self, request: web.Request) -> web.Response:
        """Give a node another name."""
        value = await read_object(request)
        name, new_name = read_text(value, "name"), read_text(value, "newName")
        return web.json_response(await self._nodes.rename(name, new_name))

    async def replace(self, request: web.Request) -> web.Response:
        """Make another machine the node."""
        value = await read_object(request)
        name, hwaddr = read_text(value, "name"), read_text(value, "hwaddr")
        return web.json_response(await self._nodes.replace(name, hwaddr))

    async def delete(self, request: web.Request) -> web.Response:
        """Forget nodes."""
        nodes = read_texts(await read_object(request), "nodes")
        return web.json_response(await self._nodes.delete(nodes))


class SettingsRoutes:
    """Values of requests ⇄ calls of the administration of groups and settings."""

    def __init__(self, settings: SettingsAdministration) -> None:
        self._settings = settings

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/groups", self.list_groups)
        app.router.add_post("/v1/groups", self.add_group)
        app.router.add_post("/v1/groups/remove", self.remove_from_group)
        app.router.add_post("/v1/groups/replace", self.replace_members)
        app.router.add_post("/v1/groups/rename", self.rename_group)
        app.router.add_post("/v1/groups/delete", self.delete_groups)
        app.router.add_get("/v1/settings", self.show)
        app.router.add_post("/v1/settings/set", self.set_values)
        app.router.add_post("/v1/settings/unset", self.unset_values)

    async def list_groups(self, request: web.Request) -> web.Response:
        """Answer the groups that are asked for."""
        return web.json_response(self._settings.list_groups(request.query.getall(GROUP, [])))

    async def add_group(self, request: web.Request) -> web.Response:
        """Make a group, and put nodes into it."""
        value = await read_object(request)
        nodes = read_texts(value, "nodes") if value.get("nodes") is not None else []
        added = await self._settings.add_group(
            read_text(value, "name"), nodes, first=read_flag(value, "first")
        )
        return web.json_response(added)

    async def remove_from_group(self, request: web.Request) -> web.Response:
        """Take nodes out of a group."""
        value = await read_object(request)
        name, nodes = read_text(value, "name"), read_texts(value, "nodes")
        return web.json_response(await self._settings.remove_from_group(name, nodes))

    async def replace_members(self, request: web.Request) -> web.Response:
        """Make nodes the only ones of a group."""
        value = await read_object(request)
        name, nodes = read_text(value, "name"), read_texts(value, "nodes")
        return web.json_response(await self._settings.replace_members(name, nodes))

    async def rename_group(self, request: web.Request) -> web.Response:
        """Give a group another name."""
        value = await read_object(request)
        name, new_name = read_text(value, "name"), read_text(value, "newName")
        return web.json_response(await self._settings.rename_group(name, new_name))

    async def delete_groups(self, request: web.Request) -> web.Response:
        """Forget groups."""
        groups = read_texts(await read_object(request), "groups")
        return web.json_response(await self._settings.delete_groups(groups))

    async def show(self, request: web.Request) -> web.Response:
        """Answer what is set in a scope."""
        query = request.query
        return web.json_response(
            self._settings.show(query.get("scope", ""), query.get("subject", ""))
        )

    async def set_values(self, request: web.Request) -> web.Response:
        """Set values in a scope."""
        value = await read_object(request)
        scope, subjects = read_text(value, "scope"), read_texts(value, "subjects")
        values = read_text_object(value, "values")
        return web.json_response(await self._settings.set_values(scope, subjects, values))

    async def unset_values(self, request: web.Request) -> web.Response:
        """Unset values in a scope."""
        value = await read_object(request)
        scope, subjects = read_text(value, "scope"), read_texts(value, "subjects")
        keys = read_texts(value, "keys")
        return web.json_response(await self._settings.unset_values(scope, subjects, keys))


class TransferRoutes:
    """Values of requests ⇄ calls for documents of all that is set."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/export", self.export)
        app.router.add_post("/v1/import", self.import_document)
        app.router.add_post("/v1/nodes/import", self.import_nodes)

    async def export(self, request: web.Request) -> web.Response:
        """Answer the document of all that is set."""
        secrets = request.query.get("secrets") == "1"
        return web.json_response({"document": self._transfer.export(secrets=secrets)})

    async def import_document(self, request: web.Request) -> web.Response:
        """Make a document all that is set, or tell what it would change."""
        value = await read_object(request)
        done = await self._transfer.import_document(
            read_text(value, "document"),
            where=read_text(value, "where"),
            dry_run=read_flag(value, "dryRun"),
        )
        return web.json_response(done)

    async def import_nodes(self, request: web.Request) -> web.Response:
        """Add the nodes of another system's file, or tell what that would change."""
        value = await read_object(request)
        done = await self._transfer.import_nodes(
            read_text(value, "document"),
            where=read_text(value, "where"),
            file_format=read_text(value, "format") if value.get("format") is not None else None,
            dry_run=read_flag(value, "dryRun"),
        )
        return web.json_response(done)
