"""Programs that sign: taken at their word only when the public key agrees."""

import base64
import os
import subprocess
import sys
import time

import pytest

from vnfsbuild import cli
from vnfsbuild.dsse import parse_envelope, signed_bytes
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.signing import signer
from vnfsbuild.signing.keyfiles import load_external_key, render_public_key
from vnfsbuild.signing.keys import find_signing_key, list_keys, load_trust, new_key, sign_manifest

OPENSSL = """\
message=$(mktemp)
trap 'rm -f "$message"' EXIT
cat >"$message"
openssl pkeyutl -sign -rawin -inkey "$1" -in "$message" -out /dev/stdout
"""
"""A token: what a person would write, with the key on a disk of its own."""


class Token:
    """A key whose secret half no one but its program can read, as far as we know."""

    def __init__(self, directory):
        self.directory = directory
        self.secret = directory / "token.pem"
        self.public = directory / "token.pub"
        argv = ["openssl", "genpkey", "-algorithm", "ED25519", "-out", self.secret]
        subprocess.run(argv, check=True, capture_output=True)
        argv = ["openssl", "pkey", "-in", self.secret, "-pubout", "-out", self.public]
        subprocess.run(argv, check=True, capture_output=True)

    def program(self, text=OPENSSL, name="sign"):
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
        return path

    def install(self, site, name="release", text=OPENSSL):
        keys = site / "keys"
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        (keys / f"{name}.pub").write_bytes(self.public.read_bytes())
        (keys / f"{name}.signer").write_text(f"{self.program(text)}\n# the key\n\n{self.secret}\n")
        return keys / f"{name}.signer"


@pytest.fixture
def token(tmp_path):
    directory = tmp_path / "token"
    directory.mkdir()
    return Token(directory)


@pytest.fixture
def site(tmp_path):
    return tmp_path / "site"


def test_a_program_signs_a_capsule(token, site):
    token.install(site)
    key = find_signing_key(site, None)
    assert key.name == "release"
    envelope = parse_envelope(sign_manifest(b"manifest", key), where="x")
    message = token.directory / "message"
    message.write_bytes(signed_bytes(envelope.payload_type, b"manifest"))
    (token.directory / "sig").write_bytes(envelope.signatures[0][1])
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", token.public, "-rawin",
            "-sigfile", token.directory / "sig", "-in", message]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)


@pytest.mark.parametrize("wrap", ["base64", "base64 -w 20", "base64 -w 0"])
def test_base64_is_as_good(token, site, wrap):
    text = OPENSSL.replace("/dev/stdout", f'/dev/stdout | {wrap} && echo "touch me" >&2')
    key = load_external_key(token.install(site, text=text))
    assert len(key.sign(b"x")) == 64


OTHER = base64.b64encode(bytes(64)).decode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("exit 3", "exit status 3"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("exec sleep 60", "no answer within 0.5 s"),
        ("trap '' TERM; sleep 3 & exec sleep 3", "no answer within 0.5 s"),
        ("yes | head -c 100000", "answered more than 1024 bytes"),
        ("", "answered 0 bytes that are no signature"),
        ("echo no token", "answered 9 bytes that are no signature"),
        ("head -c 63 /dev/zero", "answered 63 bytes that are no signature"),
        ("head -c 64 /dev/zero", "its signature is not that of"),
        (f"echo {OTHER}", "its signature is not that of"),
        ("cat", "that are no signature"),
        # Signs something else: a replay of what it was asked before, say.
        (OPENSSL.replace('cat >"$message"', 'echo other >"$message"'), "its signature is not that"),
    ],
)
def test_a_program_that_fails_or_lies_is_refused_in_one_line(
    token, site, monkeypatch, text, told, capfd
):
    monkeypatch.setattr(signer.ask_signer, "__kwdefaults__", {"timeout_seconds": 0.5})
    monkeypatch.setattr("vnfsbuild.tools.STOP_SECONDS", 0.2)
    path = token.install(site, text=text)
    key = load_external_key(path)
    start = time.monotonic()
    with pytest.raises(VnfsbuildError, match=told) as caught:
        key.sign(b"what is to be signed")
    assert time.monotonic() - start < 5
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("this is a bug") == 0
    if "not that" in told:
        assert isinstance(caught.value, VerificationError)


