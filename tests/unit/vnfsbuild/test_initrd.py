"""What goes into the two initramfs archives, and why; the kernel's modules among it."""

import gzip
import io
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

import vnfsbuild.initrd
from vnfsbuild.errors import InputError
from vnfsbuild.initrd.archive import (
    directory,
    link,
    regular,
    with_directories,
    write_archive,
    zstd_argv,
)
from vnfsbuild.initrd.bootstrap import render_description
from vnfsbuild.initrd.capsule import capsule_members
from vnfsbuild.initrd.kmod import (
    choose_modules,
    load_modules,
    module_name,
    parse_module_list,
    read_module,
)

VERSION = "6.12-test"
CHECKOUT = Path(vnfsbuild.initrd.__file__).parents[2]

DEP = """\
kernel/fs/overlayfs/overlay.ko.xz:
kernel/drivers/block/loop.ko:
kernel/fs/squashfs/squashfs.ko.gz:
kernel/net/virtio_net.ko.xz: kernel/net/net_failover.ko.xz kernel/net/failover.ko.xz
kernel/net/net_failover.ko.xz: kernel/net/failover.ko.xz
kernel/net/failover.ko.xz:
kernel/lib/libcrc32c.ko.xz:
kernel/crypto/crc32c-generic.ko.xz:
kernel/net/r8169.ko.xz:
kernel/net/phy/realtek.ko.xz:
"""
SOFTDEP = """\
# Soft dependencies extracted from modules themselves.
softdep libcrc32c pre: crc32c
softdep r8169 post: realtek
softdep realtek pre: r8169
softdep failover pre: nowhere
"""
ALIAS = """\
alias crc32c crc32c_generic
alias pci:v0000* r8169
"""


def content(name):
    return f"module {name}".encode()


@pytest.fixture
def root(tmp_path):
    modules = tmp_path / "root/usr/lib/modules" / VERSION
    for line in DEP.splitlines():
        path = modules / line.partition(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        pack = {".xz": lzma.compress, ".gz": gzip.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(content(module_name(path.name))))
    (modules / "modules.dep").write_text(DEP)
    (modules / "modules.softdep").write_text(SOFTDEP)
    (modules / "modules.alias").write_text(ALIAS)
    (modules / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    return tmp_path / "root"


@pytest.fixture
def tools(tmp_path):
    (tmp_path / "tools/usr/bin").mkdir(parents=True)
    (tmp_path / "tools/usr/bin/busybox").write_bytes(b"busybox")
    return tmp_path / "tools"


def choose(root, *patterns):
    chosen = choose_modules(load_modules(root, VERSION), patterns, where="modules.txt")
    return [module_name(path) for path in chosen]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["loop"], ["loop"]),
        (["virtio_net"], ["failover", "net_failover", "virtio_net"]),
        (["virtio-net", "failover"], ["failover", "net_failover", "virtio_net"]),
        (["libcrc32c"], ["crc32c_generic", "libcrc32c"]),
        (["r8169"], ["r8169", "realtek"]),
        (["*failover"], ["failover", "net_failover"]),
        (["kernel/net/phy/*"], ["r8169", "realtek"]),
        (["virtio_pci"], []),
        (["?erofs", "?squashfs"], ["squashfs"]),
    ],
)
def test_modules_come_with_what_they_need_and_after_it(root, patterns, names):
    assert choose(root, *patterns) == names


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_of_several_modules_behind_an_alias_the_one_for_every_processor_is_taken(root, order):
    modules = root / "usr/lib/modules" / VERSION
    with (modules / "modules.dep").open("a") as file:
        file.write("kernel/crypto/crc32c-intel.ko.xz:\n")
    lines = ["alias crc32c crc32c_intel\n", "alias crc32c crc32c_generic\n"]
    (modules / "modules.alias").write_text("".join(lines[number] for number in order))
    assert choose(root, "libcrc32c") == ["crc32c_generic", "libcrc32c"]


def test_the_capsules_initramfs_has_the_file_system_of_its_layers(root, tools):
    modules = root / "usr/lib/modules" / VERSION
    with (modules / "modules.dep").open("a") as file:
        file.write("kernel/fs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz\n")
    (modules / "kernel/fs/erofs.ko.xz").write_bytes(lzma.compress(content("erofs")))
    members = capsule_members(root, tools, VERSION, formats=["erofs"])
    order = members["usr/lib/vnfs/modules"].data.decode().split()
    assert [module_name(path) for path in order] == [
        "loop", "overlay", "crc32c_generic", "libcrc32c", "erofs",
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["erofs", "kernel/nothing/*", "kernel/drivers/virtio/*"])
def test_an_unknown_module_is_an_error(root, pattern):
    with pytest.raises(InputError, match=r"modules\.txt: found .* no module of 6\.12-test") as told:
        choose(root, pattern)
    assert f"?{pattern}" in told.value.hint


def test_a_tree_without_a_kernel_is_told(tmp_path):
    with pytest.raises(InputError, match="expected a kernel and its modules"):
        load_modules(tmp_path, VERSION)


