"""Debian package files, read without dpkg."""

import tarfile
from pathlib import Path

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.sources import deb

from .debs import link, make_deb, regular

CONTROL = "Package: hello\nVersion: 1\nArchitecture: all\n"


def test_a_package_is_unpacked_through_the_merged_usr(tmp_path):
    members = [
        (regular("./bin/tool", 0o4755), b"program"),
        (link("./bin/other", "tool"), b""),
        (link("./usr/share/same", "./bin/tool", tarfile.LNKTYPE), b""),
        (link("./lib", "usr/lib"), b""),
        (regular("./etc/conf"), b"text"),
    ]
    package = make_deb(tmp_path / "x.deb", CONTROL, members)
    root = tmp_path / "root"
    deb.link_merged(root)
    deb.unpack(package, root)
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "usr/bin/tool").read_bytes() == b"program"
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/bin/tool").stat().st_mtime == 1000
    assert (root / "bin/other").readlink() == Path("tool")
    assert (root / "usr/share/same").samefile(root / "usr/bin/tool")
    assert (root / "etc/conf").read_text() == "text"


def test_a_path_that_leaves_the_tree_is_refused(tmp_path):
    package = make_deb(tmp_path / "x.deb", CONTROL, [(regular("./a/../../x"), b"")])
    with pytest.raises(VnfsbuildError, match="leaves the tree"):
        deb.unpack(package, tmp_path / "root")


def test_what_is_no_package_is_told(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(b"no archive")
    with pytest.raises(VnfsbuildError, match="not a Debian package"):
        deb.unpack(path, tmp_path / "root")


def test_a_stanza_is_made_from_the_package_itself(tmp_path):
    package = make_deb(tmp_path / "x.deb", CONTROL, [])
    digest = digest_of(package.read_bytes())[7:]
    assert deb.make_stanza(package) == (
        f"{CONTROL}Filename: ./x.deb\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    )
