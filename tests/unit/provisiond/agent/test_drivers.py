"""Hardware that nothing drives, and its drivers: what is told, what is fetched and loaded."""

import io
import json
import stat
from dataclasses import replace

import pytest

from provisiond.agent import drivers as module
from provisiond.agent.drivers import Drivers, describe_undriven
from provisiond.agent.ed25519 import verify_ed25519
from provisiond.agent.fetch import Patience
from provisiond.agent.hardware import Aliases, find_devices, told_device, wanted_modules
from provisiond.agent.unpack import unpack
from vnfsbuild import manifest as m
from vnfsbuild import newc
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError
from vnfsbuild.trust import verify_trust

BNX = "pci:v000014E4d0000168Esv0000103Csd0000171Cbc02sc00i00"
SAS = "pci:v00001000d00000097sv00001028sd00001F53bc01sc07i00"
WIFI = "pci:v00008086d000024F3sv00008086sd00000010bc02sc80i00"
BRIDGE = "pci:v00008086d00000C00sv00000000sd00000000bc06sc00i00"
E1000E = "pci:v00008086d000010D3sv00001AF4sd00001100bc02sc00i00"
BMC_LAN = "usb:v046BpFFB0d0100dc00dsc00dp00ic02isc06ip00in00"
LINES = """\
pci:v000014E4d0000168Esv*sd*bc*sc*i* bnx2x
pci:v000014E4d0000164[AC]sv*sd*bc*sc*i* bnx2
pci:v00001000d00000097sv*sd*bc*sc*i* mpt3sas
usb:v*p*d*dc*dsc*dp*ic02isc06ip00in* cdc_ether
virtio:d00000008v* virtio_scsi
xen:vbd xen_blkfront
"""


class Hardware:
    """A /sys with devices."""

    def __init__(self, path):
        self.path = path
        (path / "devices").mkdir(parents=True)

    def add(self, modalias, *, driver="", module=""):
        bus = modalias.partition(":")[0]
        number = len(list((self.path / "devices").iterdir()))
        place = self.path / f"devices/0000:00:{number:02x}.0"
        place.mkdir()
        (place / "modalias").write_text(modalias + "\n")
        if driver:
            where = self.path / "bus" / bus / "drivers" / driver
            where.mkdir(parents=True, exist_ok=True)
            if module and not (where / "module").is_symlink():
                (self.path / "module" / module).mkdir(parents=True)
                (where / "module").symlink_to(self.path / "module" / module)
            (place / "driver").symlink_to(where)
        listed = self.path / "bus" / bus / "devices"
        listed.mkdir(parents=True, exist_ok=True)
        (listed / place.name).symlink_to(place)


@pytest.fixture
def hardware(tmp_path):
    return Hardware(tmp_path / "sys")


@pytest.fixture
def root(tmp_path):
    """What the bootstrap's initrd unpacked to."""
    root = tmp_path / "root"
    (root / "etc/vnfs").mkdir(parents=True)
    (root / "usr/lib/vnfs").mkdir(parents=True)
    (root / "usr/lib/vnfs/drivers.alias").write_text(LINES)
    description = {"kernelDigest": digest_of(b"kernel" * 100), "protocol": 1}
    (root / "etc/vnfs/bootstrap.json").write_text(json.dumps(description))
    (root / "usr/lib/modules/6.12-test").mkdir(parents=True)
    (root / "usr/lib/modules/6.12-test/modules.alias.bin").write_bytes(b"of the initrd")
    return root


@pytest.mark.parametrize(
    ("modalias", "modules"),
    [
        (BNX, ["bnx2x"]),
        (BNX.replace("168E", "164C"), ["bnx2"]),
        (BNX.replace("168E", "164D"), []),
        (BMC_LAN, ["cdc_ether"]),
        ("xen:vbd", ["xen_blkfront"]),
        ("xen:vbdx", []),
        ("", []),
    ],
)
def test_aliases_are_globs(modalias, modules):
    assert Aliases(LINES.splitlines()).find(modalias) == modules