def test_a_module_list_has_comments_and_one_name_a_line():
    assert parse_module_list("# x\n\nigb  # Intel\n?erofs\n", where="f") == ["igb", "?erofs"]
    with pytest.raises(InputError, match="f:2: found 'a b'"):
        parse_module_list("x\na b\n", where="f")


@pytest.mark.parametrize("name", ["overlay", "loop", "squashfs"])
def test_modules_are_unpacked_whole(root, tools, name):
    modules = load_modules(root, VERSION)
    assert read_module(modules.directory / modules.paths[name], tools=tools) == content(name)


def test_a_broken_module_is_told(tmp_path, tools):
    (tmp_path / "x.ko.xz").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"x\.ko\.xz: cannot be read"):
        read_module(tmp_path / "x.ko.xz", tools=tools)


def test_the_capsules_initramfs_is_small_and_says_the_order(root, tools):
    members = capsule_members(root, tools, VERSION, extra_modules=["virtio_net"])
    order = members["usr/lib/vnfs/modules"].data.decode().split()
    assert order == [
        f"/usr/lib/modules/{name}.ko"
        for name in ("loop", "overlay", "squashfs", "failover", "net_failover", "virtio_net")
    ]
    assert members["usr/lib/modules/loop.ko"].data == content("loop")
    assert members["init"].mode == 0o100755
    files = {name for name, member in members.items() if not isinstance(member.data, bytes)}
    assert files == {
        "bin/busybox", "init", "usr/lib/vnfs/functions.sh", "usr/lib/vnfs/lay-over.sh",
    }  # fmt: skip


def test_a_module_that_a_recipe_wants_must_be_there(root, tools):
    with pytest.raises(InputError, match=r"kernel\.initrd_modules: found 'nfsv4'"):
        capsule_members(root, tools, VERSION, extra_modules=["nfsv4"])


def test_directories_are_there_before_what_is_in_them():
    members = with_directories({"a/b/c": regular(b""), "a-b": regular(b""), "a": directory()})
    assert list(members) == ["a", "a/b", "a/b/c", "a-b"]


def test_an_archive_has_no_times_and_one_order(tmp_path):
    (tmp_path / "data").write_bytes(b"12345")
    members = {
        "bin/sh": link("busybox"),
        "bin/busybox": regular(tmp_path / "data", mode=0o755),
    }
    out = []
    for items in (members, dict(reversed(members.items()))):
        file = io.BytesIO()
        write_archive(items, file)
        out.append(file.getvalue())
        (tmp_path / "data").touch()
    assert out[0] == out[1]
    assert out[0].startswith(b"070701" + b"0" * 8 + b"%08X" % 0o40755)
    assert b"12345" in out[0]


@pytest.mark.skipif(not shutil.which("cpio"), reason="no cpio program")
def test_cpio_reads_what_we_write(tmp_path):
    file = io.BytesIO()
    write_archive({"a/b": regular(b"text", mode=0o600), "a/l": link("b")}, file)
    listing = subprocess.run(
        ["cpio", "--list", "--verbose", "--numeric-uid-gid"],
        input=file.getvalue(), capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    words = [line.split() for line in listing.splitlines()]
    assert [(line[0], line[8]) for line in words] == [
        ("drwxr-xr-x", "a"), ("-rw-------", "a/b"), ("lrwxrwxrwx", "a/l"),
    ]  # fmt: skip


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="gone: No such file"):
        write_archive({"x": regular(tmp_path / "gone")}, io.BytesIO())


def test_the_argv_of_zstd(tmp_path):
    assert zstd_argv(Path("/in"), Path("/out")) == [
        "-19", "--threads=2", "--quiet", "--force", "--no-progress", "/in", "-o", "/out",
    ]  # fmt: skip


def test_the_bootstrap_says_which_kernel_it_runs(tmp_path):
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6").write_bytes(b"")
    assert render_description(tmp_path, "6") == (
        b'{"kernelDigest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",'
        b'"kernelVersion":"6","protocol":1}'
    )
    with pytest.raises(InputError, match="vmlinuz-7"):
        render_description(tmp_path, "7")


SCRIPTS = [
    "bootstrap-kernel/init",
    "bootstrap-kernel/network.sh",
    "bootstrap-kernel/rescue",
    "bootstrap-kernel/udhcpc",
    "vnfsbuild/initrd/functions.sh",
    "vnfsbuild/initrd/init",
    "vnfsbuild/initrd/lay-over.sh",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_posix_shell(script):
    subprocess.run(["sh", "-n", str(CHECKOUT / script)], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck program")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    argv = ["shellcheck", "--shell=sh", "--external-sources", f"--source-path={CHECKOUT}"]
    done = subprocess.run([*argv, str(CHECKOUT / script)], capture_output=True, text=True)
    assert done.stdout == ""


def test_the_list_of_drivers_is_well_formed():
    path = CHECKOUT / "bootstrap-kernel/modules.txt"
    patterns = parse_module_list(path.read_text(), where=str(path))
    assert len(set(patterns)) == len(patterns)
    assert {"virtio_net", "e1000e", "nvme", "ahci", "usbhid", "squashfs"} <= set(patterns)
