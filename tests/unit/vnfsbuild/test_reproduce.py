"""What is decided before a capsule is rebuilt: as whom, and by which program."""

import json
import os
from pathlib import Path

import pytest

from vnfsbuild.rebuild import Order
from vnfsbuild.reproduce import choose_user, current_umask, lend_argv, rebuild_argv

ORDER = Order(
    recipe="/scratch/recipe",
    artifact_type="x",
    scratch="/scratch",
    umask=0o077,
    host_name="elsewhere",
    processor=1,
    uid=1000,
    gid=1000,
)


@pytest.mark.parametrize(
    ("text", "preferred", "chosen"),
    [
        ("", None, None),
        ("ann:100000:65536\nbob:165536:65536\n", None, "ann"),
        ("ann:100000:65536\nbob:165536:65536\n", "bob", "bob"),
        ("ann:100000:65536\n", "carl", "ann"),
        ("ann:100000:1000\nbob:165536:65536\n", "ann", "bob"),
        ("rubbish\nann:x:y\n\n", None, None),
    ],
)
def test_a_user_who_has_ids_enough_is_chosen(text, preferred, chosen):
    assert choose_user(text, preferred=preferred) == chosen


def test_root_leaves_network_and_host_name_behind():
    argv = rebuild_argv(ORDER, lent=None)
    assert argv[:4] == ["unshare", "--net", "--uts", "--"]
    assert json.loads(argv[-1])["umask"] == 0o077


def test_an_ordinary_user_cannot(tmp_path):
    order = Order(**{**json.loads(rebuild_argv(ORDER, lent=None)[-1]), "host_name": None})
    assert "unshare" not in rebuild_argv(order, lent=None)


def test_ids_are_lent_in_a_namespace_of_the_program():
    assert lend_argv(None) == []
    argv = rebuild_argv(ORDER, lent=Path("/scratch/ids"))
    assert argv[4:7] == ["unshare", "--mount", "--"]
    assert "/scratch/ids" in argv


def test_reading_the_umask_leaves_it():
    before = os.umask(0o027)
    try:
        assert current_umask() == 0o027
        assert current_umask() == 0o027
    finally:
        os.umask(before)