def test_what_the_server_is_told(hardware, root, tmp_path):
    told = Drivers(tell=print, root=root, sys=hardware.path, run=tmp_path)
    hardware.add(E1000E, driver="e1000e", module="e1000e")
    hardware.add(BRIDGE)
    hardware.add(BMC_LAN)
    assert told.report() == {"undriven": [], "driversFrom": "", "wantedDrivers": []}
    hardware.add(BNX)
    hardware.add(SAS)
    hardware.add(WIFI)
    assert told.report() == {
        "undriven": [BNX, SAS, WIFI],
        "driversFrom": "",
        "wantedDrivers": ["bnx2x", "mpt3sas"],
    }


@pytest.mark.parametrize(
    ("kind", "is_told"),
    [("bc01sc07i00", True), ("bc02sc07i00", True), ("bc0Csc06i00", True), ("bc0Csc04i00", True),
     ("bc0Csc05i00", False), ("bc06sc00i00", False), ("bc03sc00i00", False)],
)  # fmt: skip
def test_of_which_kinds_it_is_told(hardware, root, tmp_path, kind, is_told):
    hardware.add(f"pci:v0000AAAAd0000BBBBsv00000000sd00000000{kind}")
    told = Drivers(tell=print, root=root, sys=hardware.path, run=tmp_path).report()
    assert bool(told["undriven"]) == is_told
    assert told["wantedDrivers"] == []


def test_the_same_drivers_are_wanted_once_they_are_loaded(hardware, root, tmp_path):
    """Else each boot with them would be followed by one without."""
    (root / "etc/vnfs/drivers.json").write_text("{}")
    hardware.add(E1000E, driver="e1000e", module="e1000e")
    hardware.add(BNX, driver="bnx2x", module="bnx2x")
    hardware.add(SAS, driver="mpt3sas", module="mpt3sas")
    assert Drivers(tell=print, root=root, sys=hardware.path, run=tmp_path).report() == {
        "undriven": [],
        "driversFrom": "firmware",
        "wantedDrivers": ["bnx2x", "mpt3sas"],
    }


def test_a_bootstrap_without_a_list_of_drivers_says_nothing_of_them(hardware, root, tmp_path):
    (root / "usr/lib/vnfs/drivers.alias").unlink()
    hardware.add(BNX)
    told = Drivers(tell=print, root=root, sys=hardware.path, run=tmp_path).report()
    assert told == {"undriven": [BNX], "driversFrom": ""}


def test_a_machine_full_of_cards_tells_of_so_many(hardware):
    aliases = Aliases([f"pci:v{n:08X}d* module{n:03}" for n in range(200)])
    for number in range(200):
        hardware.add(f"pci:v{number:08X}d00000001sv0sd0bc02sc00i00")
    assert len(wanted_modules(find_devices(hardware.path), aliases)) == 64


def test_what_the_console_says_of_cards_without_a_network(hardware, root):
    hardware.add(E1000E, driver="e1000e", module="e1000e")
    hardware.add(BNX)
    hardware.add(SAS)
    hardware.add(WIFI)
    assert list(describe_undriven(root, hardware.path, "52:54:00:00:00:01")) == [
        "pci 0000:00:01.0 (14e4:168e) takes bnx2x, which is in drivers.cpio: provisionctl node "
        "add 52:54:00:00:00:01, provisionctl node set drivers true NAME",
        "pci 0000:00:03.0 (8086:24f3): no driver here, and none in drivers.cpio",
    ]
    assert told_device(replace(find_devices(hardware.path)[0], modalias="x")) == "pci 0000:00:00.0"


# Unpacking


def entry(name, data=b"", mode=stat.S_IFREG | 0o644):
    return newc.render_entry(name, mode, data)


def drivers_archive(*more):
    return b"".join((
        entry("etc", mode=stat.S_IFDIR | 0o755),
        entry("etc/vnfs/drivers.json", b"{}"),
        entry("usr/lib/modules/6.12-test/kernel/bnx2x.ko.xz", b"driver" * 40_001),
        entry("usr/lib/modules/6.12-test/modules.alias.bin", b"of both"),
        *more,
        newc.render_trailer(),
    ))  # fmt: skip


