"""Metadata that is signed, whole and of today is believed; anything else is not."""

import hashlib
import shutil

import pytest

from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.fetch import FetchError
from vnfsbuild.sources import indexes
from vnfsbuild.sources.metadata import Verifier, fetch_metadata
from vnfsbuild.sources.repository import Repository

from .archives import DATE, Archive
from .pgp import Key

pytestmark = pytest.mark.skipif(shutil.which("gpgv") is None, reason="gpgv is not installed")

NOW = DATE + 3600


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "mirror").add("hello").publish()


@pytest.fixture
def read(archive, tmp_path):
    key_file = tmp_path / "key.asc"
    key_file.write_bytes(archive.key.armoured())

    def read(**words):
        repository = Repository(
            id="toy",
            uri=archive.url,
            suite=words.pop("suite", archive.suite),
            components=words.pop("components", () if archive.flat else ("main",)),
            key=words.pop("key", key_file),
            distribution=words.pop("distribution", ""),
        )
        return fetch_metadata(
            [repository],
            architecture="amd64",
            cache=tmp_path / "cache",
            verifier=Verifier(gpgv=("gpgv",), root=tmp_path),
            now=words.pop("now", NOW),
            least_epochs=words.pop("least_epochs", {}),
            proxies={},
            progress=lambda _: None,
        )[0]

    return read


def index_of(found):
    return [path.read_text() for path in found.indexes]


def test_signed_metadata_is_read(archive, read):
    found = read()
    signed = (archive.metadata / "InRelease").read_bytes()
    assert found.digest == f"sha256:{hashlib.sha256(signed).hexdigest()}"
    assert found.keys == (archive.key.fingerprint,)
    assert found.release.epoch == DATE
    assert index_of(found) == [archive.stanzas["hello", "1"]]


def test_it_is_fetched_once_and_verified_again(archive, read, caplog):
    [path] = read().indexes
    shutil.rmtree(archive.metadata / "main")
    assert index_of(read()) == [archive.stanzas["hello", "1"]]
    path.write_text("damaged")
    with pytest.raises(FetchError):
        read()
    assert "damaged in the cache" in caplog.text


@pytest.mark.parametrize("words", [{"detached": True}, {"plain": False}])
def test_other_forms_do_as_well(archive, read, words):
    archive.publish(**words)
    assert index_of(read()) == [archive.stanzas["hello", "1"]]
    assert index_of(read()) == [archive.stanzas["hello", "1"]]


def test_a_flat_repository_does_as_well(archive, read):
    archive.suite = "./"
    archive.publish(names="whatever")
    assert index_of(read()) == [archive.stanzas["hello", "1"]]


def test_another_key_is_refused(archive, read):
    archive.key = Key("intruder")
    archive.publish()
    with pytest.raises(VerificationError) as raised:
        read()
    assert f"{archive.url} trixie: not signed by the key" in raised.value.message
    assert archive.key.fingerprint[-16:] in raised.value.message


def test_one_changed_letter_is_refused(archive, read):
    path = archive.metadata / "InRelease"
    path.write_bytes(path.read_bytes().replace(b"Origin: Toy", b"Origin: Tay"))
    with pytest.raises(VerificationError, match="another text"):
        read()


@pytest.mark.parametrize(
    ("expires", "now"), [(DATE + 100, DATE + 101), (DATE + 24 * 3600, DATE + 365 * 24 * 3600)]
)
def test_expired_metadata_is_refused_whatever_apt_is_told(archive, read, expires, now):
    archive.publish(expires=expires)
    with pytest.raises(VerificationError, match=r"expired: valid until \d{4}-.*today is \d{4}-"):
        read(now=now)


def test_metadata_without_an_end_is_good_for_ever(read):
    assert read(now=DATE * 2).release.expires is None


def test_older_metadata_than_the_locks_is_refused(archive, read):
    with pytest.raises(VerificationError, match="older than the lock's") as raised:
        read(least_epochs={"toy": DATE + 1})
    assert "--allow-older" in (raised.value.hint or "")
    read(least_epochs={"toy": DATE, "other": DATE + 1})


def test_another_suites_metadata_is_refused(archive, read):
    archive.publish(names="bookworm")
    with pytest.raises(VerificationError, match="metadata of bookworm, expected trixie"):
        read()


def test_an_index_that_the_release_file_does_not_name_is_refused(archive, read):
    path = archive.metadata / "main/binary-amd64/Packages.xz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(FetchError, match="found digest"):
        read()
    other = Archive(archive.directory / "other", key=archive.key).add("other").publish()
    path.write_bytes((other.metadata / "main/binary-amd64/Packages.xz").read_bytes())
    with pytest.raises(FetchError, match=r"bytes|digest"):
        read()


def test_an_unsigned_repository_is_refused_with_what_to_do(archive, read):
    archive.unsign()
    with pytest.raises(VerificationError, match="not signed: found Release") as raised:
        read()
    assert "packages.local" in (raised.value.hint or "")
    assert raised.value.exit_status == 3


def test_a_suite_that_is_not_there_is_told(read):
    with pytest.raises(VnfsbuildError, match="no InRelease and no Release"):
        read(suite="sid")


def test_a_component_that_is_not_there_is_told(read):
    with pytest.raises(VnfsbuildError, match="no component 'contrib' for amd64; it has main"):
        read(components=("contrib",))


def test_a_keyring_that_is_not_there_is_told(read, tmp_path):
    with pytest.raises(VnfsbuildError) as raised:
        read(key=None, distribution="debian")
    assert raised.value.hint == "apt-get install debian-archive-keyring"
    with pytest.raises(InputError, match=r"absent\.asc"):
        read(key=tmp_path / "absent.asc")


def test_indexes_that_nobody_uses_are_deleted(read, tmp_path, monkeypatch):
    [path] = read().indexes
    monkeypatch.setattr(indexes, "KEPT_SECONDS", -10)
    indexes.prune_kept(path.parent)
    assert list(path.parent.iterdir()) == []
