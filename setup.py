"""Data files of the wheel: recipes and bootstrap below share/vnfsbuild/ (the rest: pyproject.toml).

setuptools wants each directory by name, and ours hold trees; so they are listed here by walking.
"""

from pathlib import Path

from setuptools import setup

SHARED = ("recipes", "bootstrap-kernel")
NOT_SHARED = ("recipe.lock",)


def data_files() -> list[tuple[str, list[str]]]:
    """Return (directory below the prefix, files) for every folder that is shared."""
    folders: dict[str, list[str]] = {}
    for top in SHARED:
        for path in sorted(Path(top).rglob("*")):
            if path.is_file() and path.name not in NOT_SHARED:
                folders.setdefault(f"share/vnfsbuild/{path.parent}", []).append(str(path))
    return sorted(folders.items())


setup(data_files=data_files())
