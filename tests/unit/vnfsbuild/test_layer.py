"""What goes into which layer, computed from tree lists."""

import posixpath
import stat
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfsbuild.errors import InputError
from vnfsbuild.layer import (
    CAPABILITY,
    Entry,
    keep_below,
    leave_out,
    make_difference,
    make_whiteout,
    packed_xattrs,
    plain_capability,
    split_layers,
)

EPOCH = 1_700_000_000


def entry(path, *, kind=stat.S_IFDIR, mode=0o755, **rest):
    values = {"uid": 0, "gid": 0, "mtime": EPOCH, "size_bytes": 0, **rest}
    return Entry(path=path, mode=kind | mode, **values)


def file(path, content="x", **rest):
    return entry(path, kind=stat.S_IFREG, mode=0o644, content=content, **rest)


def paths(entries):
    return [item.path for item in entries]


TREE = [
    entry("."),
    entry("boot"),
    file("boot/vmlinuz-1"),
    entry("usr"),
    entry("usr/bin", mode=0o700, uid=5),
    file("usr/bin/x"),
    entry("usr/lib"),
    entry("usr/lib/modules"),
    entry("usr/lib/modules/1"),
    file("usr/lib/modules/1/a.ko"),
    file("usr/lib/modules/1/b.ko"),
    file("usr/lib/modules-load.d"),
]


def test_modules_are_a_layer_of_their_own_and_the_kernel_in_none():
    layers = split_layers(TREE, exclude=["usr/lib/modules/*/b.ko"])
    assert paths(layers["rootfs"]) == [
        ".", "boot", "usr", "usr/bin", "usr/bin/x", "usr/lib", "usr/lib/modules",
        "usr/lib/modules-load.d",
    ]  # fmt: skip
    assert paths(layers["modules"]) == [
        ".", "usr", "usr/lib", "usr/lib/modules", "usr/lib/modules/1", "usr/lib/modules/1/a.ko",
    ]  # fmt: skip


def test_directories_above_are_as_the_tree_has_them():
    tree = [replace(item, mode=stat.S_IFDIR | 0o1711, uid=7, gid=8) if item.path == "usr" else item
            for item in TREE]  # fmt: skip
    for layer in split_layers(tree, exclude=()).values():
        (usr,) = [item for item in layer if item.path == "usr"]
        assert (stat.S_IMODE(usr.mode), usr.uid, usr.gid) == (0o1711, 7, 8)


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("usr/bin", ["usr/bin", "usr/bin/x"]),
        ("/usr/bin/", ["usr/bin", "usr/bin/x"]),
        ("usr/b?n", ["usr/bin", "usr/bin/x"]),
        ("usr/*/x", ["usr/bin/x"]),
        ("*/x", []),
        ("usr/lib/modules/[0-9]/?.ko", ["usr/lib/modules/1/a.ko", "usr/lib/modules/1/b.ko"]),
    ],
)
def test_a_pattern_is_of_whole_paths_part_by_part(pattern, gone):
    kept = paths(leave_out(TREE, [pattern]))
    assert [path for path in paths(TREE) if path not in kept] == gone


def test_a_star_stands_for_names_with_a_leading_dot_too():
    tree = [entry("."), entry("a"), file("a/.b"), file("a/c")]
    assert paths(leave_out(tree, ["a/*"])) == [".", "a"]


@pytest.mark.parametrize("pattern", ["", "/", "..", "a/../b", "a/**", "a//b", "."])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(InputError, match=r"exclude\.paths"):
        leave_out(TREE, [pattern])


def test_only_what_is_below_is_kept():
    assert paths(keep_below(TREE, "usr/bin")) == [".", "usr", "usr/bin", "usr/bin/x"]


# What the kernel makes of `setcap cap_net_raw+ep`, outside and inside a user namespace.
PLAIN = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
NAMESPACED = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 100_000)


def test_a_capability_forgets_the_namespace_it_was_set_in():
    assert plain_capability(NAMESPACED) == PLAIN
    assert plain_capability(PLAIN) == PLAIN


def test_of_extended_attributes_only_capabilities_are_kept():
    chance = {"security.selinux": b"x", "user.a": b"b", "trusted.overlay.opaque": b"y"}
    item = file("a", xattrs={**chance, CAPABILITY: NAMESPACED})
    assert packed_xattrs(item) == {CAPABILITY: PLAIN}
    assert packed_xattrs(file("a", xattrs=chance)) == {}


# Differences. A tree is drawn as path → node; a number stands for a file, hard links share one.

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
METADATA = st.fixed_dictionaries(
    {
        "uid": st.sampled_from([0, 70_000]),
        "mtime": st.sampled_from([1, EPOCH]),
        "xattrs": st.sampled_from([{}, {CAPABILITY: PLAIN}]),
    }
)
KINDS = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR])


