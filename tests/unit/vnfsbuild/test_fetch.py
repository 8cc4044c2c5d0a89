"""URL → file: whole or not at all, resumed where it stopped."""

import threading

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.fetch import FetchError, fetch, fetch_bytes

from .mirrors import serve

DATA = b"package" * 1000


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as server:
        yield server


def fetch_data(path, *urls, **changes):
    wanted = {"digest": digest_of(DATA), "size_bytes": len(DATA), "retry_seconds": 0, **changes}
    fetch(urls, path, **wanted)


def test_a_file_arrives_whole(mirror, tmp_path):
    heard = []
    mirror.answers["/x"] = [(200, DATA)]
    fetch_data(tmp_path / "x", mirror.url(), on_bytes=heard.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644
    assert sum(heard) == len(DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_of_a_directory_does_as_well(tmp_path):
    (tmp_path / "from").write_bytes(DATA)
    fetch_data(tmp_path / "x", (tmp_path / "absent").as_uri(), (tmp_path / "from").as_uri())
    assert (tmp_path / "x").read_bytes() == DATA


def test_an_empty_file_is_a_file(tmp_path):
    (tmp_path / "from").write_bytes(b"")
    path = tmp_path / "x"
    fetch_data(path, (tmp_path / "from").as_uri(), digest=digest_of(b""), size_bytes=0)
    assert path.read_bytes() == b""


def test_a_server_that_fails_once_is_asked_again(mirror, tmp_path):
    heard = []
    mirror.answers["/x"] = [(503, b""), (200, DATA[:-1]), (200, DATA)]
    fetch_data(tmp_path / "x", mirror.url(), on_bytes=heard.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert sum(heard) == len(DATA)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(mirror, tmp_path, ranges):
    heard = []
    mirror.ranges = ranges
    mirror.answers["/x"] = [(200, DATA[:3000], len(DATA)), (200, DATA)]
    fetch_data(tmp_path / "x", mirror.url(), on_bytes=heard.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert mirror.asked == ["/x", "/x bytes=3000-"]
    assert sum(heard) == len(DATA)


def test_it_goes_on_next_time_and_from_another_mirror(mirror, tmp_path):
    mirror.ranges = True
    mirror.answers["/x"] = [(200, DATA[:3000], len(DATA)), (404, b"")]
    with pytest.raises(FetchError):
        fetch_data(tmp_path / "x", mirror.url())
    assert not (tmp_path / "x").exists()
    mirror.answers["/y"] = [(200, DATA)]
    mirror.asked.clear()
    fetch_data(tmp_path / "x", mirror.url("/y"))
    assert mirror.asked == ["/y bytes=3000-"]
    assert (tmp_path / "x").read_bytes() == DATA


@pytest.mark.parametrize("rubbish", [b"rubbish", DATA[:-1] + b"x", DATA + b"x"])
def test_what_was_kept_and_is_of_no_use_is_fetched_anew(mirror, tmp_path, rubbish):
    heard = []
    mirror.ranges = True
    mirror.answers["/x"] = [(200, DATA)]
    (tmp_path / ".x.part").write_bytes(rubbish)
    fetch_data(tmp_path / "x", mirror.url(), on_bytes=heard.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert sum(heard) == len(DATA)


def test_a_file_shorter_than_what_is_there_is_fetched_anew(mirror, tmp_path):
    mirror.ranges = True
    mirror.answers["/x"] = [(200, DATA[:2000]), (200, DATA)]
    (tmp_path / ".x.part").write_bytes(DATA[:3000])
    fetch_data(tmp_path / "x", mirror.url())
    assert mirror.asked == ["/x bytes=3000-", "/x"]
    assert (tmp_path / "x").read_bytes() == DATA


@pytest.mark.parametrize(
    ("answer", "told", "times"),
    [
        ((404, b""), "404 Not Found", 1),
        ((500, b""), "500 Internal Server Error", 3),
        ((200, DATA + b"x"), "more than the 7000 bytes", 3),
        ((200, DATA[1:]), "found 6999 bytes, expected 7000", 3),
        ((200, DATA[::-1]), "found digest sha256:", 3),
    ],
)
def test_anything_else_is_told_and_puts_nothing_there(mirror, tmp_path, answer, told, times):
    mirror.answers["/x"] = [answer]
    with pytest.raises(FetchError) as raised:
        fetch_data(tmp_path / "x", mirror.url())
    assert told in raised.value.message
    assert mirror.url() in raised.value.message
    assert len(mirror.asked) == times
    assert {path.name for path in tmp_path.iterdir()} <= {".x.part"}


def test_all_that_were_asked_are_told(mirror, tmp_path):
    with pytest.raises(FetchError) as raised:
        fetch_data(tmp_path / "x", mirror.url("/a"), mirror.url("/b"))
    assert raised.value.missing
    assert [line.split("127.0.0.1:")[1][6:] for line in raised.value.message.splitlines()] == [
        "a: 404 Not Found",
        "b: 404 Not Found",
    ]
    with pytest.raises(FetchError, match="no mirror is known"):
        fetch_data(tmp_path / "x")


def test_nobody_there_is_told(tmp_path):
    failed = []
    with pytest.raises(FetchError, match="refused") as raised:
        fetch_data(tmp_path / "x", "http://127.0.0.1:1/x", on_failure=failed.append)
    assert not raised.value.missing
    assert failed == ["http://127.0.0.1:1/x"] * 3
    assert list(tmp_path.iterdir()) == []


def test_two_that_want_the_same_fetch_it_once(mirror, tmp_path):
    mirror.answers["/x"] = [(200, DATA)]
    threads = [
        threading.Thread(target=fetch_data, args=(tmp_path / "x", mirror.url())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_bytes() == DATA
    assert mirror.asked == ["/x"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_place_that_cannot_be_written_is_told(mirror, tmp_path):
    with pytest.raises(VnfsbuildError) as raised:
        fetch_data(tmp_path / "absent/x", mirror.url())
    assert "absent/x: cannot be written" in raised.value.message
    assert "VNFS_CACHE" in (raised.value.hint or "")


def test_small_things_are_fetched_without_a_digest(mirror):
    mirror.answers["/x"] = [(503, b""), (200, b"text")]
    assert fetch_bytes(mirror.url(), limit_bytes=4, retry_seconds=0) == b"text"
    with pytest.raises(FetchError, match="more than 3 bytes"):
        fetch_bytes(mirror.url(), limit_bytes=3, retry_seconds=0)
    with pytest.raises(FetchError) as raised:
        fetch_bytes(mirror.url("/y"), limit_bytes=3, retry_seconds=0)
    assert raised.value.missing
