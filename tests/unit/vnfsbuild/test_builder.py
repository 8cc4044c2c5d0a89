"""The builder: its digest follows what decides bytes, and nothing else."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from vnfsbuild import builder
from vnfsbuild.errors import InputError

ROOT = Path(__file__).parents[3]
OURS = ROOT / "vnfsbuild"

NO_BYTES = {
    # words and limits; in the agent, whose bytes count as they are
    "digest", "dsse", "errors", "reference", "trust", "verify",
    # what a lock holds is in the source payload, whoever wrote it
    "lock", "newlock", "childlock", "resolve", "builder", "stagecache", "stagerecord",
    # finds and fetches what a digest says, or stores, signs and tells
    "capsule", "fetch", "files", "listing", "origins", "packages", "places", "progress",
    "referrers/attachment", "referrers/attestation", "referrers/index", "signing/keyfiles",
    "signing/keys", "signing/passphrase", "signing/pkcs8", "signing/signer", "store/blobs",
    "store/keeper", "store/leases", "store/pins", "store/retention", "store/writer",
    "packageset", "sources/apt", "sources/control", "sources/metadata", "sources/mirror",
    "sources/openpgp", "sources/origin", "sources/release", "sources/repository",
    "sources/solution", "sources/dnf", "sources/fragments", "sources/indexes", "sources/repomd",
    "sources/rpmmetadata", "sources/rpmsignature", "rpmlock", "unknown",
    "store/store", "store/index", "store/reader", "timings", "ustar",
    # refuses, or lets pass
    "secrets",
}  # fmt: skip
"""Modules that a build uses, and that have no say in its bytes."""

SOURCE = '''\
"""What it is."""

import os  # the system

LIMIT = 3
"""How many."""


def first(text: str) -> str:
    """Return the first."""

    # A comment of its own.
    return f"# {text}" + """
# not a comment
"""
'''


def closure(*names):
    """Return the modules of ours that *names* import, and those import."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        path = OURS / f"{name}.py"
        if name in found or not path.exists():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            todo += [
                word.removeprefix("vnfsbuild.").replace(".", "/")
                for word in modules
                if word.startswith("vnfsbuild.")
            ]
    return found


def test_each_module_that_a_build_uses_is_said_to_decide_bytes_or_not():
    used = closure("build", "bootstrap") | {"initrd/pyclosure", "initrd/pycompile"}
    assert sorted(used - set(builder.MODULES) - NO_BYTES) == [], (
        "say in builder.MODULES that these decide bytes, or here that they do not"
    )
    assert sorted(set(builder.MODULES) - used) == []
    assert not NO_BYTES & set(builder.MODULES)


def test_each_script_of_an_initrd_is_part_of_the_builder():
    scripts = {
        f"initrd/{path.name}"
        for path in (OURS / "initrd").iterdir()
        if path.is_file() and path.suffix != ".py"
    }
    assert scripts == set(builder.SCRIPTS)


def test_words_alone_change_nothing():
    other = SOURCE.replace("How many.", "How many of them.").replace("# the system", "")
    other = other.replace("    # A comment of its own.\n", "\n\n").replace("What it is.", "More.")
    assert builder.normalise_source(other.encode()) == builder.normalise_source(SOURCE.encode())


def test_what_is_left_is_the_code():
    assert builder.normalise_source(SOURCE.encode()).decode() == (
        "import os\nLIMIT = 3\ndef first(text: str) -> str:\n"
        '    return f"# {text}" + """\n# not a comment\n"""\n'
    )


@pytest.mark.parametrize(
    ("before", "after"), [("LIMIT = 3", "LIMIT = 4"), ("# not a comment", "# other text")]
)
def test_code_and_text_change_it(before, after):
    changed = SOURCE.replace(before, after)
    assert builder.normalise_source(changed.encode()) != builder.normalise_source(SOURCE.encode())


def test_every_module_can_be_normalised_and_stays_the_same_program():
    for name in builder.MODULES:
        source = (OURS / f"{name}.py").read_bytes()
        assert _program(builder.normalise_source(source)) == _program(source), name


def _program(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [
                item
                for item in node.body
                if not (
                    isinstance(item, ast.Expr)
                    and isinstance(item.value, ast.Constant)
                    and (isinstance(item.value.value, str) or item.value.value is ...)
                )
            ]
    return ast.dump(tree)


def test_this_builder_is_accepted():
    builder.verify_builder(builder.find_builder(), where="x/recipe.lock")


def test_another_version_is_refused_and_named():
    locked = replace(builder.find_builder(), version="9.9.9")
    with pytest.raises(InputError, match=r"made for vnfsbuild 9\.9\.9") as caught:
        builder.verify_builder(locked, where="toy: source: recipe.lock")
    assert caught.value.exit_status == 2
    assert caught.value.hint == "pip install vnfsbuild==9.9.9"


def test_changed_code_is_refused_and_the_way_out_told():
    locked = replace(builder.find_builder(), digest="sha256:" + "ab" * 32)
    with pytest.raises(InputError, match="it may make other bytes") as caught:
        builder.verify_builder(locked, where="toy/recipe.lock", recipe="toy")
    assert caught.value.hint.startswith("vnfsbuild lock toy moves it to this one")


def test_a_lock_without_builder_is_refused():
    with pytest.raises(InputError, match="names no builder"):
        builder.verify_builder(None, where="toy/recipe.lock", recipe="toy")