def test_an_archive_is_unpacked_over_what_is_there(root):
    held = (root / "usr/lib/modules/6.12-test/modules.alias.bin").open("rb")
    unpack(io.BytesIO(drivers_archive()), root, last="etc/vnfs/drivers.json")
    modules = root / "usr/lib/modules/6.12-test"
    assert (modules / "kernel/bnx2x.ko.xz").read_bytes() == b"driver" * 40_001
    assert (modules / "modules.alias.bin").read_bytes() == b"of both"
    assert (root / "etc/vnfs/drivers.json").read_bytes() == b"{}"
    with held:
        assert held.read() == b"of the initrd"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-4], "ends within a member"),
        (lambda data: data[:100_000], "ends within it"),
        (lambda data: b"070702" + data[6:], "expected the header of a newc archive"),
        (lambda data: data[:6] + b"x" + data[7:], "a header that is none"),
        (lambda data: b"", "ends within a member"),
        (lambda data: entry("../x") + data, "leads out of"),
        (lambda data: entry("/etc/x") + data, "leads out of"),
        (lambda data: entry("a/../../x") + data, "leads out of"),
        (lambda data: entry("l", b"/etc", stat.S_IFLNK | 0o777) + data, "found mode 120777"),
        (lambda data: entry("d", mode=stat.S_IFCHR | 0o600) + data, "found mode 20600"),
    ],
)
def test_what_is_no_such_archive_is_refused_and_does_not_count_as_there(root, damage, told):
    archive = io.BytesIO(damage(drivers_archive()))
    with pytest.raises(VerificationError, match=told):
        unpack(archive, root, last="etc/vnfs/drivers.json")
    assert not (root / "etc/vnfs/drivers.json").exists()
    assert not (root.parent / "x").exists()


# Fetching


class Stage:
    def __init__(self, world, keys, mirrors, hardware, root, tmp_path):
        self.world, self.keys, self.mirror, self.root = world, keys, mirrors[0], root
        self.bootstrap = self.make()
        self.told, self.loads, self.clock = [], 0, 100.0
        self.drivers = Drivers(
            tell=self.told.append, root=root, sys=hardware.path, run=tmp_path / "run",
            patience=Patience(stall_seconds=1, tries=2, least_delay_seconds=0.01,
                              most_delay_seconds=0.02),
            load=self._load,
        )  # fmt: skip
        (tmp_path / "run").mkdir()
        self.file = tmp_path / "run/drivers.cpio"

    def make(self, **words):
        return self.world.TestCapsule(
            **{
                "keys": self.keys,
                "name": "bootstrap", "artifact_type": m.BOOTSTRAP, "layers": (),
                "drivers": drivers_archive(), **words,
            },
        )  # fmt: skip

    def _load(self):
        self.loads += 1

    def obtain(self, bootstrap=None, **changes):
        bootstrap = bootstrap or self.bootstrap
        self.mirror.add(*bootstrap.blobs)
        words = {"action": "wait", "capsule": None, "drivers": bootstrap.planned(), **changes}
        trust = verify_trust(
            self.keys.trust(), pinned=None, now=self.world.NOW, verify_ed25519=verify_ed25519,
            where="trust.json",
        )  # fmt: skip
        self.drivers.obtain(
            bootstrap.plan(self.mirror.base, **words), trust=trust, now=self.world.NOW,
            verify_ed25519=verify_ed25519,
        )  # fmt: skip

    @property
    def is_there(self):
        return (self.root / "etc/vnfs/drivers.json").exists()


@pytest.fixture
def stage(world, keys, mirrors, hardware, root, tmp_path):
    return Stage(world, keys, mirrors, hardware, root, tmp_path)


