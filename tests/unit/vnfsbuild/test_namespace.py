"""How a namespace is entered; that it works is for the integration tests."""

import os
import sys

import pytest

from vnfsbuild.namespace import call, find_lacking, namespace_argv, remove, verify_host


def test_a_python_waits_in_a_new_namespace_without_a_network():
    assert namespace_argv() == [
        "unshare", "--user", "--net", "--",
        "sh", "-c", 'echo && read -r _ && exec "$@"', "sh",
        sys.executable, "-m", "vnfsbuild.namespace",
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="root needs no namespace; others do")
def test_for_root_a_call_is_a_call():
    assert call(os.getpid) == os.getpid()
    assert find_lacking() == []
    verify_host()


def test_a_directory_is_removed_whatever_its_modes(tmp_path):
    directory = tmp_path / "a"
    (directory / "b").mkdir(parents=True)
    (directory / "b/c").write_text("x")
    remove(directory)
    remove(tmp_path / "nonexistent")
    assert not directory.exists()
