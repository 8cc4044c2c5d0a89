"""Which drivers a bootstrap has, where, and what is told of them."""

import gzip
import io
import json
import lzma

import pytest
import pyzstd

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.initrd.archive import regular, write_archive
from vnfsbuild.initrd.drivers import choose_base, choose_more, firmware_files, render_aliases
from vnfsbuild.initrd.kmod import load_modules, module_name
from vnfsbuild.initrd.modinfo import parse_modinfo
from vnfsbuild.inside.drivers import find_group, unpack_module
from vnfsbuild.store.store import Store

from .kernelmodules import make_module

VERSION = "6.12-test"
MODULES = {
    "kernel/drivers/net/e1000e.ko.xz": make_module(
        name="e1000e", description="Intel(R) PRO/1000 Network Driver",
        alias=["pci:v00008086d000010D3sv*sd*bc*sc*i*", "pci:v00008086d000010EAsv*sd*bc*sc*i*"],
    ),
    "kernel/drivers/net/bnx2x.ko.xz": make_module(
        name="bnx2x", description="QLogic BCM57710 Driver", depends="mdio",
        alias="pci:v000014E4d0000168Esv*sd*bc*sc*i*",
        firmware=["bnx2x/e2.fw", "bnx2x/e1.fw", "bnx2x/e2.fw"],
    ),
    "kernel/drivers/net/mdio.ko.xz": make_module(name="mdio", description="MDIO \x1b[31m support"),
    "kernel/drivers/scsi/sr_mod.ko.gz": make_module(name="sr_mod", alias="scsi:t-0x05*"),
    "kernel/fs/nfs/nfsv4.ko.zst": make_module(name="nfsv4", alias="nfs4"),
}  # fmt: skip
ALIASES = """\
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias pci:v000014E4d0000168Esv*sd*bc*sc*i* bnx2x
alias scsi:t-0x05* sr_mod
alias nfs4 nfsv4
alias auxiliary:mlx5_core.rdma bnx2x
"""


def pack(path, data):
    packers = {"xz": lzma.compress, "gz": gzip.compress, "zst": pyzstd.compress}
    return packers[path.rpartition(".")[2]](data)


@pytest.fixture
def root(tmp_path):
    directory = tmp_path / "root/usr/lib/modules" / VERSION
    for path, data in MODULES.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(pack(path, data))
    needs = {"kernel/drivers/net/bnx2x.ko.xz": " kernel/drivers/net/mdio.ko.xz"}
    lines = [f"{path}:{needs.get(path, '')}\n" for path in MODULES]
    (directory / "modules.dep").write_text("".join(lines))
    (directory / "modules.alias").write_text(ALIASES)
    return tmp_path / "root"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/modules.txt").write_text("e1000e\n")
    (tmp_path / "recipe/drivers.txt").write_text("kernel/drivers/net/*\nnfsv4\n")
    return tmp_path / "recipe"


def names(paths):
    return [module_name(path) for path in paths]


def test_drivers_cpio_has_what_the_initrd_has_not(root, recipe):
    modules = load_modules(root, VERSION)
    assert names(choose_base(modules, recipe)) == ["e1000e"]
    assert names(choose_more(modules, recipe)) == ["mdio", "bnx2x", "nfsv4"]
    (recipe / "drivers.txt").unlink()
    assert choose_more(modules, recipe) == ()


def test_a_list_that_names_what_is_not_there_is_told(root, recipe):
    (recipe / "drivers.txt").write_text("bnx3\n")
    with pytest.raises(InputError, match=r"drivers\.txt: found 'bnx3', which is no module"):
        choose_more(load_modules(root, VERSION), recipe)
    (recipe / "modules.txt").unlink()
    with pytest.raises(InputError, match=r"modules\.txt: No such file"):
        choose_base(load_modules(root, VERSION), recipe)


def test_the_list_of_hardware_is_of_devices_alone(root, recipe):
    modules = load_modules(root, VERSION)
    more = choose_more(modules, recipe)
    assert render_aliases(modules, more) == b"pci:v000014E4d0000168Esv*sd*bc*sc*i* bnx2x\n"


def test_firmware_files_come_along_as_far_as_they_are_there(root, recipe):
    modules = load_modules(root, VERSION)
    paths = [path for path in choose_more(modules, recipe) if path.endswith(".xz")]
    assert firmware_files(root, modules, paths, tools=root) == {}
    (root / "usr/lib/firmware/bnx2x").mkdir(parents=True)
    for name in ("e1.fw", "e2.fw.xz", "e3.fw"):
        (root / "usr/lib/firmware/bnx2x" / name).write_bytes(b"")
    assert sorted(firmware_files(root, modules, paths, tools=root)) == [
        "usr/lib/firmware/bnx2x/e1.fw", "usr/lib/firmware/bnx2x/e2.fw.xz",
    ]  # fmt: skip


