"""A PostgreSQL server for one test: a directory, a Unix socket, nothing else of this machine."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PROGRAMS = Path("/usr/lib/postgresql")


def programs() -> Path:
    """Return where the newest PostgreSQL of this machine has its programs."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail("PostgreSQL is missing: ./setup.sh, or apt-get install postgresql")
    return found[-1].parent


class Postgres:
    """Started by :meth:`start`, cut off by :meth:`kill`, all of it gone after :meth:`remove`."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="vnfs-postgres-"))
        # It refuses to run as root.
        root = os.geteuid() == 0
        self._owner = pwd.getpwnam("postgres") if root else pwd.getpwuid(os.geteuid())
        if root:
            os.chown(self.directory, self._owner.pw_uid, self._owner.pw_gid)
        self.directory.chmod(0o755)
        self._run(
            "initdb", "--pgdata", self._data, "--username", "provisiond", "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip

    @property
    def url(self):
        return f"postgresql://provisiond@/postgres?host={self.directory}"

    @property
    def _data(self):
        return self.directory / "data"

    def start(self):
        self._run(
            "pg_ctl", "start", "--wait", "--pgdata", self._data, "--log", self.directory / "log",
            "--options", f"-c listen_addresses='' -c unix_socket_directories={self.directory}",
        )  # fmt: skip
        return self

    def kill(self):
        """End it as a crash would: every connection is cut, what was committed is there."""
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", self._data)

    def remove(self):
        if (self._data / "postmaster.pid").exists():
            self.kill()
        shutil.rmtree(self.directory)

    def _run(self, program, *arguments):
        subprocess.run(
            [programs() / program, *arguments], check=True, cwd="/", stdout=subprocess.DEVNULL,
            user=self._owner.pw_uid, group=self._owner.pw_gid, extra_groups=[],
        )  # fmt: skip
