"""What is varied, and what is not, follows from the host and is told."""

from dataclasses import replace

from vnfsbuild.variation import HOST_NAME, Host, choose_variation

ROOT = Host(
    uid=0,
    user=("worker", 1000, 1001),
    user_lacking="",
    host_name="here",
    processors=[0, 1, 5],
    locale="C.UTF-8",
    time_zone="",
    umask=0o022,
    memory_first=True,
)
THERE = {"here": "tmpfs at /dev/shm", "there": "ext4 at /"}


def test_root_varies_everything_but_clock_and_machine():
    chosen = choose_variation(ROOT, **THERE)
    assert (chosen.uid, chosen.gid) == (1000, 1001)
    assert chosen.host_name == HOST_NAME
    assert chosen.processor == 5
    assert chosen.in_memory is False
    assert set(chosen.not_varied) == {"clock", "kernel", "processor"}
    assert {"user", "host name", "processors", "file system", "network"} <= set(chosen.varied)


def test_an_ordinary_user_stays_who_they_are_and_is_told():
    host = replace(ROOT, uid=1000, user=None, user_lacking="only root can be another")
    chosen = choose_variation(host, **THERE)
    assert chosen.uid is None
    assert chosen.host_name is None
    assert chosen.not_varied["user"] == "only root can be another"
    assert {"host name", "network"} <= set(chosen.not_varied)


def test_one_processor_and_one_file_system_are_told_to_be_the_same():
    chosen = choose_variation(replace(ROOT, processors=[0]), here="ext4 at /", there="ext4 at /")
    assert chosen.processor is None
    assert {"processors", "file system"} <= set(chosen.not_varied)


def test_the_other_of_disk_and_memory_is_taken():
    assert choose_variation(replace(ROOT, memory_first=False), **THERE).in_memory is True


def test_nothing_is_both_varied_and_not():
    chosen = choose_variation(ROOT, **THERE)
    assert not set(chosen.varied) & set(chosen.not_varied)
