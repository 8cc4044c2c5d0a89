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
        "var/lib/apt/extended_states", "var/cache/debconf/passwords.dat", "var/cache/man/index.db",
        "var/lib/ucf/hashfile.0", "var/lib/initramfs-tools/6.12", "boot/initrd.img-6.12",
        "etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem",
        "etc/bind/rndc.key", "etc/iscsi/initiatorname.iscsi", "etc/hostid", "root/.gnupg/x",
        "etc/x.conf.dpkg-old", "etc/deep/y.ucf-dist", "etc/z~", "var/mail/root",
        "var/log/journal/0123456789abcdef/system.journal", "usr/share/fonts/a/.uuid",
        "var/lib/systemd/timers/stamp-x", "var/lib/systemd/credential.secret",
        "var/cache/fontconfig/x", "usr/share/icons/hicolor/icon-theme.cache",
    ]  # fmt: skip
    stays = [
        "etc/passwd", "etc/ssh/sshd_config", "var/lib/dpkg/status", "usr/bin/x",
        "var/lib/ucf/hashfile", "etc/ssl/certs/ca.pem", "var/cache/debconf/config.dat", "usr/x~",
    ]  # fmt: skip
    for path in [*gone, *stays]:
        put(tmp_path, path)
    put(tmp_path, "etc/machine-id", "uninitialized\n")
    normalise(tmp_path, epoch=EPOCH)
    assert [path for path in gone if (tmp_path / path).exists()] == []
    assert [path for path in stays if not (tmp_path / path).exists()] == []
    assert (tmp_path / "etc/machine-id").read_bytes() == b""
    for path in ("var/log/apt", "tmp", "run", "var/tmp"):
        assert (tmp_path / path).is_dir()


def test_what_the_recipe_allows_stays_and_nothing_beside_it(tmp_path):
    put(tmp_path, "etc/ssl/private/ours.key")
    put(tmp_path, "etc/ssl/private/other.key")
    normalise(tmp_path, epoch=EPOCH, keep=["etc/*/private/ours.key"])
    assert [path.name for path in (tmp_path / "etc/ssl/private").iterdir()] == ["ours.key"]


def test_links_to_the_snakeoil_certificate_go_with_it(tmp_path):
    put(tmp_path, "etc/ssl/certs/ssl-cert-snakeoil.pem")
    put(tmp_path, "etc/ssl/certs/ca.pem")
    (tmp_path / "etc/ssl/certs/1a2b3c4d.0").symlink_to("ssl-cert-snakeoil.pem")
    (tmp_path / "etc/ssl/certs/5e6f7a8b.0").symlink_to("ca.pem")
    normalise(tmp_path, epoch=EPOCH)
    left = sorted(path.name for path in (tmp_path / "etc/ssl/certs").iterdir())
    assert left == ["5e6f7a8b.0", "ca.pem"]


def test_accounts_are_of_the_day_of_the_epoch(tmp_path):
    shadow = put(tmp_path, "etc/shadow", "root:*:29000:0:99999:7:::\nx:!*:1::::::\nold:!:::::::\n")
    normalise(tmp_path, epoch=EPOCH)
    assert shadow.read_text() == "root:*:19675:0:99999:7:::\nx:!*:19675::::::\nold:!:::::::\n"


def compiled(root, name, time, *, flags=0):
    head = b"\xf3\r\r\n" + flags.to_bytes(4, "little") + time.to_bytes(4, "little") + b"\0\0\0\0"
    cache = root / "usr/lib/python3/__pycache__" / f"{name}.cpython-313.pyc"
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(head + b"code")
    return cache


def test_only_caches_that_python_would_use_stay(tmp_path):
    for name in ("good", "by_digest", "rebuilt", "new"):
        source = put(tmp_path, f"usr/lib/python3/{name}.py")
        os.utime(source, (EPOCH - 100, EPOCH - 100))
    os.utime(tmp_path / "usr/lib/python3/new.py", (EPOCH + 100, EPOCH + 100))
    stays = [
        compiled(tmp_path, "good", EPOCH - 100),
        compiled(tmp_path, "by_digest", 12345, flags=1),
    ]
    gone = [
        compiled(tmp_path, "rebuilt", EPOCH - 99),
        compiled(tmp_path, "new", EPOCH + 100),
        compiled(tmp_path, "without_source", EPOCH - 100),
    ]
    normalise(tmp_path, epoch=EPOCH)
    assert [path.exists() for path in (*stays, *gone)] == [True] * 2 + [False] * 3


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
