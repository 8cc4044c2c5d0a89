"""The source payload is the same bytes wherever the checkout lies."""

import io
import os
import tarfile

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError
from vnfsbuild.source import pack_source, unpack_source


def make_tree(root, umask):
    before = os.umask(umask)
    try:
        (root / "files/etc").mkdir(parents=True)
        (root / "recipe.toml").write_text('name = "toy"\n')
        (root / "files/etc/motd").write_text("hello\n")
        (root / "files/run.sh").write_text("#!/bin/sh\n")
        (root / "files/run.sh").chmod(0o777 & ~umask)
        (root / "files/link").symlink_to("etc/motd")
    finally:
        os.umask(before)
    names = ["recipe.toml", "files/etc/motd", "files/run.sh", "files/link", "files", "files/etc"]
    return {name: root / name for name in names}


def test_same_bytes_from_another_directory_umask_and_time(tmp_path):
    first = pack_source(make_tree(tmp_path / "a", 0o022))
    entries = make_tree(tmp_path / "somewhere" / "else", 0o077)
    os.utime(entries["recipe.toml"], (1, 1))
    assert pack_source(dict(reversed(entries.items()))) == first


def test_bytes_are_those_of_the_format(tmp_path):
    data = pack_source(make_tree(tmp_path, 0o022))
    assert digest_of(data) == (
        "sha256:75f62a962892cd5f04a80431849ef1ab9669512401c81e0ea95e2f9f5f4d144a"
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: (member.mode, member.type) for member in tar}
    assert found["files/run.sh"] == (0o755, tarfile.REGTYPE)
    assert found["files/etc/motd"] == (0o644, tarfile.REGTYPE)
    assert found["files/link"] == (0o777, tarfile.SYMTYPE)


def test_what_was_packed_comes_out_again(tmp_path):
    data = pack_source(make_tree(tmp_path / "a", 0o022))
    unpack_source(data, tmp_path / "b", where="toy")
    again = {str(path.relative_to(tmp_path / "b")): path for path in (tmp_path / "b").rglob("*")}
    assert pack_source(again) == data


def make_tar(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, words in members:
            info = tarfile.TarInfo(name)
            for key, value in words.items():
                setattr(info, key, value)
            tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("../outside", {})],
        [("/etc/passwd", {})],
        [("a/../../outside", {})],
        [("a", {"mtime": 5})],
        [("b", {}), ("a", {})],
        [("a", {"uid": 7})],
        [("a", {"type": tarfile.LNKTYPE, "linkname": "b"})],
        [("a", {"type": tarfile.FIFOTYPE})],
        [("link", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}), ("link/file", {})],
    ],
)
def test_any_other_tar_is_refused(tmp_path, members):
    with pytest.raises(VerificationError, match="toy: source"):
        unpack_source(make_tar(*members), tmp_path / "sub/dir", where="toy")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["sub"])


def test_rubbish_is_refused(tmp_path):
    with pytest.raises(VerificationError, match="cannot be unpacked"):
        unpack_source(b"rubbish" * 100, tmp_path / "out", where="toy")
