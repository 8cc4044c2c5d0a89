"""What is in a payload is read whole, without privileges: names, owners, devices, attributes."""

import stat

import pytest

from vnfsbuild.contents import extract_file, list_payload
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.layer import CAPABILITY, Entry
from vnfsbuild.manifest import KERNEL, LAYER_SQUASHFS
from vnfsbuild.pack.squashfs import pack_squashfs
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CAPABLE = bytes.fromhex("0100000200200000000000000000000000000000")
FILES = {
    "a file": b"x" * 300_000,
    'quo"te\\back': b"one",
    "line\nfeed": b"two",
    "nümlaut": b"",
    "top/capable": b"three",
}


def entry(path, kind=stat.S_IFREG, mode=0o644, **words):
    fields = {"uid": 0, "gid": 0, "mtime": 1_700_000_000, "size_bytes": 0}
    return Entry(path=path, mode=kind | mode, **{**fields, **words})


@pytest.fixture(scope="module")
def tools():
    return ensure_tools_tree("build", find_places().cache)


@pytest.fixture
def layer(tmp_path, tools):
    root = tmp_path / "root"
    (root / "top").mkdir(parents=True)
    for path, data in FILES.items():
        (root / path).write_bytes(data)
    entries = [
        entry(".", stat.S_IFDIR, 0o755),
        *(
            entry(path, size_bytes=len(data), uid=70_000, gid=7, mode=0o4750)
            for path, data in FILES.items()
            if "/" not in path
        ),
        entry("device", stat.S_IFCHR, 0o600, device=(1 << 8) | 3),
        entry("link", stat.S_IFLNK, 0o777, target="a file"),
        entry("top", stat.S_IFDIR, 0o1777),
        entry("top/capable", size_bytes=5, xattrs={CAPABILITY: CAPABLE}, inode=5),
        entry("top/same", size_bytes=5, xattrs={CAPABILITY: CAPABLE}, inode=5),
    ]
    out = tmp_path / "layer.squashfs"
    pack_squashfs(tools, entries, root, out, epoch=1_700_000_000)
    return out


def test_a_layer_is_listed_with_all_that_may_differ(layer, tools):
    items = list_payload(layer, LAYER_SQUASHFS, tools=tools)
    assert set(items) == {"/", *FILES, "device", "link", "top", "top/same"}
    for path, data in FILES.items():
        assert items[path].content == digest_of(data), path
    plain = items["line\nfeed"]
    assert (plain.type, plain.mode, plain.uid, plain.gid) == ("file", 0o4750, 70_000, 7)
    assert plain.mtime == 1_700_000_000
    assert (items["device"].type, items["device"].content) == ("character device", "1 3")
    assert (items["link"].type, items["link"].content) == ("link", "a file")
    assert items["top"].mode == 0o1777
    assert list(items["top/capable"].xattrs) == [CAPABILITY]
    assert items["top/same"] == items["top/capable"]


def test_one_file_is_taken_out(layer, tools, tmp_path):
    extract_file(layer, LAYER_SQUASHFS, "top/capable", tmp_path / "out", tools=tools)
    assert (tmp_path / "out").read_bytes() == b"three"


def test_what_is_no_layer_is_an_error(tools, tmp_path):
    (tmp_path / "x").write_bytes(b"rubbish" * 1000)
    with pytest.raises(VnfsbuildError):
        list_payload(tmp_path / "x", LAYER_SQUASHFS, tools=tools)


def test_a_kernel_is_one_file(tools, tmp_path):
    (tmp_path / "x").write_bytes(b"kernel")
    items = list_payload(tmp_path / "x", KERNEL, tools=tools)
    assert [item.content for item in items.values()] == [digest_of(b"kernel")]
