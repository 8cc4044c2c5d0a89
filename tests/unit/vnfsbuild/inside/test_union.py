"""Several layers are one tree by the kernel's rules, and no path leads out of it."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.errors import InputError
from vnfsbuild.inside.union import is_chosen, make_union, plain, resolve, shown
from vnfsbuild.layer import make_difference, make_whiteout

from ..layer_vectors import entry, lower_entries, upper_entries, with_directories


def tree(*paths, **links):
    found = [
        entry(path.rstrip("/"), stat.S_IFDIR if path.endswith("/") else stat.S_IFREG)
        for path in paths
    ]
    found += [entry(path.replace("__", "/"), stat.S_IFLNK, target=to) for path, to in links.items()]
    return with_directories(found)


def paths(*layers):
    return [path for path in make_union(layers) if path != "."]


def test_layers_are_merged_and_the_upper_one_wins():
    union = make_union([tree("a/one", "b"), [*tree("a/two"), entry("b", uid=7)]])
    assert list(union) == [".", "a", "a/one", "a/two", "b"]
    assert (union["b"].entry.uid, union["b"].layer, union["a/one"].layer) == (7, 1, 0)


def test_the_attributes_of_a_directory_are_those_of_the_uppermost():
    upper = [entry(".", stat.S_IFDIR), entry("a", stat.S_IFDIR, 0o700, uid=3)]
    union = make_union([tree("a/one"), upper])
    assert (union["a"].entry.uid, stat.S_IMODE(union["a"].entry.mode)) == (3, 0o700)
    assert "a/one" in union


def test_a_whiteout_hides_what_is_below_and_itself():
    assert paths(tree("a/one", "a/two", "b"), [make_whiteout("a", 0), *tree("c")]) == ["b", "c"]
    assert paths([make_whiteout("a", 0)], tree("b")) == ["b"]
    other = entry("a", xattrs={"trusted.overlay.whiteout": b""})
    assert paths(tree("a/one", "b"), [other]) == ["b"]
    assert paths(tree("a"), [entry("a", xattrs={"trusted.overlay.whiteout": b""})]) == []


def test_an_opaque_directory_hides_what_it_held():
    opaque = entry("a", stat.S_IFDIR, xattrs={"trusted.overlay.opaque": b"y"})
    union = make_union([tree("a/one", "a/deep/er", "ab"), [opaque, entry("a/two")]])
    assert [path for path in union if path != "."] == ["a", "a/two", "ab"]
    assert union["a"].entry.xattrs == {}
    root = entry(".", stat.S_IFDIR, xattrs={"trusted.overlay.opaque": b"y"})
    assert paths(tree("a/one", "b"), [root, entry("c")]) == ["c"]


def test_a_file_in_the_place_of_a_directory_hides_what_was_in_it():
    assert paths(tree("a/one", "a/deep/er"), tree("a")) == ["a"]
    assert paths(tree("a"), tree("a/one")) == ["a", "a/one"]
    # A whiteout in the middle layer, and the path anew above it.
    assert paths(tree("a/one"), [make_whiteout("a", 0)], tree("a/two")) == ["a", "a/two"]


def test_a_device_that_is_no_whiteout_stays():
    assert paths([entry("null", stat.S_IFCHR, device=259)]) == ["null"]


def test_the_layers_of_the_vectors_make_the_tree_that_a_node_has():
    union = make_union([lower_entries(), upper_entries()])
    assert not {"etc/shadow", "usr/share/large", "usr/share/many/file000"} & union.keys()
    assert union["etc/hostname"].layer == union["usr/share/many"].layer == 1
    assert union["usr/bin/ping"].layer == 0
    assert stat.S_IMODE(union["usr/share"].entry.mode) == 0o750


NAMES = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a", "b/a/b", "c"])


@given(st.sets(NAMES), st.sets(NAMES), st.sets(NAMES))
def test_what_the_packer_took_apart_comes_together_again(first, second, files):
    """A layer that is the difference of two trees, laid over the one, is the other."""

    def make(names):
        inner = {name for name in names if any(other.startswith(f"{name}/") for other in names)}
        kept = names - inner if files & {"c"} else {n for n in names if n not in inner}
        return with_directories(
            [entry(name, uid=len(names)) for name in kept] or [entry("x", stat.S_IFDIR)]
        )

    lower, upper = make(first), make(second)
    union = make_union([lower, make_difference(lower, upper, epoch=0)])
    assert {path: placed.entry for path, placed in union.items()} == {
        item.path: item for item in upper
    }


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("etc/hostname", "etc/hostname"),
        ("/etc/hostname", "etc/hostname"),
        ("//etc/./../etc/hostname", "etc/hostname"),
        ("../../../etc/hostname", "etc/hostname"),
        ("etc/os-release", "usr/lib/os-release"),
        ("etc/absolute", "etc/hostname"),
        ("etc/beyond", "etc/hostname"),
        ("etc/through", "usr/lib/os-release"),
        ("usr/share/long-link", "etc/hostname"),
        ("bin/ping", "usr/bin/ping"),
        ("bin/../lib/os-release", "usr/lib/os-release"),
        ("etc/", "etc"),
        ("", "."),
        ("/", "."),
        ("..", "."),
    ],
)
def test_a_path_leads_where_it_leads_on_a_node(path, leads_to):
    union = make_union([lower_entries()])
    assert resolve(union, path).entry.path == leads_to


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("etc/nothing", "not there"),
        ("etc/hostname/x", "/etc/hostname is no directory"),
        ("etc/hostname/", "/etc/hostname is no directory"),
        ("etc/hostname/..", "/etc/hostname is no directory"),
        ("nothing/../etc/hostname", "not there"),
        ("etc/dangling", "/etc/nowhere is not there"),
        ("etc/loop", "more than 40 links"),
        ("etc/loop/x", "more than 40 links"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(path, why):
    with pytest.raises(InputError, match=why):
        resolve(make_union([lower_entries()]), path)


@pytest.mark.parametrize(
    ("glob", "chosen"),
    [
        ("/etc", {"etc", "etc/x.conf", "etc/d/y.conf"}),
        ("etc/", {"etc", "etc/x.conf", "etc/d/y.conf"}),
        ("/etc/*.conf", {"etc/x.conf"}),
        ("etc/*", {"etc/x.conf", "etc/d/y.conf"}),
        ("*.conf", {"etc/x.conf", "etc/d/y.conf"}),
        ("d", {"etc/d/y.conf"}),
        ("/d", set()),
        ("/", {"etc", "etc/x.conf", "etc/d/y.conf", "usr/conf"}),
    ],
)
def test_globs(glob, chosen):
    every = ["etc", "etc/x.conf", "etc/d/y.conf", "usr/conf"]
    assert {path for path in every if is_chosen(path, [glob])} == chosen
    assert all(is_chosen(path, []) for path in every)


def test_names_are_told_in_one_printable_line():
    assert shown(".") == "/"
    assert shown("etc/nümlaut") == "/etc/nümlaut"
    assert plain("a\nb\\c\udcff\x1b[31m") == "a\\nb\\\\c\\xff\\x1b[31m"
