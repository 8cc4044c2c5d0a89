"""What a recipe of an RPM distribution says, and what becomes of it."""

import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.inputs import InstallInputs
from vnfsbuild.install import file_name
from vnfsbuild.local import set_selinux
from vnfsbuild.lock import LockedPackage
from vnfsbuild.mkosi_config import MkosiPlaces, render_mkosi
from vnfsbuild.payloads import find_kernel_entry
from vnfsbuild.recipe import parse_recipe
from vnfsbuild.rpmdb import find_database, verify_installed
from vnfsbuild.rpmlock import has_same_repositories, make_repositories
from vnfsbuild.sources.origin import make_origin, make_urls
from vnfsbuild.toolstree import KINDS
from vnfsbuild.tree import normalise

LEAST = """
name = "x"
[kernel]
package = "kernel-core"
arguments = ["quiet"]
[distribution]
id = "rocky"
release = "9"
"""
PACKAGE = LockedPackage(
    name="NetworkManager",
    version="1:1.46.0-4.el9",
    architecture="x86_64",
    size_bytes=1,
    sha256="0" * 64,
    path="BaseOS/x86_64/os/Packages/n/NetworkManager-1.46.0-4.el9.x86_64.rpm",
    repository="rocky-BaseOS",
)


def parse(text, least=LEAST):
    return parse_recipe(least + text, where="r.toml")


def faults_of(text, least=LEAST):
    with pytest.raises(InputError) as raised:
        parse(text, least)
    return raised.value.message.splitlines()


def test_what_is_not_said_is_as_the_distribution_has_it():
    found = parse("").distribution
    assert found.components == ("BaseOS", "AppStream")
    assert (found.trust, found.key, found.mirror, found.vaults) == ("metadata", None, None, ())


def test_names_of_rpm_packages_may_have_capitals_and_underscores():
    assert parse('[packages]\ninstall = ["NetworkManager", "perl-a_b"]').packages.install
    assert faults_of('[packages]\ninstall = ["@core"]') == [
        "r.toml: packages.install[0]: found '@core', expected a package's name"
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('trust = "none"', "trust: found 'none', expected 'metadata' or 'packages-only'"),
        ('key = "../a"', "key: found '../a', expected a file beside the recipe"),
        (
            'security_mirror = "https://mirror.example.org"',
            "security_mirror: rocky has its updates in its other repositories",
        ),
        ('vaults = ["x"]', "vaults[0]: found 'x', expected http://…, https://… or file://…"),
    ],
)
def test_faults_of_the_distribution_are_told(text, fault):
    assert faults_of(text) == [f"r.toml: distribution.{fault}"]


def test_fedora_has_two_repositories_and_no_other():
    least = LEAST.replace("rocky", "fedora").replace('"9"', '"42"')
    assert parse("", least).distribution.components == ("releases", "updates")
    (fault,) = faults_of('components = ["BaseOS"]', least)
    assert "found 'BaseOS', expected releases or updates" in fault


def test_repositories_of_others_may_have_signed_packages_alone():
    text = '[[repositories]]\nid = "epel"\nurl = "https://mirror.example.org/epel"\nkey = "a"\n'
    (found,) = parse(f'{text}trust = "packages-only"').repositories
    assert (found.trust, found.suites, found.components) == ("packages-only", ("./",), ())
    assert faults_of(f'{text}suites = ["os"]\ncomponents = ["x"]') == [
        "r.toml: repositories[0].suites: found 'os', expected a directory below url: 'os/'",
        "r.toml: repositories[0].components: a flat repository has none",
    ]
    debian = LEAST.replace("rocky", "debian").replace('"9"', '"trixie"')
    told = faults_of(f'{text}suites = ["./"]\ntrust = "packages-only"', debian)
    assert "carry no signature" in told[0]


@pytest.mark.parametrize("value", ["disabled", "permissive"])
def test_selinux_is_said_to_the_kernel(value):
    words = {"disabled": "selinux=0", "permissive": "enforcing=0"}
    recipe = parse(f'[security]\nselinux = "{value}"')
    assert recipe.kernel_arguments == ("quiet", words[value])
    assert recipe.kernel.arguments == ("quiet",)


def test_selinux_is_disabled_unless_something_else_is_said():
    assert parse("").kernel_arguments == ("quiet", "selinux=0")
    debian = LEAST.replace("rocky", "debian").replace('"9"', '"trixie"')
    assert parse("", debian).kernel_arguments == ("quiet",)


def test_enforcing_is_refused():
    (fault,) = faults_of('[security]\nselinux = "enforcing"')
    assert fault == (
        "r.toml: security.selinux: found 'enforcing', which needs labels that are not made yet: "
        "no program could start; expected 'disabled' or 'permissive'"
    )


