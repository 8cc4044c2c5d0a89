"""What overlays are made of: files, the commands and scripts that go with them, and overlay.toml.

Values only. :mod:`.folders` reads folders, :mod:`.render` makes the files of a node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisiond.nodes.attributes import nearest
from provisiond.overlays.templates import SECRET_NAMES, Template, compile_template
from vnfsbuild.errors import InputError
from vnfsbuild.fields import Faults, parse_toml

PHASES = ("ready", "change", "halt", "drain")
"""When scripts run on a node: before it says ``ready`` for the first time, after files of its
overlay changed, and when it stops."""
SCRIPTS = "etc/vnfs/{phase}.d/{name}"
TEMPLATE_SUFFIX = ".j2"
EACH_NAME = "@name@"
"""In the path of a file that is made for each member of a list: the member's name."""
ROOT = "root"

_OWNER = re.compile(r"[a-z_][a-z0-9_.-]{0,30}\$?\Z|\d{1,10}\Z")
_MODE = re.compile(r"[0-7]{3,4}\Z")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "": ("description", "secret", "file", "link", "run", "scripts"),
    "file": ("path", "mode", "owner", "group", "each"),
    "link": ("path", "target"),
    "run": ("when", "command", "if_exists"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayFile:
    """A file, a symbolic link, or a directory, as a node gets it."""

    path: str
    """Without a leading slash."""
    data: bytes = b""
    mode: int = 0o644
    link: str | None = None
    is_directory: bool = False
    owner: str = ROOT
    group: str = ROOT
    """Names, as the node knows them, or numbers."""
    overlay: str = ""
    """The name of the one that it comes from."""
    secret: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A command that a node runs when files were changed while it was running."""

    when: tuple[str, ...]
    """Patterns of absolute paths."""
    command: tuple[str, ...]
    if_exists: str | None = None
    """It is run only where there is this file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Something of an overlay, before it is made for a node."""

    file: OverlayFile
    """As it is when there is nothing to fill in."""
    where: str
    """The file of the folder, for messages."""
    template: Template | None = None
    """Of the content, or of a link's target."""
    each: str | None = None
    """The list for whose members it is made."""
    if_filled: bool = False
    """Of a directory: it is made only with something in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlay:
    """A folder, read."""

    name: str
    description: str = ""
    secret: bool = False
    built_in: bool = False
    entries: tuple[Entry, ...] = ()
    runs: tuple[Run, ...] = ()
    where: str = field(default="", compare=False)
    """The folder, for people."""


def make_overlay(
    name: str,
    toml: str,
    files: Iterable[OverlayFile],
    scripts: Mapping[str, bytes],
    *,
    built_in: bool,
    where: str,
) -> Overlay:
    """Return the overlay whose overlay.toml says *toml*, with the *files* and *scripts* beside it.

    Raises:
        InputError: with every fault that it has, each with the file and what was expected.
    """
    faults = Faults(f"overlay {name}: overlay.toml")
    document = parse_toml(toml, where=f"overlay {name}: overlay.toml")
    _find_unknown(document, "", "", faults)
    secret = document.get("secret", False)
    if not isinstance(secret, bool):
        faults.add("secret", f"found {secret!r:.80}, expected true or false")
    description = _text(document, "description", "", faults) or ""
    declared = _declared(document, faults)
    runs = _runs(document, faults)
    entries = [*_links(name, document, faults), *_scripts(document, scripts, faults)]
    faults.verify()
    bad: list[str] = []
    held = list(files)
    filled = {file.path.rpartition("/")[0] for file in held}
    for file in held:
        if file.is_directory and file.path in filled and file.path not in declared:
            continue
        try:
            entries.append(_entry(name, file, declared, if_filled=file.path in filled))
        except InputError as error:
            bad.append(error.message)
    for path in sorted(declared):
        bad.append(f"overlay {name}: overlay.toml: file: found no files/{path} or "
                   f"files/{path}{TEMPLATE_SUFFIX}")  # fmt: skip
    bad += [message for entry in entries for message in _misuse(name, entry, secret=secret)]
    if bad:
        raise InputError("\n".join(bad))
    return Overlay(
        name=name, description=description, secret=secret, built_in=built_in,
        entries=tuple(sorted(entries, key=lambda entry: entry.file.path)), runs=runs, where=where,
    )  # fmt: skip


def _entry(
    name: str, file: OverlayFile, declared: dict[str, dict[str, Any]], *, if_filled: bool
) -> Entry:
    """Return what *file* of the folder stands for; what is declared of it is taken."""
    is_template = file.path.endswith(TEMPLATE_SUFFIX) and file.link is None
    path = file.path.removesuffix(TEMPLATE_SUFFIX) if is_template else file.path
    where = f"files/{file.path}"
    said = declared.pop(path, {})
    template = None
    if is_template and not file.is_directory:
        template = compile_template(_decode(file.data, name, where), f"overlay {name}: {where}")
    each = said.get("each")
    if (each is None) == (EACH_NAME in path) or (each is not None and template is None):
        raise InputError(
            f"overlay {name}: {where}: found each = {each!r}, expected each = LIST in overlay.toml "
            f"for a template with {EACH_NAME} in its path, and for no other"
        )
    made = OverlayFile(
        path=path,
        data=b"" if template is not None else file.data,
        mode=said.get("mode", file.mode),
        link=file.link,
        is_directory=file.is_directory,
        owner=said.get("owner", ROOT),
        group=said.get("group", ROOT),
    )
    return Entry(file=made, where=where, template=template, each=each, if_filled=if_filled)


def _misuse(name: str, entry: Entry, *, secret: bool) -> Iterable[str]:
    if not secret and entry.template is not None:
        for word in sorted(entry.template.names & SECRET_NAMES):
            yield (f"overlay {name}: {entry.where}: found {word}, which is for overlays that are "
                   "declared secret; overlay.toml: secret = true")  # fmt: skip


def _declared(document: Mapping[str, Any], faults: Faults) -> dict[str, dict[str, Any]]:
    """Return what ``[[file]]`` says, by path."""
    found: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(_tables(document, "file", faults)):
        where = f"file[{number}]"
        said: dict[str, Any] = {}
        path = _path(item, where, faults)
        mode = _text(item, "mode", f"{where}.", faults)
        if mode is not None:
            if _MODE.match(mode):
                said["mode"] = int(mode, 8)
            else:
                faults.add(f"{where}.mode", f'found {mode!r:.40}, expected one as "0640"')
        for key in ("owner", "group"):
            owner = _text(item, key, f"{where}.", faults)
            if owner is not None and not _OWNER.match(owner):
                faults.add(f"{where}.{key}", f"found {owner!r:.40}, expected a name or a number")
            elif owner is not None:
                said[key] = owner
        each = _text(item, "each", f"{where}.", faults)
        if each is not None:
            said["each"] = each
        if path in found:
            faults.add(f"{where}.path", f"found {path} a second time")
        found[path] = said
    return found


def _links(name: str, document: Mapping[str, Any], faults: Faults) -> Iterable[Entry]:
    entries = []
    for number, item in enumerate(_tables(document, "link", faults)):
        where = f"link[{number}]"
        path, target = _path(item, where, faults), _text(item, "target", f"{where}.", faults)
        if target is None:
            faults.add(f"{where}.target", "missing: what it points to, a template")
            continue
        try:
            template = compile_template(target, f"overlay {name}: overlay.toml: {where}.target")
        except InputError as error:
            faults.add(f"{where}.target", error.message)
            continue
        file = OverlayFile(path=path, link=target, mode=0o777)
        entries.append(Entry(file=file, where=f"overlay.toml: {where}.target", template=template))
    return entries


def _scripts(
    document: Mapping[str, Any], scripts: Mapping[str, bytes], faults: Faults
) -> Iterable[Entry]:
    entries = []
    phases = document.get("scripts", {})
    if not isinstance(phases, dict):
        faults.add("scripts", f"found {phases!r:.80}, expected a table of phases")
        phases = {}
    for phase, names in phases.items():
        if phase not in PHASES:
            faults.add(f"scripts.{phase}", f"unknown phase{nearest(phase, PHASES)}")
            continue
        for script in _words(names, f"scripts.{phase}", faults):
            if script not in scripts:
                faults.add(f"scripts.{phase}", f"found no scripts/{script}")
                continue
            path = SCRIPTS.format(phase=phase, name=script)
            file = OverlayFile(path=path, data=scripts[script], mode=0o755)
            entries.append(Entry(file=file, where=f"scripts/{script}"))
    return entries


def _runs(document: Mapping[str, Any], faults: Faults) -> tuple[Run, ...]:
    found = []
    for number, item in enumerate(_tables(document, "run", faults)):
        where = f"run[{number}]"
        when = _words(item.get("when"), f"{where}.when", faults)
        command = _words(item.get("command"), f"{where}.command", faults)
        for pattern in when:
            if not pattern.startswith("/"):
                faults.add(f"{where}.when", f"found {pattern!r:.80}, expected an absolute path")
        exists = _text(item, "if_exists", f"{where}.", faults)
        found.append(Run(when=when, command=command, if_exists=exists))
    return tuple(found)


def _tables(document: Mapping[str, Any], key: str, faults: Faults) -> list[dict[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        faults.add(key, f"found {found!r:.80}, expected [[{key}]]")
        return []
    for number, item in enumerate(found):
        _find_unknown(item, key, f"{key}[{number}].", faults)
    return found


def _find_unknown(table: Mapping[str, Any], kind: str, where: str, faults: Faults) -> None:
    for key in table:
        if key not in _KEYS[kind]:
            faults.add(f"{where}{key}", f"unknown key{nearest(key, _KEYS[kind])}")


def _path(item: Mapping[str, Any], where: str, faults: Faults) -> str:
    path = _text(item, "path", f"{where}.", faults)
    if path is None:
        faults.add(f"{where}.path", "missing: the path on the node")
        return ""
    path = path.strip("/")
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        faults.add(f"{where}.path", f"found {path!r:.80}, expected a path as etc/hosts")
    return path


def _text(table: Mapping[str, Any], key: str, where: str, faults: Faults) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        faults.add(f"{where}{key}", f"found {value!r:.80}, expected text")
        return None
    return value


def _words(value: Any, where: str, faults: Faults) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    faults.add(where, f"found {value!r:.80}, expected a list of texts")
    return ()


def _decode(data: bytes, name: str, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"overlay {name}: {where}: found bytes that are not UTF-8") from error
