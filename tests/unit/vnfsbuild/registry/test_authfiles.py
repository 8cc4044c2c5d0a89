import base64
import json
import os

import pytest

from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.registry.authfiles import find_login
from vnfsbuild.registry.challenge import parse_challenges


def auth(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def home(tmp_path):
    def write(path, document):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        return file

    write.env = {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    return write


def find(home, host="reg.example.org:5000", repository="site/toy", **more):
    return find_login(host, repository, {**home.env, **more})


def test_docker_s_file(home):
    home("home/.docker/config.json", {"auths": {"reg.example.org:5000": {"auth": auth("me:a:b")}}})
    login = find(home)
    assert (login.user, login.password) == ("me", "a:b")
    assert login.basic == "Basic " + auth("me:a:b")
    assert "a:b" not in repr(login)
    assert find(home, host="reg.example.org") is None


def test_the_first_file_that_has_one_counts(home, tmp_path):
    home("home/.docker/config.json", {"auths": {"reg.example.org:5000": {"auth": auth("d:1")}}})
    home("home/.config/containers/auth.json", {"auths": {"other": {"auth": auth("c:1")}}})
    assert find(home).user == "d"
    home("run/containers/auth.json", {"auths": {"reg.example.org:5000": {"auth": auth("r:1")}}})
    assert find(home).user == "r"
    named = home("named.json", {"auths": {"elsewhere": {"auth": auth("n:1")}}})
    assert find(home, REGISTRY_AUTH_FILE=str(named)) is None, "then no other file counts"


def test_the_narrowest_entry_counts_and_docker_s_long_names_are_understood(home):
    home("home/.docker/config.json", {"auths": {
        "https://reg.example.org:5000/v1/": {"auth": auth("all:1")},
        "reg.example.org:5000/site": {"auth": auth("site:1")},
        "https://index.docker.io/v1/": {"auth": auth("hub:1")},
        "empty.example.org": {},
    }})  # fmt: skip
    assert find(home).user == "site"
    assert find(home, repository="else/toy").user == "all"
    assert find(home, host="docker.io").user == "hub"
    assert find(home, host="empty.example.org") is None


def test_identity_tokens(home):
    entry = {"auth": auth("me:"), "identitytoken": "refresh-me"}
    home("home/.docker/config.json", {"auths": {"reg.example.org:5000": entry}})
    assert find(home).identity_token == "refresh-me"


def helper(home, tmp_path, name, text):
    file = home(f"bin/docker-credential-{name}", f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_credential_helpers(home, tmp_path):
    helper(home, tmp_path, "toys", f'read server; echo "$1 $server $HOME" > {tmp_path}/asked;'
           ' echo \'{"Username": "me", "Secret": "s3cret"}\'')  # fmt: skip
    home("home/.docker/config.json", {"credHelpers": {"reg.example.org:5000": "toys"}})
    login = find(home)
    assert (login.user, login.password) == ("me", "s3cret")
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["get", "reg.example.org:5000", home.env["HOME"]]
    assert find(home, host="other") is None


def test_a_store_of_credentials_is_asked_for_every_host(home, tmp_path):
    helper(home, tmp_path, "keys", 'echo \'{"Username": "<token>", "Secret": "refresh-me"}\'')
    home("home/.docker/config.json", {"credsStore": "keys"})
    assert find(home).identity_token == "refresh-me"


def test_a_helper_without_a_login_and_one_that_fails(home, tmp_path):
    helper(home, tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    home("home/.docker/config.json", {"credsStore": "none"})
    assert find(home) is None
    helper(home, tmp_path, "none", "echo the keyring is locked; exit 1")
    with pytest.raises(VnfsbuildError, match="docker-credential-none: gave no login"):
        find(home)
    home("home/.docker/config.json", {"credsStore": "absent"})
    with pytest.raises(VnfsbuildError, match="docker-credential-absent: program not found"):
        find(home)


@pytest.mark.parametrize(
    "document",
    ["{", "[]", '{"auths": 3}', {"auths": {"reg.example.org:5000": {"auth": "s3cret!"}}},
     {"credsStore": "../../evil"}, {"credsStore": "a b"}],
)  # fmt: skip
def test_broken_files_are_told_and_their_secrets_are_not(home, document):
    home("home/.docker/config.json", document)
    with pytest.raises(InputError, match=r"config\.json") as caught:
        find(home)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None or "s3cret" not in repr(caught.value.__cause__)


def test_challenges():
    bearer = (
        'Bearer realm="https://auth.example.org/token?a=b",service="reg",'
        'scope="repository:a/b:pull,push repository:c:pull"'
    )
    found = parse_challenges(bearer)
    assert (found.bearer, found.realm, found.service) == (
        True, "https://auth.example.org/token?a=b", "reg",
    )  # fmt: skip
    assert found.scopes == ("repository:a/b:pull,push", "repository:c:pull")
    assert not parse_challenges('Basic realm="a, Bearer b"').bearer
    assert parse_challenges(f'Basic realm="x", {bearer}').realm == found.realm
    assert (
        parse_challenges('bearer realm=https://x/t, error="invalid_token"').error == "invalid_token"
    )
    for text in ("", "Negotiate", "Digest realm=x", 'X="Basic realm=1"'):
        assert parse_challenges(text) is None
