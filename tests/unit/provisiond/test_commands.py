"""The command lines, as far as they need no daemon."""

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

from provisiond import cli
from provisiond.cli import control, daemon
from provisiond.client import Client
from provisiond.commands.nodestatus import _figures_row, render_since
from provisiond.config import parse_config
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "00:00:00"), (22.9, "00:00:22"), (3661, "01:01:01"), (-3, "00:00:00"), (4e5, "111:06:40")],
)
def test_last_contact(seconds, shown):
    assert render_since(seconds) == shown


@pytest.fixture
def given(tmp_path):
    return ["--config", str(tmp_path / "p.toml"), "init", "--state-dir", str(tmp_path / "s")]


def read(tmp_path):
    return parse_config((tmp_path / "p.toml").read_text(), where="x")


FLAGS = ["--device", "eth1", "--address", "10.87.0.1/24"]


def test_init_by_flags(tmp_path, given, capsys):
    assert cli.run(daemon, [*given, *FLAGS, "--registration", "open", "--overlay-files", "o"]) == 0
    config = read(tmp_path)
    assert (config.device, str(config.address), config.registration) == (
        "eth1", "10.87.0.1/24", "open",
    )  # fmt: skip
    assert (str(config.first_address), str(config.last_address)) == ("10.87.0.101", "10.87.0.254")
    assert config.overlay_files == Path.cwd() / "o"
    assert (tmp_path / "s/authority/ca.pem").exists()
    assert f"next: provisiond --config {tmp_path / 'p.toml'} serve" in capsys.readouterr().out
    before = sorted(tmp_path.rglob("*"))
    assert cli.run(daemon, [*given, *FLAGS]) == 2
    assert "init overwrites nothing" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_init_asks_on_a_terminal(tmp_path, given):
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-m", "provisiond", *given],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"eth7\n10.70.0.1/24\n10.70.0.20-10.70.0.30\nrack-##\nclosed\n")
    shown = b""
    with contextlib.suppress(OSError):
        while data := os.read(ours, 4096):
            shown += data
    assert asking.wait(20) == 0, shown
    os.close(ours)
    assert b"Device of the provisioning network" in shown
    assert b"Addresses for nodes [10.70.0.101-10.70.0.254]" in shown
    config = read(tmp_path)
    assert (config.device, str(config.address)) == ("eth7", "10.70.0.1/24")
    assert (config.name_pattern, config.registration) == ("rack-##", "closed")
    assert str(config.last_address) == "10.70.0.30"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "eth1", "--address", "10.87.0.1"], "expected one with its prefix length"),
        ([*FLAGS, "--range", "1-2"], "init: network.range: found '1-2'"),
        ([*FLAGS, "--name-pattern", "7"], "init: nodes.name_pattern: found '7'"),
        ([*FLAGS, "--port", "0"], "init: http.port: found 0"),
    ],
)
def test_init_makes_nothing_of_what_cannot_be(tmp_path, given, capsys, words, told):
    assert cli.run(daemon, [*given, *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_serve_without_a_configuration_says_how_to_get_one(tmp_path, capsys):
    assert cli.run(daemon, ["--config", str(tmp_path / "none"), "serve"]) == 2
    assert (
        f"hint: provisiond init --config {tmp_path / 'none'} writes it" in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", [daemon, control], ids=["provisiond", "provisionctl"])
def test_help_names_every_verb(command, capsys):
    assert cli.run(command, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in command.verbs)
    for verb in ("node", "vnfs"):
        assert cli.run(command, [verb, "--help"]) == 0
    assert "approve" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (InputError("x", hint="y"), 2, "error: x\nhint: y\n"),
        (VerificationError("x"), 3, "error: x\n"),
        (VnfsbuildError("x"), 1, "error: x\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.UsageError("x"), 2, "Error: x\n"),
    ],
)
def test_errors_become_words_and_a_status(error, status, told, capsys):
    @click.command("x")
    def command():
        raise error

    assert cli.run(command, []) == status
    assert told in capsys.readouterr().err


def test_a_bug_is_told_as_one(capsys):
    @click.command("provisionctl")
    def command():
        raise KeyError("x")

    assert cli.run(command, []) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.endswith("this is a bug in provisionctl, please report it\n")


def answering(path, data):
    """Listen on *path* and answer the first request with *data*."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def answer():
        connection, _ = server.accept()
        connection.recv(65536)
        connection.sendall(data)
        connection.close()
        server.close()

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (b"", VnfsbuildError, "does not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", VnfsbuildError, "found no JSON"),
        (b'HTTP/1.1 400 X\r\nContent-Length: 33\r\n\r\n{"error": "bad", "exitStatus": 2}',
         InputError, "bad"),
        (b'HTTP/1.1 422 X\r\nContent-Length: 33\r\n\r\n{"error": "bad", "exitStatus": 3}',
         VerificationError, "bad"),
    ],
)  # fmt: skip
def test_answers_of_the_daemon_become_errors(tmp_path, data, error, told):
    thread = answering(tmp_path / "s", data)
    with pytest.raises(error) as caught:
        Client(tmp_path / "s").get("/v1/nodes")
    thread.join(5)
    assert told in str(caught.value)


def test_a_daemon_that_is_not_there_is_told(tmp_path):
    with pytest.raises(VnfsbuildError, match="provisiond does not answer: No such file"):
        Client(tmp_path / "none").wait_until_up(0.2)


def test_the_socket_is_the_configured_one_unless_said(tmp_path, given, capsys):
    sock = tmp_path / "sock"
    assert cli.run(daemon, [*given, *FLAGS, "--socket", str(sock)]) == 0
    config = str(tmp_path / "p.toml")
    assert cli.run(control, ["--config", config, "node", "list"]) == 1
    assert f"{sock}: provisiond does not answer" in capsys.readouterr().err
    assert cli.run(control, ["--config", config, "--socket", "/none", "node", "list"]) == 1
    assert "/none: provisiond does not answer" in capsys.readouterr().err
    assert not os.path.exists(sock)


def test_figures_that_make_no_sense_are_dashes():
    report = {
        "uptimeCentiseconds": "long", "memoryTotalKib": 10**400, "memoryUsedKib": ["x"],
        "load": 3, "kernel": ["a"], "failedUnits": 7,
    }  # fmt: skip
    row = _figures_row({"name": "n1", "state": "ready", "capsule": None, "report": report})
    assert row == ("n1", "ready", "-", "3", "-", "['a']", "-", "-")
