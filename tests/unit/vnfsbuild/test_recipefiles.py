"""The files that a recipe names, keys and packages among them."""

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.recipefiles import load_recipe, source_paths, verify_unchanged
from vnfsbuild.source import pack_source, unpack_source

RECIPE = """
name = "toy"
[distribution]
id = "debian"
release = "trixie"
[[repositories]]
id = "site"
url = "http://mirror.example.org/site"
suites = ["stable"]
key = "files/site.asc"
[[repositories]]
id = "mine"
path = "repository"
key = "mine.asc"
[packages]
local = ["debs/*.deb", "debs/a*.deb"]
[kernel]
package = "linux-image-toy"
[files]
copy = "files"
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for name in ("files/site.asc", "mine.asc", "debs/b.deb", "debs/a.deb", "debs/README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_keys_and_packages_are_locked_each_once_and_travel_along(directory):
    loaded = load_recipe(directory)
    names = ["debs/a.deb", "debs/b.deb", "files/site.asc", "mine.asc"]
    assert [item.path for item in loaded.files] == names
    assert sorted(source_paths(loaded)) == sorted([*names, "recipe.toml", "recipe.lock"])


def test_an_empty_directory_is_locked_and_travels_along(directory, tmp_path):
    before = load_recipe(directory).files
    (directory / "files/scratch/deep").mkdir(parents=True)
    loaded = load_recipe(directory)
    (found,) = set(loaded.files) - set(before)
    assert (found.path, found.kind) == ("files/scratch/deep", "directory")
    (directory / "recipe.lock").touch()
    unpack_source(pack_source(source_paths(loaded)), tmp_path / "again", where="x")
    assert load_recipe(tmp_path / "again").files == loaded.files


def test_a_file_that_is_changed_meanwhile_is_told(directory):
    loaded = load_recipe(directory)
    verify_unchanged(loaded)
    (directory / "files/site.asc").write_text("another")
    with pytest.raises(InputError, match=r"changed while it was built: files/site\.asc"):
        verify_unchanged(loaded)


def test_each_key_is_locked_by_what_it_says(directory):
    before = {item.key: item.digest for item in load_recipe(directory).keys}
    assert {"name", "distribution.id", "kernel.package", "repositories", "packages.local"} <= set(
        before
    )
    path = directory / "recipe.toml"
    path.write_text(path.read_text().replace("linux-image-toy", "linux-image-other") + "# x\n")
    after = {item.key: item.digest for item in load_recipe(directory).keys}
    assert {key for key in before if before[key] != after[key]} == {"kernel.package"}


def test_a_missing_key_is_told(directory):
    (directory / "mine.asc").unlink()
    with pytest.raises(InputError, match=r"repositories\[1\]\.key: .*mine\.asc: no such file"):
        load_recipe(directory)


def test_a_glob_that_matches_nothing_is_told(directory):
    (directory / "debs/a.deb").unlink()
    with pytest.raises(InputError, match=r"packages\.local\[1\]: found no file 'debs/a\*\.deb'"):
        load_recipe(directory)
