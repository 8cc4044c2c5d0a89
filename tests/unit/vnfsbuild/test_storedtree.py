"""A tree that was kept comes back as it was: as far as a packer would see."""

import os
import stat

import pytest

from vnfsbuild.errors import VerificationError
from vnfsbuild.inputs import StageInputs
from vnfsbuild.stagecache import StageCache
from vnfsbuild.storedtree import digest_contents, load_tree_list, restore_tree, save_tree
from vnfsbuild.tree import cut_times, list_tree, settle
from vnfsbuild.treelist import digest_of_list, number_links, parse_list, render_list


def make_tree(root):
    (root / "etc/deep").mkdir(parents=True)
    (root / "etc/motd").write_bytes(b"hello\n")
    (root / "etc/same").write_bytes(b"hello\n")
    (root / "etc/empty").touch()
    (root / "etc/link").symlink_to("./motd")
    os.link(root / "etc/motd", root / "etc/hard")
    (root / "etc/deep/large").write_bytes(bytes(range(256)) * 20_000)
    (root / "etc/deep/large").chmod(0o4755)
    os.mkfifo(root / "etc/pipe", 0o600)
    (root / os.fsdecode(b"odd\xff\n")).write_bytes(b"name")
    (root / "closed").mkdir(mode=0o500)
    settle(root)
    cut_times(root, epoch=1_000_000)
    return root


def listed(root):
    return digest_contents(list_tree(root), root)


def plain(entries):
    return render_list(number_links(entries))


def keep(cache, name, root, parent=None):
    inputs = StageInputs(stage="local", recipe="toy", parts={"name": name})
    entries = listed(root)
    with cache.making(inputs) as draft:
        save_tree(draft, entries, root, cache=cache, parent=parent)
    return cache.open(inputs.key)


@pytest.fixture
def cache(tmp_path):
    return StageCache(tmp_path / "stages")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return make_tree(tmp_path / "root")


def test_a_list_reads_back(root):
    entries = number_links(listed(root))
    assert parse_list(render_list(entries), where="x") == entries
    assert [entry.inode for entry in entries if entry.path in ("etc/motd", "etc/hard")] == [1, 1]


def test_a_text_that_is_no_list_is_refused():
    for data in (b"[", b"[1]", b'["a"]\n', b"{}"):
        with pytest.raises(VerificationError, match="x: no list"):
            parse_list(data, where="x")


def test_inodes_have_no_say_in_a_list(root, tmp_path):
    (tmp_path / "other").mkdir()
    other = make_tree(tmp_path / "other")
    assert digest_of_list(listed(root)) == digest_of_list(listed(other))
    (other / "etc/motd").write_bytes(b"hullo\n")
    cut_times(other, epoch=1_000_000)
    assert digest_of_list(listed(root)) != digest_of_list(listed(other))


def test_a_tree_comes_back(root, cache, tmp_path):
    found = restore_tree(keep(cache, "one", root), cache, tmp_path / "again")
    assert plain(listed(tmp_path / "again")) == plain(listed(root)) == plain(found)
    assert (tmp_path / "again/etc/hard").stat().st_nlink == 2
    assert (tmp_path / "again/etc/deep/large").stat().st_mode & stat.S_ISUID


def test_what_the_tree_below_has_is_not_kept_again(root, cache, tmp_path):
    below = keep(cache, "below", root)
    (root / "etc/new").write_bytes(b"new")
    (root / "etc/deep/large").unlink()
    cut_times(root, epoch=1_000_000)
    upon = keep(cache, "upon", root, parent=below)
    assert upon.files["data"][1] == 3
    (root / "etc/newer").write_bytes(b"newer")
    cut_times(root, epoch=1_000_000)
    top = keep(cache, "top", root, parent=upon)
    assert top.files["data"][1] == 5
    restore_tree(top, cache, tmp_path / "again")
    assert plain(listed(tmp_path / "again")) == plain(listed(root))
    assert plain(load_tree_list(top)) == plain(listed(root))


def test_a_tree_upon_one_that_is_gone_is_refused(root, cache, tmp_path):
    below = keep(cache, "below", root)
    upon = keep(cache, "upon", root, parent=below)
    cache.throw_away(below, VerificationError("x"))
    with pytest.raises(VerificationError, match="is gone"):
        restore_tree(upon, cache, tmp_path / "again")


def test_a_tree_upon_one_that_was_made_otherwise_is_refused(root, cache, tmp_path):
    below = keep(cache, "below", root)
    (root / "etc/new").write_bytes(b"new")
    (root / "etc/zzz").write_bytes(b"zzzz")
    cut_times(root, epoch=1_000_000)
    upon = keep(cache, "upon", root, parent=below)
    cache.throw_away(below, VerificationError("x"))
    (root / "etc/zzz").unlink()
    cut_times(root, epoch=1_000_000)
    assert keep(cache, "below", root).key == below.key
    with pytest.raises(VerificationError, match="another tree"):
        restore_tree(upon, cache, tmp_path / "again")


@pytest.mark.parametrize("name", ["list", "data"])
def test_a_damaged_tree_is_refused(name, root, cache, tmp_path):
    stored = keep(cache, "one", root)
    path = stored.directory / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError, match="damaged"):
        restore_tree(stored, cache, tmp_path / "again")


def test_settling_takes_out_what_no_list_has(tmp_path):
    root = tmp_path
    (root / "file").write_bytes(b"x")
    os.utime(root / "file", ns=(10**18 + 5, 10**18 + 5))
    try:
        os.setxattr(root / "file", "user.note", b"x")
    except OSError:
        pytest.skip("no extended attributes here")
    settle(root)
    assert os.listxattr(root / "file") == []
    assert (root / "file").stat().st_mtime_ns == 10**18
