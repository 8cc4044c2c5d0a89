"""What stays in a tree, and what time, chance and the host left there and does not."""

import os

from vnfsbuild.tree import list_tree, normalise

EPOCH = 1_700_000_000


def put(root, path, text="x"):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def test_normalising_takes_out_secrets_logs_and_leftovers(tmp_path):
    gone = [
        "etc/passwd-", "etc/shadow-", "etc/.pwd.lock", "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/ssh_host_rsa_key.pub", "etc/munge/munge.key", "var/log/alternatives.log",
        "var/log/apt/term.log", "var/cache/ldconfig/aux-cache", "var/cache/debconf/config.dat-old",
        "var/lib/dpkg/status-old", "var/lib/dpkg/lock-frontend", "var/lib/systemd/random-seed",
        "var/lib/dbus/machine-id", "tmp/x/y", "var/tmp/x", "run/lock/x", "root/.bash_history",
    ]  # fmt: skip
    stays = ["etc/passwd", "etc/ssh/sshd_config", "var/lib/dpkg/status", "usr/bin/x"]
    for path in [*gone, *stays]:
        put(tmp_path, path)
    put(tmp_path, "etc/machine-id", "uninitialized\n")
    normalise(tmp_path, epoch=EPOCH)
    assert [path for path in gone if (tmp_path / path).exists()] == []
    assert [path for path in stays if not (tmp_path / path).exists()] == []
    assert (tmp_path / "etc/machine-id").read_bytes() == b""
    for path in ("var/log/apt", "tmp", "run", "var/tmp"):
        assert (tmp_path / path).is_dir()


def test_no_time_is_later_than_the_epoch_and_old_files_keep_theirs(tmp_path):
    old, new = put(tmp_path, "usr/old"), put(tmp_path, "usr/new")
    os.utime(old, ns=(0, 1_000_000_000_123_456_789))
    (tmp_path / "usr/link").symlink_to("old")
    normalise(tmp_path, epoch=EPOCH)
    assert old.stat().st_mtime_ns == 1_000_000_000 * 10**9
    for path in (new, tmp_path / "usr/link", tmp_path / "usr", tmp_path):
        assert path.lstat().st_mtime_ns == EPOCH * 10**9


def test_nothing_is_brought_up_to_date_at_boot(tmp_path):
    put(tmp_path, "etc/x")
    put(tmp_path, "var/x")
    put(tmp_path, "usr/x")
    normalise(tmp_path, epoch=EPOCH)
    usr = (tmp_path / "usr").stat().st_mtime_ns
    for name in ("etc/.updated", "var/.updated"):
        assert (tmp_path / name).stat().st_mtime_ns >= usr


def test_normalising_twice_changes_nothing(tmp_path):
    put(tmp_path, "etc/passwd")
    put(tmp_path, "var/log/x")
    normalise(tmp_path, epoch=EPOCH)
    once = list_tree(tmp_path)
    normalise(tmp_path, epoch=EPOCH)
    # The empty files are written anew.
    assert [(item.path, item.mode, item.mtime) for item in list_tree(tmp_path)] == [
        (item.path, item.mode, item.mtime) for item in once
    ]


def test_a_linked_directory_is_not_emptied(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(outside, "precious")
    root.mkdir()
    (root / "tmp").symlink_to(outside)
    normalise(root, epoch=EPOCH)
    assert (outside / "precious").exists()


def test_a_tree_is_listed_in_one_order(tmp_path):
    put(tmp_path, "b/y", "four")
    put(tmp_path, "b-c")
    (tmp_path / "a").symlink_to("b")
    listed = list_tree(tmp_path)
    assert [item.path for item in listed] == [".", "a", "b", "b/y", "b-c"]
    assert listed[1].target == "b"
    assert listed[3].size_bytes == 4
