"""All that is set, out as a document and in again: all of it, or nothing of it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from provisiond.administration.checks import Checks
from provisiond.foreign.formats import READERS, parse_foreign
from provisiond.foreign.merge import merge_foreign, with_lines
from provisiond.nodes.attributes import CAPSULE, DEFAULTS, GROUP, is_secret
from provisiond.nodes.database import Change
from provisiond.nodes.differences import Difference, find_differences
from provisiond.nodes.interchange import State, parse_state, render_state
from provisiond.nodes.model import Node
from provisiond.nodes.scopes import Scopes, Settings
from provisiond.parts import Parts
from vnfsbuild.errors import InputError


class Transfer:
    """Exports and imports. Values go in and come out as JSON has them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._checks = Checks(parts)

    def export(self, *, secrets: bool) -> str:
        """Return the document of all that is set."""
        return render_state(replace(self._state(), secrets=secrets))

    async def import_document(self, text: str, *, where: str, dry_run: bool) -> dict[str, Any]:
        """Make what the document *text* says all that is set; *dry_run* only tells.

        Nodes, groups and values that it does not name are forgotten; secrets are kept where the
        document was written without them.

        Raises:
            InputError: with every fault of the document; nothing has changed.
        """
        # A large one takes a while, and check-ins do not wait for it.
        wanted = await asyncio.to_thread(parse_state, text, where=where)
        return await self.apply(wanted, dry_run=dry_run)

    async def import_nodes(
        self, text: str, *, where: str, file_format: str | None, dry_run: bool
    ) -> dict[str, Any]:
        """Add the nodes that the file *text* of another system names, approved; or only tell.

        A node that has one of the hardware addresses is given name, groups and attributes of the
        file; what else is set on it stays, as do all other nodes.

        Raises:
            InputError: with every fault, each with its line; nothing has changed.
        """
        if file_format is not None and file_format not in READERS:
            raise InputError(f"format: found {file_format!r:.80}, expected {', '.join(READERS)}")
        foreign = await asyncio.to_thread(parse_foreign, text, where=where, file_format=file_format)
        found, notes = merge_foreign(
            foreign,
            self._state(),
            is_there=self._checks.is_in_store,
            name_pattern=self._parts.config.name_pattern,
            total_nodes=self._parts.config.total_nodes,
        )
        try:
            done = await self.apply(found, dry_run=dry_run)
        except InputError as error:
            raise InputError(with_lines(error.message, foreign), hint=error.hint) from error
        return {**done, "notes": [*foreign.notes, *notes]}

    async def apply(self, wanted: State, *, dry_run: bool) -> dict[str, Any]:
        """Make *wanted* all that is set; *dry_run* only tells the difference.

        Raises:
            InputError: what it names is not there, or two nodes have one address.
        """
        async with self._registry.administration:
            held = self._state()
            if not wanted.secrets:
                wanted = _with_secrets(wanted, held)
            found = find_differences(held, wanted)
            nodes, deleted = self._find_changed(held, wanted)
            self._verify(held, wanted, nodes, deleted)
            if found and not dry_run:
                settings = _find_settings(held.scopes, wanted.scopes)
                await self._registry.save_nodes(nodes, deleted=deleted, settings=settings)
                self._parts.hosts.update(nodes, deleted=deleted)
                self._tell(found)
        return {"changes": [item.value() for item in found], "applied": bool(found) and not dry_run}

    def _state(self) -> State:
        nodes = {node.name: node for node in self._registry.nodes.values()}
        return State(nodes=nodes, scopes=self._registry.scopes)

    def _find_changed(self, held: State, wanted: State) -> tuple[tuple[Node, ...], tuple[str, ...]]:
        """Return the nodes that are to be saved, and the ids of those that are to be forgotten."""
        now = int(self._parts.clock())
        before = {node.node_id: node for node in held.nodes.values()}
        nodes = []
        for node in wanted.nodes.values():
            old = before.get(node.node_id)
            whole = replace(node, created=old.created if old else now)
            if whole != old:
                nodes.append(whole)
        kept = {node.node_id for node in wanted.nodes.values()}
        return tuple(nodes), tuple(node_id for node_id in before if node_id not in kept)

    def _verify(
        self, held: State, wanted: State, nodes: tuple[Node, ...], deleted: tuple[str, ...]
    ) -> None:
        """Judge what is new in *wanted*; what is there already was judged when it came."""
        faults = []
        before = {node.node_id: node.attributes for node in held.nodes.values()}
        for node in nodes:
            faults += self._missing(node.name, before.get(node.node_id, {}), node.attributes)
        for subject, old, new in _scopes_of(held.scopes, wanted.scopes):
            faults += self._missing(subject, old, new)
        if len(wanted.nodes) > self._parts.config.total_nodes:
            faults.append(f"nodes: found {len(wanted.nodes)}, expected "
                          f"{self._parts.config.total_nodes} at most")  # fmt: skip
        try:
            self._checks.verify_addresses(nodes, deleted)
        except InputError as error:
            faults.append(error.message)
        if faults:
            raise InputError("\n".join(faults), hint="nothing was imported")

    def _missing(self, subject: str, old: Settings, new: Settings) -> list[str]:
        """Return what is assigned anew and is not in the store."""
        faults = []
        for key, value in new.items():
            if old.get(key) == value:
                continue
            try:
                self._checks.verify_references({key: value})
            except InputError as error:
                faults.append(f"{subject}: {key}: {error.message}")
        return faults

    def _tell(self, found: list[Difference]) -> None:
        now = self._parts.clock()
        for subject in dict.fromkeys(item.subject for item in found):
            kind, _, name = subject.partition(" ")
            if kind == "node":
                self._parts.events.add("node.changed", "imported", now=now, node=name)
            else:
                self._parts.events.add("settings.changed", f"{subject}: imported", now=now)


