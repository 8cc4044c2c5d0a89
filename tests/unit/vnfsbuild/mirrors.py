"""A web server on the loopback that answers as tests want it to."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror(ThreadingHTTPServer):
    """Serves *answers*, by path: a list of statuses and bodies, the last one for ever.

    A body may be shorter than what is announced: (status, body, announced). With *ranges* it
    understands the header Range.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.asked = []
        self.ranges = False

    def url(self, path="/x"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(f"{self.path} {wanted}" if wanted else self.path)
        answers = self.server.answers.get(self.path, [(404, b"")])
        status, body, *announced = answers.pop(0) if len(answers) > 1 else answers[0]
        headers = {}
        if wanted and self.server.ranges and status == 200:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = (206, body[start:]) if start < len(body) else (416, b"")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if announced:
            self.send_header("Content-Length", str(announced[0]))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serve():
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
