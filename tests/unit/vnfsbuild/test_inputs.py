"""What feeds the stages, and when a lock is stale."""

from dataclasses import replace

import pytest

from vnfsbuild.digest import Digest
from vnfsbuild.inputs import (
    InstallInputs,
    find_stale,
    find_stale_base,
    make_essential_inputs,
    make_install_inputs,
    make_local_inputs,
    tell_changes,
)
from vnfsbuild.lock import LockedBase, LockedFile, LockedKey
from vnfsbuild.recipe import parse_recipe

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


def test_a_base_that_moved_is_named_with_both_serials():
    base = LockedBase(name="below", serial=3, digest=DIGEST)
    lock = replace(LOCK, base=base)
    assert find_stale_base(lock, base) == []
    moved = replace(base, serial=4, digest=OTHER)
    (told,) = find_stale_base(lock, moved)
    assert told == (f"its base was changed: below:3 ({DIGEST[:19]}) is now below:4 ({OTHER[:19]})")
    assert find_stale_base(lock, None) == [
        f"it is upon below:3 ({DIGEST[:19]}), and the recipe has no base"
    ]
    assert find_stale_base(LOCK, base) == [
        f"it is upon no base, and the recipe is upon below:3 ({DIGEST[:19]})"
    ]


RECIPE = parse_recipe(
    """
name = "toy"
[distribution]
id = "debian"
release = "trixie"
[packages]
install = ["ssh"]
[kernel]
package = "linux-image-amd64"
"""
)


def keys(recipe=RECIPE, lock=LOCK, essential=(), exclude=(), builder=DIGEST):
    first = make_essential_inputs(recipe, lock, essential=essential, builder=builder)
    second = make_install_inputs(recipe, lock, essential=essential, below=first.key)
    third = make_local_inputs(recipe, lock.files, exclude=exclude, below=second.key)
    return first.key, second.key, third.key


def count_same(one, two):
    return sum(before == after for before, after in zip(one, two, strict=True))


def test_where_a_package_was_is_no_input():
    moved = replace(LOCK, packages=(replace(PACKAGE, path="elsewhere", repository="other"),))
    assert keys(lock=moved) == keys()


@pytest.mark.parametrize(
    ("kept", "changed"),
    [
        (0, {"builder": OTHER}),
        (0, {"lock": replace(LOCK, epoch=1)}),
        (0, {"lock": replace(LOCK, tools=(replace(PACKAGE, sha256="cd" * 32),))}),
        (0, {"essential": (PACKAGE,)}),
        (1, {"lock": replace(LOCK, packages=(replace(PACKAGE, sha256="cd" * 32),))}),
        (1, {"lock": replace(LOCK, removed=("x",))}),
        (1, {"recipe": replace(RECIPE, packages=replace(RECIPE.packages, recommends=True))}),
        (1, {"recipe": replace(RECIPE, allowed_secrets=("x",))}),
        (2, {"recipe": replace(RECIPE, scripts=("x.sh",))}),
        (2, {"recipe": replace(RECIPE, services=replace(RECIPE.services, mask=("x.service",)))}),
        (2, {"recipe": replace(RECIPE, copy="files")}),
        (2, {"exclude": ("usr/share",)}),
        (2, {"recipe": replace(RECIPE, selinux="permissive")}),
        (3, {"recipe": replace(RECIPE, kernel=replace(RECIPE.kernel, arguments=("quiet",)))}),
        (3, {"recipe": replace(RECIPE, name="other")}),
    ],
)
def test_a_change_moves_the_first_stage_that_it_feeds_and_all_above(kept, changed):
    assert count_same(keys(), keys(**changed)) == kept


def test_upon_a_base_the_epoch_is_an_input_of_the_first_stage():
    lock = replace(LOCK, base=LockedBase(name="below", serial=1, digest=DIGEST))
    one = make_install_inputs(RECIPE, lock, essential=(), below=DIGEST)
    other = make_install_inputs(RECIPE, replace(lock, epoch=1), essential=(), below=DIGEST)
    assert one.key != other.key


def test_why_a_stage_is_made_is_told():
    before = make_install_inputs(RECIPE, LOCK, essential=(), below=DIGEST)
    newer = replace(PACKAGE, version="2.0", sha256="cd" * 32)
    other = replace(PACKAGE, name="more")
    lock = replace(LOCK, packages=(newer, other))
    now = make_install_inputs(RECIPE, lock, essential=(), below=DIGEST)
    assert tell_changes(now, before.parts, below_changed=True) == [
        "the stage below was made anew",
        f"the package {PACKAGE.name} was changed: {PACKAGE.version} → 2.0",
        "the package more is new",
    ]