def test_selinux_is_said_in_its_file(tmp_path):
    path = tmp_path / "etc/selinux/config"
    set_selinux(tmp_path, "permissive")
    assert not path.exists()
    path.parent.mkdir(parents=True)
    path.write_text("# SELINUX= is\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
    set_selinux(tmp_path, "permissive")
    assert path.read_text() == "# SELINUX= is\nSELINUX=permissive\nSELINUXTYPE=targeted\n"


# Where packages come from


def load(text):
    return SimpleNamespace(recipe=parse(text), directory=Path("/recipe"))


def test_repositories_are_where_the_distributions_mirrors_have_them(monkeypatch):
    monkeypatch.delenv("VNFS_RPM_MIRROR", raising=False)
    with pytest.raises(InputError, match=r"distribution\.mirror: missing"):
        make_repositories(load(""))
    monkeypatch.setenv("VNFS_RPM_MIRROR", "https://mirror.example.org/rocky/")
    first, second = make_repositories(load('trust = "packages-only"'))
    assert first.metadata_url == "https://mirror.example.org/rocky/9/BaseOS/x86_64/os"
    assert second.id == "rocky-AppStream"
    assert first.keyring == "usr/share/distribution-gpg-keys/rocky/RPM-GPG-KEY-Rocky-9"
    assert first.trust == "packages-only"


def test_a_lock_of_other_repositories_is_told_from_this():
    rows = (
        SimpleNamespace(id="rocky-BaseOS", suite="BaseOS/x86_64/os/", trust="metadata"),
        SimpleNamespace(id="rocky-AppStream", suite="AppStream/x86_64/os/", trust="metadata"),
        SimpleNamespace(id="debian-trixie", suite="trixie", trust="metadata"),
    )
    lock = SimpleNamespace(
        distribution="rocky", release="9", architecture="x86_64", repositories=rows
    )
    assert has_same_repositories(lock, load(""))
    assert not has_same_repositories(lock, load('components = ["BaseOS"]'))
    assert not has_same_repositories(lock, load('trust = "packages-only"'))


def test_packages_are_looked_for_at_the_mirror_and_then_at_vaults(tmp_path):
    text = (
        'mirror = "https://mirror.example.org/rocky"\n'
        'vaults = ["https://vault.example.org/rocky/9.3/"]'
    )
    origin = make_origin(parse(text), tmp_path, mirrors=["file:///vendored"])
    env = {"VNFS_RPM_MIRROR": "https://other.example.org/rocky/"}
    (urls,) = make_urls([PACKAGE], origin, tools=tmp_path, environment=env).values()
    assert urls == tuple(
        f"{top}/{PACKAGE.path}"
        for top in (
            "file:///vendored",
            "https://mirror.example.org/rocky/9",
            "https://other.example.org/rocky/9",
            "https://vault.example.org/rocky/9.3",
        )
    )


# The build


def test_mkosi_is_told_of_this_repository_and_no_other():
    inputs = InstallInputs(
        distribution="rocky",
        release="9.4",
        architecture="x86_64",
        epoch=1,
        wanted=("kernel-core",),
        recommends=False,
        packages=(PACKAGE,),
    )
    places = MkosiPlaces(tools=Path("/t"), repository=Path("/repo"), workspace=Path("/w"))
    found = render_mkosi(inputs, places)
    assert "Release=9\n" in found["mkosi.conf"]
    assert found["mkosi.sandbox/etc/yum.repos.d/mkosi.repo"] == (
        "[vnfsbuild]\nname=vnfsbuild\nbaseurl=file:///repo\nenabled=1\n"
        "gpgcheck=0\nrepo_gpgcheck=0\nmodule_hotfixes=1\n"
    )
    assert not [path for path in found if path.endswith(".sources")]
    assert file_name(PACKAGE) == "NetworkManager-1_1.46.0-4.el9.x86_64.rpm"


def test_the_tools_have_what_rpm_takes():
    assert {"dnf", "rpm", "createrepo-c", "distribution-gpg-keys"} <= {*KINDS["build-rpm"].packages}
    assert set(KINDS["build"].packages) < set(KINDS["build-rpm"].packages)


def entries(*paths):
    return [SimpleNamespace(path=path) for path in paths]


def test_the_kernel_is_beside_its_modules_or_in_boot():
    beside, boot = "usr/lib/modules/5.14.0/vmlinuz", "boot/vmlinuz-5.14.0"
    assert find_kernel_entry(entries("usr", beside), where="x") == ("5.14.0", beside)
    assert find_kernel_entry(entries(boot, beside), where="x") == ("5.14.0", boot)
    assert find_kernel_entry(entries(beside, boot), where="x") == ("5.14.0", boot)
    for paths in ((), (beside, "boot/vmlinuz-6.0"), ("usr/lib/modules/5/build/vmlinuz",)):
        with pytest.raises(InputError, match=r"found kernels: .*; expected one"):
            find_kernel_entry(entries(*paths), where="x")


def test_what_is_installed_must_be_what_is_locked():
    row = ("NetworkManager", "1:1.46.0-4.el9", "x86_64")
    verify_installed([row, ("gpg-pubkey", "1-1", "(none)")], [PACKAGE])
    with pytest.raises(VnfsbuildError, match=r"not installed: NetworkManager 1:1\.46"):
        verify_installed([], [PACKAGE])
    with pytest.raises(VnfsbuildError, match="installed: bash 5-1"):
        verify_installed([row, ("bash", "5-1", "x86_64")], [PACKAGE])


def test_the_package_database_is_where_the_release_has_it(tmp_path):
    with pytest.raises(VnfsbuildError, match="has no package database"):
        find_database(tmp_path)
    new = tmp_path / "usr/lib/sysimage/rpm"
    new.mkdir(parents=True)
    (new / "rpmdb.sqlite").touch()
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "var/lib/rpm").symlink_to("../../usr/lib/sysimage/rpm")
    assert find_database(tmp_path) == new


def test_what_rpm_and_dnf_leave_behind_is_taken_out(tmp_path):
    gone = (
        "var/lib/dnf/history.sqlite", "var/lib/rpm/.rpm.lock", "var/lib/rpm/rpmdb.sqlite-wal",
        "usr/lib/sysimage/rpm/rpmdb.sqlite-shm", "var/cache/dnf/x/y", "var/log/dnf.log",
        "etc/passwd.rpmnew", "etc/deep/er/a.rpmsave",
    )  # fmt: skip
    stays = ("var/lib/rpm/rpmdb.sqlite", "etc/passwd")
    for name in (*gone, *stays):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    normalise(tmp_path, epoch=1)
    assert [name for name in gone if (tmp_path / name).exists()] == []
    assert all(stat.S_ISREG((tmp_path / name).lstat().st_mode) for name in stays)
