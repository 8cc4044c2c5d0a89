"""Small decisions of the agent, and what it reads of the machine."""

import ast
import errno
import itertools
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import provisiond.agent
from provisiond.agent import boot, machine
from provisiond.agent.__main__ import main
from provisiond.agent.backoff import delays
from provisiond.agent.console import Progress
from provisiond.agent.ed25519 import verify_ed25519
from provisiond.agent.node import Node, load_node, render_node
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError, VnfsbuildError

AGENT = Path(provisiond.agent.__file__).parent


@pytest.mark.parametrize("path", sorted(AGENT.glob("*.py")), ids=lambda path: path.name)
def test_the_agent_is_as_old_as_python_3_9(path):
    ast.parse(path.read_text(), feature_version=(3, 9))


KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
SIGNATURE = KEY.sign(b"message")
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32).public_key().public_bytes_raw()


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl program")
@pytest.mark.parametrize(
    ("public", "signature", "message"),
    [
        (PUBLIC, SIGNATURE, b"message"),
        (PUBLIC, KEY.sign(b"\0" * 70_000), b"\0" * 70_000),
        (PUBLIC, KEY.sign(b"-----BEGIN"), b"-----BEGIN"),
        (PUBLIC, SIGNATURE, b"messagf"),
        (PUBLIC, SIGNATURE, b"message\n"),
        (PUBLIC, SIGNATURE[:-1] + bytes([SIGNATURE[-1] ^ 1]), b"message"),
        (PUBLIC, bytes([SIGNATURE[0] ^ 1]) + SIGNATURE[1:], b"message"),
        (PUBLIC, SIGNATURE[:-1], b"message"),
        (PUBLIC, SIGNATURE + b"\0", b"message"),
        (PUBLIC, b"\0" * 64, b"message"),
        (PUBLIC, b"\xff" * 64, b"message"),
        (OTHER, SIGNATURE, b"message"),
        (b"\xff" * 32, SIGNATURE, b"message"),
    ],
)
def test_openssl_and_cryptography_say_the_same(public, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        with pytest.raises(VerificationError):
            verify_ed25519(public, signature, message)
    else:
        verify_ed25519(public, signature, message)


def test_a_missing_openssl_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(VnfsbuildError, match="openssl: cannot be run") as caught:
        verify_ed25519(PUBLIC, SIGNATURE, b"message")
    assert not isinstance(caught.value, VerificationError)


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("kernel BOOTIF=01-52-54-00-AB-cd-ef console=ttyS0", "52:54:00:ab:cd:ef"),
        ("BOOTIF=01-52-54-00-00-00-01 BOOTIF=01-52-54-00-00-00-02", "52:54:00:00:00:02"),
        ("BOOTIF=52:54:00:00:00:01", None),
        ("BOOTIF=01-../..", None),
        ("quiet", None),
    ],
)
def test_the_address_that_was_booted_from(line, address):
    assert machine.boot_address(line) == address


def test_the_machine_is_read(tmp_path):
    cards = {
        "eth0": ("52:54:00:00:00:02", True),
        "eth1": ("52:54:00:00:00:01", True),
        "bond0": ("52:54:00:00:00:01", False),
        "ib0": ("80:00" + ":0a" * 18, True),
        "zero": ("00:00:00:00:00:00", True),
    }
    for name, (address, physical) in cards.items():
        directory = tmp_path / "sys/class/net" / name
        directory.mkdir(parents=True)
        (directory / "address").write_text(address + "\n")
        if physical:
            (directory / "device").mkdir()
    dmi = tmp_path / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_uuid").write_text("4C4C4544-0000-2010-8020-80C04F202020\n")
    (tmp_path / "cmdline").write_text("x BOOTIF=01-52-54-00-00-00-01\n")
    found = machine.read_machine(sys=tmp_path / "sys", proc=tmp_path)
    assert found.hwaddrs == ("52:54:00:00:00:01", "52:54:00:00:00:02", "80:00" + ":0a" * 18)
    assert found.uuid == "4c4c4544-0000-2010-8020-80c04f202020"