def test_a_liar_signs_no_trust_and_no_capsule(token, site, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VNFS_SITE", str(site))
    token.install(site, name="root", text="head -c 64 /dev/urandom")
    assert cli.run(["trust", "init"]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {site}/keys/root.signer: ")
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in site.iterdir()) == [".lock", "keys"]


def test_a_program_is_the_root_key(token, site, monkeypatch, capfd):
    monkeypatch.setenv("VNFS_SITE", str(site))
    monkeypatch.setenv("VNFS_STORE", str(site / "store"))
    token.install(site, name="root")
    assert cli.run(["keys", "new", "dev"]) == 0
    assert cli.run(["trust", "allow", "debian-*", "--key", "dev"]) == 0
    trust = load_trust(site, now=int(time.time()))
    assert trust.version == 2
    assert [key.name for key in list_keys(site, trust) if key.is_root and key.external] == ["root"]


def test_it_has_our_environment_and_reads_only_what_it_signs(token, site, monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", "a word for the program")
    seen = token.directory / "seen"
    text = OPENSSL.replace('cat >"$message"', f'tee {seen} >"$message"; echo $VAULT_TOKEN >>{seen}')
    load_external_key(token.install(site, text=text)).sign(b"message;")
    assert seen.read_bytes() == b"message;a word for the program\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "expected a program by its absolute path"),
        (b"# nothing\n", "expected a program by its absolute path"),
        (b"sign me\n", "expected a program by its absolute path"),
        (b"/bin/true\nx\0y\n", "expected a program by its absolute path"),
        (b"\xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_names_no_program_is_refused(token, site, text, told):
    path = token.install(site)
    path.write_bytes(text)
    with pytest.raises(InputError, match=f"release.signer: .*{told}"):
        load_external_key(path)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused(token, site, mode):
    path = token.install(site)
    path.chmod(mode)
    with pytest.raises(InputError, match="only its owner can write"):
        load_external_key(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(token, site):
    path = token.install(site)
    os.chown(path, 1234, 1234)
    with pytest.raises(InputError, match="found the owner 1234"):
        load_external_key(path)


def test_no_shell_reads_the_words(token, site):
    path = token.install(site)
    path.write_text(f"{token.program()}\n$(touch {site}/hacked); echo\n")
    with pytest.raises(VnfsbuildError):
        load_external_key(path).sign(b"x")
    assert not (site / "hacked").exists()


def test_a_program_that_is_gone_is_told(token, site):
    path = token.install(site)
    path.write_text("/nonexistent/sign\n")
    with pytest.raises(VnfsbuildError, match=r"release.signer: /nonexistent/sign: program not"):
        load_external_key(path).sign(b"x")


def test_a_key_with_two_ways_to_sign_is_refused(token, site):
    new_key(site, "dev", now=0)
    (site / "keys/dev.signer").write_text("/bin/true\n")
    with pytest.raises(InputError, match=r"dev.signer: there is also dev.pem"):
        find_signing_key(site, "dev")


def test_a_program_is_noted_by_keys_new(token, site, monkeypatch, capfd):
    monkeypatch.setenv("VNFS_SITE", str(site))
    words = ["--signer", str(token.program()), "--signer", str(token.secret)]
    argv = ["keys", "new", "release", *words, "--public", str(token.public)]
    assert cli.run(argv) == 0
    assert len(find_signing_key(site, None).sign(b"x")) == 64
    assert (site / "keys/release.pub").read_bytes() == token.public.read_bytes()
    assert cli.run(argv) == 2
    assert cli.run(["keys", "new", "x", "--signer", "true", "--public", str(token.public)]) == 2
    assert cli.run(["keys", "new", "x", "--signer", "/bin/true"]) == 2
    assert not list((site / "keys").glob("x.*"))
    assert "external" in os.fspath(site) or "a program" in _listed(capfd)


def _listed(capfd):
    capfd.readouterr()
    assert cli.run(["keys", "list"]) == 0
    return capfd.readouterr().out


def test_a_public_key_is_rendered_as_openssl_does(token):
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", token.public, "-outform", "DER"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert render_public_key(der[-32:]) == token.public.read_bytes()


def test_python_can_be_a_signer_too(token, site):
    path = token.install(site)
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[:64])"
    path.write_text(f"{sys.executable}\n-c\n{code}\n")
    with pytest.raises(VerificationError):
        load_external_key(path).sign(bytes(200))
