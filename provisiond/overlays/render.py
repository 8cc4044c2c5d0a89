"""The overlay of a node: the files that make one capsule this node, and the tar of them.

Pure and deterministic: equal values give equal bytes, so that a digest says whether anything
changed. What is the same for many nodes is made once and shared.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from provisiond.overlays.files import EACH_NAME, ROOT, Entry, Overlay, OverlayFile, Run
from provisiond.overlays.templates import render_template
from provisiond.overlays.values import PER_NODE, NodeValues
from vnfsbuild.digest import render_json
from vnfsbuild.errors import InputError

MAX_OVERLAY_BYTES = 64 * 1024 * 1024
RECORD = "etc/vnfs/overlay.json"
"""What an overlay consists of, for the agent: which files are its own, what to run when."""
OWNERS = "etc/tmpfiles.d/vnfs-owners.conf"
"""Gives files their owners by name, where systemd starts: before, names are not known."""
TAKES_AWAY = "-"
_DIRECTORY_MODE = 0o755


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What a node gets."""

    files: tuple[OverlayFile, ...]
    """Sorted by path."""
    faults: tuple[str, ...] = ()
    """Why it is not all of it: it may not be handed out then."""
    held_back: tuple[str, ...] = ()
    """Names of secret overlays that the node does not get."""
    uses: frozenset[str] = frozenset()
    """The variables that were looked at."""


@dataclass(slots=True)
class Memo:
    """Files that were made before, of values that more than one node has."""

    files: dict[Any, OverlayFile | None] = field(default_factory=dict)
    members: dict[int, tuple[OverlayFile, bytes, list[Any]]] = field(default_factory=dict)
    """By identity of the file: the file, packed, and its :func:`fingerprint`."""

    def clear(self) -> None:
        """Forget all."""
        self.files.clear()
        self.members.clear()


def choose_overlays(words: Iterable[str]) -> tuple[str, ...]:
    """Return the names that *words* leave, the weakest first: ``NAME`` adds, ``-NAME`` takes away.

    Of a name that is given twice the later place counts.
    """
    found: dict[str, None] = {}
    for word in words:
        found.pop(word.removeprefix(TAKES_AWAY), None)
        if not word.startswith(TAKES_AWAY):
            found[word] = None
    return tuple(found)


def render_node(
    overlays: Sequence[Overlay], values: NodeValues, *, with_secrets: bool, memo: Memo
) -> Rendered:
    """Return the files that *overlays*, the weakest first, make of a node's *values*.

    Of two files with one path that of the stronger overlay counts. A template that makes nothing
    makes no file.
    """
    files: dict[str, OverlayFile] = {}
    if_filled: set[str] = set()
    faults: list[str] = []
    uses: set[str] = set()
    held_back = [item.name for item in overlays if item.secret and not with_secrets]
    used = [item for item in overlays if item.name not in held_back]
    for overlay in used:
        for entry in overlay.entries:
            if entry.template is not None:
                uses |= entry.template.names
            if entry.if_filled:
                if_filled.add(entry.file.path)
            try:
                made = _make(overlay, entry, values, memo)
            except InputError as error:
                faults.append(error.message)
                continue
            for file in made:
                files.pop(file.path, None)
                files[file.path] = file
    filled = {parent for path in files for parent in _parents(path)}
    for path in if_filled - filled:
        files.pop(path, None)
    faults += _find_clashes(files)
    owners = _owners(files.values())
    if owners is not None:
        files[OWNERS] = owners
    runs = [run for overlay in used for run in overlay.runs]
    files[RECORD] = _record(files.values(), runs, memo)
    size_bytes = sum(len(file.data) for file in files.values())
    if size_bytes > MAX_OVERLAY_BYTES:
        faults.append(f"overlay: {size_bytes} bytes, expected {MAX_OVERLAY_BYTES} at most")
    return Rendered(
        files=tuple(files[path] for path in sorted(files)),
        faults=tuple(faults),
        held_back=tuple(held_back),
        uses=frozenset(uses),
    )


def pack_overlay(files: Iterable[OverlayFile], memo: Memo) -> bytes:
    """Return the tar of *files*, with the directories that they are in.

    Raises:
        InputError: a path is too long for the format.
    """
    by_path = {file.path: file for file in files}
    parts: list[bytes] = []
    made: set[str] = set()
    for path in sorted(by_path):
        for directory in _parents(path):
            if directory not in made and directory not in by_path:
                parts.append(_directory_member(directory))
            made.add(directory)
        parts.append(_member(by_path[path], memo))
    return b"".join(parts) + bytes(tarfile.BLOCKSIZE * 2)


def fingerprint(file: OverlayFile) -> list[Any]:
    """Return what says whether a file on a node is this one: kind, content, mode, owner, group."""
    if file.link is not None:
        return ["link", file.link, 0o777, ROOT, ROOT]
    if file.is_directory:
        return ["directory", "", file.mode, file.owner, file.group]
    digest = hashlib.sha256(file.data).hexdigest()
    return ["file", digest, file.mode, file.owner, file.group]


