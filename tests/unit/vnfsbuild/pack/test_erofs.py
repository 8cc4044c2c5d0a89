"""What mkfs.erofs is told."""

from vnfsbuild.pack.erofs import erofs_argv


def test_no_default_of_the_machine_or_of_chance_is_left():
    assert erofs_argv("out", epoch=1700, level=12) == [
        "--tar=f", "--quiet", "--sort=path",
        "-T1700", "--mkfs-time", "-U00000000-0000-0000-0000-000000000000",
        "-b4096", "-zlz4hc,level=12", "-C131072",
        "out",
    ]  # fmt: skip
