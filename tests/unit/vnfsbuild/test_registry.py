"""Talking with a registry: logins, redirects, patience, uploads, lists of referrers."""

import base64
import contextlib
import io
import json
import random
import threading
import urllib.parse

import pytest

from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import OCI_MANIFEST, Descriptor
from vnfsbuild.registry.answer import RegistryError, retry_after
from vnfsbuild.registry.authfiles import Login
from vnfsbuild.registry.http import Patience
from vnfsbuild.registry.reader import BlobReader
from vnfsbuild.registry.uploads import upload_blob

from .registries import digest_of, running_registry

REPOSITORY = "vnfs/toy"


@pytest.fixture
def registry():
    with running_registry() as running:
        yield running


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


def test_a_registry_that_wants_no_login_is_shown_none(registry):
    blob = put(registry, b"hello")
    assert read(registry, blob, find=lambda *_: pytest.fail("asked for a login")) == b"hello"
    assert not any("Authorization" in headers for _, _, headers in registry.asked)


def test_basic_login(registry):
    registry.login = "me:s3cret"
    blob = put(registry, b"hello")
    repository = registry.repository(find=login())
    assert repository.get_blob(blob) == b"hello"
    assert repository.get_blob(blob) == b"hello"
    assert len(registry.asked) == 3, "the login is shown at once after it was asked for once"


@pytest.mark.parametrize("find", [lambda *_: None, login(password="wr0ng")])
def test_a_login_that_is_missing_or_wrong(registry, find):
    registry.login = "me:s3cret"
    with pytest.raises(RegistryError, match="wants a login") as caught:
        read(registry, put(registry, b"hello"), find=find)
    assert caught.value.hint.startswith(f"podman login {registry.host}")
    assert "wr0ng" not in str(caught.value) + caught.value.hint
    assert len(registry.asked) <= 2, "a wrong password is not shown again and again"


def test_tokens(registry):
    blob = put(registry, b"hello")
    with token_server(registry) as server:
        repository = registry.repository(find=login())
        for _ in range(3):
            assert repository.get_blob(blob) == b"hello"
        assert len(server.given) == 1
        shown, asked = server.given[0]
        assert shown.startswith("Basic ")
        assert asked["service"] == ["toys"]
        assert "repository:vnfs/toy:pull" in asked["scope"]
        assert "Authorization" in registry.asked[-1][2]


def test_tokens_for_anybody(registry):
    with token_server(registry, login=None) as server:
        assert read(registry, put(registry, b"hello")) == b"hello"
        assert server.given[0][0] is None


def test_an_identity_token_is_exchanged_by_a_form_and_not_in_the_url(registry):
    with token_server(registry) as server:
        find = login(user="<token>", identity_token="refresh-me")
        assert read(registry, put(registry, b"hello"), find=find) == b"hello"
        _, asked = server.given[0]
        assert (asked["grant_type"], asked["refresh_token"]) == (["refresh_token"], ["refresh-me"])
        assert "refresh-me" not in server.asked[0][1]


def test_a_token_that_has_ended_is_renewed_within_an_upload(registry):
    data = bytes(range(256)) * 40
    with token_server(registry):
        repository = registry.repository(find=login())
        expired = []

        def twist(request):
            if request.command == "PATCH" and not expired:
                expired.append(request.headers["Authorization"])
            if request.headers.get("Authorization") in expired:
                request.headers.replace_header("Authorization", "Bearer old")
            return False

        registry.twist = twist
        assert upload_blob(repository, blob_of(data), lambda: io.BytesIO(data), part_bytes=4000)
    assert registry.blobs[REPOSITORY, digest_of(data)] == data
    assert expired


@pytest.mark.parametrize(
    ("answer", "words"),
    [({"token": None}, "no token"), ({"token": "a\nb"}, "no token"), ({"token": 3}, "no token")],
)
def test_a_server_of_tokens_that_gives_none(registry, answer, words):
    with token_server(registry, **answer), pytest.raises(VnfsbuildError, match=words):
        read(registry, put(registry, b"hello"), find=login())


def test_a_wrong_password_at_the_server_of_tokens(registry):
    with (
        token_server(registry, login="me:other"),
        pytest.raises(RegistryError, match="wants a login") as told,
    ):
        read(registry, put(registry, b"hello"), find=login())
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("realm", ["http://example.org/token", "ftp://x", "", "//example.org/t"])
def test_a_registry_with_tls_cannot_have_the_login_sent_in_clear(realm):
    from vnfsbuild.registry.login import Credentials

    credentials = Credentials(host="reg.example.org", find=login())
    assert credentials.take_challenge(f'Bearer realm="{realm}"', ("repository:x:pull",), None)
    with pytest.raises(VnfsbuildError, match="expected https"):
        credentials.authorization(None, ("repository:x:pull",))


