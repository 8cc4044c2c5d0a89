"""What an administrator asks about capsules that are here: what a name means, what goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from provisiond.parts import Parts
from provisiond.service import Service
from vnfsbuild.digest import short
from vnfsbuild.reference import CURRENT, parse_name, parse_reference
from vnfsbuild.store.keeper import Promotion


class CapsuleAdministration:
    """Changes to the store of the node server. Values go in and come out as JSON has them."""

    def __init__(self, parts: Parts, service: Service) -> None:
        self._parts = parts
        self._service = service

    async def promote(self, text: str) -> dict[str, Any]:
        """Let the bare name mean this capsule; nodes that follow it boot it from now on.

        Raises:
            InputError: there is no such capsule.
        """
        catalogue = self._parts.catalogue
        return await self._moved(await asyncio.to_thread(catalogue.promote, parse_reference(text)))

    async def rollback(self, name: str) -> dict[str, Any]:
        """Let the bare *name* mean what it meant before.

        Raises:
            InputError: there is no such capsule, or nothing before it.
        """
        catalogue = self._parts.catalogue
        name = parse_name(name, where="rollback")
        return await self._moved(await asyncio.to_thread(catalogue.rollback, name))

    async def tag(self, text: str, tag: str | None) -> dict[str, Any]:
        """Let ``NAME:TAG`` mean this capsule; without *tag* take the one in *text* away.

        Raises:
            InputError: there is no such capsule, or it is no tag for administrators to set.
        """
        catalogue = self._parts.catalogue
        reference = parse_reference(text)
        if tag is None:
            await asyncio.to_thread(catalogue.untag, reference)
            told, digest = f"{text} means nothing any more", None
        else:
            digest = await asyncio.to_thread(catalogue.tag, reference, tag)
            told = f"{reference.name}:{tag} is {reference.name}@{short(digest)}"
        self._tell("capsule.tagged", told)
        await self._after_change()
        return {"name": reference.name, "tag": tag or reference.tag, "digest": digest}

    async def delete(self, texts: Sequence[str], *, force: bool) -> dict[str, Any]:
        """Delete capsules, all or none.

        Raises:
            InputError: there is no such capsule; or one must stay: nodes need it, say.
        """
        references = [parse_reference(text) for text in texts]
        # Nothing is assigned between the last look at what nodes need and the deleting.
        async with self._parts.registry.administration:
            await self._service.pins.update()
            removed = await asyncio.to_thread(self._parts.catalogue.delete, references, force=force)
        for item in removed.capsules:
            overridden = f" (overridden: {'; '.join(item.overridden)})" if item.overridden else ""
            self._tell("capsule.deleted", f"{item.name}@{short(item.digest)}{overridden}")
        await self._after_change()
        return {
            "capsules": [
                {"name": item.name, "digest": item.digest, "overridden": list(item.overridden)}
                for item in removed.capsules
            ],
            "blobs": len(removed.blobs),
            "sizeBytes": removed.size_bytes,
        }

    async def _moved(self, moved: Promotion) -> dict[str, Any]:
        told = f"{moved.name}:{CURRENT} is {moved.name}@{short(moved.current)}"
        self._tell("capsule.promoted", told)
        await self._after_change()
        return {"name": moved.name, "current": moved.current, "previous": moved.previous}

    async def _after_change(self) -> None:
        self._parts.registry.wake_all()
        await self._service.pins.update_or_warn()

    def _tell(self, kind: str, text: str) -> None:
        self._parts.events.add(kind, text, now=self._parts.clock())
