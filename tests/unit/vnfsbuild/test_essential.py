"""The undermost stage: which packages it may need, and how they are unpacked."""

import pytest

from vnfsbuild.childlock import find_old_kernels, list_needs
from vnfsbuild.essential import find_essential
from vnfsbuild.sources.apt import make_choice
from vnfsbuild.unpacked import tar_arguments


def stanza(name, **fields):
    rest = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items())
    return (
        f"Package: {name}\nVersion: 1\nArchitecture: amd64\nSize: 1\n"
        f"SHA256: {name.encode().hex():0<64.64}\nFilename: pool/{name}.deb\n{rest}"
    )


def choices(*stanzas):
    return [make_choice(text, repository="x") for text in stanzas]


def names(*stanzas):
    found = {item.package: item.stanza for item in choices(*stanzas)}
    return {item.name for item in find_essential(found)}


def test_what_essential_packages_need_is_with_them_and_nothing_else():
    found = names(
        stanza("dpkg", Essential="yes", Pre_Depends="libc6 (>= 2.14), tar"),
        stanza("libc6"),
        stanza("tar", Depends="acl:any"),
        stanza("acl"),
        stanza("base-files", Pre_Depends="awk"),
        stanza("mawk", Provides="awk"),
        stanza("ssh", Depends="libc6"),
    )
    assert found == {"dpkg", "libc6", "tar", "acl", "base-files", "mawk"}


def test_every_alternative_that_is_there_counts():
    found = names(
        stanza("base-files", Depends="mawk | original-awk, missing | gawk (= 1)"),
        stanza("mawk"),
        stanza("gawk"),
        stanza("more"),
    )
    assert found == {"base-files", "mawk", "gawk"}


def test_a_circle_ends():
    assert names(
        stanza("libc6", Essential="yes", Depends="libgcc"), stanza("libgcc", Depends="libc6")
    ) == {"libc6", "libgcc"}


def test_documentation_is_never_unpacked():
    arguments = tar_arguments("/root")
    assert "--exclude=./usr/share/doc/*" in arguments
    assert "--exclude=./dev/*" in arguments


@pytest.mark.parametrize(
    ("wanted", "found", "gone"),
    [
        ("linux-image-amd64", [], ()),
        (
            "linux-image-amd64",
            [stanza("linux-image-amd64", Depends="linux-image-2 (= 2)"), stanza("linux-image-2")],
            ("linux-image-1",),
        ),
        (
            "linux-image-cloud",
            [stanza("linux-image-cloud", Depends="linux-image-3"), stanza("linux-image-3")],
            ("linux-image-1", "linux-image-amd64"),
        ),
    ],
)
def test_kernels_that_the_childs_does_not_need_go(wanted, found, gone):
    installed = choices(
        stanza("linux-image-amd64", Depends="linux-image-1 (= 1), kmod"),
        stanza("linux-image-1"),
        stanza("linux-base"),
    )
    assert find_old_kernels(wanted, installed, choices(*found)) == gone


def test_needs_are_names():
    text = stanza("x", Depends="a (>= 1), b | c:any", Pre_Depends="d")
    assert list_needs(text) == ["a", "b", "c", "d"]
