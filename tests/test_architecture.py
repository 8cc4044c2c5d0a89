"""The floors of the house: who may import whom, and who may touch the world.

A module imports only what stands before it in its package's table. A folder stands for all modules
in it that the table does not name; inside one, and between the verbs of ``commands/``, the order is
free but not circular.
To add a module, write its name where it belongs: below all that it needs.
"""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

WORDS = "0 words"
MODEL = "1 model"
DECIDE = "2 decide"

FLOORS = {
    "vnfsbuild": {
        # Standard library only, Python ≥ 3.9: the agent carries these.
        WORDS: "errors digest dsse reference manifest newc trust verify",
        MODEL: "fields distributions origins recipe lock",
        DECIDE: (
            "inputs mkosi_config layer treelist idmap compare variation rpmversion changes"
            " listing unknown"
            " referrers/attestation referrers/attachment referrers/index referrers/purl"
            " referrers/sourcelock referrers/provenance referrers/sbom"
            " signing/pkcs8 signing/trustrules registry/name registry/challenge"
            " registry/foreignjson transfer/chunks inside/union inside/capability"
            " inside/lockrows inside/filechanges"
        ),
        "3 edges": ("tools files places timings progress fetch signing/ sandbox standin namespace"),
        "4 builders": (
            "sources/ packages recipefiles users rpmdb install tree secrets local scripts"
            " source ustar"
            " packageset essential unpacked capsule rewrite initrd/ pack/ agentzip builder"
            " unpack/ contents"
        ),
        "5 stores": "store/ toolstree stagecache storedtree stagerecord",
        "6 flows": (
            "vendored rpmlock newlock childlock resolve trees stages payloads seal build"
            " bootstrap rebuild original referrers/ inside/"
            " transfer/ registry/ explain reproduce describe verdicts sign doctor"
        ),
        "7 surface": "verbs options registryoptions commands/ cli __main__",
    },
    "provisiond": {
        WORDS: "wire planned tasks protocol refusals",
        MODEL: (
            "nodes/values nodes/families nodes/attributes overlays/templates overlays/files"
            " nodes/scopes"
            " nodes/tasks nodes/model nodes/batches nodes/rollout configvalues config"
        ),
        DECIDE: (
            "nodes/selection nodes/clashes nodes/vouching nodes/interchange nodes/differences"
            " foreign/ nodes/drivers nodes/supply nodes/choose nodes/bootwords nodes/states"
            " overlays/values overlays/render site ipxe"
            " dnsmasq_config"
        ),
        "3 edges": (
            "statedir nodes/tables nodes/rolloutrows nodes/database intact bootfiles catalogue"
            " authority nodes/leases"
            " events/events hosts events/hooks overlays/folders prepare supervisor datagrams"
        ),
        "4 flows": (
            "nodes/watchers nodes/registry events/ overlays/ nodes/registrar nodes/chronicle"
            " nodes/pins nodes/knocks nodes/rollouts parts firmware service nodes/"
            " administration/ watch"
        ),
        "5 surface": "api/ server client commands/ cli ctl __main__",
        "apart: on nodes": "agent/",
        "apart: in the laboratory": "lab/",
    },
}

OF_VNFSBUILD = (
    "errors digest dsse reference manifest newc trust verify fields files tools signing/ capsule"
    " store/ places listing progress verbs"
)
"""What provisiond uses of vnfsbuild, besides what is said in :data:`MORE_OF_VNFSBUILD`."""

MORE_OF_VNFSBUILD = {
    "agent/": FLOORS["vnfsbuild"][WORDS],
    "catalogue": f"{OF_VNFSBUILD} transfer/ transfer/chunks",
    "lab/": f"{OF_VNFSBUILD} sandbox toolstree",
    "commands/": f"{OF_VNFSBUILD} registry/ registry/name registryoptions",
}

WORLD = {
    "os", "subprocess", "socket", "sqlite3", "http", "shutil", "tempfile", "time", "random",
    "secrets", "threading", "asyncio", "logging", "click", "tqdm", "aiohttp", "sqlalchemy",
    "libarchive",
}  # fmt: skip
"""What the pure floors do without. Reading a path is for edges too: see :data:`TOUCHES`."""

TOUCHES = {
    "open", "read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir",
    "iterdir", "glob", "rglob", "stat", "lstat", "mkdir", "unlink", "rename", "resolve",
}  # fmt: skip

IN_MEMORY = {"tarfile.open"}
"""Its name says what it is not; pure modules give it a file object."""

RUN_PROGRAMS = {
    "vnfsbuild/tools.py", "provisiond/events/hooks.py", "provisiond/supervisor.py",
    "provisiond/lab/children.py",
}  # fmt: skip
PRINT = {"vnfsbuild/cli.py", "vnfsbuild/commands/", "provisiond/cli.py", "provisiond/commands/"}
BANNED_NAMES = {"utils", "helpers", "common", "base", "core"}
OLD_PYTHON = (3, 9)
"""Nodes may have it; floor 0 and the agent parse with it."""


def entry_of(path: Path) -> str:
    """Return under which name the table has the file *path*."""
    package, *parts = path.relative_to(ROOT).with_suffix("").parts
    exact = "/".join(parts)
    return exact if len(parts) == 1 or exact in order(package) else f"{parts[0]}/"


def order(package: str) -> list[str]:
    return [name for names in FLOORS[package].values() for name in names.split()]


def floor(package: str, floor_name: str) -> set[str]:
    return set(FLOORS[package][floor_name].split())


def files_of(package: str) -> list[Path]:
    # A package's own __init__.py holds its version, and nothing that could be out of order.
    return sorted(path for path in (ROOT / package).rglob("*.py") if path != init_of(package))


