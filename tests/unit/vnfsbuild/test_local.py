"""The recipe's own files get into the tree, through its links and never out of it."""

import os
from pathlib import Path

import pytest

from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.local import (
    AGENT,
    apply_local,
    copy_files,
    place_in,
    services_argv,
    write_file,
)
from vnfsbuild.recipe import WrittenFile, parse_recipe

from .test_recipe import LEAST


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for name in ("etc", "usr/lib", "usr/bin", "usr/sbin", "usr/local"):
        (root / name).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "opt").symlink_to("/usr/local")
    uid, gid = os.getuid(), os.getgid()
    (root / "etc/passwd").write_text(f"root:x:{uid}:{gid}::/root:/bin/sh\n")
    (root / "etc/group").write_text(f"root:x:{gid}:\n")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\nsshd:!*:19000::::::\n")
    return root


def written(path="/etc/x", mode=0o600, user="root", group="root"):
    return WrittenFile(path=path, content="text", mode=mode, user=user, group=group)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/etc/x", "etc/x"),
        ("lib/a/b", "usr/lib/a/b"),
        ("/opt/a", "usr/local/a"),
        ("/opt/../lib/a", "usr/lib/a"),
        ("/../../a", "a"),
    ],
)
def test_paths_are_followed_as_if_the_tree_were_all(root, path, found):
    assert place_in(root, path) == root / found


def test_links_in_a_circle_are_told(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(VnfsbuildError, match="too many symbolic links"):
        place_in(root, "/a/x")


def test_files_are_laid_over_without_replacing_links(root, tmp_path):
    src = tmp_path / "files"
    (src / "lib/x").mkdir(parents=True)
    (src / "lib/x/data").write_text("a")
    (src / "lib/x/data").chmod(0o600)
    (src / "lib/run").write_text("b")
    (src / "lib/run").chmod(0o700)
    (src / "opt/empty").mkdir(parents=True)
    (src / "etc").mkdir()
    (src / "etc/link").symlink_to("/usr/lib/run")
    copy_files(src, root)
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/x/data").stat().st_mode & 0o777 == 0o644
    assert (root / "usr/lib/run").stat().st_mode & 0o777 == 0o755
    assert (root / "usr/local/empty").is_dir()
    assert (root / "etc/link").readlink() == Path("/usr/lib/run")


def test_files_never_land_outside(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "etc/out").symlink_to(outside)
    src = tmp_path / "files"
    (src / "etc/out").mkdir(parents=True)
    (src / "etc/out/x").write_text("a")
    copy_files(src, root)
    assert list(outside.iterdir()) == []
    assert (root / str(outside).lstrip("/") / "x").read_text() == "a"


@pytest.mark.parametrize("path", ["/usr/lib", "/etc/passwd/x"])
def test_a_file_never_takes_the_place_of_a_directory(root, path):
    with pytest.raises(InputError, match="the tree has a"):
        write_file(root, written(path))


def test_a_file_is_written_with_its_mode(root):
    write_file(root, written("/etc/new/x", 0o640))
    assert (root / "etc/new/x").read_text() == "text"
    assert (root / "etc/new/x").stat().st_mode & 0o7777 == 0o640


def test_an_owner_that_the_tree_lacks_is_told(root):
    with pytest.raises(InputError, match=r"files.write /etc/x: owner: .*'munge' in etc/passwd"):
        write_file(root, written(user="munge"))


def test_the_agent_comes_with_its_unit_enabled(root, tmp_path):
    recipe = parse_recipe(LEAST)
    apply_local(root, recipe, directory=tmp_path, tools_tree=tmp_path, agent=b"zip")
    units = root / "usr/lib/systemd/system"
    assert (root / AGENT).read_bytes() == b"zip"
    assert (units / "multi-user.target.wants/vnfs-agent.service").resolve() == (
        units / "vnfs-agent.service"
    )
    assert not (units / "vnfs-host-keys.service").exists()


def test_with_an_ssh_server_its_host_key_is_made_at_boot(root, tmp_path):
    (root / "usr/bin/ssh-keygen").touch()
    (root / "usr/sbin/sshd").touch()
    recipe = parse_recipe(LEAST + "[agent]\nenabled = false\n")
    apply_local(root, recipe, directory=tmp_path, tools_tree=tmp_path, agent=b"zip")
    wants = root / "usr/lib/systemd/system/multi-user.target.wants"
    assert [path.name for path in wants.iterdir()] == ["vnfs-host-keys.service"]


def test_services_are_changed_in_the_tree():
    assert services_argv("enable", ("a.service",), root=Path("/r")) == [
        "--root=/r", "--no-warn", "enable", "--", "a.service",
    ]  # fmt: skip
