import time
from pathlib import Path

import pytest

from provisiond.lab.children import Children, last_lines
from vnfsbuild.errors import VnfsbuildError


def test_what_was_started_is_gone_after_stop(tmp_path):
    children = Children()
    child = children.start("sleep", ["sleep", "100"], log=tmp_path / "log")
    assert child.is_running
    children.stop()
    assert not child.is_running
    assert child.ending() == "killed by SIGTERM"


def test_children_of_a_child_are_gone_too(tmp_path):
    children = Children()
    script = "trap '' TERM; sleep 100 & echo $!; wait"
    child = children.start("sh", ["sh", "-c", script], log=tmp_path / "log")
    while not child.last_lines():
        time.sleep(0.01)
    grandchild = int(child.last_lines())
    child.ask_to_stop()
    child.stop(time.monotonic() + 0.1)
    for _ in range(100):
        try:
            state = Path(f"/proc/{grandchild}/stat").read_text().split()[2]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("still there")


def test_how_it_ended_and_what_it_said(tmp_path):
    children = Children()
    child = children.start("sh", ["sh", "-c", "echo one; echo two; exit 3"], log=tmp_path / "log")
    while child.is_running:
        time.sleep(0.01)
    assert child.ending() == "status 3"
    assert child.last_lines(1) == "two"
    children.stop()


def test_a_holder_has_answered_when_its_block_begins():
    with Children().holder(["cat"]) as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_a_holder_that_ends_tells_why():
    with (
        pytest.raises(VnfsbuildError, match="sh: no such luck"),
        Children().holder(["sh", "-c", "echo no such luck >&2"]),
    ):
        pass


def test_last_lines_have_no_control_characters(tmp_path):
    log = tmp_path / "console"
    log.write_bytes(b"one\r\n\x1b[2J two\xff\r\n\r\n")
    assert last_lines(log) == "one\n[2J two�"
    assert last_lines(log, 1) == "[2J two�"
    assert last_lines(tmp_path / "missing") == ""