def test_redirects_are_followed_and_the_login_stays_at_home(registry):
    blob = put(registry, b"hello" * 100)
    registry.login = "me:s3cret"
    with running_registry() as storage:
        storage.twist = lambda request: request.answer(200, b"hello" * 100) or True

        def twist(request):
            if request.path.endswith(blob.digest) and "Authorization" in request.headers:
                place = f"http://{storage.host}/bucket/blob?signature=abc"
                request.answer(307, Location=place)
                return True
            return False

        registry.twist = twist
        assert read(registry, blob, find=login()) == b"hello" * 100
        assert [path for _, path, _ in storage.asked] == ["/bucket/blob?signature=abc"]
        assert "Authorization" not in storage.asked[0][2]


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (None, "more than 5 redirects"),
        ("/v2/vnfs/toy/round", "more than 5 redirects"),
        ("file:///etc/passwd", "expected https"),
        ("gopher://x/", "expected https"),
    ],
)
def test_redirects_that_lead_nowhere(registry, location, words):
    headers = {"Location": location} if location else {}
    registry.twist = lambda request: request.answer(302, **headers) or True
    with pytest.raises(RegistryError, match=words):
        read(registry, blob_of(b"hello"))
    assert len(registry.asked) <= 6


def failing(times, fail):
    """A twist that does *fail* to the first requests for a blob."""
    left = [times]

    def twist(request):
        if "/blobs/" not in request.path or left[0] == 0:
            return False
        left[0] -= 1
        fail(request)
        return True

    return twist


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(registry, status):
    blob = put(registry, b"hello")
    registry.twist = failing(3, lambda request: request.error(status))
    assert read(registry, blob) == b"hello"
    registry.twist = failing(4, lambda request: request.error(status))
    with pytest.raises(RegistryError, match=str(status)):
        read(registry, blob)


@pytest.mark.parametrize("status", [400, 403, 404, 418])
def test_other_errors_are_final_and_told(registry, status):
    def fail(request):
        body = {"errors": [{"code": "DENIED", "message": "no \x1b[31mway\r\n" + "x" * 900}]}
        request.answer(status, json.dumps(body).encode())

    registry.twist = failing(9, fail)
    with pytest.raises(RegistryError, match=rf"{status} DENIED: no  \[31mway") as caught:
        read(registry, blob_of(b"hello"))
    assert len(registry.asked) == 1
    assert len(str(caught.value)) < 400
    assert caught.value.message.isprintable()


def test_retry_after():
    assert retry_after("7", 0) == 7
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40) == 60
    assert retry_after("Thu, 01 Jan 1970 00:00:00 GMT", 40) == 0
    assert retry_after("soon", 0) == retry_after(None, 0) == 0
    # What Python takes for digits, and what is too long for it; and a year that no clock has.
    for text in ("\u00b2", "9" * 5000, "Thu, 01 Jan 99999999999999999999 00:00:00 GMT"):
        assert retry_after(text, 0) == 0


def test_patience_grows_up_to_a_bound_and_is_never_the_same():
    patience = Patience(first_seconds=1.0)
    pauses = [patience.pause(attempt) for attempt in range(1, 12)]
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:4]))
    assert max(pauses) <= 30
    assert patience.pause(1, asked_seconds=9.0) == 9.0
    assert patience.pause(1, asked_seconds=1e9) == 120.0
    assert len({patience.pause(3) for _ in range(5)}) > 1


def test_a_wrong_port_is_told_at_once(registry):
    registry.server.server_close()
    with pytest.raises(RegistryError, match="Connection refused"):
        read(registry, blob_of(b"hello"), settle_seconds=0)
    assert not registry.asked


def test_a_broken_connection_goes_on_where_it_broke(registry):
    data = random.Random(1).randbytes(3 * 1024 * 1024)
    blob = put(registry, data)

    def fail(request):
        part = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        first = int(part[0])
        sent = data[first : first + 1_200_000]
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(data) - first))
        request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        request.wfile.write(sent)
        request.cut()

    registry.twist = failing(2, fail)
    assert read(registry, blob) == data
    ranges = [headers.get("Range") for _, _, headers in registry.asked]
    assert ranges[0] is None
    assert ranges[1].startswith("bytes=1") and ranges[2].startswith("bytes=2")  # noqa: PT018