def _make(
    overlay: Overlay, entry: Entry, values: NodeValues, memo: Memo
) -> tuple[OverlayFile, ...]:
    if entry.each is not None:
        members = values.find(entry.each)
        if not isinstance(members, tuple):
            raise InputError(f"overlay {overlay.name}: overlay.toml: each = {entry.each!r}: "
                             "expected the name of a list of the node's")  # fmt: skip
        made = [_fill(overlay, entry, values.with_item(item), item["name"]) for item in members]
        return tuple(file for file in made if file is not None)
    key = _shared_key(overlay, entry, values)
    if key is None:
        one = _fill(overlay, entry, values, None)
    elif key in memo.files:
        one = memo.files[key]
    else:
        one = memo.files[key] = _fill(overlay, entry, values, None)
    return () if one is None else (one,)


def _shared_key(overlay: Overlay, entry: Entry, values: NodeValues) -> Any:
    """Return what the file is made from, when other nodes may have the same; else None."""
    if entry.template is None:
        return (overlay.name, entry.where, entry.file.path)
    if entry.template.names & PER_NODE:
        return None
    names = sorted(entry.template.names)
    return (overlay.name, entry.where, entry.file.path, *(values.key(name) for name in names))


def _fill(
    overlay: Overlay, entry: Entry, values: NodeValues, name: str | None
) -> OverlayFile | None:
    """Return the file of *entry*, or None when its template makes nothing."""
    file, secret = entry.file, overlay.secret
    path = file.path if name is None else file.path.replace(EACH_NAME, name)
    if entry.template is None:
        return replace(file, path=path, overlay=overlay.name, secret=secret)
    text = render_template(entry.template, values.select(entry.template.names))
    if not text.strip():
        return None
    if file.link is not None:
        return replace(file, path=path, link=text, overlay=overlay.name, secret=secret)
    data = text.encode("utf-8")
    return replace(file, path=path, data=data, overlay=overlay.name, secret=secret)


def _find_clashes(files: dict[str, OverlayFile]) -> list[str]:
    """Return what is wrong where one file is where another needs a directory."""
    found = []
    for path, file in files.items():
        for parent in _parents(path):
            above = files.get(parent)
            if above is not None and not above.is_directory:
                found.append(f"overlay {file.overlay}: {path}: {parent} is no directory in overlay "
                             f"{above.overlay}")  # fmt: skip
    return found


def _owners(files: Iterable[OverlayFile]) -> OverlayFile | None:
    lines = [
        f'z "/{file.path}" {file.mode:04o} {file.owner} {file.group} -'
        for file in sorted(files, key=lambda item: item.path)
        if file.link is None and not (_is_plain(file.owner) and _is_plain(file.group))
    ]
    if not lines:
        return None
    text = "# Owners of files of the node's overlay.\n" + "\n".join(lines) + "\n"
    return OverlayFile(path=OWNERS, data=text.encode())


def _is_plain(owner: str) -> bool:
    return owner == ROOT or owner.isdigit()


def _record(files: Iterable[OverlayFile], runs: Iterable[Run], memo: Memo) -> OverlayFile:
    value = {
        "files": {file.path: _held_fingerprint(file, memo) for file in files},
        "run": [
            {"when": list(run.when), "command": list(run.command), "ifExists": run.if_exists}
            for run in runs
        ],
    }
    return OverlayFile(path=RECORD, data=render_json(value), mode=0o600)


@lru_cache(maxsize=65536)
def _parents(path: str) -> tuple[str, ...]:
    parts = path.split("/")[:-1]
    return tuple("/".join(parts[: number + 1]) for number in range(len(parts)))


@lru_cache(maxsize=4096)
def _directory_member(path: str) -> bytes:
    return _pack(OverlayFile(path=path, mode=_DIRECTORY_MODE, is_directory=True))


def _held_fingerprint(file: OverlayFile, memo: Memo) -> list[Any]:
    held = memo.members.get(id(file))
    return held[2] if held is not None and held[0] is file else fingerprint(file)


def _member(file: OverlayFile, memo: Memo) -> bytes:
    held = memo.members.get(id(file))
    if held is not None and held[0] is file:
        return held[1]
    return _pack(file)


def keep_members(memo: Memo) -> None:
    """Pack what nodes share beforehand: it is packed once then, not for each of them."""
    for file in memo.files.values():
        if file is not None and id(file) not in memo.members:
            memo.members[id(file)] = (file, _pack(file), fingerprint(file))


def _pack(file: OverlayFile) -> bytes:
    member = tarfile.TarInfo(file.path)
    member.mode = file.mode
    for owner, number, text in ((file.owner, "uid", "uname"), (file.group, "gid", "gname")):
        if owner.isdigit():
            setattr(member, number, int(owner))
        elif owner != ROOT:
            # Who unpacks it at boot does not know names yet and takes the number, root's.
            setattr(member, text, owner)
    if file.link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, file.link
    elif file.is_directory:
        member.type = tarfile.DIRTYPE
    else:
        member.size = len(file.data)
    try:
        head = member.tobuf(format=tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise InputError(f"overlay {file.overlay}: {file.path}: {error}") from error
    return head + file.data + bytes(-len(file.data) % tarfile.BLOCKSIZE)
