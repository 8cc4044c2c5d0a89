"""Signatures of repositories, verified by the real gpgv."""

import shutil

import pytest

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.sources.openpgp import (
    Status,
    dearmor,
    parse_status,
    read_key,
    verify_clearsigned,
    verify_detached,
)

from .pgp import Key

GPGV = ("gpgv",)
TEXT = "Origin: x\n- a dash\nDate: today\n"
needs_gpgv = pytest.mark.skipif(shutil.which("gpgv") is None, reason="gpgv is not installed")


@pytest.fixture(scope="module")
def key():
    return Key("archive")


def verify(data, keys):
    return verify_clearsigned(data, keys=keys, gpgv=GPGV, where="mirror trixie")


@needs_gpgv
def test_the_text_that_was_signed_comes_out_and_who_signed_it(key):
    signed = verify(key.clearsign(TEXT), Key("other").public() + key.public())
    assert (signed.text.decode(), signed.keys) == (TEXT, (key.fingerprint,))


@needs_gpgv
def test_what_stands_around_it_does_not_get_in(key):
    signed = verify(b"Evil: yes\n" + key.clearsign(TEXT) + b"Evil: yes\n", key.public())
    assert signed.text.decode() == TEXT


@needs_gpgv
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.replace(b"Origin: x", b"Origin: y"), "is of another text"),
        (lambda data: b"", "no signature"),
        (lambda data: TEXT.encode(), "no signature"),
        (lambda data: Key("other").clearsign(TEXT), "which is another one"),
        (lambda data: Key("archive").clearsign(TEXT, hash_name="sha1"), "by a broken hash"),
    ],
)
def test_anything_else_is_refused(key, change, told):
    with pytest.raises(VerificationError) as raised:
        verify(change(key.clearsign(TEXT)), key.public())
    assert told in raised.value.message
    assert raised.value.message.startswith("mirror trixie: not signed by the key")


@needs_gpgv
def test_an_expired_key_says_nothing():
    old = Key("old", expires_after=3600)
    with pytest.raises(VerificationError, match="an expired key"):
        verify(old.clearsign(TEXT), old.public())


@needs_gpgv
def test_a_detached_signature_does_as_well(key):
    data = TEXT.encode()
    signed = verify_detached(data, key.sign(data), keys=key.public(), gpgv=GPGV, where="x")
    assert (signed.text, signed.keys) == (data, (key.fingerprint,))
    with pytest.raises(VerificationError, match="another text"):
        verify_detached(data + b"x", key.sign(data), keys=key.public(), gpgv=GPGV, where="x")


def test_a_good_signature_beside_a_bad_one_is_not_enough():
    lines = [
        "[GNUPG:] NEWSIG",
        "[GNUPG:] GOODSIG AA name",
        "[GNUPG:] VALIDSIG F1 2026-01-01 1 0 4 0 22 10 01 F2",
    ]
    assert parse_status("\n".join(lines)) == Status(good=("F2",), faults=(), broken=False)
    lines += ["[GNUPG:] NEWSIG", "[GNUPG:] NO_PUBKEY BB"]
    assert parse_status("\n".join(lines)).good == ("F2",)
    assert not parse_status("\n".join(lines)).broken
    lines += ["[GNUPG:] NEWSIG", "[GNUPG:] BADSIG CC name"]
    assert parse_status("\n".join(lines)).broken


def test_a_valid_signature_by_an_expired_key_is_not_good():
    text = "[GNUPG:] NEWSIG\n[GNUPG:] EXPKEYSIG AA x\n[GNUPG:] VALIDSIG F 1 1 0 4 0 22 10 01 F\n"
    assert parse_status(text).good == ()


def test_keys_are_read_with_and_without_armour(key, tmp_path):
    (tmp_path / "a.asc").write_bytes(b"a comment\n" + key.armoured() + Key("b").armoured())
    (tmp_path / "a.gpg").write_bytes(key.public())
    assert read_key(tmp_path / "a.gpg") == key.public()
    assert dearmor((tmp_path / "a.asc").read_bytes(), where="x") == key.public() + Key("b").public()


@pytest.mark.parametrize("data", [b"", b"hello\n", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nx!\n"])
def test_what_is_no_key_is_told(tmp_path, data):
    path = tmp_path / "key.asc"
    path.write_bytes(data)
    with pytest.raises(InputError, match="key"):
        read_key(path)
    with pytest.raises(InputError, match="No such file"):
        read_key(tmp_path / "absent")
