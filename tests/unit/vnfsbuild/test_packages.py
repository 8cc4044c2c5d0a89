"""The package cache: only promised bytes get in, and damage is noticed."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.fetch import FetchError, fetch
from vnfsbuild.packages import (
    fetch_packages,
    find_missing,
    load_stanza,
    make_urls,
    package_path,
    save_stanza,
)
from vnfsbuild.sources.mirror import Archive, make_repositories

from .debs import lock_bytes, make_deb

DATA = b"package" * 1000


class Mirror(ThreadingHTTPServer):
    """Serves *answers*, by path: a list of statuses and bodies, the last one for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.asked = []

    def url(self, path="/x"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path, [(404, b"")])
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch_data(mirror, path, **changes):
    wanted = {"digest": digest_of(DATA), "size_bytes": len(DATA), "retry_seconds": 0, **changes}
    fetch(mirror.url(), path, **wanted)


def test_a_file_arrives_whole(mirror, tmp_path):
    heard = []
    mirror.answers["/x"] = [(200, DATA)]
    fetch_data(mirror, tmp_path / "x", on_bytes=heard.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert sum(heard) == len(DATA)


def test_a_server_that_fails_once_is_asked_again(mirror, tmp_path):
    heard = []
    mirror.answers["/x"] = [(503, b""), (200, DATA[:-1]), (200, DATA)]
    fetch_data(mirror, tmp_path / "x", on_bytes=heard.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert sum(heard) == len(DATA)


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
def test_anything_else_is_told_and_leaves_nothing(mirror, tmp_path, answer, told, times):
    mirror.answers["/x"] = [answer]
    with pytest.raises(FetchError) as raised:
        fetch_data(mirror, tmp_path / "x")
    assert told in raised.value.message
    assert mirror.url() in raised.value.message
    assert len(mirror.asked) == times
    assert list(tmp_path.iterdir()) == []


def test_nobody_there_is_told(mirror, tmp_path):
    with pytest.raises(FetchError, match="refused"):
        fetch(
            "http://127.0.0.1:1/x",
            tmp_path / "x",
            digest=digest_of(b""),
            size_bytes=0,
            retry_seconds=0,
        )


def test_a_damaged_package_is_found_missing(tmp_path):
    good, bad, absent = lock_bytes(b"good"), lock_bytes(b"bad"), lock_bytes(b"absent")
    for item, data in ((good, b"good"), (bad, b"damaged")):
        path = package_path(tmp_path, item.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert find_missing(tmp_path, [good, bad, absent, absent]) == [bad, absent]
    assert not package_path(tmp_path, bad.sha256).exists()


def test_packages_come_in_and_one_failure_keeps_the_others(mirror, tmp_path):
    one, two = lock_bytes(b"one", "one"), lock_bytes(b"two", "two")
    mirror.answers["/one"] = [(200, b"one")]
    urls = {one.sha256: mirror.url("/one"), two.sha256: mirror.url("/two")}
    with pytest.raises(FetchError, match="/two: 404"):
        fetch_packages([one, two], urls, cache=tmp_path, proxies={})
    assert find_missing(tmp_path, [one, two]) == [two]


def test_urls_need_a_mirror_of_the_repository():
    archive = Archive(main="http://mirror.example.org/debian")
    repositories = make_repositories(archive, "trixie", ("main",))
    item = lock_bytes(b"x")
    assert make_urls([item], repositories) == {
        item.sha256: "http://mirror.example.org/debian/pool/hello.deb"
    }
    with pytest.raises(VnfsbuildError, match="debian-trixie-security"):
        make_urls([lock_bytes(b"x", repository="debian-trixie-security")], repositories)


def test_a_lost_stanza_is_made_again(tmp_path):
    control = "Package: hello\nVersion: 1:1.0\nArchitecture: all\n"
    data = make_deb(tmp_path / "x.deb", control, []).read_bytes()
    item = lock_bytes(data)
    path = package_path(tmp_path, item.sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert load_stanza(tmp_path, item).startswith(control)
    save_stanza(tmp_path, item, "Package: hello\nFrom: repository\n")
    assert load_stanza(tmp_path, item) == "Package: hello\nFrom: repository\n"
