"""Which shared libraries a program needs: read from its ELF headers, not asked of a loader.

A loader would run code of the tree, and answer for the host. Format: the System V gABI, chapter 5;
64 bit, little endian, which is what the architectures are that we boot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vnfsbuild.errors import InputError

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 1, 5, 15, 29

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib")
"""Where distributions keep them; the first that has one counts, as with the loader."""

MAX_LINKS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a program or library wants to be loaded."""

    interpreter: str | None
    libraries: tuple[str, ...]
    search: tuple[str, ...]
    """directories that it brings itself (RUNPATH)"""


def parse_elf(data: bytes, *, where: str) -> Needs:
    """Return what the program *data* needs.

    Raises:
        InputError: it is no ELF file of 64 bits.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise InputError(f"{where}: found {data[:6]!r}, expected a 64-bit ELF file")
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError) as error:
        raise InputError(f"{where}: a damaged ELF file: {error}") from error


def resolve_inside(root: Path, path: str) -> Path:
    """Return the file that *path* is in the tree *root*, links followed as if that were /.

    Raises:
        InputError: there is none.
    """
    rest = list(PurePosixPath("/", path).parts[1:])
    done: list[str] = []
    links = 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        links += 1
        target = PurePosixPath(here.readlink())
        if target.is_absolute():
            done = []
        rest = [word for word in target.parts if word != "/"] + rest
        if links > MAX_LINKS:
            raise InputError(f"{root / path}: too many symbolic links")
    found = root.joinpath(*done)
    if not found.exists():
        raise InputError(f"{root / path}: no such file in the tree")
    return found


def find_libraries(root: Path, programs: Iterable[str]) -> dict[str, Path]:
    """Return the libraries and loaders that *programs* of *root* need, and those need in turn.

    Path in the tree, by the name that is asked for → the file that it is.

    Raises:
        InputError: a program is none, or a library is not in the tree.
    """
    found: dict[str, Path] = {}
    waiting = [(program, resolve_inside(root, program)) for program in programs]
    while waiting:
        name, path = waiting.pop()
        needs = parse_elf(path.read_bytes(), where=str(path))
        wanted = [_find(root, name, library, needs.search) for library in needs.libraries]
        if needs.interpreter:
            wanted.append(_real_directory(root, needs.interpreter))
        for place in wanted:
            if place not in found:
                found[place] = resolve_inside(root, place)
                waiting.append((place, found[place]))
    return dict(sorted(found.items()))


def _parse(data: bytes) -> Needs:
    offset, size, count = (
        struct.unpack_from("<Q", data, 32)[0],
        *struct.unpack_from("<HH", data, 54),
    )
    headers = [struct.unpack_from("<IIQQQQQQ", data, offset + n * size) for n in range(count)]
    interpreter = None
    dynamic: list[tuple[int, int]] = []
    for kind, _, start, _, _, length, _, _ in headers:
        if kind == PT_INTERP:
            interpreter = data[start : start + length].rstrip(b"\0").decode()
        elif kind == PT_DYNAMIC:
            for entry in struct.iter_unpack("<qQ", data[start : start + length]):
                if entry[0] == DT_NULL:
                    break
                dynamic.append(entry)
    loads = [header for header in headers if header[0] == PT_LOAD]
    table = next((_file_offset(loads, value) for tag, value in dynamic if tag == DT_STRTAB), 0)

    def text(position: int) -> str:
        start = table + position
        return data[start : data.index(b"\0", start)].decode()

    paths = [text(value) for tag, value in dynamic if tag in (DT_RPATH, DT_RUNPATH)]
    return Needs(
        interpreter=interpreter,
        libraries=tuple(text(value) for tag, value in dynamic if tag == DT_NEEDED),
        search=tuple(part for path in paths for part in path.split(":") if part),
    )


def _file_offset(loads: list[tuple[int, ...]], address: int) -> int:
    for _, _, start, virtual, _, length, _, _ in loads:
        if virtual <= address < virtual + length:
            return start + address - virtual
    raise ValueError(f"no segment holds the address {address:#x}")


def _find(root: Path, program: str, library: str, search: Iterable[str]) -> str:
    origin = str(PurePosixPath("/", program).parent)
    own = [path.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for path in search]
    for place in [*own, *LIBRARIES]:
        name = str(PurePosixPath("/", place, library))[1:]
        if (root / name).is_symlink() or (root / name).exists():
            return _real_directory(root, name)
    raise InputError(f"{root / program}: needs {library}, which is not in the tree")


def _real_directory(root: Path, path: str) -> str:
    """Return *path* with links in its directories followed; its last part as it is asked for."""
    place = PurePosixPath("/", path)
    parent = resolve_inside(root, str(place.parent)) if place.parent != PurePosixPath("/") else root
    return str((parent / place.name).relative_to(root))
