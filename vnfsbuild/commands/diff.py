"""``vnfsbuild diff``: what changed from one capsule to another."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from os import major, minor
from typing import Any

import click

from vnfsbuild.changes import render_changes
from vnfsbuild.digest import short
from vnfsbuild.inside.comparison import Comparison, ValueChange, compare
from vnfsbuild.inside.filechanges import FileChange, Kind
from vnfsbuild.inside.opened import Opened, open_capsule_at
from vnfsbuild.inside.union import plain, shown, type_of
from vnfsbuild.layer import Entry
from vnfsbuild.listing import render_document, render_table
from vnfsbuild.options import DIFFERENT, json_option
from vnfsbuild.places import Places
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_tools_tree


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--packages", is_flag=True, help="Packages alone.")
@click.option("--files", is_flag=True, help="Files alone.")
@click.option("--times", is_flag=True, help="Files too whose time alone is another.")
@click.option("--exit-code", is_flag=True, help="Exit status 4 when they are not the same.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    before: str,
    after: str,
    packages: bool,
    files: bool,
    times: bool,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Show what changed from capsule A to B: packages, what nodes are told, files.

    Packages come from the locks in both; files are compared as a node will see them, with their
    contents. Each is a reference, or a .vnfs file: a name with a slash or with that ending.
    """
    places: Places = ctx.obj
    store = Store(places.store)
    both = packages == files
    with open_capsule_at(before, store) as one, open_capsule_at(after, store) as other:
        found = compare(
            one,
            other,
            packages=packages or both,
            files=files or both,
            find_tools=lambda: ensure_tools_tree("build", places.cache),
        )
    same = one.digest == other.digest
    if as_json:
        click.echo(render_document(describe(found, one, other)))
    else:
        click.echo("\n".join(_told(found, one, other, times=times)))
    if exit_code and not same:
        ctx.exit(DIFFERENT)


def describe(found: Comparison, one: Opened, other: Opened) -> dict[str, Any]:
    """Return what ``--json`` tells of a comparison."""
    return {
        "before": _side(one),
        "after": _side(other),
        "same": one.digest == other.digest,
        "values": [asdict(item) for item in found.values],
        "payloads": [asdict(item) for item in found.payloads],
        "packages": None if found.packages is None else [asdict(item) for item in found.packages],
        "keyChanges": [asdict(item) for item in found.keys],
        "files": None if found.files is None else [_file(item) for item in found.files],
    }


def _side(opened: Opened) -> dict[str, Any]:
    return {
        "name": opened.name,
        "serial": opened.head.capsule.config.serial,
        "digest": opened.digest,
    }


def _file(change: FileChange) -> dict[str, Any]:
    return {
        "path": "/" if change.path == "." else f"/{change.path}",
        "kinds": list(change.kinds),
        "before": _facts(change.before),
        "after": _facts(change.after),
    }


def _facts(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "type": type_of(entry),
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "sizeBytes": entry.size_bytes,
        "mtime": entry.mtime,
        "target": entry.target or None,
        "xattrs": {name: value.hex() for name, value in sorted(entry.xattrs.items())},
    }


def _told(found: Comparison, one: Opened, other: Opened, *, times: bool) -> Iterator[str]:
    names = [f"{side.name}:{side.head.capsule.config.serial}" for side in (one, other)]
    yield f"{names[0]} ({short(one.digest)}) → {names[1]} ({short(other.digest)})"
    if one.digest == other.digest:
        yield "the same"
        return
    if found.packages is not None:
        yield ""
        yield f"packages: {_count(change.kind for change in found.packages)}"
        yield from (f"  {plain(line)}" for line in render_changes(found.packages, found.keys))
    yield ""
    yield f"what nodes are told: {_total(found.values)}"
    yield from (f"  {_value(item)}" for item in found.values)
    yield f"payloads: {_total(found.payloads)}"
    yield from (f"  {item.key}: {_shown(item.before)} → {_shown(item.after)}"
                for item in found.payloads)  # fmt: skip
    if found.files is not None:
        yield ""
        yield from _told_files(found.files, times=times)


def _told_files(changes: Sequence[FileChange], *, times: bool) -> Iterator[str]:
    real = [change for change in changes if not change.only_time]
    untold = len(changes) - len(real)
    more = f"; and {untold} whose time alone is another" if untold else ""
    yield f"files: {_count(change.kinds[0] for change in real)}{more}"
    told = changes if times else real
    order = list(Kind)
    rows = [
        (_words(change), shown(change.path), _how(change))
        for change in sorted(told, key=lambda change: order.index(change.kinds[0]))
    ]
    if rows:
        yield from (f"  {line}" for line in render_table(rows[0], rows[1:]).splitlines())


def _words(change: FileChange) -> str:
    # Another time is no news of a file that was changed otherwise.
    kinds = [kind for kind in change.kinds if kind is not Kind.TIME]
    return ",".join(kinds or [Kind.TIME])


def _how(change: FileChange) -> str:
    was, now = change.before, change.after
    if was is None or now is None:
        entry = now or was
        assert entry is not None
        return type_of(entry) if not entry.target else f"link to {plain(entry.target)}"
    told = []
    for kind in change.kinds:
        pair = _pair(kind, was, now)
        if pair:
            told.append(f"{pair[0]} → {pair[1]}" if pair[0] != pair[1] else pair[0])
    return ", ".join(told)


def _pair(kind: Kind, was: Entry, now: Entry) -> tuple[str, str] | None:
    def both(told: Any) -> tuple[str, str]:
        return str(told(was)), str(told(now))

    if kind is Kind.TYPE:
        return both(type_of)
    if kind is Kind.CONTENT and stat.S_ISREG(was.mode):
        return both(lambda entry: f"{entry.size_bytes} bytes")
    if kind is Kind.CONTENT:
        return both(lambda entry: f"{major(entry.device)},{minor(entry.device)}")
    if kind is Kind.TARGET:
        return both(lambda entry: plain(entry.target))
    if kind is Kind.MODE:
        return both(lambda entry: f"{stat.S_IMODE(entry.mode):04o}")
    if kind is Kind.OWNER:
        return both(lambda entry: f"{entry.uid}:{entry.gid}")
    if kind is Kind.XATTRS:
        return both(lambda entry: ",".join(sorted(entry.xattrs)) or "no attributes")
    return None


def _value(item: ValueChange) -> str:
    return f"{item.key}: {item.before or 'none'} → {item.after or 'none'}"


def _shown(digest: str | None) -> str:
    return short(digest) if digest else "none"


def _total(items: Sequence[ValueChange]) -> str:
    return str(len(items)) if items else "all the same"


def _count(kinds: Iterator[str]) -> str:
    counted = Counter(str(kind) for kind in kinds)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())) or "all the same"