def _find_settings(old: Scopes, new: Scopes) -> Change:
    changes: dict[tuple[str, str], Settings | None] = {}
    if old.defaults != new.defaults:
        changes[DEFAULTS, ""] = new.defaults
    for scope, held, wanted in (
        (CAPSULE, old.capsules, new.capsules),
        (GROUP, old.groups, new.groups),
    ):
        for name in {*held, *wanted}:
            if held.get(name) != wanted.get(name):
                changes[scope, name] = wanted.get(name)
    return changes


def _scopes_of(old: Scopes, new: Scopes) -> list[tuple[str, Settings, Settings]]:
    found: list[tuple[str, Settings, Settings]] = [("defaults", old.defaults, new.defaults)]
    found += [(f"group {name}", old.groups.get(name, {}), new.groups[name]) for name in new.groups]
    return found


def _with_secrets(wanted: State, held: State) -> State:
    """Return *wanted* with the secret values that are held: it says nothing of them."""
    nodes = {node.node_id: node for node in held.nodes.values()}
    scopes, now = held.scopes, wanted.scopes

    def kept(new: Settings, old: Settings) -> Settings:
        secret = {key: value for key, value in old.items() if is_secret(key)}
        return {**secret, **new} if secret else new

    def all_kept(new: Mapping[str, Settings], old: Mapping[str, Settings]) -> dict[str, Settings]:
        return {name: kept(values, old.get(name, {})) for name, values in new.items()}

    # What is set to secrets only is not in the document at all.
    capsules = all_kept({**{name: {} for name in scopes.capsules}, **now.capsules}, scopes.capsules)
    return replace(
        wanted,
        nodes={
            name: replace(node, attributes=kept(node.attributes, nodes[node.node_id].attributes))
            if node.node_id in nodes
            else node
            for name, node in wanted.nodes.items()
        },
        scopes=Scopes(
            defaults=kept(now.defaults, scopes.defaults),
            capsules={name: values for name, values in capsules.items() if values},
            groups=all_kept(now.groups, scopes.groups),
        ),
    )
