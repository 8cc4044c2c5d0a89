"""A registry on loopback that speaks the distribution protocol, and misbehaves as a test wants."""

import base64
import contextlib
import hashlib
import itertools
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vnfsbuild.manifest import Descriptor
from vnfsbuild.registry.authfiles import Login
from vnfsbuild.registry.http import Patience, RegistryHttp
from vnfsbuild.registry.login import Credentials
from vnfsbuild.registry.reader import BlobReader
from vnfsbuild.registry.repository import Repository

INDEX = "application/vnd.oci.image.index.v1+json"
QUICK = Patience(attempts=4, first_seconds=0.01)


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """What is in it, what it was asked, and how it behaves."""

    def __init__(self):
        self.blobs = {}
        """(repository, digest) → bytes"""
        self.manifests = {}
        """(repository, tag or digest) → bytes, media type"""
        self.uploads = {}
        self.sessions = itertools.count(1)
        self.asked = []
        """(method, path, headers) of every request"""
        self.referrers_api = False
        self.etags = False
        self.ranges = True
        self.keeps_uploads = True
        """whether what came of a part before the connection broke is kept"""
        self.mounts = True
        self.login = None
        """USER:PASSWORD that it wants"""
        self.token_url = None
        """the server of tokens, when it wants those"""
        self.opened = []
        self.twist = None
        """is given each request first; says whether it has answered it"""
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.registry = self
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def requests(self, method, part=""):
        return [path for verb, path, _ in self.asked if verb == method and part in path]

    def repository(self, name="vnfs/toy", **words):
        find = words.pop("find", lambda host, repository: None)
        credentials = Credentials(host=self.host, repository=name, plain_http=True, find=find)
        http = RegistryHttp(self.host, plain_http=True, credentials=credentials, patience=QUICK)
        self.opened.append(http)
        return Repository(http, name, settle_seconds=words.pop("settle_seconds", 0.01))

    def add(self, toy, name="vnfs/toy", tags=("1", "current"), *, referrers=True):
        """Put a capsule in, as a push would."""
        from vnfsbuild.manifest import SIGNATURE, render_index
        from vnfsbuild.referrers.attachment import attachment_entry, make_carried, render_attachment

        self.blobs[name, digest_of(toy.config)] = toy.config
        for digest, data in toy.blobs.items():
            self.blobs[name, digest] = data
        for wanted in (toy.digest, *tags):
            self.manifests[name, wanted] = (
                toy.manifest,
                "application/vnd.oci.image.manifest.v1+json",
            )
        entries = []
        for envelope in toy.envelopes if referrers else ():
            item = make_carried(toy.manifest, envelope, artifact_type=SIGNATURE)
            data = render_attachment(item)
            self.manifests[name, digest_of(data)] = (
                data,
                "application/vnd.oci.image.manifest.v1+json",
            )
            self.blobs[name, digest_of(envelope)] = envelope
            entries.append(attachment_entry(item))
        if entries and not self.referrers_api:
            tag = toy.digest.replace(":", "-")
            self.manifests[name, tag] = (render_index(entries), INDEX)


