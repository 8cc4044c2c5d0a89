"""Installed as a wheel, away from a checkout, the programs find what comes with them."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).resolve().parents[2]
SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
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
    run(sys.executable, "-m", "venv", "v")
    python = tmp_path / "v/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    # What it depends on is installed here already; .pth files over there are not followed, so the
    # checkout that this test runs in stays out.
    here = Path(run(python, "-I", "-c", SITE_PACKAGES).strip())
    (here / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    share = Path(run(python, "-I", "-c", ASK).strip())
    assert share.is_relative_to(tmp_path / "v")
    assert (share / "recipes/debian-13-minimal/recipe.toml").is_file()
    assert (share / "bootstrap-kernel/recipe.toml").is_file()
    built_in = Path("provisiond/builtin")
    brought = [sorted(p.relative_to(top) for p in (top / built_in).rglob("*") if p.is_file())
               for top in (source, here)]  # fmt: skip
    assert brought[0] == brought[1]
    assert "build" in run(tmp_path / "v/bin/vnfsbuild", "--help")
    assert "serve" in run(tmp_path / "v/bin/provisiond", "--help")
    assert "node" in run(tmp_path / "v/bin/provisionctl", "--help")