def test_a_registry_without_ranges(registry):
    registry.ranges = False
    blob = put(registry, b"0123456789")
    assert read(registry, blob, first=4) == b"456789", "goes on, at the price of what is before"
    with pytest.raises(RegistryError, match="no range requests"):
        read(registry, blob, first=4, count=2)
    assert not BlobReader(registry.repository(), blob).answers_ranges()
    registry.ranges = True
    assert BlobReader(registry.repository(), blob).answers_ranges()
    assert read(registry, blob, first=4, count=2) == b"45"


def sends(data, **headers):
    return lambda request: request.answer(200, data, **headers) or True


@pytest.mark.parametrize(
    "twist",
    [
        sends(b"hellO"),
        sends(b"hello, and more"),
        sends(b""),
        lambda request: request.answer(206, b"ello", Content_Range="bytes 1-4/5") or True,
        lambda request: (request.answer(200, b"hel", Content_Length=5), request.cut()),
        lambda request: request.answer(204) or True,
    ],
)
def test_a_small_blob_that_is_another_one(registry, twist):
    registry.twist = twist
    with pytest.raises((VerificationError, RegistryError)):
        registry.repository().get_blob(blob_of(b"hello"))


def test_a_manifest_without_an_end_or_too_large(registry):
    def endless(request):
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        with contextlib.suppress(OSError):
            while True:
                request.wfile.write(b"100000\r\n" + bytes(0x100000) + b"\r\n")
        request.close_connection = True
        return True

    registry.twist = endless
    with pytest.raises(RegistryError, match="more than 4194304 bytes"):
        registry.repository().get_manifest("1")


def test_manifests_are_compared_with_the_digest_asked_for_and_told(registry):
    registry.twist = sends(b"{}")
    with pytest.raises(VerificationError, match="found digest"):
        registry.repository().get_manifest(digest_of(b"other"))
    registry.twist = sends(b"{}", Docker_Content_Digest=digest_of(b"other"))
    with pytest.raises(VerificationError, match="the registry says"):
        registry.repository().get_manifest("1")


