"""The package cache: only promised bytes get in, and damage is noticed."""

import resource
from dataclasses import replace

import pytest

from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.fetch import FetchError
from vnfsbuild.packages import (
    fetch_locked,
    fetch_packages,
    find_missing,
    find_stanza,
    load_stanza,
    package_path,
    save_stanza,
)
from vnfsbuild.packageset import import_package_set, list_packages, write_package_set
from vnfsbuild.sources.origin import Origin
from vnfsbuild.vendored import render_metadata, write_vendored

from .debs import lock_bytes, make_deb
from .mirrors import serve
from .test_lock import LOCK

CONTROL = "Package: hello\nVersion: 1:1.0\nArchitecture: all\n"


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as server:
        yield server


def put(cache, data, **words):
    item = lock_bytes(data, **words)
    path = package_path(cache, item.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return item


def put_deb(cache, control=CONTROL, **words):
    path = make_deb(cache / "made.deb", control, [])
    return put(cache, path.read_bytes(), **words)


def test_a_damaged_package_is_found_missing(tmp_path):
    good, bad, absent = put(tmp_path, b"good"), put(tmp_path, b"bad"), lock_bytes(b"absent")
    package_path(tmp_path, bad.sha256).write_bytes(b"damaged")
    assert find_missing(tmp_path, [good, bad, absent, absent]) == [bad, absent]
    assert not package_path(tmp_path, bad.sha256).exists()


def test_packages_come_in_and_one_failure_keeps_the_others(mirror, tmp_path):
    one, two = lock_bytes(b"one", "one"), lock_bytes(b"two", "two")
    mirror.answers["/one"] = [(200, b"one")]
    urls = {one.sha256: [mirror.url("/one")], two.sha256: [mirror.url("/two")]}
    with pytest.raises(FetchError, match=r"two 1:1\.0: not to be had:\n.*/two: 404") as raised:
        fetch_packages([one, two], urls, cache=tmp_path, proxies={})
    assert "--mirror" in (raised.value.hint or "")
    assert find_missing(tmp_path, [one, two]) == [two]


def test_a_server_that_is_down_is_asked_last_from_then_on(mirror, tmp_path):
    items = [lock_bytes(name.encode(), name) for name in ("one", "two", "three", "four", "five")]
    for item in items:
        mirror.answers[f"/{item.name}"] = [(200, item.name.encode())]
    down = "http://127.0.0.1:1"
    urls = {item.sha256: [f"{down}/x", mirror.url(f"/{item.name}")] for item in items}
    fetch_packages(items, urls, cache=tmp_path, proxies={})
    assert find_missing(tmp_path, items) == []


def test_the_digest_decides_not_the_mirror(mirror, tmp_path):
    item = lock_bytes(b"right")
    mirror.answers["/bad/pool/hello.deb"] = [(200, b"wrong")]
    mirror.answers["/good/pool/hello.deb"] = [(200, b"right")]
    origin = Origin(mirrors=(mirror.url("/bad"), mirror.url("/good")))
    assert fetch_locked([item], cache=tmp_path, origin=origin) == 1
    mirror.asked.clear()
    assert fetch_locked([item], cache=tmp_path, origin=origin) == 0
    assert mirror.asked == []


def test_a_stanza_is_made_from_the_package_whatever_its_repository_said(tmp_path):
    item = put_deb(tmp_path)
    save_stanza(tmp_path, item, f"{CONTROL}From: repository\n")
    assert load_stanza(tmp_path, item).startswith(CONTROL)
    assert "From:" not in load_stanza(tmp_path, item)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "other"}, "package 'other', but"),
        ({"version": "2"}, "version '2', but"),
        ({"architecture": "amd64"}, "architecture 'amd64', but"),
        ({"size_bytes": 7}, "size '7', but"),
    ],
)
def test_a_lock_that_says_other_things_of_a_package_is_refused(tmp_path, change, told):
    item = replace(put_deb(tmp_path), **change)
    with pytest.raises(VerificationError) as raised:
        load_stanza(tmp_path, item)
    assert told in raised.value.message
    assert "hello 1:1.0" in raised.value.message
    assert "edited" in (raised.value.hint or "")


def test_what_the_repository_said_is_kept_for_the_next_lock(tmp_path):
    item = put_deb(tmp_path)
    stanza = f"{CONTROL}Size: {item.size_bytes}\nSHA256: {item.sha256}\n"
    absent = lock_bytes(b"absent")
    assert find_stanza(tmp_path, absent) is None
    assert find_stanza(tmp_path, item) == load_stanza(tmp_path, item)
    save_stanza(tmp_path, item, stanza)
    assert find_stanza(tmp_path, item) == stanza
    with pytest.raises(VerificationError, match="what its repository said"):
        find_stanza(tmp_path, replace(item, version="3"))


