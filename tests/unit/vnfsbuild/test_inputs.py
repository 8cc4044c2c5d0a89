"""What feeds the install stage, and when a lock is stale."""

from dataclasses import replace

from vnfsbuild.digest import Digest
from vnfsbuild.inputs import InstallInputs, find_stale
from vnfsbuild.lock import LockedFile, LockedKey, LockedPackage

from .test_lock import DIGEST, LOCK, PACKAGE

OTHER = Digest("sha256:" + "cd" * 32)

INPUTS = InstallInputs(
    distribution="debian",
    release="trixie",
    architecture="x86_64",
    epoch=1700000000,
    wanted=("linux-image-amd64", "ssh"),
    recommends=False,
    packages=(PACKAGE,),
    tools=(),
)


def test_a_fresh_lock_has_nothing_stale():
    assert find_stale(LOCK, recipe=LOCK.recipe, files=LOCK.files) == []


def test_every_change_is_named():
    lock = replace(
        LOCK, files=(LockedFile(path="a", digest=DIGEST), LockedFile(path="b", digest=DIGEST))
    )
    now = [LockedFile(path="b", digest=OTHER), LockedFile(path="c", digest=DIGEST)]
    keys = [LockedKey(key="kernel.package", digest=DIGEST)]
    assert find_stale(lock, recipe=OTHER, files=now, keys=keys) == [
        "recipe.toml was changed: kernel.package, packages.install",
        "a is gone",
        "b was changed",
        "c is new",
    ]


def test_other_words_around_the_keys_are_a_change_too():
    stale = find_stale(LOCK, recipe=OTHER, files=LOCK.files, keys=LOCK.recipe_keys)
    assert stale == ["recipe.toml was changed: comments"]


def test_a_changed_kind_is_a_change():
    now = [replace(LOCK.files[0], kind="file")]
    assert find_stale(LOCK, recipe=LOCK.recipe, files=now) == ["files/etc/motd was changed"]


def test_where_a_package_was_is_no_input():
    moved = replace(PACKAGE, path="elsewhere", repository="other")
    assert replace(INPUTS, packages=(moved,)).digest == INPUTS.digest


def test_what_a_package_is_is_one():
    other = LockedPackage(
        name=PACKAGE.name,
        version=PACKAGE.version,
        architecture=PACKAGE.architecture,
        size_bytes=PACKAGE.size_bytes,
        sha256="cd" * 32,
        path=PACKAGE.path,
        repository=PACKAGE.repository,
    )
    changed = [
        replace(INPUTS, packages=(other,)),
        replace(INPUTS, tools=(PACKAGE,)),
        replace(INPUTS, epoch=1),
        replace(INPUTS, wanted=("ssh",)),
        replace(INPUTS, recommends=True),
    ]
    assert len({item.digest for item in [INPUTS, *changed]}) == 6
