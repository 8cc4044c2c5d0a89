"""What tests need of the machine: they skip with the reason when it is lacking, except in CI."""

import os
import shutil
import signal

import pytest
from hypothesis import settings

# Tests never assert seconds: a busy machine is slow, and that says nothing about the code.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# Started in the background of a script, we ignore Ctrl-C, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


def lacking() -> str | None:
    """Return what the machine lacks for integration and boot tests, or None."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and networks: make test"
    for program in ("unshare", "nsenter", "ip", "dnsmasq", "openssl"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"needs the program {program}: make setup"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun: modprobe tun"
    return None


def pytest_collection_modifyitems(items):
    reason = lacking()
    # A test that is skipped where it must run would be believed to have passed.
    if reason is None or os.environ.get("CI"):
        return
    for item in items:
        if item.get_closest_marker("integration") or item.get_closest_marker("boot"):
            item.add_marker(pytest.mark.skip(reason=reason))
