"""Keys of a site: made once, kept to oneself, never shown."""

import logging
import os
import stat
import subprocess

import pytest

from vnfsbuild.dsse import key_id, parse_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.signing.keys import (
    find_signing_key,
    list_keys,
    load_public_key,
    load_secret_key,
    load_trust,
    make_key,
    new_key,
    sign_manifest,
    verify_ed25519,
)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_that_can_be_loaded_and_signs(tmp_path):
    before = os.umask(0)
    try:
        made = make_key(tmp_path, "dev")
    finally:
        os.umask(before)
    loaded = load_secret_key(tmp_path / "keys/dev.pem")
    assert loaded == made
    assert load_public_key(tmp_path / "keys/dev.pub") == made.public_key
    verify_ed25519(made.public_key, loaded.sign(b"text"), b"text")
    assert mode_of(tmp_path / "keys") == 0o700
    assert mode_of(tmp_path / "keys/dev.pem") == 0o600
    assert mode_of(tmp_path / "keys/dev.pub") == 0o644
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["dev.pem", "dev.pub"]


def test_openssl_reads_the_key_and_agrees_on_its_id(tmp_path):
    made = make_key(tmp_path, "dev")
    argv = ["openssl", "pkey", "-in", str(tmp_path / "keys/dev.pem"), "-pubout", "-outform", "DER"]
    der = subprocess.run(argv, check=True, capture_output=True).stdout
    assert key_id(der[-32:]) == made.key_id


@pytest.mark.parametrize("there", ["dev.pem", "dev.pub"])
def test_a_key_is_never_written_over(tmp_path, there):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / there).write_text("precious")
    with pytest.raises(InputError, match=f"{there}: there is a key of this name"):
        make_key(tmp_path, "dev")
    assert [path.name for path in (tmp_path / "keys").iterdir()] == [there]
    assert (tmp_path / "keys" / there).read_text() == "precious"


@pytest.mark.parametrize("name", ["", "../dev", "Dev", "a b", "root"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path, name):
    with pytest.raises(InputError):
        new_key(tmp_path / "site", name, now=0)
    assert not (tmp_path / "site/keys").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_key_that_others_may_read_is_refused(tmp_path, mode):
    make_key(tmp_path, "dev")
    path = tmp_path / "keys/dev.pem"
    path.chmod(mode)
    with pytest.raises(InputError, match="expected 0600") as caught:
        load_secret_key(path)
    assert caught.value.hint == f"chmod 600 {path}"


def test_the_secret_is_neither_shown_nor_logged(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    made = new_key(tmp_path, "dev", now=0)
    pem = (tmp_path / "keys/dev.pem").read_text().splitlines()[1]
    secret = load_secret_key(tmp_path / "keys/dev.pem")
    for shown in (repr(secret), str(secret), repr(made), caplog.text):
        assert pem not in shown
    assert "sign" not in repr(secret)


OTHER_KIND = "openssl genpkey -algorithm X25519"
WITH_PASSWORD = "openssl genpkey -algorithm ED25519 -aes256 -pass pass:x"


@pytest.mark.parametrize("command", ["echo rubbish", "true", OTHER_KIND, WITH_PASSWORD])
def test_a_file_without_a_usable_secret_key_is_refused(tmp_path, command):
    path = tmp_path / "dev.pem"
    path.touch(mode=0o600)
    with path.open("wb") as file:
        subprocess.run(command, shell=True, stdout=file, check=True)
    with pytest.raises(InputError, match=r"dev.pem: "):
        load_secret_key(path)


@pytest.mark.parametrize("command", ["echo rubbish", f"{OTHER_KIND} | openssl pkey -pubout"])
def test_a_file_without_a_usable_public_key_is_refused(tmp_path, command):
    data = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "dev.pub").write_bytes(data)
    with pytest.raises(InputError, match=r"dev.pub: "):
        load_public_key(tmp_path / "dev.pub")


def test_a_key_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"keys/dev.pem: No such file"):
        find_signing_key(tmp_path, "dev")


def test_the_first_key_of_a_site_brings_a_root_key_and_trust(tmp_path, workshop):
    made = new_key(tmp_path / "site", "dev", now=workshop.now)
    assert made.made_trust
    assert made.trust_version == 1
    assert made.key.rules == ("*",)
    trust = load_trust(tmp_path / "site", now=workshop.now)
    root = load_public_key(tmp_path / "site/keys/root.pub")
    assert trust.root_keys == (key_id(root),)
    assert trust.rule_for("anything").keys == (made.key.key_id,)
    assert trust.expires == workshop.now + 10 * 365 * 24 * 3600


def test_a_later_key_is_not_trusted_and_leaves_trust_as_it_is(tmp_path, workshop):
    new_key(tmp_path, "dev", now=workshop.now)
    before = (tmp_path / "trust.json").read_bytes()
    made = new_key(tmp_path, "ops", now=workshop.now)
    assert not made.made_trust
    assert made.key.rules == ()
    assert (tmp_path / "trust.json").read_bytes() == before


def test_a_root_key_that_was_left_without_trust_is_used(tmp_path, workshop):
    root = make_key(tmp_path, "root")
    new_key(tmp_path, "dev", now=workshop.now)
    assert load_trust(tmp_path, now=workshop.now).root_keys == (root.key_id,)


def test_no_key_is_made_beside_a_broken_trust(tmp_path, workshop):
    (tmp_path / "trust.json").write_text("{}")
    with pytest.raises(VerificationError):
        new_key(tmp_path, "dev", now=workshop.now)
    assert not (tmp_path / "keys").exists()


def test_keys_are_listed_with_what_they_may_do(tmp_path, workshop):
    assert list_keys(tmp_path, None) == ()
    new_key(tmp_path, "dev", now=workshop.now)
    new_key(tmp_path, "ops", now=workshop.now)
    (tmp_path / "keys/ops.pem").unlink()
    keys = list_keys(tmp_path, load_trust(tmp_path, now=workshop.now))
    assert [(key.name, key.can_sign, key.rules, key.is_root) for key in keys] == [
        ("dev", True, ("*",), False),
        ("ops", False, (), False),
        ("root", True, (), True),
    ]


def test_trust_that_is_not_there_is_told_with_what_makes_it(tmp_path):
    with pytest.raises(InputError, match="no key is trusted") as caught:
        load_trust(tmp_path, now=0)
    assert "vnfsbuild keys new NAME" in caught.value.hint


def test_the_signing_key_is_the_only_one_that_is_not_the_root_key(tmp_path, workshop):
    assert find_signing_key(tmp_path, None) is None
    new_key(tmp_path, "dev", now=workshop.now)
    assert find_signing_key(tmp_path, None).name == "dev"
    new_key(tmp_path, "ops", now=workshop.now)
    with pytest.raises(InputError, match="found keys dev, ops") as caught:
        find_signing_key(tmp_path, None)
    assert caught.value.hint == "--key dev"
    assert find_signing_key(tmp_path, "ops").name == "ops"


def test_a_signature_is_an_envelope_around_the_manifest(workshop):
    envelope = parse_envelope(sign_manifest(b"manifest", workshop.key()), where="x")
    assert envelope.payload == b"manifest"
    assert [keyid for keyid, _ in envelope.signatures] == [workshop.key().key_id]


@pytest.mark.parametrize("public", [b"", b"x", bytes(31), b"\xff" * 32])
def test_what_is_no_public_key_verifies_nothing(public):
    with pytest.raises(VerificationError, match="wrong signature by key"):
        verify_ed25519(public, bytes(64), b"")
