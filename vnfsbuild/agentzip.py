"""agent.pyz: the agent as one file, the same bytes from the same sources.

It holds provisiond's agent and protocol and our floor 0, and nothing else. vnfsbuild does not
import provisiond: the sources are found, not loaded. Stored, not compressed: initrd and squashfs
compress it better, and a node starts it sooner. In a capsule each source has its compiled form
beside it, for the capsule's Python; another Python takes the source.
"""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.initrd.python import compile_modules

FLOOR_0 = (
    "__init__",
    "digest",
    "dsse",
    "errors",
    "manifest",
    "newc",
    "reference",
    "trust",
    "verify",
)

CARRIED = ("__init__", "planned", "protocol", "tasks", "wire")
"""What the agent carries of provisiond, besides itself."""

START = b'''"""Starts the agent; what follows in this archive does the work."""

import sys

from provisiond.agent.__main__ import main

sys.exit(main())
'''

PLACE = "/usr/lib/vnfs/agent.pyz"
PYTHON = "usr/bin/python3"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can name."""


def agent_sources() -> dict[str, Path]:
    """Return the files of the agent: name in the archive → where it is.

    Raises:
        VnfsbuildError: provisiond is not installed beside vnfsbuild.
    """
    ours, theirs = _package("vnfsbuild"), _package("provisiond")
    files = {f"vnfsbuild/{name}.py": ours / f"{name}.py" for name in FLOOR_0}
    files |= {f"provisiond/{name}.py": theirs / f"{name}.py" for name in CARRIED}
    files |= {f"provisiond/agent/{path.name}": path for path in (theirs / "agent").glob("*.py")}
    return dict(sorted(files.items()))


def render_agent() -> bytes:
    """Return agent.pyz.

    Raises:
        VnfsbuildError: a source is missing.
    """
    contents = {"__main__.py": START}
    try:
        contents |= {name: path.read_bytes() for name, path in agent_sources().items()}
    except OSError as error:
        raise VnfsbuildError(
            f"{error.filename}: {error.strerror}", hint="install vnfsbuild again, whole"
        ) from error
    return _render(contents)


def compile_agent(root: Path, agent: bytes) -> bytes:
    """Return *agent* with its modules compiled by the Python of *root*; as it is where is none.

    Raises:
        ToolError: a module cannot be compiled.
    """
    if not os.path.lexists(root / PYTHON):
        return agent
    with zipfile.ZipFile(io.BytesIO(agent)) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    compiled = compile_modules(root, agent, place=PLACE)
    # Only modules that are imported: what is run is looked for as source.
    compiled.pop("__main__.pyc", None)
    start = contents.pop("__main__.py")
    return _render({"__main__.py": start, **dict(sorted((contents | compiled).items()))})


def _render(contents: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.create_system = 3  # Unix, whatever this is built on
            entry.external_attr = 0o100644 << 16
            file.writestr(entry, data)
    return archive.getvalue()


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise VnfsbuildError(
            f"{name}: the package is not there", hint="install vnfsbuild again, whole"
        )
    return Path(spec.submodule_search_locations[0])
