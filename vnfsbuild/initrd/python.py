"""As much of a tree's Python as the agent needs: interpreter, compiled modules, extensions.

Which modules those are is found by importing them with that very Python: no list to keep.
"""

from __future__ import annotations

import ast
import io
import re
import tempfile
import zipfile
from pathlib import Path

from vnfsbuild.errors import InputError
from vnfsbuild.initrd.archive import Member, link, regular
from vnfsbuild.initrd.elf import resolve_inside
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import capture, run

CLOSURE = Path(__file__).parent / "pyclosure.py"
COMPILE = Path(__file__).parent / "pycompile.py"
OURS = ("__future__", "provisiond", "vnfsbuild")

UNSEEN = (
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "linecache",
    "runpy",
    "traceback",
    "unicodedata",
)
"""Modules that Python imports by itself: to run a zip file, name a host, show a traceback."""


def find_imports(agent: bytes) -> list[str]:
    """Return what the sources in the zip file *agent* import of the standard library."""
    names: set[str] = set()
    with zipfile.ZipFile(io.BytesIO(agent)) as archive:
        for name in archive.namelist():
            for node in ast.walk(ast.parse(archive.read(name), name)):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module)
    return sorted(name for name in names if name.partition(".")[0] not in OURS)


def find_python(root: Path) -> str:
    """Return the name of the interpreter of *root*, ``python3.13``.

    Raises:
        InputError: it has none.
    """
    name = resolve_inside(root, "usr/bin/python3").name
    if not re.fullmatch(r"python3\.\d+", name):
        raise InputError(f"{root}/usr/bin/python3: found {name}, expected python3.N")
    return name


def compile_modules(root: Path, archive: bytes, *, place: str) -> dict[str, bytes]:
    """Return the modules in the zip file *archive*, compiled by the Python of *root*, by name.

    *place* is where the zip file will be on a node: tracebacks say it.

    Raises:
        InputError: the tree has no Python.
        ToolError: a module cannot be compiled.
    """
    name = find_python(root)
    with tempfile.TemporaryDirectory() as scratch:
        sources, out = Path(scratch, "sources"), Path(scratch, "out")
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            file.extractall(sources)
        words = ["-B", "-S", "-s", str(COMPILE), str(sources), place, str(out)]
        run(tree_argv(root, name, words), env=_environment(root))
        return {
            str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.pyc"))
        }


def _environment(root: Path) -> dict[str, str]:
    # Order in sets of constants follows the seed, and would be in the bytes.
    return {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0"}


def python_members(root: Path, agent: bytes, work: Path) -> dict[str, Member]:
    """Return the interpreter of *root* and the modules that *agent* needs, compiled into *work*.

    Raises:
        InputError: the tree has no Python.
        ToolError: a module cannot be imported.
    """
    name = find_python(root)
    library = root / "usr/lib" / name
    argv = tree_argv(
        root, name, ["-B", "-S", "-s", str(CLOSURE), str(work), str(library), *UNSEEN]
    ) + find_imports(agent)
    extensions = capture(argv, env=_environment(root)).decode().splitlines()
    members = {
        f"usr/bin/{name}": regular(root / "usr/bin" / name, mode=0o755),
        "usr/bin/python3": link(name),
    }
    for file in work.rglob("*.pyc"):
        members[f"usr/lib/{name}/{file.relative_to(work)}"] = regular(file)
    for extension in extensions:
        members[str(Path(extension).relative_to(root))] = regular(Path(extension))
    return members
