"""Passphrases: from a file or a terminal, right or not at all, and never told to anybody."""

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from vnfsbuild import cli
from vnfsbuild.errors import InputError
from vnfsbuild.signing import keyfiles
from vnfsbuild.signing.keyfiles import load_secret_key
from vnfsbuild.signing.keys import make_key

ROOT = Path(__file__).resolve().parents[4]
SECRET = "correct horse battery staple"


@pytest.fixture(autouse=True)
def no_file(monkeypatch):
    monkeypatch.setenv("VNFS_PASSPHRASE_FILE", "")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Let the passphrase come from a file with this text."""

    def write(text, mode=0o600):
        path = tmp_path / "passphrase"
        path.write_text(text)
        path.chmod(mode)
        monkeypatch.setenv("VNFS_PASSPHRASE_FILE", str(path))
        return path

    return write


def offer(*phrases):
    return lambda where: iter(phrase.encode() for phrase in phrases)


def test_a_key_under_a_passphrase_opens_with_it_and_signs(tmp_path):
    made = make_key(tmp_path, "dev", passphrase=SECRET.encode())
    loaded = load_secret_key(tmp_path / "keys/dev.pem", offer=offer("no", SECRET))
    assert loaded == made
    assert loaded.sign(b"x") == made.sign(b"x")
    assert (tmp_path / "keys/dev.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("phrase", ["x", SECRET, "ü" * 40, "p" * 1000])
def test_openssl_opens_what_we_write(tmp_path, phrase):
    make_key(tmp_path, "dev", passphrase=phrase.encode())
    (tmp_path / "phrase").write_text(phrase)
    argv = ["openssl", "pkey", "-in", tmp_path / "keys/dev.pem", "-passin",
            f"file:{tmp_path / 'phrase'}", "-pubout"]  # fmt: skip
    public = subprocess.run(argv, check=True, capture_output=True).stdout
    assert public == (tmp_path / "keys/dev.pub").read_bytes()


def test_it_takes_long_to_try_a_passphrase(tmp_path):
    make_key(tmp_path, "dev", passphrase=SECRET.encode())
    argv = ["openssl", "asn1parse", "-in", tmp_path / "keys/dev.pem"]
    told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    for word in ("PBKDF2", "hmacWithSHA256", "aes-256-cbc", "INTEGER           :0927C0"):
        assert word in told
    assert 0x0927C0 == 600_000


def test_we_open_what_openssl_writes(tmp_path):
    path = tmp_path / "dev.pem"
    path.touch(mode=0o600)
    argv = ["openssl", "genpkey", "-algorithm", "ED25519", "-aes256", "-pass", f"pass:{SECRET}"]
    path.write_bytes(subprocess.run(argv, check=True, capture_output=True).stdout)
    assert len(load_secret_key(path, offer=offer(SECRET)).public_key) == 32


def test_a_wrong_passphrase_opens_nothing_and_is_not_told(tmp_path):
    make_key(tmp_path, "dev", passphrase=SECRET.encode())
    with pytest.raises(InputError) as caught:
        load_secret_key(tmp_path / "keys/dev.pem", offer=offer("wrong one"))
    assert str(caught.value).endswith("keys/dev.pem: the passphrase does not open this key")
    assert caught.value.__cause__ is None
    assert "wrong one" not in repr(caught.value)


def test_a_passphrase_comes_from_a_file(tmp_path, written):
    make_key(tmp_path, "dev", passphrase=SECRET.encode())
    for text in (SECRET, f"{SECRET}\n", f"{SECRET}\r\n"):
        written(text)
        assert load_secret_key(tmp_path / "keys/dev.pem").name == "dev"


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (SECRET, 0o644, "found mode 0644, expected 0600"),
        ("", 0o600, "expected one line"),
        ("\n", 0o600, "expected one line"),
        (f"{SECRET}\nmore\n", 0o600, "expected one line"),
        ("x" * 2000, 0o600, "more than 1024 bytes"),
    ],
)
def test_a_file_that_cannot_be_one_is_refused_without_telling_what_is_in_it(
    tmp_path, written, text, mode, told
):
    make_key(tmp_path, "dev", passphrase=SECRET.encode())
    path = written(text, mode)
    with pytest.raises(InputError, match=told) as caught:
        load_secret_key(tmp_path / "keys/dev.pem")
    assert str(path) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_where_there_is_no_terminal_nobody_is_asked(tmp_path):
    make_key(tmp_path, "dev", passphrase=SECRET.encode())
    with pytest.raises(InputError, match="no terminal to ask at") as caught:
        load_secret_key(tmp_path / "keys/dev.pem")
    assert "--passphrase-file" in caught.value.hint


def at_terminal(tmp_path, typed, *arguments):
    """Run a command line at a terminal; return status, and all that the terminal showed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "VNFS_SITE": str(tmp_path / "site"),
           "VNFS_STORE": str(tmp_path / "store")}  # fmt: skip
    env.pop("VNFS_PASSPHRASE_FILE")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "vnfsbuild", *arguments], env)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
            if shown.rstrip(b" ").endswith(b":") and typed:
                os.write(terminal, typed.pop(0).encode() + b"\n")
                shown += b"\n"
    except OSError:  # the other end has gone
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_at_a_terminal_it_is_asked_for_twice_and_not_shown(tmp_path):
    status, shown = at_terminal(tmp_path, [SECRET, SECRET], "keys", "new", "dev", "--passphrase")
    assert status == 0, shown
    assert "new passphrase for the key dev:" in shown
    assert SECRET not in shown
    status, shown = at_terminal(tmp_path, ["no", SECRET], "trust", "renew", "--days", "9")
    assert status == 0, shown
    assert shown.count("passphrase of ") == 2
    assert "version 2" in shown


def test_at_a_terminal_what_was_mistyped_makes_no_key(tmp_path):
    status, shown = at_terminal(tmp_path, [SECRET, "other"], "keys", "new", "dev", "--passphrase")
    assert status == 2
    assert "the two passphrases differ" in shown
    assert not (tmp_path / "site/keys").exists()


def test_no_output_of_any_verb_has_a_secret(tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("store", "site"):
        monkeypatch.setenv(f"VNFS_{name.upper()}", str(tmp_path / name))
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path, text in ((right, SECRET), (wrong, f"not {SECRET}")):
        path.touch(mode=0o600)
        path.write_text(text)
    for arguments in (
        ["keys", "new", "dev", "--passphrase"],
        ["keys", "new", "ops"],
        ["keys", "list"],
        ["keys", "list", "--json"],
        ["keys", "export", "dev"],
        ["trust", "allow", "*", "--key", "ops"],
        ["trust", "show", "--json"],
        ["keys", "revoke", "dev"],
        ["sign", "toy"],
        ["sign", "toy", "--key", "dev"],
    ):
        for file in (wrong, right):
            keyfiles._opened.clear()  # as in another process
            cli.run(["--debug", "--passphrase-file", str(file), *arguments])
    said = "".join(capfd.readouterr()) + caplog.text
    secrets = [SECRET, SECRET.encode().hex()]
    for pem in (tmp_path / "site/keys").glob("*.pem"):
        secrets += pem.read_text().splitlines()[1:-1]
    assert len(secrets) > 4
    assert not [secret for secret in secrets if secret in said]
    assert "does not open this key" in said