@st.composite
def trees(draw):
    found = {".": entry(".", **draw(METADATA))}
    for path, kind in draw(st.dictionaries(PATHS, KINDS, max_size=8)).items():
        parent = posixpath.dirname(path) or "."
        missing = []
        while parent not in found:
            missing.append(parent)
            parent = posixpath.dirname(parent) or "."
        if not stat.S_ISDIR(found[parent].mode) or path in found:
            continue
        for directory in missing:
            found[directory] = entry(directory, **draw(METADATA))
        found[path] = draw_node(draw, path, kind)
    listed = sorted(found.values(), key=lambda item: item.path.split("/"))
    return share_some(draw, [replace(item, inode=at + 1) for at, item in enumerate(listed)])


def draw_node(draw, path, kind):
    special = {
        stat.S_IFREG: {"content": draw(st.sampled_from("xyz"))},
        stat.S_IFLNK: {"target": draw(st.sampled_from("xyz"))},
        stat.S_IFCHR: {"device": draw(st.sampled_from([0x103, 0x105]))},
    }
    return entry(path, kind=kind, **draw(METADATA), **special.get(kind, {}))


def share_some(draw, listed):
    """Make some files hard links of the first file."""
    files = [at for at, item in enumerate(listed) if stat.S_ISREG(item.mode)]
    for at in files[1:]:
        if draw(st.booleans()):
            listed[at] = replace(listed[files[0]], path=listed[at].path)
    return listed


def lay_over(lower, layer):
    """Return what overlayfs shows of *layer* over *lower*: the kernel's rules, in short."""
    shown = {item.path: item for item in lower}
    for item in layer:
        merged = stat.S_ISDIR(item.mode) and stat.S_ISDIR(
            shown[item.path].mode if item.path in shown else 0
        )
        if not merged:
            below = f"{item.path}/"
            shown = {path: was for path, was in shown.items() if not path.startswith(below)}
        if item == make_whiteout(item.path, EPOCH):
            del shown[item.path]
        else:
            shown[item.path] = item
    return shown


def told(entries):
    """Return entries without inode numbers, hard links by the names that they share."""
    names = {}
    for item in entries:
        names.setdefault(item.inode, []).append(item.path)
    return {
        item.path: (replace(item, inode=0), tuple(sorted(names[item.inode]))) for item in entries
    }


@settings(max_examples=400)
@given(lower=trees(), upper=trees())
def test_the_difference_laid_over_the_lower_tree_is_the_upper(lower, upper):
    # No two files of different trees are the same one.
    upper = [replace(item, inode=item.inode + 1000) for item in upper]
    layer = make_difference(lower, upper, epoch=EPOCH)
    shown = lay_over(lower, layer)
    assert shown.keys() == {item.path for item in upper}
    wanted = told(upper)
    for path, item in shown.items():
        assert replace(item, inode=0) == wanted[path][0]
    # Hard links are whole in the layer, or all of them stay as the lower tree has them.
    for path, (_, names) in wanted.items():
        in_layer = {shown[name].inode >= 1000 for name in names}
        assert len(in_layer) == 1, path
        assert len({shown[name].inode for name in names}) == 1, path


@settings(max_examples=200)
@given(tree=trees())
def test_the_difference_of_a_tree_to_itself_is_nothing(tree):
    again = [replace(item, inode=item.inode + 1000) for item in tree]
    assert make_difference(tree, again, epoch=EPOCH) == []


@settings(max_examples=200)
@given(lower=trees(), upper=trees())
def test_a_layer_names_directories_before_what_is_in_them(lower, upper):
    seen = set()
    for item in make_difference(lower, upper, epoch=EPOCH):
        assert item.path == "." or (posixpath.dirname(item.path) or ".") in seen
        assert item.path not in seen
        seen.add(item.path)


def test_what_is_gone_has_one_whiteout_at_its_top():
    lower = [entry("."), entry("a"), entry("a/b"), file("a/b/c"), file("a/d")]
    upper = [entry("."), entry("a"), file("a/d")]
    layer = make_difference(lower, upper, epoch=EPOCH)
    assert paths(layer) == [".", "a", "a/b"]
    assert stat.S_ISCHR(layer[-1].mode)
    assert (layer[-1].device, layer[-1].mtime) == (0, EPOCH)


def test_below_a_directory_that_became_a_link_nothing_is_hidden_again():
    lower = [entry("."), entry("a"), file("a/b")]
    upper = [entry("."), entry("a", kind=stat.S_IFLNK, target="x")]
    assert make_difference(lower, upper, epoch=EPOCH) == upper


def linked(*groups):
    """Return a tree of equal files; those of a group are one file."""
    files = [file(path, inode=at + 1) for at, group in enumerate(groups) for path in group]
    return [entry("."), *sorted(files, key=lambda item: item.path)]


@pytest.mark.parametrize(
    ("lower", "upper", "changed"),
    [
        (["a", "b"], ["ab"], "ab"),
        (["ab"], ["a", "b"], "ab"),
        (["ab", "c"], ["abc"], "abc"),
        (["abc"], ["ab"], "abc"),
        (["ab", "c"], ["ab", "c"], ""),
    ],
)
def test_names_of_one_file_change_together(lower, upper, changed):
    layer = make_difference(linked(*lower), linked(*upper), epoch=EPOCH)
    assert paths(layer) == ([".", *changed] if changed else [])
