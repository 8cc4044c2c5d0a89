"""A dumb web server on the loopback: files with ranges, and the ways in which one may err."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer(ThreadingHTTPServer):
    """Serves *files*, by path; what it was asked for is in *asked*: (path, first byte, count)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.asked = []
        self.headers = {}
        """sent with every answer"""
        self.ranges = True
        self.whole_after = None
        """from this request on ranges are answered with the whole file"""
        self.break_at = []
        """by request of a payload: after how many bytes the connection breaks"""
        self.change = lambda path, first, body: body
        """what is sent for a part of a file"""

    def url(self, path="/toy.vnfs"):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def asked_bytes(self, path="/toy.vnfs"):
        return sum(count for name, _, count in self.asked if name == path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, data = self.server, self.server.files.get(self.path)
        if data is None:
            server.asked.append((self.path, 0, 0))
            self.answer(404, b"", {})
            return
        first, last = 0, len(data) - 1
        wanted = self.headers.get("Range")
        whole = server.whole_after is not None and len(server.asked) >= server.whole_after
        partial = wanted and server.ranges and not whole
        if partial:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end), last)
        body = server.change(self.path, first, data[first : last + 1])
        server.asked.append((self.path, first, len(body)))
        part = {"Content-Range": f"bytes {first}-{last}/{len(data)}"} if partial else {}
        self.answer(206 if partial else 200, body, part)

    def answer(self, status, body, more):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **more, **self.server.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.server.break_at and len(body) > 2048:
            body = body[: self.server.break_at.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serve_files():
    with RangeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
