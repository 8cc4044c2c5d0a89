import os

import pytest

from provisiond.lab.running import PREFIX, find_labs, registered, stop_lab
from vnfsbuild.errors import InputError


@pytest.fixture
def lab(tmp_path):
    directory = tmp_path / f"{PREFIX}x"
    directory.mkdir()
    return directory


def test_a_laboratory_is_found_while_it_runs(tmp_path, lab):
    with registered(lab):
        (found,) = find_labs(tmp_path)
        assert (found.pid, found.directory) == (os.getpid(), lab)


def test_what_a_dead_one_left_is_removed(tmp_path, lab):
    with registered(lab):
        pass
    assert find_labs(tmp_path) == ()
    assert not lab.exists()


def test_one_that_is_being_made_is_left_alone(tmp_path, lab):
    assert find_labs(tmp_path) == ()
    assert lab.exists()


def test_a_link_is_not_followed(tmp_path, lab):
    (tmp_path / f"{PREFIX}link").symlink_to(lab)
    with registered(lab):
        assert len(find_labs(tmp_path)) == 1


def test_stop_names_what_is_wrong(tmp_path, lab):
    with pytest.raises(InputError, match="found none running"):
        stop_lab(None, tmp_path)
    with registered(lab), pytest.raises(InputError, match="none with process 1 running"):
        stop_lab(1, tmp_path)
