"""Where capsules come from by themselves: a web server, and a registry, that hand out forgeries."""

from __future__ import annotations

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vnfsbuild.digest import digest_of

from . import judges


class Handler(BaseHTTPRequestHandler):
    """Serves what the server's *pages* have: path → (bytes, headers)."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        data, headers = self.server.pages.get(self.path, (None, {}))
        self.server.asked.append(self.path)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200 if data is not None else 404
        data = data or b""
        if span and status == 200 and data:
            first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
            data, status = data[first : last + 1], 206
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@contextlib.contextmanager
def serving():
    """Serve on the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *words: None  # who refuses hangs up
    server.pages, server.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Remote:
    """Brings a forgery to a store by the network; the store is as before when it is refused."""

    def __init__(self, desk, server):
        self.desk, self.server = desk, server
        self.host = f"127.0.0.1:{server.server_address[1]}"

    def run(self, store, *words):
        """Run a command line; return the verdict."""
        self.server.asked.clear()
        (store / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        before = judges.snapshot(store)
        verdict = judges.CommandLine(store, self.desk.site).run(*words)
        if verdict.status:
            after = judges.snapshot(store)
            new = {name for name in after if after[name] != before.get(name)}
            assert not {name for name in new if name.startswith("blobs")}, "the store has it"
        return verdict


class ImportUrl(Remote):
    """``vnfsbuild import http://…``."""

    def of_forgery(self, forgery, store):
        return self.of_bytes(forgery.file(), store)

    def of_bytes(self, data, store):
        self.server.pages = {"/toy.vnfs": (data, {"ETag": '"1"'})}
        return self.run(store, "import", f"http://{self.host}/toy.vnfs")


class Pull(Remote):
    """``vnfsbuild pull oci://…``, from a registry without the referrers API."""

    def of_forgery(self, forgery, store):
        members = forgery.members(forgery.name)
        self.server.pages = {}
        documents = dict(reversed(members))
        for _, data in members:
            for kind in ("manifests", "blobs"):
                self.server.pages[f"/v2/x/toy/{kind}/{digest_of(data)}"] = (data, {})
        tag = digest_of(documents["manifest"]).replace(":", "-")
        self.server.pages["/v2/x/toy/manifests/current"] = (documents["manifest"], {})
        if "referrers index" in documents:
            self.server.pages[f"/v2/x/toy/manifests/{tag}"] = (documents["referrers index"], {})
        return self.run(store, "pull", "--plain-http", f"oci://{self.host}/x/toy")

    def asked_for(self, data):
        """Tell whether the bytes *data* were asked for."""
        return any(path.endswith(digest_of(data)) for path in self.server.asked)
