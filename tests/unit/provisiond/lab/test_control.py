"""QEMU is told what to do: a real socket, with somebody at the other end who speaks QMP."""

import json
import socket
import threading

import pytest

from provisiond.lab import control
from vnfsbuild.errors import VnfsbuildError


class Qemu:
    """Answers each command: an event first, then what is to be answered."""

    def __init__(self, path, answers):
        self.commands = []
        self._answers = answers
        self._listener = socket.create_server(str(path), family=socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rwb", buffering=0) as stream:
            stream.write(b'{"QMP": {}}\n')
            for line in iter(stream.readline, b""):
                self.commands.append(json.loads(line))
                answer = self._answers.get(self.commands[-1]["execute"], {"return": {}})
                if answer is None:
                    return
                stream.write(b'{"event": "NIC_RX_FILTER_CHANGED"}\n')
                stream.write(json.dumps(answer).encode() + b"\n")

    def end(self):
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def qemu(tmp_path):
    made = []

    def start(**answers):
        made.append(Qemu(tmp_path / "s", answers))
        return made[-1]

    yield start
    for item in made:
        item.end()


def test_a_machine_begins_with_the_cables_that_it_has(qemu, tmp_path):
    told = qemu()
    control.start(tmp_path / "s", without_link=("card0", "card2"), is_running=lambda: True)
    told.end()
    assert told.commands == [
        {"execute": "qmp_capabilities"},
        {"execute": "set_link", "arguments": {"name": "card0", "up": False}},
        {"execute": "set_link", "arguments": {"name": "card2", "up": False}},
        {"execute": "cont"},
    ]


def test_what_qemu_refuses_is_told(qemu, tmp_path):
    qemu(set_link={"error": {"desc": "Device 'card7' not found"}})
    with pytest.raises(VnfsbuildError, match="QEMU: set_link: Device 'card7' not found"):
        control.execute(tmp_path / "s", control.set_link("card7", up=True))


def test_a_qemu_that_hangs_up_is_told(qemu, tmp_path):
    qemu(cont=None)
    with pytest.raises(VnfsbuildError, match="does not answer: it has hung up"):
        control.start(tmp_path / "s", without_link=(), is_running=lambda: True)


def test_a_qemu_that_ended_is_not_waited_for(tmp_path):
    with pytest.raises(VnfsbuildError, match="does not answer"):
        control.start(tmp_path / "s", without_link=(), is_running=lambda: False)
