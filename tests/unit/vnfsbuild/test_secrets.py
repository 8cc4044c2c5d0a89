"""What looks like a secret fails the build, and what only talks of secrets does not."""

import time

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.secrets import (
    find_passwords,
    find_secret,
    verify_no_secrets,
    verify_no_secrets_in_sources,
)

BASE64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj" * 2


def pem(kind="", head=""):
    # In pieces, for this file is looked at too.
    return (
        f"-----BEGIN {kind}PRIVATE "
        + f"KEY-----\n{head}{BASE64}\n-----END {kind}PRIVATE KEY-----\n"
    )


SECRETS = {
    "etc/ssl/private/a.pem": (pem(), "a private key (PEM)"),
    "etc/a": (pem("RSA "), "a private key (PEM)"),
    "etc/b": (pem("EC "), "a private key (PEM)"),
    "etc/c": (pem("ENCRYPTED "), "a private key (PEM)"),
    "root/.ssh/id_ed25519": (pem("OPENSSH "), "a private key (PEM)"),
    "etc/d": (
        pem("RSA ", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"),
        "a private key (PEM)",
    ),
    "etc/bundle.pem": ("certificate\n" * 100 + pem(), "a private key (PEM)"),
    "etc/account.json": ('{"private_key": "' + pem().replace("\n", "\\n"), "a private key (PEM)"),
    "root/key.asc": (
        "-----BEGIN PGP PRIVATE " + f"KEY BLOCK-----\n\n{BASE64}\n",
        "a private key (PEM)",
    ),
    "etc/munge/munge.key": ("\0\1\2", "a munge key"),
    "files/etc/munge/munge.key": ("\0\1\2", "a munge key"),
    "etc/krb5.keytab": ("\5\2", "a Kerberos key table"),
    "var/lib/krb5kdc/.k5.EXAMPLE.ORG": ("x", "a Kerberos master key"),
    "root/.netrc": (
        "machine example.org login me pass" + "word geheim\n",
        "a .netrc password",
    ),
    "root/.git-credentials": ("https://me:geheim@example.org\n", "passwords of git"),
    "root/.docker/config.json": (
        '{"auths": {"example.org": {"auth": "bWU6Z2VoZWlt"}}}',
        "passwords of a registry",
    ),
    "root/.gnupg/private-keys-v1.d/AB.key": ("(1:", "a GnuPG secret key"),
    "root/.gnupg/secring.gpg": ("x", "a GnuPG secret keyring"),
    "etc/a.p12": ("x", "a PKCS #12 key store"),
    "etc/a.pfx": ("x", "a PKCS #12 key store"),
    "etc/aws": ("[default]\naws_access_key_id = AKIA" + "Q" * 16, "an AWS access key"),
    "etc/aws2": ("aws_secret_access_key = " + "a" * 40 + "\n", "an AWS secret key"),
    "etc/hub": ("token: ghp" + "_" + "a" * 36, "a GitHub token"),
    "etc/wg.conf": ("[Interface]\nPrivate" + f"Key = {'a' * 43}=\n", "a WireGuard key"),
    "etc/kickstart": ("rootpw --iscrypted $6" + f"$salt${'a' * 86}\n", "a password hash"),
    "etc/cloud": ("passwd: $y" + f"$j9T$salt${'a' * 43}\n", "a password hash"),
    "etc/htpasswd": ("me:$apr1" + f"$salt${'a' * 22}\n", "a password hash"),
    "etc/bcrypt": ("me:$2y" + f"$10${'a' * 53}\n", "a password hash"),
    "etc/ldap": ("userPassword: {SSHA" + f"}}{'a' * 32}\n", "a password hash"),
}


@pytest.mark.parametrize("path", SECRETS)
def test_secrets_are_known_by_name_or_content(path):
    text, kind = SECRETS[path]
    assert find_secret(path, text.encode("latin-1")) == kind


def test_a_bare_key_is_known_where_keys_are_called_so():
    der = bytes.fromhex("308204bd020100300d06092a864886f70d0101010500")
    assert find_secret("etc/pki/signing.priv", der) == "a private key (DER)"
    assert find_secret("etc/pki/signing.bin", der) is None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/munge/munge.key", ""),
        ("usr/lib/python3/x.py", 'MARK = "-----BEGIN PRIVATE ' + 'KEY-----"\n'),
        ("usr/lib/python3/y.py", "'-----BEGIN OPENSSH PRIVATE " + "KEY-----\\n' + body\n"),
        ("usr/share/doc/x", "-----BEGIN PRIVATE " + "KEY-----\n...\n"),
        ("etc/ssl/certs/a.pem", f"-----BEGIN CERTIFICATE-----\n{BASE64}\n"),
        ("etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 " + BASE64),
        ("usr/share/doc/aws", "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\n"),
        ("etc/login.defs", "# $6$ is SHA512, $y$ is yescrypt\n"),
        ("root/.docker/config.json", '{"credsStore": "x"}'),
        ("etc/apt/keys/a.key", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n" + BASE64),
        ("usr/share/a.key", "caption"),
        ("usr/bin/x", "\x7fELF" + pem()),
    ],
)
def test_what_only_talks_of_secrets_passes(path, text):
    assert find_secret(path, text.encode("latin-1")) is None


