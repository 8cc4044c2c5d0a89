"""What a recipe may say, and that every fault of one is told at once."""

from pathlib import Path

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.recipe import parse_recipe
from vnfsbuild.resolve import load_recipe, source_paths
from vnfsbuild.secrets import verify_no_secrets_in_sources

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


@pytest.mark.parametrize("value", ["''", "3", "['../a']", '"../a\\u0000"'])
def test_a_base_is_a_path(value):
    (fault,) = faults_of(f"base = {value}\n{LEAST}")
    assert fault.startswith("r.toml: base: found ")


def test_what_is_not_said_has_a_default():
    recipe = parse_recipe(LEAST)
    assert recipe.name == "small"
    assert recipe.distribution.architecture == "x86_64"
    assert recipe.distribution.components == ("main",)
    assert recipe.distribution.mirror is None
    assert recipe.packages.recommends is False
    assert recipe.base is None
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


def test_a_system_user_has_defaults():
    text = '[[users.system]]\nname = "munge"\nuid = 64010\n'
    user = parse_recipe(LEAST + text).users[0]
    assert (user.uid, user.gid, user.groups, user.comment) == (64010, 64010, (), "")
    assert (user.home, user.shell) == ("/nonexistent", "/usr/sbin/nologin")


def test_scripts_are_no_part_of_what_is_copied():
    text = '[files]\ncopy = "files"\n[scripts]\nfinalize = ["files/x.sh"]\n'
    assert faults_of(LEAST + text) == [
        "r.toml: scripts.finalize: found 'files/x.sh', which files.copy would copy into the root"
    ]


def test_all_faults_are_told_at_once():
    text = """
nam = "x"
base = "/other"
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
[[users.system]]
name = "munge"
uid = 64010
[[users.system]]
name = "Slurm"
uid = 64010
home = "nowhere"
groups = ["a b"]
comment = "a:b"
[[users.system]]
name = "other"
uid = 0
gid = 65534
[scripts]
finalize = ["/x.sh"]
[secrets]
allow = ["etc/**"]
[rootfs]
format = "ext4"
"""
    assert faults_of(text) == [
        "r.toml: name: missing",
        "r.toml: base: found '/other', expected another recipe's directory, from this one's, "
        "as in '../other'",
        "r.toml: distribution.id: found 'debain', expected 'debian', 'ubuntu', 'alma', 'centos', "
        "'fedora', 'rhel' or 'rocky'; 'debian' is near",
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
        "r.toml: users.root: found 'secret', expected 'locked'",
        "r.toml: users.system[1].name: found 'Slurm', expected a user's name: a-z, 0-9, _, -",
        "r.toml: users.system[1].home: found 'nowhere', expected an absolute path",
        "r.toml: users.system[1].groups[0]: found 'a b', expected a group's name",
        "r.toml: users.system[1].comment: found 'a:b', expected one line without a colon",
        "r.toml: users.system[1].uid: 64010 is taken by 'munge'",
        "r.toml: users.system[2].uid: found 0, expected a whole number from 1 to 4294967294",
        "r.toml: users.system[2].gid: found 65534, which stands for nobody",
        "r.toml: scripts.finalize: found '/x.sh', expected a file beside the recipe",
        "r.toml: exclude.paths: found 'usr/**/doc', expected a path with *, ? or [] in its parts",
        "r.toml: secrets.allow: found 'etc/**', expected a path with *, ? or [] in its parts",
        "r.toml: rootfs.format: found 'ext4', expected 'squashfs' or 'erofs'",
        "r.toml: nam: unknown key; did you mean 'name'?",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[[modules]]\ncommand = 'make'\n",
    ],
)
def test_what_is_to_come_is_refused_not_passed_over(text):
    assert "not yet supported" in faults_of(LEAST + text)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("squashfs", 6)),
        ("level = 22", ("squashfs", 22)),
        ("format = 'erofs'", ("erofs", 9)),
        ("format = 'erofs'\nlevel = 12", ("erofs", 12)),
    ],
)
def test_each_format_of_layers_has_levels_of_its_own(text, expected):
    rootfs = parse_recipe(LEAST + f"[rootfs]\n{text}\n", where="r.toml").rootfs
    assert (rootfs.format, rootfs.level) == expected


def test_a_level_of_the_other_format_is_refused():
    assert faults_of(LEAST + "[rootfs]\nformat = 'erofs'\nlevel = 13\n") == [
        "r.toml: rootfs.level: found 13, expected a whole number from 1 to 12"
    ]


SHIPPED = {
    "recipes/debian-13-minimal": "debian trixie",
    "recipes/debian-13-compute": "debian trixie",
    "recipes/debian-13-login": "debian trixie",
    "recipes/alma-10-compute": "alma 10",
    "recipes/rocky-9-compute": "rocky 9",
    "recipes/ubuntu-24.04-compute": "ubuntu noble",
    "bootstrap-kernel": "debian trixie",
}


def test_all_shipped_recipes_are_known_here():
    found = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("recipes/*/recipe.toml")}
    assert found == SHIPPED.keys() - {"bootstrap-kernel"}


@pytest.mark.parametrize("directory", SHIPPED)
def test_shipped_recipes_are_valid_with_all_that_they_name(directory):
    loaded = load_recipe(ROOT / directory)
    distribution = loaded.recipe.distribution
    assert f"{distribution.id} {distribution.release}" == SHIPPED[directory]
    assert {*loaded.recipe.scripts} <= {item.path for item in loaded.files}
    verify_no_secrets_in_sources(source_paths(loaded), allow=(), copied=loaded.recipe.copy)
