"""What an administrator sets for many nodes: groups, with capsules' names, in the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from provisiond.administration.checks import Checks
from provisiond.administration.nodes import NodeAdministration
from provisiond.nodes.attributes import (
    CAPSULE,
    DEFAULTS,
    GROUP,
    NODE,
    SCOPES,
    parse_attribute,
    render_value,
    shown_value,
    verify_scope,
)
from provisiond.nodes.model import Node, parse_group_name
from provisiond.nodes.scopes import Settings
from provisiond.nodes.view import show_settings
from provisiond.parts import Parts
from vnfsbuild.errors import InputError
from vnfsbuild.reference import parse_name


class SettingsAdministration:
    """Groups and their nodes, and the values of scopes. Values go in and out as JSON has them."""

    def __init__(self, parts: Parts, nodes: NodeAdministration) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._nodes = nodes
        self._checks = Checks(parts)

    def list_groups(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the groups *names*, without any all, with their nodes and what is set there.

        Raises:
            InputError: one is not known.
        """
        groups = self._registry.scopes.groups
        wanted = sorted({self._checks.known_group(name) for name in names} or groups)
        members: dict[str, list[str]] = {name: [] for name in wanted}
        for name in sorted(self._registry.names):
            for group in self._registry.named(name).groups:
                if group in members:
                    members[group].append(name)
        return [
            {"name": name, "attributes": show_settings(groups[name]), "nodes": members[name]}
            for name in wanted
        ]

    def show(self, scope: str, subject: str = "") -> dict[str, Any]:
        """Return what is set in *scope* for *subject*.

        Raises:
            InputError: there is no such scope or group.
        """
        self._verify_subject(scope, subject)
        return show_settings(self._registry.scopes.settings(scope, subject))

    async def set_values(
        self, scope: str, subjects: Sequence[str], values: Mapping[str, str]
    ) -> dict[str, Any]:
        """Set *values*, texts by key, for each of *subjects*; an empty text unsets.

        Raises:
            InputError: a subject, key, value or capsule is not known; nothing has changed.
        """
        parsed = {key: parse_attribute(key, text) for key, text in values.items()}
        for key in parsed:
            verify_scope(key, scope)
        self._checks.verify_references(parsed)
        async with self._registry.administration:
            changes: dict[tuple[str, str], Settings | None] = {}
            for subject in subjects:
                self._verify_subject(scope, subject)
                held = {**self._registry.scopes.settings(scope, subject), **parsed}
                kept = {key: value for key, value in held.items() if value is not None}
                changes[scope, subject] = kept
            await self._registry.save_nodes((), settings=changes)
            told = ", ".join(_told(key, value) for key, value in parsed.items())
            for subject in subjects:
                self._tell(f"{scope} {subject}".strip() + f": {told}")
        return {"scope": scope, "subjects": list(subjects)}

    async def unset_values(
        self, scope: str, subjects: Sequence[str], keys: Sequence[str]
    ) -> dict[str, Any]:
        """Forget what is set for *keys*.

        Raises:
            InputError: a subject or key is not known; nothing has changed.
        """
        return await self.set_values(scope, subjects, dict.fromkeys(keys, ""))

    async def add_group(
        self, name: str, expressions: Sequence[str], *, first: bool = False
    ) -> dict[str, Any]:
        """Make the group *name*, unless it is there, and put nodes into it.

        It is the weakest group of a node that was not in it, or with *first* the strongest.

        Raises:
            InputError: it can be no name, or a node is not known.
        """
        parse_group_name(name)
        async with self._registry.administration:
            selection = self._nodes.select(expressions) if expressions else None
            changed = []
            for found in selection.found if selection else ():
                node = self._registry.named(found)
                others = tuple(group for group in node.groups if group != name)
                if first:
                    groups = (name, *others)
                else:
                    groups = node.groups if name in node.groups else (*others, name)
                changed.append(replace(node, groups=groups))
            held = self._registry.scopes.groups.get(name, {})
            await self._save(changed, {(GROUP, name): held}, f"in the group {name}")
        return {
            "name": name,
            "nodes": list(selection.found) if selection else [],
            "missing": list(selection.missing) if selection else [],
        }

    async def remove_from_group(self, name: str, expressions: Sequence[str]) -> dict[str, Any]:
        """Take nodes out of the group *name*.

        Raises:
            InputError: the group or a node is not known.
        """
        self._checks.known_group(name)
        async with self._registry.administration:
            selection = self._nodes.select(expressions)
            nodes = [self._registry.named(found) for found in selection.found]
            changed = [_without(node, {name}) for node in nodes if name in node.groups]
            await self._save(changed, {}, f"not in the group {name} any more")
        return {
            "name": name,
            "nodes": [node.name for node in changed],
            "missing": list(selection.missing),
        }

    async def replace_members(self, name: str, expressions: Sequence[str]) -> dict[str, Any]:
        """Make the nodes that are meant the only ones of the group *name*.

        Raises:
            InputError: the group or a node is not known.
        """
        self._checks.known_group(name)
        async with self._registry.administration:
            selection = self._nodes.select(expressions)
            wanted = set(selection.found)
            changed = []
            for node in self._registry.nodes.values():
                if node.name in wanted and name not in node.groups:
                    changed.append(replace(node, groups=(*node.groups, name)))
                elif node.name not in wanted and name in node.groups:
                    changed.append(_without(node, {name}))
            await self._save(changed, {}, f"the group {name} has other nodes")
        return {"name": name, "nodes": list(selection.found), "missing": list(selection.missing)}

    async def delete_groups(self, names: Sequence[str]) -> dict[str, Any]:
        """Forget groups; their nodes stay.

        Raises:
            InputError: one is not known; nothing has changed.
        """
        gone = {self._checks.known_group(name) for name in names}
        async with self._registry.administration:
            changed = [
                _without(node, gone)
                for node in self._registry.nodes.values()
                if gone & set(node.groups)
            ]
            changes: dict[tuple[str, str], Settings | None] = {
                (GROUP, name): None for name in sorted(gone)
            }
            await self._save(changed, changes, f"in no group {', '.join(sorted(gone))} any more")
            for name in sorted(gone):
                self._tell(f"group {name}: deleted")
        return {"groups": sorted(gone), "nodes": sorted(node.name for node in changed)}

    async def rename_group(self, name: str, new_name: str) -> dict[str, Any]:
        """Give the group *name* another name; its nodes keep the order of their groups.

        Raises:
            InputError: it is not known, or the new name is taken or none.
        """
        parse_group_name(new_name)
        async with self._registry.administration:
            groups = self._registry.scopes.groups
            self._checks.known_group(name)
            if new_name in groups:
                raise InputError(f"group rename: there is a group {new_name} already")
            changed = [
                replace(node, groups=tuple(new_name if g == name else g for g in node.groups))
                for node in self._registry.nodes.values()
                if name in node.groups
            ]
            changes = {(GROUP, name): None, (GROUP, new_name): groups[name]}
            await self._save(changed, changes, f"in the group {new_name}, was {name}")
            self._tell(f"group {name}: renamed to {new_name}")
        return {"name": new_name, "nodes": sorted(node.name for node in changed)}

    def _verify_subject(self, scope: str, subject: str) -> None:
        if scope == GROUP:
            self._checks.known_group(subject)
        elif scope == CAPSULE:
            # The capsule may come later: its settings are kept with the name.
            parse_name(subject, where="capsule")
        elif scope != DEFAULTS or subject:
            scopes = ", ".join(name for name in SCOPES if name != NODE)
            raise InputError(f"scope: found {scope!r} {subject!r}, expected one of {scopes}")

    async def _save(
        self,
        nodes: Sequence[Node],
        changes: dict[tuple[str, str], Settings | None],
        told: str,
    ) -> None:
        await self._registry.save_nodes(tuple(nodes), settings=changes)
        for node in nodes:
            self._parts.events.add("node.changed", told, now=self._parts.clock(), node=node.name)

    def _tell(self, text: str) -> None:
        self._parts.events.add("settings.changed", text, now=self._parts.clock())


def _without(node: Node, groups: set[str]) -> Node:
    return replace(node, groups=tuple(name for name in node.groups if name not in groups))


def _told(key: str, value: Any) -> str:
    return f"{key} unset" if value is None else f"{key} = {render_value(shown_value(key, value))}"
