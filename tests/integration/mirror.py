"""A mirror of the site's blobs, in the namespace of servers, that can do everything wrong."""

import contextlib
import http.server
import re
import threading

from .daemon import SERVER


class Mirror:
    """Serves what the node server's store has. *fault* changes an answer: see ``FAULTS``."""

    def __init__(self, made, fault=None, *, least_bytes=4096):
        self.made = made
        self.fault = fault
        self.least_bytes = least_bytes
        self.asked = []
        self.held = threading.Event()
        self.go = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with contextlib.suppress(OSError):
                    mirror._answer(self)

            def log_message(self, *words):
                pass

        with made.inside("s"):
            self.server = http.server.ThreadingHTTPServer((SERVER, 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://{SERVER}:{self.server.server_address[1]}/blobs"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def _answer(self, request):
        name = request.path.rpartition("/")[2]
        data = (self.made.state / "store/blobs/sha256" / name).read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        self.asked.append((name, request.headers.get("Range")))
        # Documents are left as they are: what is judged first is not the subject.
        is_large = len(data) >= self.least_bytes
        if is_large and self.fault == "wrong":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if is_large and self.fault == "truncated":
            data = data[: len(data) // 2]
        first = int(found[1]) if found else 0
        last = min(int(found[2]) if found and found[2] else len(data) - 1, len(data) - 1)
        if first >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = data[first : last + 1]
        request.send_response(206 if found else 200)
        request.send_header("Content-Length", str(len(body)))
        if found:
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        request.end_headers()
        if is_large and self.fault in ("breaks off", "holds") and not self.go.is_set():
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            if self.fault == "holds":
                self.held.set()
                self.go.wait(120)
                request.wfile.write(body[len(body) // 2 :])
                return
            request.close_connection = True
            request.connection.close()
            return
        request.wfile.write(body)

    def close(self):
        self.go.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def mirror(made, fault=None, **words):
    found = Mirror(made, fault, **words)
    try:
        yield found
    finally:
        found.close()
