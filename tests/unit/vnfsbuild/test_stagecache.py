"""The cache of stages: whole or not there, verified on use, and never larger than it may be."""

import os
import threading

import pytest

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.inputs import StageInputs
from vnfsbuild.stagecache import PARENT, StageCache, find_limit, open_verified


def inputs(name="one", **parts):
    return StageInputs(stage="install", recipe="toy", parts={"name": name, **parts})


def make(cache, name="one", data=b"data", **facts):
    wanted = inputs(name)
    with cache.making(wanted) as draft:
        (draft.directory / "data").write_bytes(data)
        draft.facts.update(facts)
    return wanted.key


@pytest.fixture
def cache(tmp_path):
    return StageCache(tmp_path / "stages")


def test_what_was_kept_is_found_by_its_inputs(cache):
    key = make(cache, version="6.1")
    found = cache.open(key)
    assert (found.stage, found.recipe, found.facts["version"]) == ("install", "toy", "6.1")
    with open_verified(found, "data") as file:
        assert file.read() == b"data"
    assert cache.open(inputs("two").key) is None


def test_for_whom_it_was_made_is_no_input(cache):
    key = make(cache)
    other = StageInputs(stage="install", recipe="other", parts={"name": "one"})
    assert other.key == key
    assert cache.open(other.key)


@pytest.mark.parametrize("name", ["data", "entry.json"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_flipped_bit_is_found_and_the_entry_thrown_away(name, at, cache, caplog):
    key = make(cache)
    path = cache.peek(key).directory / name
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert cache.open(key) is None
    assert not path.parent.exists()
    assert "thrown away" in caplog.text or "made anew" in caplog.text
    make(cache)
    assert cache.open(key)


@pytest.mark.parametrize("name", ["data", "entry.json"])
def test_a_file_that_is_gone_is_as_bad(name, cache):
    key = make(cache)
    (cache.peek(key).directory / name).unlink()
    assert cache.open(key) is None


def test_an_entry_under_the_name_of_another_is_none(cache):
    one, two = make(cache, "one"), inputs("two").key
    directory = cache.peek(one).directory
    directory.rename(directory.with_name(two.removeprefix("sha256:")))
    assert cache.open(two) is None


def test_a_block_that_fails_leaves_nothing(cache):
    def fail():
        with cache.making(inputs()) as draft:
            (draft.directory / "data").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(cache.directory) == []


def test_what_a_killed_build_left_goes_and_what_one_is_at_stays(cache):
    abandoned = cache.directory / ".new.dead"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (1, 1))
    with cache.making(inputs("one")) as draft:
        os.utime(draft.directory, (1, 1))
        make(cache, "two")
        assert draft.directory.is_dir()
    assert not abandoned.exists()
    assert len(cache.list_entries()) == 2


def test_many_may_make_the_same_at_once(cache):
    threads = [threading.Thread(target=make, args=(cache,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.open(inputs().key)
    assert len(os.listdir(cache.directory)) == 1


def test_what_was_not_used_for_longest_goes_first(cache):
    keys = [make(cache, name, b"x" * 100) for name in ("one", "two", "three")]
    for age, key in enumerate(keys):
        os.utime(cache.peek(key).directory / "entry.json", (1000 + age, 1000 + age))
    cache.touch(cache.peek(keys[0]))
    gone = cache.trim(250, dry_run=True)
    assert [entry.key for entry in gone] == [keys[1]]
    assert len(cache.list_entries()) == 3
    assert [entry.key for entry in cache.trim(250)] == [keys[1]]
    assert {entry.key for entry in cache.list_entries()} == {keys[0], keys[2]}
    assert len(cache.trim(-1)) == 2


def test_what_is_kept_upon_an_entry_goes_with_it(cache):
    below = make(cache, "below", b"x" * 100)
    upon = make(cache, "upon", b"x", **{PARENT: below})
    alone = make(cache, "alone", b"x", **{PARENT: None})
    os.utime(cache.peek(below).directory / "entry.json", (1, 1))
    assert {entry.key for entry in cache.trim(50)} == {below, upon}
    assert cache.open(alone)


def test_who_has_an_entry_open_reads_on_when_it_goes(cache):
    found = cache.open(make(cache))
    with open_verified(found, "data") as file:
        cache.trim(-1)
        assert file.read() == b"data"
    with pytest.raises((VerificationError, OSError)), open_verified(found, "data"):
        pass


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500_000_000), ("20GB", 20 * 10**9), ("7", 7), ("1k", 1000)]
)
def test_a_limit_is_a_size(text, size):
    assert find_limit({"VNFS_CACHE_LIMIT": text}) == size


def test_a_limit_that_is_none_is_told():
    with pytest.raises(InputError, match="VNFS_CACHE_LIMIT: found 'much'"):
        find_limit({"VNFS_CACHE_LIMIT": "much"})
    assert find_limit({}) == 20 * 10**9