@pytest.fixture
def lock(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    here = [
        put_deb(cache),
        replace(
            put_deb(cache, CONTROL.replace("hello", "site"), name="site", repository="site"),
            path="pool/hello.deb",
        ),
    ]
    tool = put_deb(cache, CONTROL.replace("hello", "tool"), name="tool")
    (cache / "made.deb").unlink()
    row = LOCK.repositories[0]
    rows = (row, replace(row, id="site", suite="./", components=()))
    return replace(LOCK, repositories=rows, packages=(*here, tool), tools=(tool,))


def test_a_package_set_is_one_file_and_always_the_same(lock, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write_package_set(lock, one, cache=tmp_path / "cache")
    mixed = replace(lock, packages=lock.packages[::-1])
    write_package_set(mixed, two, cache=tmp_path / "cache")
    assert one.read_bytes() == two.read_bytes()
    assert import_package_set(one, cache=tmp_path / "other") == 3
    assert find_missing(tmp_path / "other", list_packages(lock)) == []


def test_a_package_set_wants_all_packages(lock, tmp_path):
    package_path(tmp_path / "cache", lock.tools[0].sha256).unlink()
    with pytest.raises(VnfsbuildError, match="lacks 1 packages of the lock: tool"):
        write_package_set(lock, tmp_path / "set", cache=tmp_path / "cache")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data[:700] + b"x" + data[701:], "digest|padded"),
        (lambda data: data[:600], "bytes, expected"),
        (lambda data: data[:-1024], "not a header"),
        (lambda data: data + b"\0", "more after the end"),
        (lambda data: b"", "not a header"),
    ],
)
def test_a_damaged_package_set_is_refused(lock, tmp_path, change, told):
    path = tmp_path / "set"
    write_package_set(lock, path, cache=tmp_path / "cache")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(VerificationError, match=told):
        import_package_set(path, cache=tmp_path / "other")
    for kept in (tmp_path / "other/packages/sha256").iterdir():
        assert kept.name in {item.sha256 for item in list_packages(lock)}


def files_of(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_vendored_repository_serves_its_lock(lock, tmp_path):
    directory = tmp_path / "vendored"
    assert write_vendored(lock, directory, cache=tmp_path / "cache") == 3
    assert sorted(files_of(directory)) == [
        "dists/trixie/Release",
        "dists/trixie/main/binary-amd64/Packages",
        "pool/hello.deb",
        "pool/tool.deb",
        "site/Packages",
        "site/Release",
        "site/pool/hello.deb",
    ]
    origin = Origin(mirrors=(directory.as_uri(),))
    other = tmp_path / "other"
    assert fetch_locked(list_packages(lock), cache=other, origin=origin) == 3
    again = tmp_path / "again"
    write_vendored(lock, again, cache=other)
    assert files_of(again) == files_of(directory)


@pytest.mark.parametrize("path", ["pool/a/a+b~1_1:2.deb", "./a%3a1 x.deb"])
def test_odd_names_are_served_from_disks_and_by_web_servers(mirror, tmp_path, path):
    item = replace(lock_bytes(b"odd"), path=path.removeprefix("./"))
    file = tmp_path / "vendored" / item.path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"odd")
    origin = Origin(mirrors=((tmp_path / "vendored").as_uri(),))
    assert fetch_locked([item], cache=tmp_path / "one", origin=origin) == 1
    mirror.answers["/" + item.path.replace("%", "%25").replace(" ", "%20")] = [(200, b"odd")]
    origin = Origin(mirrors=(mirror.url(""),))
    assert fetch_locked([item], cache=tmp_path / "two", origin=origin) == 1


def test_its_metadata_lists_what_is_there(lock, tmp_path):
    cache = tmp_path / "cache"
    stanzas = {item: load_stanza(cache, item) for item in list_packages(lock)}
    texts = render_metadata(lock, stanzas)
    index = texts["dists/trixie/main/binary-amd64/Packages"]
    assert [line for line in index.splitlines() if line.startswith(("Pack", "Filename"))] == [
        "Package: hello",
        "Filename: pool/hello.deb",
        "Package: tool",
        "Filename: pool/tool.deb",
    ]
    release = texts["dists/trixie/Release"]
    assert "Codename: trixie\nDate: Tue, 14 Nov 2023 22:13:20 UTC\n" in release
    assert f" {len(index)} main/binary-amd64/Packages\n" in release


def test_nothing_is_written_over(lock, tmp_path):
    directory = tmp_path / "vendored"
    directory.mkdir()
    (directory / "mine").touch()
    with pytest.raises(InputError, match="not empty"):
        write_vendored(lock, directory, cache=tmp_path / "cache")
    assert [path.name for path in directory.iterdir()] == ["mine"]


def test_a_failed_vendoring_leaves_nothing(lock, tmp_path):
    package_path(tmp_path / "cache", lock.tools[0].sha256).unlink()
    with pytest.raises(VnfsbuildError, match="cannot be written"):
        write_vendored(lock, tmp_path / "vendored", cache=tmp_path / "cache")
    assert not list(tmp_path.glob("*vendored*"))


@pytest.fixture
def small_files():
    """Let no file grow above 64 bytes: as on a full disk, writing fails in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_nothing(lock, tmp_path, small_files):
    cache, other = tmp_path / "cache", tmp_path / "other"
    (tmp_path / "store").mkdir()
    origin = Origin(mirrors=((tmp_path / "mirror").as_uri(),))
    attempts = [
        lambda: write_package_set(lock, tmp_path / "store/set", cache=cache),
        lambda: write_vendored(lock, tmp_path / "store/vendored", cache=cache),
        lambda: fetch_locked([moved], cache=other, origin=origin),
    ]
    moved = lock.tools[0]
    (tmp_path / "mirror/pool").mkdir(parents=True)
    package_path(cache, moved.sha256).rename(tmp_path / "mirror" / moved.path)
    package_path(cache, moved.sha256).symlink_to(tmp_path / "mirror" / moved.path)
    for attempt in attempts:
        with pytest.raises(VnfsbuildError, match="cannot be written: File too large"):
            attempt()
    assert list((tmp_path / "store").iterdir()) == []
    assert find_missing(other, [moved]) == [moved]
