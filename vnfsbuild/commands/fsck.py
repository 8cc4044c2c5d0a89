"""``vnfsbuild fsck``: is the store whole?"""

from __future__ import annotations

import click

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.listing import render_document, render_size
from vnfsbuild.options import json_option
from vnfsbuild.places import Places
from vnfsbuild.progress import bar
from vnfsbuild.store.check import Checked, check_store, total_bytes
from vnfsbuild.store.repair import repair_store
from vnfsbuild.store.store import Store


@click.command("fsck")
@click.option("--repair", is_flag=True, help="Mend what can be; move damaged files to damaged/.")
@click.option("--drop", is_flag=True, help="With --repair: forget capsules that are not whole.")
@json_option
@click.pass_obj
def command(places: Places, repair: bool, drop: bool, as_json: bool) -> None:
    """Read all of the store and tell what is wrong, and what to type against it.

    Status 3 when something is damaged. Signatures are not judged: vnfsbuild verify does that.
    """
    if drop and not repair:
        raise InputError("fsck --drop: only with --repair", hint="vnfsbuild fsck --repair --drop")
    store = Store(places.store)
    checked = _check(store)
    done: list[str] = []
    if repair:
        repair_store(store, checked.blobs, drop=drop, say=done.append)
        if not as_json:
            click.echo("\n".join(done) if done else "nothing to repair")
        checked = check_store(store, known=checked.blobs)
    _print(store, checked, done, as_json=as_json)
    if checked.is_damaged:
        count = sum(finding.is_damage for finding in checked.findings)
        raise VerificationError(
            f"store {store.path}: {count} {'fault' if count == 1 else 'faults'}",
            hint=None if repair else f"vnfsbuild --store {store.path} fsck --repair",
        )


def _check(store: Store) -> Checked:
    with bar(f"fsck {store.path}", total_bytes=total_bytes(store)) as advance:
        return check_store(store, advance=advance)


def _print(store: Store, checked: Checked, done: list[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(
            render_document(
                {
                    "path": str(store.path),
                    "damaged": checked.is_damaged,
                    "capsules": checked.capsules,
                    "blobs": len(checked.blobs),
                    "sizeBytes": checked.size_bytes,
                    "repaired": done,
                    "findings": [
                        {
                            "kind": finding.kind,
                            "subject": finding.subject,
                            "text": finding.text,
                            "hint": finding.hint,
                            "damage": finding.is_damage,
                        }
                        for finding in checked.findings
                    ],
                }
            )
        )
        return
    for finding in checked.findings:
        word = "damage" if finding.is_damage else "note"
        click.echo(f"{word}: {finding.subject}: {finding.text}")
        if finding.hint:
            click.echo(f"  hint: {finding.hint}")
    found = "damaged" if checked.is_damaged else "whole"
    click.echo(
        f"{found}: {checked.capsules} capsules, {len(checked.blobs)} blobs, "
        f"{render_size(checked.size_bytes)}"
    )