def test_a_module_says_what_it_is():
    says = parse_modinfo(MODULES["kernel/drivers/net/bnx2x.ko.xz"], where="x")
    assert says["description"] == ("QLogic BCM57710 Driver",)
    assert says["firmware"] == ("bnx2x/e2.fw", "bnx2x/e1.fw", "bnx2x/e2.fw")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: b"junk", "expected a 64-bit ELF file"),
        (lambda data: data[:70], "a damaged ELF file"),
        (lambda data: data[:63] + b"\xff" + data[64:], "a damaged ELF file"),
        (lambda data: data.replace(b".modinfo", b".nothing"), r"found no section \.modinfo"),
    ],
)
def test_what_is_no_module_is_told(damage, told):
    module = MODULES["kernel/drivers/net/e1000e.ko.xz"]
    with pytest.raises(InputError, match=told):
        parse_modinfo(damage(module), where="x")


def test_modules_are_unpacked_as_they_are_called():
    for path, data in MODULES.items():
        assert unpack_module(path, pack(path, data)) == data
        with pytest.raises(VerificationError, match="cannot be unpacked"):
            unpack_module(path, b"junk")
    assert unpack_module("x.ko", b"as it is") == b"as it is"


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("drivers/net/ethernet/intel/igb/igb.ko.xz", "network"),
        ("drivers/infiniband/hw/mlx5/mlx5_ib.ko.xz", "InfiniBand"),
        ("drivers/usb/storage/uas.ko.xz", "disks"),
        ("drivers/usb/host/xhci-hcd.ko.xz", "USB and input"),
        ("fs/nfs/nfs.ko.xz", "file systems"),
        ("lib/crc16.ko.xz", "buses and others"),
    ],
)
def test_what_a_driver_is_for(path, group):
    assert find_group(path) == group


# bootstrap show


def archive(*paths):
    place = f"usr/lib/modules/{VERSION}"
    members = {f"{place}/{path}": regular(pack(path, MODULES[path])) for path in paths}
    members["etc/vnfs/bootstrap.json"] = regular(b'{"protocol":1}')
    file = io.BytesIO()
    write_archive(members, file)
    return file.getvalue()


@pytest.fixture
def bootstrap(workshop, places):
    e1000e, *more = MODULES
    initrd = pyzstd.compress(archive(e1000e))
    toy = workshop.capsule(
        bootstrap=True, payloads=[b"source", b"kernel", initrd + bytes(-len(initrd) % 4),
                                  archive(*more)],
    )  # fmt: skip
    toy.add_to(Store(places.store))
    return toy


def test_show_tells_what_is_where_and_what_it_drives(run, bootstrap):
    status, out, err = run("bootstrap", "show")
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "name: bootstrap:1"
    assert "protocol: 1" in lines
    shown = [line for line in lines if line.startswith(("network", "disks", "file", "in ", "and "))]
    assert shown == [
        "in the initrd: 1 modules, " + next(line for line in lines if "in the initrd" in line)[26:],
        next(line for line in lines if line.startswith("network e1000e")),
        next(line for line in lines if line.startswith("in drivers.cpio: 4 modules, ")),
        next(line for line in lines if line.startswith("network bnx2x")),
        "and 3 that these need, or that are asked for: --all",
    ]
    assert "QLogic BCM57710 Driver (firmware files)" in out
    status, out, _ = run("bootstrap", "show", "--all")
    assert "nfsv4" in out
    assert "\x1b" not in out


def test_show_as_json(run, bootstrap):
    status, out, _ = run("bootstrap", "show", "--json")
    value = json.loads(out)
    assert status == 0
    assert (value["protocol"], value["digest"]) == (1, bootstrap.digest)
    assert list(value["sizes"]) == ["drivers", "initrd", "kernel"]
    assert {item["name"]: item["payload"] for item in value["drivers"]} == {
        "e1000e": "initrd", "bnx2x": "drivers", "mdio": "drivers", "sr_mod": "drivers",
        "nfsv4": "drivers",
    }  # fmt: skip
    e1000e = value["drivers"][0]
    assert (e1000e["hardware"], e1000e["group"]) == (2, "network")
    assert e1000e["description"] == "Intel(R) PRO/1000 Network Driver"


def test_show_wants_a_bootstrap(run, workshop, places):
    workshop.capsule(name="toy").add_to(Store(places.store))
    status, _, err = run("bootstrap", "show", "toy")
    assert status == 2
    assert "toy: a capsule, expected a bootstrap" in err


def test_a_bootstrap_without_further_drivers_has_no_such_payload(run, workshop, places):
    initrd = pyzstd.compress(archive())
    payloads = [b"source", b"kernel", initrd + bytes(-len(initrd) % 4)]
    workshop.capsule(bootstrap=True, payloads=payloads).add_to(Store(places.store))
    status, out, _ = run("bootstrap", "show")
    assert status == 0
    assert "drivers.cpio" not in out
    status, _, err = run("files", "--payload", "drivers", "bootstrap")
    assert status == 2
    assert "has no payload 'drivers', expected one of: source, initrd" in err


def test_files_of_drivers_cpio_are_listed_and_read(run, bootstrap):
    status, out, _ = run("files", "--payload", "drivers", "bootstrap", "*.xz")
    assert status == 0
    assert out.splitlines() == [
        f"/usr/lib/modules/{VERSION}/kernel/drivers/net/bnx2x.ko.xz",
        f"/usr/lib/modules/{VERSION}/kernel/drivers/net/mdio.ko.xz",
    ]
