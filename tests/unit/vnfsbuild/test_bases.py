"""The chain of recipes below a recipe: what it must be, told before anything is done."""

import os
from pathlib import Path

import pytest

from vnfsbuild import cli
from vnfsbuild.errors import InputError
from vnfsbuild.recipefiles import load_chain, load_recipe, source_paths
from vnfsbuild.source import pack_source, unpack_source

LEAST = """
name = "toy"
[distribution]
id = "debian"
release = "trixie"
[kernel]
package = "linux-image-toy"
"""


@pytest.fixture
def write(tmp_path):
    """Writes a recipe into a directory of its own."""

    def write(name, base=None, *, more="", old="", new=""):
        directory = tmp_path / name
        directory.mkdir(parents=True, exist_ok=True)
        head = f'base = "{base}"\n' if base else ""
        (directory / "recipe.toml").write_text(head + LEAST.replace(old, new) + more)
        return directory

    return write


def refusal_of(directory):
    with pytest.raises(InputError) as raised:
        load_recipe(directory)
    assert raised.value.exit_status == 2
    return raised.value.message


def test_a_chain_is_loaded_down_to_the_undermost(write, tmp_path):
    top = write("a", "../b")
    write("b", "../below/c", more='[scripts]\nfinalize = ["x.sh"]\n')
    (tmp_path / "b/x.sh").write_text("#!/bin/sh\n")
    write("below/c")
    chain = load_chain(top)
    assert [item.directory for item in chain] == [top, tmp_path / "b", tmp_path / "below/c"]
    assert [item.recipe.base for item in chain] == ["../b", "../below/c", None]
    assert [len(item.files) for item in chain] == [0, 1, 0]
    assert "base" in {item.key for item in chain[0].keys}
    assert load_recipe(tmp_path / "below/c") == chain[-1]


def test_a_recipe_knows_its_chain(write, tmp_path):
    loaded = load_recipe(write("a", "../b")) if write("b", "../c") and write("c") else None
    assert [item.directory.name for item in loaded.chain] == ["c", "b", "a"]
    assert loaded.base.base == load_recipe(tmp_path / "c")


def test_a_source_payload_holds_the_bases_and_stands_alone(write, tmp_path):
    top = write("a", "../b", more='[files]\ncopy = "files"\n')
    (top / "files").mkdir()
    (top / "files/x").write_text("x")
    for name, base in (("b", "../c"), ("c", None)):
        write(name, base)
    for name in "abc":
        (tmp_path / name / "recipe.lock").write_text(name)
    sources = source_paths(load_recipe(top))
    assert sorted(sources) == [
        ".base/.base/recipe.lock",
        ".base/.base/recipe.toml",
        ".base/recipe.lock",
        ".base/recipe.toml",
        "files/x",
        "recipe.lock",
        "recipe.toml",
    ]
    away = tmp_path / "elsewhere/alone"
    unpack_source(pack_source(sources), away, where="x")
    chain = load_chain(away)
    assert [item.directory for item in chain] == [away, away / ".base", away / ".base/.base"]
    assert [item.digest for item in chain] == [item.digest for item in load_chain(top)]


def test_a_missing_base_is_told(write, tmp_path):
    top = write("a", "../b")
    expected = (
        f"{top}/recipe.toml: base: found no {tmp_path}/b/recipe.toml, "
        "expected the directory of another recipe"
    )
    assert refusal_of(top) == expected
    (tmp_path / "b").symlink_to("b")
    assert refusal_of(top) == expected


@pytest.mark.parametrize(
    ("bases", "where", "chain"),
    [
        ({"a": "."}, "a", "a → a"),
        ({"a": "../b", "b": "../a"}, "b", "a → b → a"),
        ({"a": "../b", "b": "../c", "c": "../b"}, "c", "a → b → c → b"),
        ({"a": "b", "a/b": ".."}, "a/b", "a → a/b → a"),
        ({"x/a": "../../y/a", "y/a": "../../x/a"}, "y/a", "x/a → y/a → x/a"),
    ],
)
def test_a_cycle_is_told_whole(bases, where, chain, write, tmp_path):
    for name, base in bases.items():
        write(name, base)
    first = tmp_path / next(iter(bases))
    assert refusal_of(first) == (
        f"{tmp_path}/{where}/recipe.toml: base: found {chain}, expected a chain that ends"
    )


def test_a_cycle_is_seen_through_links(write, tmp_path):
    top = write("a", "../link")
    (tmp_path / "link").symlink_to("a")
    assert "base: found a → a, expected" in refusal_of(top)


def test_a_base_behind_a_link_is_the_one_that_the_system_finds(write, tmp_path):
    write("real/a", "../b")
    write("real/b")
    (tmp_path / "a").symlink_to("real/a")
    assert load_chain(tmp_path / "a")[1].directory.resolve() == tmp_path / "real/b"


def test_a_chain_is_found_from_where_one_stands(write, monkeypatch):
    monkeypatch.chdir(write("a", "../b"))
    write("b", "../a")
    assert refusal_of(Path()).startswith("../b/recipe.toml: base: found a → b → a, ")


def test_faults_of_a_base_are_told_with_its_path(write, tmp_path):
    top = write("a", "../b")
    write("b", "../c")
    write("c", more="[agent]\nenable = true\n[rootfs]\nlevel = 99\n")
    where = f"{tmp_path}/c/recipe.toml"
    assert refusal_of(top).splitlines() == [
        f"{where}: rootfs.level: found 99, expected a whole number from 1 to 22",
        f"{where}: agent.enable: unknown key; did you mean 'enabled'?",
    ]
    write("c", more='[scripts]\nfinalize = ["x.sh"]\n')
    assert refusal_of(top) == f"{where}: scripts.finalize: {tmp_path}/c/x.sh: no such file"


def test_a_base_of_another_distribution_is_refused(write, tmp_path):
    top = write("a", "../b")
    write("b", old='id = "debian"\nrelease = "trixie"', new='id = "ubuntu"\nrelease = "noble"')
    told = f"{top}/recipe.toml: base: {tmp_path}/b/recipe.toml has distribution"
    assert refusal_of(top).splitlines() == [
        f"{told}.id 'ubuntu', expected 'debian' as here",
        f"{told}.release 'noble', expected 'trixie' as here",
    ]


def test_the_difference_may_be_further_down(write, tmp_path):
    top = write("a", "../b")
    write("b", "../c")
    write("c", old="trixie", new="bookworm")
    assert refusal_of(top) == (
        f"{tmp_path}/b/recipe.toml: base: {tmp_path}/c/recipe.toml has distribution.release "
        "'bookworm', expected 'trixie' as here"
    )


@pytest.mark.parametrize("verb", ["lock", "build"])
@pytest.mark.parametrize(("base_of_b", "told"), [("../a", "a → b → a"), ("../c", "found no ")])
def test_nothing_is_begun(verb, base_of_b, told, write, tmp_path, monkeypatch, capsys):
    for name in ("store", "cache", "site"):
        monkeypatch.setenv(f"VNFS_{name.upper()}", str(tmp_path / "places" / name))
    top = write("a", "../b")
    write("b", base_of_b)
    assert cli.run([verb, str(top)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "places").exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert os.listdir(top) == os.listdir(tmp_path / "b") == ["recipe.toml"]
