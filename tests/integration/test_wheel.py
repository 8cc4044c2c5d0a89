"""Installed as a wheel, away from a checkout, the programs find what comes with them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).resolve().parents[2]
ASK = "from vnfsbuild.places import find_places; print(find_places().share)"


def test_wheel_brings_recipes_and_bootstrap(tmp_path):
    def run(*argv: str | Path) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        env |= {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        return subprocess.run(
            [str(word) for word in argv], check=True, capture_output=True, text=True,
            cwd=tmp_path, env=env,
        ).stdout  # fmt: skip

    # A copy: setuptools leaves build/ beside what it builds.
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", CHECKOUT, source], check=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "w", source)
    wheel = next((tmp_path / "w").glob("vnfsbuild-*.whl"))
    run(sys.executable, "-m", "venv", "--system-site-packages", "v")
    python = tmp_path / "v/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)

    share = Path(run(python, "-I", "-c", ASK).strip())
    assert share.is_relative_to(tmp_path / "v")
    assert (share / "recipes/debian-13-minimal/recipe.toml").is_file()
    assert (share / "bootstrap-kernel/recipe.toml").is_file()
    assert "build" in run(tmp_path / "v/bin/vnfsbuild", "--help")
    assert "serve" in run(tmp_path / "v/bin/provisiond", "--help")
    assert "node" in run(tmp_path / "v/bin/provisionctl", "--help")
