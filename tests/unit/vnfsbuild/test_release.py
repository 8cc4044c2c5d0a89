"""What a repository's Release file must say."""

import pytest

from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.sources.release import choose_indexes, parse_release, verify_release

SHA = "ab" * 32
RELEASE = f"""\
Origin: Debian
Suite: stable
Codename: trixie
Date: Sat, 12 Sep 2026 07:55:41 UTC
Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC
Architectures: all amd64
No-Support-for-Architecture-all: Packages
Components: main contrib
MD5Sum:
 0123456789abcdef0123456789abcdef 5 main/binary-amd64/Packages
SHA256:
 {SHA} 5 main/binary-amd64/Packages
 {SHA} 3 main/binary-amd64/Packages.xz
 {SHA} 3 contrib/binary-amd64/Packages.gz
 {SHA} 4 main/binary-all/Packages
 {SHA} 4 ../../etc/passwd
"""
DATE = 1789199741
NOW = DATE + 3600


def release(text=RELEASE):
    return parse_release(text, where="w")


def verify(text=RELEASE, **words):
    verify_release(
        release(text), **{"suite": "trixie", "now": NOW, "least_epoch": None, "where": "w", **words}
    )


def test_dates_and_files_are_read():
    found = release()
    assert (found.epoch, found.expires) == (DATE, DATE + 7 * 24 * 3600)
    assert not found.by_hash
    assert sorted(found.files) == [
        "contrib/binary-amd64/Packages.gz",
        "main/binary-all/Packages",
        "main/binary-amd64/Packages",
        "main/binary-amd64/Packages.xz",
    ]


@pytest.mark.parametrize("suite", ["trixie", "stable", "./", "x86_64/"])
def test_a_suite_goes_by_both_its_names_and_a_directory_by_any(suite):
    verify(suite=suite, least_epoch=DATE)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"suite": "bookworm"}, "found the metadata of stable and trixie, expected bookworm"),
        (
            {"now": DATE + 8 * 24 * 3600},
            "expired: valid until 2026-09-19 07:55:41 UTC, today is 2026-09-20 07:55:41 UTC",
        ),
        (
            {"now": DATE - 2 * 24 * 3600},
            "dated 2026-09-12 07:55:41 UTC, today is 2026-09-10 07:55:41 UTC",
        ),
        (
            {"least_epoch": DATE + 1},
            "dated 2026-09-12 07:55:41 UTC, older than the lock's of 2026-09-12 07:55:42 UTC",
        ),
    ],
)
def test_another_suite_or_time_is_refused(words, told):
    with pytest.raises(VerificationError) as raised:
        verify(**words)
    assert told in raised.value.message
    assert raised.value.hint


def test_a_suite_that_never_expires_never_expires():
    verify(RELEASE.replace("Valid-Until", "X-Valid-Until"), now=NOW * 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found 0 stanzas"),
        (f"{RELEASE}\nA: b\n", "found 2 stanzas"),
        (RELEASE.replace("SHA256", "SHA1"), "names no file by SHA-256"),
        (RELEASE.replace("12 Sep", "12 Foo"), "found date"),
        (RELEASE.replace("\nDate:", "\nX-Date:"), "found date 'none'"),
    ],
)
def test_what_is_no_release_file_is_told(text, told):
    with pytest.raises(VnfsbuildError) as raised:
        release(text)
    assert told in raised.value.message


def chosen(text=RELEASE, suite="trixie", components=("main",)):
    found = choose_indexes(
        release(text), suite=suite, components=components, architecture="amd64", where="w"
    )
    return [(packed.path, plain.path if plain else None) for packed, plain in found]


def test_the_smallest_form_of_an_index_is_chosen():
    assert chosen(components=("main", "contrib")) == [
        ("main/binary-amd64/Packages.xz", "main/binary-amd64/Packages"),
        ("contrib/binary-amd64/Packages.gz", None),
    ]


def test_packages_for_all_architectures_may_be_listed_apart():
    text = RELEASE.replace("No-Support-for-Architecture-all: Packages\n", "")
    assert [path for path, _ in chosen(text)] == [
        "main/binary-amd64/Packages.xz",
        "main/binary-all/Packages",
    ]


def test_a_flat_repository_has_one_index():
    text = f"Date: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n {SHA} 3 Packages.gz\n"
    assert chosen(text, suite="./", components=()) == [("Packages.gz", None)]


def test_an_unknown_component_is_told():
    with pytest.raises(VnfsbuildError, match=r"no component 'x' for amd64; it has contrib, main"):
        chosen(components=("x",))
