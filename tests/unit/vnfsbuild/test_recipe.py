"""What a recipe may say, and that every fault of one is told at once."""

from pathlib import Path

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.recipe import parse_recipe

ROOT = Path(__file__).resolve().parents[3]

LEAST = """
name = "small"
[distribution]
id = "debian"
release = "trixie"
[kernel]
package = "linux-image-amd64"
"""


def faults_of(text):
    with pytest.raises(InputError) as raised:
        parse_recipe(text, where="r.toml")
    return raised.value.message.splitlines()


def test_what_is_not_said_has_a_default():
    recipe = parse_recipe(LEAST)
    assert recipe.name == "small"
    assert recipe.distribution.architecture == "x86_64"
    assert recipe.distribution.components == ("main",)
    assert recipe.distribution.mirror is None
    assert recipe.packages.recommends is False
    assert (recipe.copy, recipe.write, recipe.exclude) == (None, (), ())
    assert (recipe.rootfs.format, recipe.rootfs.level) == ("squashfs", 6)
    assert recipe.wanted == ("linux-image-amd64", "python3")


def test_without_the_agent_no_python_is_asked_for():
    assert parse_recipe(LEAST + "[agent]\nenabled = false\n").wanted == ("linux-image-amd64",)


def test_written_files_have_mode_and_owner():
    text = '[[files.write]]\npath = "/etc/x"\ncontent = "a"\nmode = "0640"\nowner = "root:adm"\n'
    item = parse_recipe(LEAST + text).write[0]
    assert (item.path, item.content, item.mode) == ("/etc/x", "a", 0o640)
    assert (item.user, item.group) == ("root", "adm")


def test_all_faults_are_told_at_once():
    text = """
nam = "x"
base = "../other"
[distribution]
id = "debain"
release = "trixie"
mirror = "mirror.example.org"
[packages]
instal = ["x"]
install = ["a b", "ssh"]
remove = ["ssh"]
[kernel]
arguments = ["quiet splash"]
[files]
copy = "../x"
[[files.write]]
path = "etc/x"
mode = "888"
[services]
enable = ["ssh", "a.service"]
mask = ["a.service"]
[exclude]
paths = ["usr/**/doc"]
[users]
root = "secret"
[rootfs]
format = "erofs"
"""
    assert faults_of(text) == [
        "r.toml: name: missing",
        "r.toml: distribution.id: found 'debain', expected 'debian'; 'debian' is near",
        "r.toml: distribution.mirror: found 'mirror.example.org', "
        "expected http://…, https://… or file://…",
        "r.toml: packages.install[0]: found 'a b', expected a package's name",
        "r.toml: packages.remove: 'ssh' stands in packages.install too",
        "r.toml: packages.instal: unknown key; did you mean 'install'?",
        "r.toml: kernel.package: missing",
        "r.toml: kernel.arguments[0]: found 'quiet splash', expected one word without quotes",
        "r.toml: files.copy: found '../x', expected a directory beside the recipe",
        "r.toml: files.write[0].path: found 'etc/x', expected a path from the root, without '..'",
        "r.toml: files.write[0].mode: found '888', expected an octal mode in quotes, as in '0644'",
        "r.toml: services.enable[0]: found 'ssh', "
        "expected a unit's whole name, as in 'ssh.service'",
        "r.toml: services.enable: 'a.service' is to be disabled or masked too",
        "r.toml: exclude.paths: found 'usr/**/doc', expected a path with *, ? or [] in its parts",
        "r.toml: rootfs.format: 'erofs' is not yet supported by this version of vnfsbuild",
        "r.toml: users.root: found 'secret', expected 'locked'",
        "r.toml: base: not yet supported by this version of vnfsbuild",
        "r.toml: nam: unknown key; did you mean 'name'?",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[[repositories]]\nid = 'x'\n",
        "[[modules]]\ncommand = 'make'\n",
        "[scripts]\nfinalize = ['x']\n",
        "[[users.system]]\nname = 'x'\n",
    ],
)
def test_what_is_to_come_is_refused_not_passed_over(text):
    assert "not yet supported" in faults_of(LEAST + text)[0]


@pytest.mark.parametrize("directory", ["recipes/debian-13-minimal", "bootstrap-kernel"])
def test_shipped_recipes_are_valid(directory):
    text = (ROOT / directory / "recipe.toml").read_text()
    assert parse_recipe(text).distribution.release == "trixie"
