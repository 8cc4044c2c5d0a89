"""What is set with a capsule's name: asked for, from options, from a file."""

import shutil

import pytest
from click.testing import CliRunner

from provisiond.commands import configure
from vnfsbuild.errors import InputError

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


class Daemon:
    """Remembers what it is sent."""

    def __init__(self, held=None):
        self.held = held or {}
        self.sent = []

    def get(self, path):
        assert path == "/v1/settings?scope=capsule&subject=compute"
        return self.held

    def post(self, path, value):
        self.sent.append((path, value))


def answers(*lines, held=None):
    """Return what is asked for, and what comes of *lines*."""
    with CliRunner().isolation(input="".join(f"{line}\n" for line in lines)) as streams:
        values = configure.ask_settings(held or {})
        told = streams[1].getvalue().decode()
    return values, told


@needs_openssl
def test_what_is_asked():
    values, told = answers("secret", "sercet", "secret", "secret", "eth0", "tty0 ttyS0,115200",
                           "head", "10.0.0.1", "10.0.0.1", "log:514")  # fmt: skip
    assert values.pop("root_password").startswith("$6$")
    assert values == {
        "boot_interface": "eth0", "console": "tty0 ttyS0,115200", "server": "head",
        "dns": "10.0.0.1", "ntp": "10.0.0.1", "syslog": "log:514",
    }  # fmt: skip
    assert "secret" not in told


def test_enter_leaves_all_as_it_is_and_shows_what_is_held():
    values, told = answers("", "", "", "", "", "", "", held={"dns": ["10.0.0.1", "10.0.0.2"]})
    assert values == {}
    assert "Name servers [10.0.0.1 10.0.0.2]:" in told


def test_what_cannot_be_is_asked_again():
    values, told = answers("", "", "", "", "not an address", "10.0.0.9", "", "")
    assert values == {"dns": "10.0.0.9"}
    assert "attribute dns: found 'not', expected an IP address" in told


def test_nobody_is_asked_without_a_terminal():
    daemon = Daemon()
    with CliRunner().isolation(input="y\n"):
        configure.offer(daemon, "compute")
    assert daemon.sent == []


def test_all_of_it_is_sent_at_once_and_secrets_are_not_told(capsys):
    daemon = Daemon()
    configure.save(daemon, "compute", {"root_password": "$6$saltsalt$hash", "ntp": "a", "dns": ""})
    assert daemon.sent == [("/v1/settings/set", {
        "scope": "capsule", "subjects": ["compute"],
        "values": {"root_password": "$6$saltsalt$hash", "ntp": "a", "dns": ""}})]  # fmt: skip
    assert capsys.readouterr().out == (
        "compute: root_password = set\ncompute: ntp = a\ncompute: dns unset\n"
    )


def test_a_file_of_settings(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('ntp = ["a", "b"]\ndebug = true\n[interface.eth1]\nmtu = 9000\n')
    assert configure.read_settings(path) == {
        "ntp": "a b", "debug": "true", "interface.eth1.mtu": "9000",
    }  # fmt: skip
    path.write_text('root_password = "plain"\n')
    with pytest.raises(InputError, match=r"x\.toml: attribute root_password: found something else"):
        configure.read_settings(path)


@needs_openssl
def test_a_hash_stays_and_a_password_becomes_one():
    assert configure.hash_password("$6$saltsalt$abcdefgh") == "$6$saltsalt$abcdefgh"
    first, second = configure.hash_password("x"), configure.hash_password("x")
    assert first.startswith("$6$")
    assert first != second
