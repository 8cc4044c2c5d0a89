"""Programs of others: what they get, and what is told when they fail."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vnfsbuild.tools import ToolError, capture, converse, feed, find_program, run

ROOT = Path(__file__).resolve().parents[3]


def test_a_program_gets_a_fixed_environment_and_what_was_named(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("SECRET", "x")
    lines = capture(["env"], env={"SOURCE_DATE_EPOCH": "1"}).decode().splitlines()
    assert "LC_ALL=C.UTF-8" in lines
    assert "TZ=UTC" in lines
    assert "SOURCE_DATE_EPOCH=1" in lines
    assert not [line for line in lines if line.startswith("SECRET")]


def test_standard_input_is_what_was_given_or_nothing():
    assert capture(["cat"], stdin=b"hello") == b"hello"
    assert capture(["cat"]) == b""
    run(["cat"])


def test_a_program_runs_where_it_is_told(tmp_path):
    assert capture(["pwd"], cwd=tmp_path).decode().strip() == str(tmp_path)


def test_output_goes_to_the_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        run(["sh", "-c", "echo out; echo err >&2"], log=tmp_path / "log")
    assert (tmp_path / "log").read_text() == "out\nerr\n" * 2
    assert "  out" in caplog.text


@pytest.mark.parametrize("how", [run, capture])
def test_a_failure_tells_program_status_last_lines_and_command(how):
    with pytest.raises(ToolError) as caught:
        how(["sh", "-c", "seq 1 50 >&2; exit 3"])
    told = str(caught.value).splitlines()
    assert told[0] == "sh: exit status 3:"
    assert told[1:] == [str(number) for number in range(31, 51)]
    assert caught.value.hint == "to try again: sh -c 'seq 1 50 >&2; exit 3'"
    assert caught.value.exit_status == 1


@pytest.mark.parametrize("how", [run, capture])
@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (40, "signal 40")])
def test_a_program_that_was_killed_is_told_by_signal(how, number, name):
    with pytest.raises(ToolError, match=f"sh: killed by {name}"):
        how(["sh", "-c", f"kill -{number} $$"])


@pytest.mark.parametrize("how", [run, capture])
def test_a_missing_program_is_told_with_its_package(how, monkeypatch):
    with pytest.raises(ToolError, match="mksquashfs-none: program not found") as caught:
        how(["mksquashfs-none"])
    assert "vnfsbuild doctor" in caught.value.hint
    with pytest.raises(ToolError) as caught:
        how(["/nowhere/mksquashfs"])
    assert caught.value.hint == "apt-get install squashfs-tools"


@pytest.mark.parametrize("how", [run, capture])
def test_a_directory_that_is_not_there_is_not_taken_for_a_missing_program(how, tmp_path):
    with pytest.raises(ToolError, match=f"true: {tmp_path}/none: No such file"):
        how(["true"], cwd=tmp_path / "none")


@pytest.mark.parametrize("how", [run, capture])
def test_a_file_that_is_no_program_is_told(how, tmp_path):
    (tmp_path / "text").write_text("x")
    with pytest.raises(ToolError, match="text: Permission denied"):
        how([tmp_path / "text"])


def test_a_program_is_found_or_told_with_its_package():
    assert find_program("sh").name == "sh"
    with pytest.raises(ToolError, match="none-such: program not found"):
        find_program("none-such")


def test_a_program_does_not_outlive_an_interrupted_run():
    code = (
        "import logging, sys; from vnfsbuild.tools import run\n"
        "logging.basicConfig(level=logging.DEBUG, format='%(message)s', stream=sys.stdout)\n"
        "run(['sh', '-c', 'trap \"\" INT; echo $$; exec sleep 30'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        child.stdout.readline()  # the command, then what it printed
        pid = int(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        child.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_is_fed(tmp_path):
    out = tmp_path / "out"
    feed(["tee", out], lambda stream: stream.write(b"hello"))
    assert out.read_bytes() == b"hello"


def test_a_fed_program_that_fails_is_told_with_its_words_though_it_read_nothing():
    with pytest.raises(ToolError) as caught:
        feed(["sh", "-c", "exec <&-; echo no room; exit 3"], lambda stream: write_much(stream))
    assert str(caught.value) == "sh: exit status 3:\nno room"


def write_much(stream):
    for _ in range(100):
        stream.write(bytes(1 << 16))


def test_what_feeds_a_program_may_fail_and_the_program_is_gone():
    def fail(stream):
        raise OSError("stop")

    started = time.monotonic()
    with pytest.raises(OSError, match="stop"):
        feed(["sleep", "60"], fail)
    with pytest.raises(OSError, match="stop"):
        converse(["sh", "-c", "echo; exec sleep 60"], fail)
    assert time.monotonic() - started < 30


def test_a_program_that_waits_is_answered():
    said = converse(["sh", "-c", "echo; read -r a; echo $a $$"], lambda pid: b"%d\n" % pid)
    mine, its = said.split()
    assert mine == its


def test_a_program_that_never_asks_is_told():
    with pytest.raises(ToolError, match="sh: exit status 4"):
        converse(["sh", "-c", "exit 4"], lambda pid: b"")
    with pytest.raises(ToolError, match="program not found"):
        converse(["/nonexistent/program"], lambda pid: b"")
