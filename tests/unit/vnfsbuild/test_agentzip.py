"""agent.pyz: the same bytes, nothing too much, and it runs alone."""

import io
import os
import subprocess
import sys
import zipfile

from provisiond.protocol import PROTOCOL
from vnfsbuild.agentzip import FLOOR_0, agent_sources, render_agent
from vnfsbuild.initrd import bootstrap
from vnfsbuild.initrd.python import find_imports


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
    assert others == ["__main__.py", "provisiond/__init__.py", "provisiond/protocol.py"]


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
    assert (done.returncode, done.stderr) == (2, "usage: agent.pyz bootstrap|run\n")


def test_it_imports_the_standard_library_only():
    imports = {name.partition(".")[0] for name in find_imports(render_agent())}
    assert imports <= set(sys.stdlib_module_names)
    assert {"ssl", "http", "json", "subprocess"} <= imports


def test_the_bootstrap_says_which_protocol_its_agent_speaks():
    assert bootstrap.PROTOCOL == PROTOCOL
