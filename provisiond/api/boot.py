"""Routes for firmware, which verifies nothing, and for blobs, which verify themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from provisiond.catalogue import Catalogue
from provisiond.dnsmasq_config import BIOS_LOADER, EFI_LOADER
from provisiond.firmware import Firmware
from provisiond.ipxe import render_choice
from provisiond.nodes.values import parse_hwaddr
from provisiond.refusals import NotThere
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError
from vnfsbuild.newc import render_trailer

EMPTY_ARCHIVE = render_trailer()
"""What a node without drivers.cpio gets in its place: firmware takes no answer but a file."""

_BYTES = "application/octet-stream"
_HEX = re.compile(r"[0-9a-f]{64}\Z")


class BootRoutes:
    """For the plain application."""

    def __init__(
        self,
        firmware: Firmware,
        catalogue: Catalogue,
        *,
        script: str,
        render_site: Callable[[bytes], bytes],
        loaders: Path,
    ) -> None:
        """Serve iPXE of the directory *loaders*, which runs *script*; *render_site* makes
        site.cpio with the words of one node.
        """
        self._firmware = firmware
        self._catalogue = catalogue
        self._script = script
        self._render_site = render_site
        self._loaders = loaders

    def add_to(self, app: web.Application) -> None:
        """Add the routes to *app*."""
        app.router.add_get("/boot.ipxe", self._boot_script)
        app.router.add_get("/boot/choice.ipxe", self._choice)
        app.router.add_get("/boot/kernel", self._bootstrap)
        app.router.add_get("/boot/initrd", self._bootstrap)
        app.router.add_get("/boot/site.cpio", self._site)
        app.router.add_get("/boot/drivers.cpio", self._drivers)
        app.router.add_get(f"/boot/{EFI_LOADER}", self._loader)
        app.router.add_get(f"/boot/{BIOS_LOADER}", self._loader)
        app.router.add_get("/blobs/sha256/{hex}", self._blob)

    async def _boot_script(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._script)

    async def _bootstrap(self, request: web.Request) -> web.StreamResponse:
        files = await self._firmware.find_bootstrap(_read_hwaddr(request))
        return _file(files.kernel if request.path.endswith("/kernel") else files.initrd)

    async def _choice(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=render_choice(self._firmware.loads_disk(_read_hwaddr(request))))

    async def _site(self, request: web.Request) -> web.StreamResponse:
        # Without an address, as a person asks to look: what all nodes get.
        words = self._firmware.words(_read_hwaddr(request)) if "mac" in request.query else b""
        return web.Response(body=self._render_site(words), content_type=_BYTES)

    async def _drivers(self, request: web.Request) -> web.StreamResponse:
        path = await self._firmware.find_drivers(_read_hwaddr(request))
        return _file(path) if path else web.Response(body=EMPTY_ARCHIVE, content_type=_BYTES)

    async def _loader(self, request: web.Request) -> web.StreamResponse:
        return _file(self._loaders / request.path.rpartition("/")[2])

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["hex"]
        if not _HEX.match(text):
            raise InputError(f"blob: found {text!r:.80}, expected 64 hexadecimal digits")
        return _file(self._catalogue.blob_path(Digest(f"sha256:{text}")))


def _read_hwaddr(request: web.Request) -> str:
    return parse_hwaddr(request.query.get("mac", ""))


def _file(path: Path) -> web.StreamResponse:
    if not path.is_file():
        raise NotThere(f"{path.name}: no such file")
    return web.FileResponse(path, headers={"Content-Type": _BYTES})