def put(root, path, text):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def test_all_secrets_of_a_tree_are_told_at_once_and_what_to_do(tmp_path):
    put(tmp_path, "etc/x.pem", pem())
    put(tmp_path, "root/.netrc", SECRETS["root/.netrc"][0])
    put(tmp_path, "etc/motd", "hello")
    with pytest.raises(InputError) as raised:
        verify_no_secrets(tmp_path, allow=())
    assert raised.value.message.splitlines() == [
        "what looks like a secret, and all nodes would share it:",
        "  etc/x.pem: found a private key (PEM)",
        "  root/.netrc: found a .netrc password",
    ]
    assert "[secrets] allow" in raised.value.hint


@pytest.mark.parametrize("glob", ["etc/tests/x.pem", "etc/tests/*.pem", "etc/tests", "*/tests"])
def test_what_is_allowed_or_in_no_layer_passes(tmp_path, glob):
    put(tmp_path, "etc/tests/x.pem", pem())
    verify_no_secrets(tmp_path, allow=[glob])
    verify_no_secrets(tmp_path, allow=(), exclude=[glob])


@pytest.mark.parametrize("glob", ["etc/*.pem", "*.pem", "etc/tests/x.pem/y", "tests/x.pem"])
def test_a_star_stays_within_one_part_of_a_path(tmp_path, glob):
    put(tmp_path, "etc/tests/x.pem", pem())
    with pytest.raises(InputError):
        verify_no_secrets(tmp_path, allow=[glob])


def test_links_are_not_followed_and_special_files_not_opened(tmp_path):
    outside = put(tmp_path, "outside/x.pem", pem())
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.pem").symlink_to(outside)
    (root / "directory").symlink_to(outside.parent)
    verify_no_secrets(root, allow=())


def test_passwords_are_told_with_account_and_cannot_be_allowed(tmp_path):
    put(tmp_path, "etc/passwd", "root:x:0:0::/root:/bin/sh\nopen::1:1::/:/bin/sh\n")
    put(tmp_path, "etc/shadow", "root:$y" + f"$j9T$a${'a' * 43}:1::::::\nme:!x9abc:1::::::\n")
    put(tmp_path, "etc/gshadow", "root:*::\nadm:::\nme:abcd::\n")
    with pytest.raises(InputError) as raised:
        verify_no_secrets(tmp_path, allow=["etc/*"])
    assert raised.value.message.splitlines()[1:] == [
        "  etc/passwd: open: found an empty password, expected a locked account",
        "  etc/shadow: root: found a password hash, expected a locked account",
        "  etc/shadow: me: found a password hash, expected a locked account",
        "  etc/gshadow: me: found a password hash, expected a locked account",
    ]


@pytest.mark.parametrize("password", ["*", "!", "!*", "!!", "*LK*", "x"])
def test_a_locked_account_passes(password):
    assert find_passwords(f"root:{password}:1:2\n", empty_is_locked=False) == []


def test_a_recipes_own_files_are_looked_at_before_they_are_copied(tmp_path):
    key = put(tmp_path, "files/etc/x.pem", pem())
    recipe = put(tmp_path, "recipe.toml", "name = 'x'\n")
    sources = {"files/etc/x.pem": key, "recipe.toml": recipe, "gone": tmp_path / "gone"}
    with pytest.raises(InputError) as raised:
        verify_no_secrets_in_sources(sources, allow=(), copied="files")
    assert f"{key}: found a private key (PEM)" in raised.value.message
    assert "in the capsule's source" in raised.value.message
    for allow in ("etc/x.pem", "files/etc/*"):
        verify_no_secrets_in_sources(sources, allow=[allow], copied="files")


def test_ten_thousand_files_are_looked_at_in_little_time(tmp_path):
    for number in range(100):
        for name in range(30):
            put(tmp_path, f"usr/share/{number}/{name}.txt", "words and words\n" * 400)
    since = time.process_time()
    verify_no_secrets(tmp_path, allow=())
    assert time.process_time() - since < 2
