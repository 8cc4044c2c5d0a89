"""Logins, tokens, and redirects, at which a login stays at home."""

import io

import pytest

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.registry.answer import RegistryError
from vnfsbuild.registry.uploads import upload_blob

from .registries import (
    REPOSITORY,
    blob_of,
    digest_of,
    login,
    put,
    read,
    running_registry,
    token_server,
)


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
