"""``provisionctl vnfs``: capsules and bootstraps of the node server."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from provisiond.client import Client
from provisiond.commands.configure import configure, offer
from provisiond.commands.context import Context
from provisiond.commands.keeping import delete, promote, rollback, tag
from provisiond.refusals import UPLOADED
from vnfsbuild.digest import short
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.listing import render_document, render_size, render_table
from vnfsbuild.places import find_places
from vnfsbuild.progress import bar
from vnfsbuild.reference import parse_reference
from vnfsbuild.registry.name import is_registry_reference, parse_registry_reference
from vnfsbuild.registryoptions import ca_file_option, plain_http_option
from vnfsbuild.store.store import Store


@click.group()
def vnfs() -> None:
    """Capsules and bootstraps that nodes are given."""


@vnfs.command(name="import")
@click.argument("capsule", metavar="FILE|REFERENCE|oci://…")
@click.option("--no-promote", is_flag=True, help="Leave NAME:current where it is.")
@plain_http_option
@ca_file_option
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
@click.pass_obj
def import_(
    context: Context,
    capsule: str,
    no_promote: bool,
    plain_http: bool,
    ca_file: Path | None,
    as_json: bool,
) -> None:
    """Give the node server a capsule: a .vnfs file, one of vnfsbuild's store, or of a registry.

    What is in a registry comes into vnfsbuild's store first, as by vnfsbuild pull. The daemon
    verifies it by trust.json. Nodes that follow NAME boot it from now on.
    """
    path = f"/v1/capsules?promote={0 if no_promote else 1}"
    if is_registry_reference(capsule):
        from vnfsbuild.registry.pull import pull_into  # only here: other verbs need not load it

        wanted = parse_registry_reference(capsule)
        pulled = pull_into(
            find_places(),
            wanted,
            now=int(time.time()),
            plain_http=plain_http,
            ca_file=ca_file,
            promote=not no_promote,
        ).capsule
        capsule = f"{pulled.name}@{pulled.digest}"
        added = _upload_from_store(context.client(), path, capsule)
    elif os.sep in capsule or Path(capsule).is_file():
        added = _upload(context.client(), path, Path(capsule))
    else:
        added = _upload_from_store(context.client(), path, capsule)
    name = f"{added['name']}:{added['serial']}@{added['digest']}"
    click.echo(render_document(added) if as_json else name)
    if added["type"] == "capsule" and not as_json:
        offer(context.client(), added["name"])


@vnfs.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
@click.pass_obj
def list_(context: Context, as_json: bool) -> None:
    """List what the node server has, and how many nodes boot it."""
    found = context.client().get("/v1/capsules")
    if as_json:
        click.echo(render_document(found))
        return
    header = ("NAME", "TAGS", "DIGEST", "TYPE", "KERNEL", "SIZE", "NODES")
    click.echo(render_table(header, [_row(item) for item in found]))


for _command in (configure, promote, rollback, tag, delete):
    vnfs.add_command(_command)


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    return (
        item["name"],
        ",".join(item["tags"]),
        short(item["digest"]),
        item["type"],
        item["kernel"],
        render_size(item["sizeBytes"]),
        str(len(item["nodes"])),
    )


def _upload_from_store(client: Client, path: str, text: str) -> Any:
    reference = parse_reference(text)
    with tempfile.TemporaryDirectory(prefix="vnfs-import-") as directory:
        file = Path(directory) / "capsule.vnfs"
        try:
            Store(find_places().store).export(reference, file)
        except InputError as error:
            raise InputError(f"{error.message}, and there is no file {text}",
                             hint=error.hint) from error  # fmt: skip
        return _upload(client, path, file, label=str(reference))


def _upload(client: Client, path: str, file: Path, *, label: str | None = None) -> Any:
    try:
        with file.open("rb") as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            with bar(f"import {label or file.name}", total_bytes=size_bytes) as advance:
                told = _Told(stream, advance)
                return client.upload(path, told, size_bytes)  # type: ignore[arg-type]
    except VnfsbuildError as error:
        error.message = error.message.replace(UPLOADED, label or str(file))
        raise
    except IsADirectoryError as error:
        raise InputError(f"{file}: found a directory, expected a .vnfs file") from error
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file", hint="vnfsbuild export writes one") from error


class _Told:
    """A stream that tells how much of it was read."""

    def __init__(self, stream: BinaryIO, advance: Callable[[int], None]) -> None:
        self._stream = stream
        self._advance = advance

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._advance(len(data))
        return data