@pytest.mark.parametrize("text", ["", "Not Settable", "0" * 8 + "-0000" * 3 + "-" + "0" * 12])
def test_a_uuid_that_nobody_set_is_none(tmp_path, text):
    (tmp_path / "class/dmi/id").mkdir(parents=True)
    (tmp_path / "class/dmi/id/product_uuid").write_text(text)
    assert machine.read_uuid(sys=tmp_path) is None


def test_the_report_is_made_of_whole_figures(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\nX:\n")
    (tmp_path / "uptime").write_text("12.34 50.0\n")
    report = machine.make_report(proc=tmp_path)
    assert report["memoryTotalKib"] == 1000
    assert report["memoryUsedKib"] == 600
    assert report["uptimeCentiseconds"] == 1234


def test_delays_double_to_a_limit_and_are_spread():
    found = list(
        itertools.islice(delays(least_seconds=1, most_seconds=8, random_source=random.Random(1)), 6)
    )
    for delay, most in zip(found, [1, 2, 4, 8, 8, 8], strict=True):
        assert most / 2 <= delay <= most
    assert len(set(found)) == 6


def test_progress_is_told_now_and_then():
    told, now = [], iter([0.0, 0.1, 3.5, 3.5, 3.5, 3.6])
    progress = Progress("x", 4_000_000, told.append, now=lambda: next(now))
    progress.advance(1_000_000)
    progress.advance(1_000_000)
    assert told == ["x: 50 % of 4.0 MB, 0.6 MB/s"]
    progress.advance(100)
    assert len(told) == 1


def test_the_plans_arguments_come_last_and_nothing_is_cut_off():
    assert boot.make_command_line(("a", "b"), ("c",)) == "a b c"
    with pytest.raises(VnfsbuildError, match="found 2048 bytes"):
        boot.make_command_line(("x" * 2046,), ("y",))


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (lambda *_: 0, None),
        (lambda *_: errno.EKEYREJECTED, "the running kernel refuses this one: Key was rejected"),
        (lambda *_: errno.ENOEXEC, r"was not loaded: Exec format error \(8\)"),
        (lambda *_: errno.ENOMEM, "was not loaded: not enough memory"),
        (lambda *_: os.kill(os.getpid(), 9), "killed while loading: not enough memory"),
        (lambda *_: os.kill(os.getpid(), 15), "ended by signal 15"),
        (lambda *_: Path("/nowhere").stat(), "was not loaded: No such file"),
    ],
)
def test_a_kernel_is_loaded_or_it_is_told_why_not(tmp_path, load, told):
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.touch()
    initrd.touch()
    if told:
        with pytest.raises(VnfsbuildError, match=told):
            boot.load_kernel(kernel, initrd, "quiet", load=load)
    else:
        boot.load_kernel(kernel, initrd, "quiet", load=load)
    # Memory is what they take.
    assert not kernel.exists()
    assert not initrd.exists()


def test_a_node_survives_its_file(tmp_path):
    node = Node(
        node_id="52:54:00:00:00:01", name="n1", boot_id="0" * 32, node_key=None,
        hwaddrs=("52:54:00:00:00:01",), uuid=None, capsule=digest_of(b""), checkin_seconds=60,
    )  # fmt: skip
    (tmp_path / "node.json").write_bytes(render_node(node))
    assert load_node(tmp_path / "node.json") == node


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodeId": 1}'])
def test_a_node_file_that_is_none_is_told(tmp_path, text):
    (tmp_path / "node.json").write_text(text)
    with pytest.raises(VnfsbuildError, match="not a node's description"):
        load_node(tmp_path / "node.json")
    with pytest.raises(VnfsbuildError, match="was not started by a vnfs bootstrap"):
        load_node(tmp_path / "absent")


def test_the_programs_words(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["agent.pyz", "dance"])
    assert main() == 2
    assert "usage" in capsys.readouterr().err