def upload(registry, data, **words):
    told = []
    repository = registry.repository()
    words = {"advance": told.append, "part_bytes": 1000, **words}
    sent = upload_blob(repository, blob_of(data), lambda: io.BytesIO(data), **words)
    assert registry.blobs[REPOSITORY, digest_of(data)] == data
    assert sum(told) == len(data)
    return sent


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 4321])
def test_uploads_in_parts(registry, size):
    assert upload(registry, random.Random(size).randbytes(size))
    assert len(registry.requests("PATCH")) == max(0, (size - 1) // 1000)
    assert len(registry.requests("PUT")) == 1


@pytest.mark.parametrize("keeps", [True, False])
def test_an_upload_goes_on_after_a_broken_connection(registry, keeps):
    registry.keeps_uploads = keeps
    broken = []

    def twist(request):
        if request.command in ("PATCH", "PUT") and len(broken) < 3 and len(registry.asked) % 2:
            session = request.path.partition("?")[0].rpartition("/")[2]
            broken.append(session)
            request.receive_some(session, 321)
            return True
        return False

    registry.twist = twist
    data = random.Random(2).randbytes(5000)
    assert upload(registry, data)
    assert broken
    sent = sum(int(headers["Content-Length"]) for verb, _, headers in registry.asked
               if verb in ("PATCH", "PUT"))  # fmt: skip
    if keeps:
        assert len(registry.requests("POST")) == 1
        assert sent < 5000 + 3 * 1000


def test_an_upload_of_which_only_the_last_answer_was_lost(registry):
    def twist(request):
        if request.command == "PUT" and not registry.blobs:
            session = request.path.partition("?")[0].rpartition("/")[2]
            registry.blobs[REPOSITORY, digest_of(b"hello")] = request.body()
            del registry.uploads[session]
            request.cut()
            return True
        return False

    registry.twist = twist
    assert upload(registry, b"hello")
    assert len(registry.requests("PUT")) == 1


def test_a_registry_that_wants_blobs_whole(registry):
    def twist(request):
        if request.command == "PATCH":
            request.body()
            request.error(405, "UNSUPPORTED")
            return True
        return False

    registry.twist = twist
    assert upload(registry, bytes(5000))


def test_a_registry_that_names_the_least_part(registry):
    def twist(request):
        if request.command != "POST":
            return False
        registry.uploads["1"] = b""
        request.answer(202, Location="/v2/vnfs/toy/blobs/uploads/1", OCI_Chunk_Min_Length="3000")
        return True

    registry.twist = twist
    assert upload(registry, bytes(5000))
    assert len(registry.requests("PATCH")) == 1


def test_an_upload_that_fails_again_and_again_ends(registry):
    registry.twist = lambda request: request.command == "PATCH" and (request.cut() or True)
    with pytest.raises(RegistryError):
        upload(registry, bytes(5000))
    assert len(registry.requests("PATCH")) == 4


def test_bytes_that_changed_are_not_sent_for_ever(registry):
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        upload_blob(registry.repository(), blob_of(b"hello"), lambda: io.BytesIO(b"hellO"))
    assert len(registry.requests("PUT")) == 1
    with pytest.raises(VnfsbuildError, match="became shorter"):
        upload_blob(registry.repository(), blob_of(b"hello"), lambda: io.BytesIO(b"hell"))


def test_mounting(registry):
    registry.blobs["vnfs/base", digest_of(b"hello")] = b"hello"
    assert not upload(registry, b"hello", mount_from="vnfs/base")
    assert not registry.requests("PUT")
    assert upload(registry, b"other", mount_from="vnfs/base"), "it was not there after all"
    registry.mounts = False
    assert upload(registry, b"third", mount_from="vnfs/base")


def entry(number):
    data = json.dumps({"schemaVersion": 2, "number": number}).encode()
    return (Descriptor(OCI_MANIFEST, digest_of(data), len(data)), "application/x.toy", {})


def listed(registry, subject):
    data, _ = registry.manifests[REPOSITORY, subject.replace(":", "-")]
    return {item["digest"] for item in json.loads(data)["manifests"]}


@pytest.mark.parametrize("etags", [False, True])
def test_several_that_list_referrers_at_once_lose_none(registry, etags):
    registry.etags = etags
    subject = digest_of(b"subject")
    entries = [entry(number) for number in range(6)]
    failures = []

    def work(item):
        try:
            registry.repository(settle_seconds=0.2).list_by_tag(subject, [item])
        except VnfsbuildError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(item,)) for item in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert listed(registry, subject) == {item[0].digest for item in entries}


def test_what_others_wrote_into_the_list_stays(registry):
    subject = digest_of(b"subject")
    foreign = {
        "mediaType": "x",
        "digest": "sha512:" + "0" * 128,
        "size": 3,
        "platform": {"os": "x"},
    }
    text = json.dumps({"schemaVersion": 2, "manifests": [foreign], "annotations": {"a": "b"}})
    registry.manifests[REPOSITORY, subject.replace(":", "-")] = (text.encode(), "x")
    registry.repository().list_by_tag(subject, [entry(1)])
    data, _ = registry.manifests[REPOSITORY, subject.replace(":", "-")]
    document = json.loads(data)
    assert document["manifests"][0] == foreign
    assert document["annotations"] == {"a": "b"}
    assert len(document["manifests"]) == 2


def test_a_list_that_others_overwrite_for_ever_is_told(registry):
    def twist(request):
        if request.command == "PUT":
            request.body()
            request.answer(201)
            return True
        return False

    registry.twist = twist
    with pytest.raises(RegistryError, match="again and again"):
        registry.repository().list_by_tag(digest_of(b"subject"), [entry(1)])


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"manifests": {}}', b'{"manifests": 3}', b"<html>", b"[" * 100_000]
)
def test_a_list_that_is_none(registry, text):
    subject = digest_of(b"subject")
    registry.manifests[REPOSITORY, subject.replace(":", "-")] = (text, "x")
    with pytest.raises(VerificationError):
        registry.repository().list_referrers(subject)


def test_pages_that_lead_elsewhere_or_never_end(registry):
    subject = digest_of(b"subject")
    body = b'{"manifests": []}'
    link = {"Link": '<http://127.0.0.1:1/v2/x>; rel="next"'}
    registry.twist = sends(body, Content_Type="application/json", **link)
    with pytest.raises(VerificationError, match="goes on elsewhere"):
        registry.repository().list_referrers(subject)
    registry.twist = sends(body, Content_Type="application/json", Link="</again>; rel=next")
    registry.repository().list_referrers(subject)
    assert len(registry.asked) < 60
