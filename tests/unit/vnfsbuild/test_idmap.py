"""Which ids an ordinary user's namespace has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.errors import InputError
from vnfsbuild.idmap import (
    MAX_LARGE,
    NEEDED_IDS,
    NOBODY,
    SURE_IDS,
    Extent,
    find_free,
    make_ids,
    make_map,
    map_words,
    parse_subordinate,
)


def test_root_is_the_user_and_all_small_ids_are_subordinate_ones():
    assert make_map(1000, [(100_000, 65_536)]) == (
        Extent(inner=0, outer=1000, count=1),
        Extent(inner=1, outer=100_000, count=65_533),
        Extent(inner=65_534, outer=165_533, count=2),
    )


def test_large_ids_are_what_they_are_in_the_place_of_the_highest_free_ones():
    found = make_map(1000, [(100_000, 65_536)], [70_001, 70_000, 70_001])
    assert found == (
        Extent(inner=0, outer=1000, count=1),
        Extent(inner=1, outer=100_000, count=65_531),
        Extent(inner=65_534, outer=165_531, count=2),
        Extent(inner=70_000, outer=165_533, count=1),
        Extent(inner=70_001, outer=165_534, count=1),
    )
    assert map_words(found[:2]) == ["0", "1000", "1", "1", "100000", "65531"]


RANGES = st.lists(st.integers(0, 40_000), max_size=6).map(
    lambda sizes: [(100_000 * (at + 1), size) for at, size in enumerate(sizes)]
)
LARGE = st.sets(st.integers(70_000, 2**32 - 2), max_size=MAX_LARGE)


@given(ranges=RANGES, large=LARGE)
def test_a_map_gives_each_id_one_of_the_users_own_and_none_twice(ranges, large):
    if sum(size for _, size in ranges) < NEEDED_IDS:
        with pytest.raises(InputError, match="subordinate ids, expected 65535 or more"):
            make_map(1000, ranges, large)
        return
    found = make_map(1000, ranges, large)
    inner = [number for item in found for number in range(item.inner, item.inner + item.count)]
    outer = [number for item in found for number in range(item.outer, item.outer + item.count)]
    assert len(inner) == len(set(inner))
    assert len(outer) == len(set(outer))
    assert {*range(SURE_IDS), NOBODY, *large} <= set(inner)
    for number in set(outer) - {1000}:
        assert any(start <= number < start + size for start, size in ranges)


def test_too_many_large_ids_are_refused():
    with pytest.raises(InputError, match="15 different ids from 65536 on"):
        make_map(1000, [(100_000, 65_536)], range(70_000, 70_015))


def test_only_large_ids_are_asked_for():
    ids = make_ids([0, 65_535, 65_536], [70_000, 42])
    assert (ids.users, ids.groups) == ({65_536}, {70_000})


def test_ranges_are_found_by_name_and_by_number_and_rubbish_is_passed_over():
    text = "# x\nann:100000:65536\nbob:200000:1\n1000:300000:5\nann:x:y\nann:7\n\n"
    assert parse_subordinate(text, ["ann", "1000"]) == [(100_000, 65_536), (300_000, 5)]
    assert parse_subordinate(text, ["eve"]) == []


def test_a_new_range_begins_after_all_others():
    assert find_free("") == 100_000
    assert find_free("ann:165536:65536\nbob:100000:65536\n") == 231_072
