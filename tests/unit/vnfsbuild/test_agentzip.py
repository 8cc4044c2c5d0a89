"""agent.pyz: the same bytes, nothing too much, and it runs alone."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from provisiond.protocol import PROTOCOL
from vnfsbuild.agentzip import CARRIED, FLOOR_0, agent_sources, compile_agent, render_agent
from vnfsbuild.initrd import bootstrap
from vnfsbuild.initrd.python import find_imports
from vnfsbuild.sandbox import LOADER


def test_the_same_sources_give_the_same_bytes():
    assert render_agent() == render_agent()


def test_it_holds_the_agent_the_protocol_and_floor_0():
    with zipfile.ZipFile(io.BytesIO(render_agent())) as archive:
        names = archive.namelist()
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644
    assert names == ["__main__.py", *agent_sources()]
    assert {f"vnfsbuild/{name}.py" for name in FLOOR_0} <= set(names)
    others = [name for name in names if not name.startswith(("vnfsbuild/", "provisiond/agent/"))]
    assert others == ["__main__.py", *(f"provisiond/{name}.py" for name in CARRIED)]


def test_it_runs_without_anything_installed(tmp_path):
    path = tmp_path / "agent.pyz"
    path.write_bytes(render_agent())
    program = (
        f"import sys; sys.path.insert(0, {str(path)!r})\n"
        "import provisiond.agent.bootstrap, provisiond.agent.running\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('cryptography', 'click')))"
    )
    isolated = [sys.executable, "-I", "-S"]
    done = subprocess.run(
        [*isolated, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "[]\n"
    done = subprocess.run(
        [*isolated, str(path), "dance"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2, "usage: agent.pyz bootstrap|checkin|drivers|halt|run|work\n",
    )  # fmt: skip


def test_it_imports_the_standard_library_only():
    imports = {name.partition(".")[0] for name in find_imports(render_agent())}
    assert imports <= set(sys.stdlib_module_names)
    assert {"ssl", "http", "json", "subprocess"} <= imports


def test_the_bootstrap_says_which_protocol_its_agent_speaks():
    assert bootstrap.PROTOCOL == PROTOCOL


THIS_SYSTEM = Path("/")


@pytest.mark.skipif(
    not (THIS_SYSTEM / LOADER).exists() or not (THIS_SYSTEM / "usr/bin/python3").exists(),
    reason="this system has no python3 of its own",
)
def test_for_a_capsule_it_is_compiled_by_the_capsules_python(tmp_path):
    agent = render_agent()
    compiled = compile_agent(THIS_SYSTEM, agent)
    assert compiled == compile_agent(THIS_SYSTEM, agent)
    with zipfile.ZipFile(io.BytesIO(compiled)) as archive:
        names = archive.namelist()
        assert archive.read("provisiond/protocol.py").startswith(b'"""')
    assert names[0] == "__main__.py"
    sources = {name for name in names[1:] if name.endswith(".py")}
    assert {f"{name}c" for name in sources} == set(names[1:]) - sources
    path = tmp_path / "agent.pyz"
    path.write_bytes(compiled)
    # That Python takes the compiled ones, ours the sources when it is another.
    for python in ("/usr/bin/python3", sys.executable):
        program = (
            f"import sys; sys.path.insert(0, {str(path)!r})\n"
            "import provisiond.agent.running as found; print(found.__file__, found.__cached__)"
        )
        done = subprocess.run(
            [python, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
        )
        assert str(path) in done.stdout
        if python == "/usr/bin/python3":
            assert ".pyc" in done.stdout
        done = subprocess.run([python, "-I", "-S", str(path)], capture_output=True, check=False)
        assert done.returncode == 2


def test_a_tree_without_python_gets_the_sources(tmp_path):
    assert compile_agent(tmp_path, b"as it is") == b"as it is"