def init_of(package: str) -> Path:
    return ROOT / package / "__init__.py"


ALL_FILES = [path for package in FLOORS for path in files_of(package)]
PURE_FILES = [
    path
    for package in FLOORS
    for path in files_of(package)
    if any(entry_of(path) in floor(package, name) for name in (WORDS, MODEL, DECIDE))
]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> list[str]:
    """Return the dotted names of the modules that *path* imports, inside functions too."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}:{node.lineno}: relative import"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                is_module = (ROOT / full.replace(".", "/")).with_suffix(".py").exists()
                is_folder = (ROOT / full.replace(".", "/") / "__init__.py").exists()
                found.append(full if is_module or is_folder else module)
    return found


def own_entry(dotted: str) -> tuple[str, str] | None:
    """Return (package, entry of the table) of a module of ours."""
    package, _, rest = dotted.partition(".")
    if package not in FLOORS:
        return None
    first, _, inner = rest.partition(".")
    exact = rest.replace(".", "/")
    if exact in order(package):
        return package, exact
    is_folder = bool(inner) or (ROOT / package / first / "__init__.py").exists()
    return package, f"{first}/" if is_folder and first else first


def needs(package: str, entry: str) -> list[str]:
    """Return what *entry* imports of its package, as the table has it."""
    imported = {
        own_entry(dotted)
        for path in files_of(package)
        if entry_of(path) == entry
        for dotted in imports_of(path)
    }
    return sorted(found[1] for found in imported if found and found[0] == package)


@pytest.mark.parametrize("package", FLOORS)
def test_every_module_stands_in_the_table_and_the_other_way_round(package):
    there = {entry_of(path) for path in files_of(package)}
    listed = order(package)
    assert sorted(listed) == sorted(set(listed)), "listed twice"
    missing = [
        f"{entry}: after {', '.join(needs(package, entry)) or 'nothing'}"
        for entry in sorted(there - set(listed))
    ]
    assert not missing, "say in FLOORS where these belong:\n" + "\n".join(missing)
    assert sorted(set(listed) - there) == [], "these are in FLOORS and nowhere else"


@pytest.mark.parametrize("path", ALL_FILES, ids=shown)
def test_a_module_imports_only_what_stands_before_it(path):
    package, entry = path.relative_to(ROOT).parts[0], entry_of(path)
    before = order(package)[: order(package).index(entry) + 1]
    for dotted in imports_of(path):
        found = own_entry(dotted)
        if found is None or not found[1]:
            continue
        other, name = found
        if other == package:
            assert name in before, f"imports {dotted}, which stands after {entry}"
        else:
            assert package == "provisiond", "vnfsbuild never imports provisiond"
            words = MORE_OF_VNFSBUILD.get(entry, OF_VNFSBUILD).split()
            assert name in words, f"imports {dotted}; of vnfsbuild it may have {', '.join(words)}"


def test_the_agent_and_the_laboratory_are_imported_by_nobody_else():
    """provisionctl loads the laboratory by name, and only when it is used."""
    for path in files_of("provisiond"):
        for dotted in imports_of(path):
            found = own_entry(dotted)
            if found is not None and found[1] in ("agent/", "lab/"):
                assert entry_of(path) == found[1], f"{shown(path)} imports {dotted}"


@pytest.mark.parametrize("path", PURE_FILES, ids=shown)
def test_a_pure_module_does_not_touch_the_world(path):
    for dotted in imports_of(path):
        assert dotted.partition(".")[0] not in WORLD, f"imports {dotted}"
        assert dotted != "urllib.request"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if ast.unparse(called) not in IN_MEMORY:
                assert name not in TOUCHES, f"line {node.lineno}: calls {name}()"


@pytest.mark.parametrize(
    "path",
    [path for path in ALL_FILES if shown(path).startswith("provisiond/agent/")]
    + [p for p in ALL_FILES if entry_of(p) in floor(p.relative_to(ROOT).parts[0], WORDS)],
    ids=shown,
)
def test_what_nodes_carry_is_standard_library_and_old_python(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=OLD_PYTHON)
    for dotted in imports_of(path):
        top = dotted.partition(".")[0]
        assert top in sys.stdlib_module_names or top in FLOORS, f"imports {dotted}"
    for node in ast.walk(tree_of(path)):
        assert not isinstance(node, ast.Match), f"line {node.lineno}: match, which 3.9 has not"


@pytest.mark.parametrize("path", ALL_FILES, ids=shown)
def test_programs_are_started_in_one_place(path):
    name = shown(path)
    if name in RUN_PROGRAMS or name.startswith("provisiond/agent/"):
        return
    assert "subprocess" not in imports_of(path)
    calls = {ast.unparse(n.func) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)}
    assert not calls & {"os.system", "os.popen", "os.execv", "os.execvp", "os.posix_spawn"}


def test_sql_is_spoken_in_one_place():
    speakers = {
        shown(path)
        for path in ALL_FILES
        for dotted in imports_of(path)
        if dotted.partition(".")[0] in ("sqlite3", "sqlalchemy")
    }
    assert speakers <= {
        "provisiond/nodes/database.py", "provisiond/nodes/rolloutrows.py",
        "provisiond/nodes/tables.py",
    }  # fmt: skip


@pytest.mark.parametrize("path", [*ALL_FILES, *map(init_of, FLOORS)], ids=shown)
def test_a_module_says_what_it_is_and_is_named_for_it(path):
    assert ast.get_docstring(tree_of(path)), "no docstring"
    assert path.stem not in BANNED_NAMES
    assert not set(path.relative_to(ROOT).parent.parts) & BANNED_NAMES
