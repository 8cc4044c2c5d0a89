"""``vnfsbuild import``: a capsule from elsewhere becomes one of the store."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from vnfsbuild import ustar
from vnfsbuild.capsule import LAYOUT, LAYOUT_NAME, Advance, Head, payload_bytes
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import size_of
from vnfsbuild.options import now
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.referrers.publish import derive_sbom
from vnfsbuild.registry.foreign import import_layout
from vnfsbuild.registry.name import is_registry_reference
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.transfer.importurl import import_url
from vnfsbuild.trust import Trust

LAYOUTS = ("oci:", "oci-archive:")
"""What skopeo calls them: a directory, and a tar of one."""


@click.command("import")
@click.argument("source", metavar="FILE|URL|DIRECTORY|oci-archive:FILE[:TAG]")
@click.option("--no-promote", is_flag=True, help="Leave NAME:current where it is.")
@click.pass_obj
def command(places: Places, source: str, no_promote: bool) -> None:
    """Verify the capsule in FILE (.vnfs, also by http) and add it to the store.

    Or that in an OCI image layout that another program wrote: a DIRECTORY (oci:DIRECTORY:TAG), or a
    tar of one (oci-archive:FILE[:TAG]). It must be signed as trust.json wants it. NAME:current
    then means this capsule.
    """
    if is_registry_reference(source):
        raise InputError(f"{source}: is in a registry", hint=f"vnfsbuild pull {source}")
    store = Store(places.store)
    trust = load_trust(places.site, now=now())
    if source.startswith(("http://", "https://")):
        capsule = import_url(
            source,
            store,
            trust=trust,
            now=now(),
            cache=places.cache,
            current=not no_promote,
            bar=lambda total_bytes: bar("import", total_bytes=total_bytes),
        ).capsule
    elif source.startswith(LAYOUTS) or Path(source).is_dir():
        capsule = _import_layout(store, source, trust, current=not no_promote)
    else:
        capsule = _import_file(store, Path(source), trust, current=not no_promote)
    derive_sbom(store, capsule)
    click.echo(f"{capsule.name}:{capsule.config.serial}@{capsule.digest}")


def _import_file(store: Store, path: Path, trust: Trust, *, current: bool) -> StoredCapsule:
    with bar(f"import {path.name}", total_bytes=size_of(path)) as advance:
        try:
            return store.import_file(path, trust=trust, now=now(), current=current, advance=advance)
        except VerificationError as error:
            if error.hint is None and _may_be_foreign(path):
                error.hint = (
                    f"if another program made this archive: vnfsbuild import oci-archive:{path}"
                )
            raise


def _may_be_foreign(path: Path) -> bool:
    """Tell whether this is a tar, and not one that begins as ours do."""
    if not path.is_file():  # a pipe has been read by now, and would be waited for
        return False
    try:
        with path.open("rb") as file:
            block = file.read(ustar.BLOCK_BYTES)
    except OSError:  # it is gone by now; what was said of it stays true
        return False
    ours = ustar.render_header(LAYOUT_NAME, len(LAYOUT))
    return block[257:262] == b"ustar" and block != ours


def _import_layout(store: Store, source: str, trust: Trust, *, current: bool) -> StoredCapsule:
    path, tag = _parse_layout(source)

    def show(head: Head) -> contextlib.AbstractContextManager[Advance]:
        return bar(f"import {path.name}", total_bytes=payload_bytes(head))

    return import_layout(path, tag, store, trust=trust, now=now(), current=current, show=show)


def _parse_layout(source: str) -> tuple[Path, str | None]:
    """Return path and tag of ``oci:PATH:TAG``; what is there under the whole name has no tag."""
    text = source
    for prefix in LAYOUTS:
        text = text.removeprefix(prefix)
    path, colon, tag = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), None
    return Path(path), tag
