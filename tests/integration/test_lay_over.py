"""A node's files laid over a root, by the script and the busybox that a capsule's initramfs has."""

import shutil
import subprocess
from pathlib import Path

import pytest

import vnfsbuild.initrd
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree

pytestmark = pytest.mark.integration

SCRIPT = Path(vnfsbuild.initrd.__file__).parent / "lay-over.sh"


@pytest.fixture
def root(tmp_path):
    """A root with links as distributions have them, and room for an overlay."""
    for directory in ("usr/lib/x", "usr/bin", "etc/ssh", "srv", "run/vnfs/overlay"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "var").mkdir(mode=0o700)
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "etc/resolv.conf").symlink_to("../run/resolv.conf")
    (tmp_path / "etc/hosts").write_text("old")
    (tmp_path / "etc/gone").symlink_to("/nowhere")
    tools = ensure_tools_tree("build", find_places().cache)
    shutil.copy(tools / "usr/bin/busybox", tmp_path / "run/vnfs/busybox")
    shutil.copy(SCRIPT, tmp_path / "run/vnfs/lay-over.sh")
    return tmp_path


def put(root, path, text="new", mode=0o644):
    place = root / "run/vnfs/overlay" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    place.chmod(mode)
    return place


def lay_over(root):
    argv = ["chroot", str(root), "/run/vnfs/busybox", "sh", "/run/vnfs/lay-over.sh"]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_files_come_through_links_and_keep_owner_and_mode(root):
    secret = put(root, "lib/x/secret", mode=0o640)
    shutil.chown(secret, 123, 45)
    put(root, "etc/hosts")
    put(root, "etc/name with  spaces \\ and *", "x")
    done = lay_over(root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = (root / "usr/lib/x/secret").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (123, 45, 0o640)
    assert (root / "lib").is_symlink()
    assert (root / "etc/hosts").read_text() == "new"
    assert (root / "etc/name with  spaces \\ and *").read_text() == "x"


def test_a_link_to_a_file_is_replaced_and_not_written_through(root):
    put(root, "etc/resolv.conf", "nameserver")
    (root / "run/resolv.conf").write_text("theirs")
    assert lay_over(root).returncode == 0
    assert not (root / "etc/resolv.conf").is_symlink()
    assert (root / "run/resolv.conf").read_text() == "theirs"


def test_an_absolute_link_leads_inside_the_root(root):
    put(root, "var/run/x")
    assert lay_over(root).returncode == 0
    assert (root / "run/x").read_text() == "new"


def test_directories_that_are_there_stay_as_they_are(root):
    put(root, "var/lib/new/file")
    overlay = root / "run/vnfs/overlay"
    (overlay / "var").chmod(0o777)
    (overlay / "var/lib/new").chmod(0o2750)
    shutil.chown(overlay / "var/lib/new", 7, 8)
    assert lay_over(root).returncode == 0
    assert (root / "var").stat().st_mode & 0o7777 == 0o700
    new = (root / "var/lib/new").stat()
    assert (new.st_mode & 0o7777, new.st_uid, new.st_gid) == (0o2750, 7, 8)


def test_links_of_the_overlay_come_as_links(root):
    (root / "run/vnfs/overlay/etc").mkdir()
    (root / "run/vnfs/overlay/etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    assert lay_over(root).returncode == 0
    assert str((root / "etc/localtime").readlink()) == "/usr/share/zoneinfo/UTC"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("etc/ssh", "/etc/ssh: found a directory in the capsule, expected none"),
        ("lib", "/lib: found a directory in the capsule, expected none"),
        ("etc/hosts/x", "/etc/hosts: found no directory in the capsule, expected one"),
        ("etc/gone/x", "/etc/gone: found no directory in the capsule, expected one"),
    ],
)
def test_what_fits_another_capsule_only_is_refused(root, path, told):
    put(root, path)
    done = lay_over(root)
    assert (done.returncode, done.stdout.strip()) == (1, told)
