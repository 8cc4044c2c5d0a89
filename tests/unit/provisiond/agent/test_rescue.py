"""Rescue: what ssh is given, and that the shells end."""

import base64
import io
import struct
import tarfile
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provisiond.agent.rescue import Rescue, SshFiles, find_ssh_files, make_dropbear_key
from vnfsbuild.errors import VerificationError, VnfsbuildError

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


def openssh(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def tar(**files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_the_hosts_key_is_the_nodes_own_in_dropbears_form():
    made = make_dropbear_key(openssh(KEY))
    public = KEY.public_key().public_bytes_raw()
    assert made == (
        struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 64) + b"\x07" * 32 + public
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"-----BEGIN\nnot base64!\n-----END", "not a key of ssh"),
        (base64.b64encode(b"openssh-key-v1\0" + b"\0\0\0\4no"), "it is cut off"),
        (base64.b64encode(b"openssh-key-v1\0" + b"\0\0\0\4aes1"), "it is encrypted"),
        (openssh(generate_private_key(SECP256R1())), "expected b'ssh-ed25519'"),
    ],
)
def test_what_is_no_such_key_is_told(text, told):
    with pytest.raises(VerificationError, match=told):
        make_dropbear_key(text)


def test_an_overlay_gives_its_keys_and_nothing_else():
    overlay = tar(**{
        "etc/shadow": b"root:secret", "root/.ssh/authorized_keys": b"ssh-rsa AAAA me\n",
        "etc/ssh/ssh_host_ed25519_key": openssh(KEY),
    })  # fmt: skip
    found = find_ssh_files(overlay)
    assert found == SshFiles(b"ssh-rsa AAAA me\n", make_dropbear_key(openssh(KEY)))
    assert find_ssh_files(tar(x=b"")) == SshFiles()
    with pytest.raises(VerificationError, match="not a tar"):
        find_ssh_files(b"no tar")


def rescue(tmp_path, script):
    path = tmp_path / "script"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    told = []
    return Rescue(run=tmp_path, tell=told.append, root=tmp_path / "root", script=path), told


def test_files_are_for_root_alone_and_the_shells_end(tmp_path):
    made, told = rescue(tmp_path, f"echo $1 >{tmp_path}/argument; exec sleep 100")
    made.start(SshFiles(b"ssh-rsa AAAA\n", b"host key"))
    assert made.is_on
    root = tmp_path / "root/root"
    assert [path.stat().st_mode & 0o777 for path in (root, root / ".ssh")] == [0o700, 0o700]
    keys = root / ".ssh/authorized_keys"
    assert (keys.read_bytes(), keys.stat().st_mode & 0o777) == (b"ssh-rsa AAAA\n", 0o600)
    assert "root:x:0:0:" in (tmp_path / "root/etc/passwd").read_text()
    deadline = time.monotonic() + 5
    while not (tmp_path / "argument").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    # Another set of keys counts at once; no second set of shells is opened.
    process = made._process
    made.start(SshFiles(b"ssh-rsa BBBB\n", b"host key"))
    assert made._process is process
    assert keys.read_bytes() == b"ssh-rsa BBBB\n"
    made.stop()
    assert not made.is_on
    assert process.returncode is not None
    made.stop()
    assert told == []


def test_a_site_without_keys_is_told_what_to_type(tmp_path):
    made, told = rescue(tmp_path, "exec sleep 100")
    made.start(SshFiles())
    made.stop()
    assert "provisionctl defaults set authorized_key.NAME" in told[0]


def test_shells_that_cannot_be_opened_are_told(tmp_path):
    made, _ = rescue(tmp_path, "")
    (tmp_path / "script").unlink()
    with pytest.raises(VnfsbuildError, match=r"rescue: .*script: No such file"):
        made.start(SshFiles())