def test_drivers_are_fetched_verified_unpacked_and_loaded_once(stage):
    stage.obtain()
    assert stage.is_there
    assert stage.loads == 1
    assert stage.drivers.report()["driversFrom"] == "agent"
    assert stage.told == [
        "n00001: fetching drivers.cpio, 0.2 MB",
        "n00001: drivers.cpio of bootstrap is here",
    ]
    assert not stage.file.exists(), "it would be kept in memory"
    asked = len(stage.mirror.requests)
    stage.obtain()
    assert (stage.loads, len(stage.mirror.requests)) == (1, asked)


def test_a_plan_that_names_none_brings_none(stage):
    stage.obtain(drivers=None)
    assert (stage.is_there, stage.told, stage.mirror.requests) == (False, [], [])


def test_drivers_that_firmware_loaded_are_not_fetched_again(stage, hardware, root, tmp_path):
    (root / "etc/vnfs/drivers.json").write_text("{}")
    stage.drivers = Drivers(tell=stage.told.append, root=root, sys=hardware.path, run=tmp_path)
    stage.obtain()
    assert (stage.told, stage.mirror.requests) == ([], [])


def test_wrong_bytes_are_never_unpacked(stage):
    stage.mirror.add(*stage.bootstrap.blobs)
    path = "/blobs/" + digest_of(stage.bootstrap.drivers).replace(":", "/")
    right = stage.mirror.blobs[path]
    for wrong in (right[:-1] + b"x", right + b"x", right[: len(right) // 2]):
        stage.mirror.blobs[path] = wrong
        stage.mirror.add = lambda *_: None
        stage.drivers._again_at = 0.0
        stage.obtain()
        assert not stage.is_there
        assert stage.loads == 0
        assert not stage.file.exists()
        assert stage.told[-1].startswith("drivers.cpio: ")
        assert stage.told[-1].endswith("; going on without it")
    assert (stage.root / "usr/lib/modules/6.12-test/modules.alias.bin").read_bytes() == (
        b"of the initrd"
    )
    stage.mirror.blobs[path] = right
    stage.drivers._again_at = 0.0
    stage.obtain()
    assert stage.is_there


REFUSED = {
    "signed by a stranger": (lambda s: {"keys": s.world.Keys()}, "untrusted"),
    "a capsule": (
        lambda _: {"artifact_type": m.CAPSULE, "layers": (b"x",), "drivers": None},
        "expected a bootstrap",
    ),
    "of another kernel": (None, "has drivers for the kernel 6.12-test, another one runs"),
    "without drivers": (lambda _: {"drivers": None}, "has none any more"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_bootstrap_is_refused(stage, row):
    words, told = REFUSED[row]
    if words is None:
        description = {"kernelDigest": digest_of(b"another")}
        (stage.root / "etc/vnfs/bootstrap.json").write_text(json.dumps(description))
    stage.obtain(stage.make(**words(stage)) if words else None)
    assert told in stage.told[-1]
    assert not stage.is_there
    drivers = "/blobs/" + digest_of(stage.bootstrap.drivers).replace(":", "/")
    assert drivers not in {path for path, _ in stage.mirror.requests}, "fetched before the verdict"


def test_one_of_another_name_than_planned_is_refused(stage):
    stage.obtain(drivers=stage.bootstrap.planned(name="canary"))
    assert "the plan says 'canary'" in stage.told[-1]
    assert not stage.is_there


def test_a_failure_is_tried_again_but_not_at_once(stage, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    (stage.root / "etc/vnfs/bootstrap.json").unlink()
    for _ in range(3):
        stage.obtain()
    assert len(stage.told) == 1
    now[0] += module.RETRY_SECONDS
    stage.obtain()
    assert len(stage.told) == 2


def test_a_node_without_room_is_told_how_much_it_takes(stage, monkeypatch):
    monkeypatch.setattr(module.machine, "read_memory", lambda: {"MemAvailable": 12_000})
    stage.obtain()
    assert stage.told[-1] == (
        "drivers.cpio: takes 17 MB of memory for a moment, found 12 MB; going on without it"
    )
    assert not stage.is_there
