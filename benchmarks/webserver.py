"""A dumb web server that answers range requests, and counts what it sends."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WebServer(ThreadingHTTPServer):
    """Serves the files of *directory* on the loopback."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.counted = threading.Lock()
        self.sent_bytes = 0
        self.requests = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self):
        path = self.server.directory / Path(self.path).name
        with self.server.counted:
            self.server.requests += 1
        if not path.is_file():
            self.send_error(404)
            return
        size_bytes = path.stat().st_size
        first, last = 0, size_bytes - 1
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        self.send_response(206 if wanted else 200)
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), last)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size_bytes}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.flush()
        with path.open("rb") as file:
            sent_bytes = self.connection.sendfile(file, first, last + 1 - first)
        with self.server.counted:
            self.server.sent_bytes += sent_bytes

    def log_message(self, *_):
        pass


@contextmanager
def serve(directory: Path) -> Iterator[WebServer]:
    """Serve while the block runs."""
    with WebServer(directory) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
