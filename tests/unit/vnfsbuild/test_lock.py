"""A lock has one text, and reads back as itself."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError
from vnfsbuild.lock import (
    Lock,
    LockedBase,
    LockedBuilder,
    LockedFile,
    LockedKey,
    LockedPackage,
    LockedRepository,
    lay_over,
    parse_lock,
    render_lock,
    sort_packages,
)
from vnfsbuild.newlock import is_same_content
from vnfsbuild.origins import PACKAGES_ONLY

HEX = "ab" * 32
DIGEST = Digest(f"sha256:{HEX}")

PACKAGE = LockedPackage(
    name="libc6",
    version="1:2.41-12",
    architecture="amd64",
    size_bytes=5,
    sha256=HEX,
    path="pool/main/g/glibc/libc6.deb",
    repository="debian-trixie",
)
LOCK = Lock(
    serial=3,
    epoch=1700000000,
    distribution="debian",
    release="trixie",
    architecture="x86_64",
    recipe=DIGEST,
    recipe_keys=(LockedKey(key="packages.install", digest=DIGEST),),
    builder=LockedBuilder(version="1.0", digest=DIGEST),
    files=(LockedFile(path="files/etc/motd", digest=DIGEST, kind="executable"),),
    repositories=(
        LockedRepository(
            id="debian-trixie",
            suite="trixie",
            components=("main",),
            keys=("AB" * 20,),
            metadata=DIGEST,
            epoch=1700000000,
        ),
    ),
    packages=(PACKAGE,),
    tools=(),
)
TEXT = f"""\
# Written by vnfsbuild: what the recipe meant on one day. To renew it: vnfsbuild lock
version = 1
serial = 3
epoch = 1700000000
distribution = "debian"
release = "trixie"
architecture = "x86_64"
recipe = "{DIGEST}"
builder = {{ version = "1.0", digest = "{DIGEST}" }}
recipe_keys = [
    {{ key = "packages.install", digest = "{DIGEST}" }},
]
files = [
    {{ path = "files/etc/motd", kind = "executable", digest = "{DIGEST}" }},
]
repositories = [
    {{ id = "debian-trixie", suite = "trixie", components = ["main"], \
keys = ["{"AB" * 20}"], metadata = "{DIGEST}", \
epoch = 1700000000 }},
]
packages = [
    {{ name = "libc6", version = "1:2.41-12", architecture = "amd64", size = 5, \
sha256 = "{HEX}", path = "pool/main/g/glibc/libc6.deb", repository = "debian-trixie" }},
]
tools = []
"""


ROW = next(line for line in TEXT.splitlines() if "libc6" in line).strip().rstrip(",")


def test_the_text_of_a_lock_is_this():
    assert render_lock(LOCK) == TEXT
    assert parse_lock(TEXT, where="recipe.lock") == LOCK


# File systems allow nearly anything in a name; TOML has no surrogates.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(names.filter(lambda name: not name.startswith("/")), unique=True))
def test_any_file_name_survives(paths):
    files = tuple(LockedFile(path=path, digest=DIGEST) for path in paths)
    lock = Lock(
        serial=1,
        epoch=0,
        distribution="debian",
        release="trixie",
        architecture="x86_64",
        recipe=DIGEST,
        builder=LockedBuilder(version="1.0", digest=DIGEST),
        files=files,
        repositories=(),
        packages=(),
        tools=(),
    )
    assert parse_lock(render_lock(lock), where="x").files == files


def test_packages_are_sorted_by_name():
    names_of = [item.name for item in sort_packages([named("b"), named("a"), named("aa")])]
    assert names_of == ["a", "aa", "b"]


def named(name):
    return LockedPackage(
        name=name, version="1", architecture="all", size_bytes=1, sha256=HEX, path=name,
        repository="r",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("serial = 3", "serial = 0", "serial: found 0"),
        ("version = 1\n", "version = 2\n", "version: found 2"),
        ("epoch = 1700000000\ndis", "dis", "epoch: missing"),
        (f'recipe = "{DIGEST}"', 'recipe = "x"', "recipe: found 'x', expected a digest"),
        ('path = "pool/', 'path = "../', "packages[0].path"),
        ('path = "pool/', 'path = "/', "packages[0].path"),
        ("size = 5", "size = -5", "packages[0].size"),
        ('components = ["main"]', 'component = ["main"]', "did you mean 'components'?"),
        (f'keys = ["{"AB" * 20}"]', "keys = []", "repositories[0].keys: missing"),
        (f'keys = ["{"AB" * 20}"]', 'keys = ["x"]', "repositories[0].keys[0]: found 'x'"),
        ('id = "debian-trixie"', 'id = "other"', "'debian-trixie' is not among repositories"),
        ('repository = "debian-trixie"', 'repository = "local"', "is not among files"),
        ("tools = []", f"tools = [{ROW.replace('libc6', 'other')}]", "is that of 'libc6' too"),
        ("packages = [", f"packages = [{ROW},", "packages[1]: 'libc6' stands there twice"),
        (
            f'keys = ["{"AB" * 20}"]',
            'trust = "packages-only", keys = []',
            "packages[0]: 'debian-trixie' has no keys: nobody signed the package",
        ),
        ("size = 5", "size = '5'", "packages[0].size: found '5'"),
        ("tools = []", "tool = []", "tool: unknown key; did you mean 'tools'?"),
    ],
)
def test_what_is_no_lock_is_refused(old, new, told):
    assert old in TEXT
    with pytest.raises(InputError) as raised:
        parse_lock(TEXT.replace(old, new), where="recipe.lock")
    assert told in raised.value.message


def test_of_a_repository_that_signs_packages_none_may_be_there():
    lock = replace(
        LOCK,
        repositories=(
            *LOCK.repositories,
            replace(LOCK.repositories[0], id="site", keys=(), trust=PACKAGES_ONLY),
        ),
    )
    assert parse_lock(render_lock(lock), where="recipe.lock") == lock


def test_another_trust_is_another_lock():
    other = replace(LOCK, repositories=(replace(LOCK.repositories[0], trust=PACKAGES_ONLY),))
    assert not is_same_content(other, LOCK)


def test_an_empty_directory_reads_back():
    lock = replace(LOCK, files=(LockedFile(path="files/x", digest=DIGEST, kind="directory"),))
    assert parse_lock(render_lock(lock), where="recipe.lock") == lock


BASE = LockedBase(name="below", serial=3, digest=DIGEST)


def test_a_lock_upon_a_base_reads_back_and_others_do_not_mention_it():
    lock = replace(LOCK, base=BASE, tools=(), removed=("postfix",))
    text = render_lock(lock)
    assert f'base = {{ name = "below", serial = 3, digest = "{DIGEST}" }}\n' in text
    assert 'removed = ["postfix"]\n' in text
    assert parse_lock(text, where="x") == lock
    assert "base =" not in render_lock(LOCK)


def test_a_chain_of_locks_means_one_as_a_whole():
    more = replace(PACKAGE, name="more", sha256="cd" * 32)
    gone = replace(PACKAGE, name="gone", sha256="ef" * 32)
    below = replace(LOCK, packages=(gone, PACKAGE), tools=(more,))
    newer = replace(PACKAGE, version="9", sha256="01" * 32)
    upon = replace(LOCK, serial=7, base=BASE, packages=(more, newer), tools=(), removed=("gone",))
    whole = lay_over([below, upon])
    assert sorted(item.name for item in whole.packages) == sorted([PACKAGE.name, "more"])
    assert newer in whole.packages
    assert whole.tools == (more,)
    assert whole.serial == 7
    assert lay_over([LOCK]) == LOCK
