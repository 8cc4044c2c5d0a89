"""Files that others read are old or new, never torn; paths stay where they must."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import is_inside, locked, open_atomic, read_bounded, size_of, write_atomic

ROOT = Path(__file__).resolve().parents[3]


def test_a_file_is_replaced_whole_with_the_mode_that_was_asked_for(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "file", b"one")
        write_atomic(tmp_path / "file", b"two", mode=0o640)
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_stays_as_it_was_when_writing_fails(tmp_path, error):
    write_atomic(tmp_path / "file", b"old")

    def fail():
        with open_atomic(tmp_path / "file") as file:
            file.write(b"half of the ne")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_stays_as_it_was_when_the_writer_is_killed(tmp_path):
    write_atomic(tmp_path / "file", b"old")
    code = (
        "import os, sys; from pathlib import Path; from vnfsbuild.files import open_atomic\n"
        "with open_atomic(Path(sys.argv[1])) as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], env=env, check=False)
    assert done.returncode == -9
    assert (tmp_path / "file").read_bytes() == b"old"


def test_what_is_inside_is_decided_with_links_followed(tmp_path):
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root-2").mkdir()
    (tmp_path / "root/out").symlink_to(tmp_path / "root-2")
    (tmp_path / "root/back").symlink_to("sub/..")
    root = tmp_path / "root"
    assert is_inside(root, root)
    assert is_inside(root, root / "sub/none")
    assert is_inside(root, root / "back/sub")
    assert not is_inside(root, root / "out")
    assert not is_inside(root, root / "out/x")
    assert not is_inside(root, root / "../root-2")
    assert not is_inside(root, tmp_path / "root-2")


def test_no_more_is_read_than_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bounded(tmp_path / "file", limit_bytes=5) == b"12345"
    with pytest.raises(InputError, match="file: found more than 4 bytes"):
        read_bounded(tmp_path / "file", limit_bytes=4)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(InputError, match="none: No such file"):
        read_bounded(tmp_path / "none", limit_bytes=1)
    with pytest.raises(InputError, match="Is a directory"):
        read_bounded(tmp_path, limit_bytes=1)
    with pytest.raises(InputError, match="none: No such file"):
        size_of(tmp_path / "none")


def test_only_one_holds_a_lock(tmp_path):
    path = tmp_path / "sub/.lock"
    told = pytest.raises(VnfsbuildError, match="held by another process")
    with locked(path), told, locked(path, wait=False):
        pass
    with locked(path, wait=False):
        pass