@contextlib.contextmanager
def running_registry():
    registry = Registry()
    thread = threading.Thread(target=registry.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield registry
    finally:
        for http in registry.opened:
            http.close()
        registry.server.shutdown()
        registry.server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # connections that tests break on purpose


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def registry(self):
        return self.server.registry

    def log_message(self, *words):
        pass

    def answer(self, status, data=b"", **headers):
        """Send an answer; a header is None where the usual one is to be left out."""
        self.send_response(status)
        usual = {"Content-Length": str(len(data))}
        for name, value in {
            **usual,
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def error(self, status, code="UNKNOWN", **headers):
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
        self.answer(status, body, Content_Type="application/json", **headers)

    def cut(self):
        """Break the connection."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self):
        registry = self.registry
        with registry.lock:
            registry.asked.append((self.command, self.path, dict(self.headers)))
        if registry.twist and registry.twist(self):
            return
        if not self.allowed():
            return
        path, _, query = self.path.partition("?")
        self.query = {key: value[0] for key, value in urllib.parse.parse_qs(query).items()}
        for pattern, handle in (
            (r"/v2/(.+)/manifests/([^/]+)", self.manifests),
            (r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})", self.blobs),
            (r"/v2/(.+)/blobs/uploads/([^/]*)", self.uploads),
            (r"/v2/(.+)/referrers/([^/]+)", self.referrers),
        ):
            found = re.fullmatch(pattern, path)
            if found:
                handle(*found.groups())
                return
        self.error(404, "NOT_FOUND")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_any  # noqa: N815

    def allowed(self):
        registry = self.registry
        shown = self.headers.get("Authorization", "")
        if registry.token_url:
            if shown.startswith("Bearer good-"):
                return True
            self.body()
            scope = f' scope="repository:{self.path.split("/")[2]}/x:pull"'
            self.error(401, "UNAUTHORIZED", WWW_Authenticate=(
                f'Bearer realm="{registry.token_url}",service="toys",{scope.strip()}'))  # fmt: skip
            return False
        if registry.login:
            wanted = "Basic " + base64.b64encode(registry.login.encode()).decode()
            if shown != wanted:
                self.body()
                self.error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="toys"')
                return False
        return True

    def manifests(self, name, wanted):
        held = self.registry.manifests.get((name, wanted))
        etag = f'"{digest_of(held[0])}"' if held else None
        if self.command == "PUT":
            data = self.body()
            unchanged = self.headers.get("If-Match")
            if self.registry.etags and unchanged and unchanged != etag:
                self.error(412, "CHANGED")
                return
            for key in (wanted, digest_of(data)):
                self.registry.manifests[name, key] = (data, self.headers["Content-Type"])
            subject = json.loads(data).get("subject")
            listed = (
                {"OCI_Subject": subject["digest"]}
                if subject and self.registry.referrers_api
                else {}
            )
            self.answer(201, **listed)
        elif held is None:
            self.error(404, "MANIFEST_UNKNOWN")
        else:
            extra = {"ETag": etag} if self.registry.etags else {}
            self.answer(200, held[0], Content_Type=held[1], **extra)

    def blobs(self, name, digest):
        data = self.registry.blobs.get((name, digest))
        if data is None:
            self.error(404, "BLOB_UNKNOWN")
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part and self.registry.ranges:
            first, last = int(part[1]), min(int(part[2]), len(data) - 1)
            self.answer(206, data[first : last + 1],
                        Content_Range=f"bytes {first}-{last}/{len(data)}")  # fmt: skip
        else:
            self.answer(200, data)

    def uploads(self, name, session):
        registry = self.registry
        if self.command == "POST":
            self.body()
            mounted = registry.blobs.get((self.query.get("from"), self.query.get("mount")))
            if mounted is not None and registry.mounts:
                registry.blobs[name, self.query["mount"]] = mounted
                self.answer(201)
                return
            session = str(next(registry.sessions))
            registry.uploads[session] = b""
        elif session not in registry.uploads:
            self.body()
            self.error(404, "BLOB_UPLOAD_UNKNOWN")
            return
        elif self.command in ("PATCH", "PUT") and not self.receive(session):
            return
        data = registry.uploads[session]
        if self.command == "PUT":
            if digest_of(data) != self.query["digest"]:
                self.error(400, "DIGEST_INVALID")
                return
            registry.blobs[name, digest_of(data)] = registry.uploads.pop(session)
            self.answer(201)
            return
        status = 204 if self.command == "GET" else 202
        self.answer(status, Location=f"/v2/{name}/blobs/uploads/{session}?state=x",
                    Range=f"0-{max(len(data) - 1, 0)}")  # fmt: skip

    def receive(self, session):
        registry = self.registry
        part = re.fullmatch(r"(\d+)-(\d+)", self.headers.get("Content-Range", ""))
        if part and int(part[1]) != len(registry.uploads[session]):
            self.body()
            has = len(registry.uploads[session])
            self.error(416, "RANGE", Range=f"0-{max(has - 1, 0)}")
            return False
        registry.uploads[session] += self.body()
        return True

    def receive_some(self, session, count):
        """Take so many bytes of a part, and break the connection."""
        data = self.rfile.read(count)
        if self.registry.keeps_uploads:
            self.registry.uploads[session] += data
        else:
            del self.registry.uploads[session]
        self.cut()

    def referrers(self, name, digest):
        if not self.registry.referrers_api:
            self.answer(404, b"404 page not found\n", Content_Type="text/plain")
            return
        found = []
        for (repository, key), (data, kind) in sorted(self.registry.manifests.items()):
            document = json.loads(data)
            about = (document.get("subject") or {}).get("digest")
            if (repository, about, key) == (name, digest, digest_of(data)):
                found.append({"mediaType": kind, "digest": key, "size": len(data),
                              "artifactType": document["artifactType"]})  # fmt: skip
        page = int(self.query.get("page", 0))
        more = {}
        if len(found) > page + 1:
            more = {"Link": f'</v2/{name}/referrers/{digest}?page={page + 1}>; rel="next"'}
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found[page : page + 1]}
        self.answer(200, json.dumps(body, indent=1).encode(), Content_Type=INDEX, **more)


REPOSITORY = "vnfs/toy"


def blob_of(data):
    return Descriptor("application/octet-stream", digest_of(data), len(data))


def put(registry, data):
    registry.blobs[REPOSITORY, digest_of(data)] = data
    return blob_of(data)


def read(registry, blob, first=0, count=None, **words):
    reader = BlobReader(registry.repository(**words), blob)
    return b"".join(reader.read(first, blob.size_bytes - first if count is None else count))


@contextlib.contextmanager
def token_server(registry, login="me:s3cret", **answer):
    """A server of tokens that wants *login*, and hands out tokens that the registry takes."""
    with running_registry() as server:
        server.given = []

        def twist(request):
            body = request.body().decode()
            query = request.path.partition("?")[2]
            asked = urllib.parse.parse_qs(query or body)
            shown = request.headers.get("Authorization")
            if login and shown != "Basic " + base64.b64encode(login.encode()).decode() and not body:
                request.error(401, "DENIED")
                return True
            server.given.append((shown, asked))
            token = {"token": f"good-{len(server.given)}", "expires_in": 300, **answer}
            request.answer(200, json.dumps(token).encode(), Content_Type="application/json")
            return True

        server.twist = twist
        registry.token_url = f"http://{server.host}/token"
        yield server


def login(user="me", password="s3cret", **more):
    return lambda host, repository: Login(user=user, password=password, source="auth.json", **more)


def sends(data, **headers):
    return lambda request: request.answer(200, data, **headers) or True
