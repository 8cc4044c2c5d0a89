"""RPM repositories: signed metadata is believed, or else each package by its own signature."""

import gzip
import shutil

import pytest

from vnfsbuild.distributions import RPM, distribution_of, keyring_of, place_component
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.origins import PACKAGES_ONLY
from vnfsbuild.rpmlock import _look_up
from vnfsbuild.rpmversion import compare_rpm_versions
from vnfsbuild.sources import indexes
from vnfsbuild.sources.fragments import (
    cut_fragments,
    parse_fragment,
    render_indexes,
    render_repomd,
)
from vnfsbuild.sources.metadata import Verifier
from vnfsbuild.sources.repomd import parse_repomd
from vnfsbuild.sources.repository import Repository
from vnfsbuild.sources.rpmfile import make_version, read_rpm, read_rpm_files, verify_payload
from vnfsbuild.sources.rpmmetadata import fetch_rpm_metadata
from vnfsbuild.sources.rpmsignature import verify_package, verify_row

from .archives import DATE
from .pgp import Key
from .rpms import PAYLOAD, RpmArchive, make_rpm, sha256

pytestmark = pytest.mark.skipif(shutil.which("gpgv") is None, reason="gpgv is not installed")

NOW = DATE + 3600
KEY = Key("rpms")


@pytest.fixture
def archive(tmp_path):
    return RpmArchive(tmp_path / "mirror", key=KEY).add("hello", requires=["lib"]).add("lib")


@pytest.fixture
def fetch(tmp_path, archive):
    key = tmp_path / "key.asc"
    key.write_bytes(KEY.armoured())

    def call(*, now=NOW, trust="metadata", **least):
        repository = Repository(
            id="site", uri=archive.directory.as_uri(), suite="./", key=key, trust=trust
        )
        verifier = Verifier(gpgv=("gpgv",), root=tmp_path)
        (found,) = fetch_rpm_metadata(
            [repository],
            cache=tmp_path / "cache",
            verifier=verifier,
            now=now,
            least_epochs=least,
            proxies={},
            progress=lambda line: None,
        )
        return found

    return call


def row(name, data, *, version="1-1"):
    return LockedPackage(
        name=name,
        version=version,
        architecture="noarch",
        size_bytes=len(data),
        sha256=sha256(data),
        path=f"Packages/{name}.rpm",
        repository="site",
    )


def test_signed_metadata_is_believed(archive, fetch):
    archive.publish()
    found = fetch()
    assert (found.keys, found.epoch, found.trust) == ((KEY.fingerprint,), DATE, "metadata")
    assert b"<name>hello</name>" in found.indexes["primary"].read_bytes()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda it: it.publish(key=Key("other")), "not signed by the key"),
        (lambda it: it.publish(signed=False), "metadata not signed"),
        (lambda it: it.publish(date=NOW + 2 * 86400), "dated 2025"),
    ],
)
def test_other_metadata_is_not(archive, fetch, spoil, told):
    spoil(archive)
    with pytest.raises(VerificationError, match=told):
        fetch()


def test_unsigned_metadata_names_the_way_on(archive, fetch):
    archive.publish(signed=False)
    with pytest.raises(VerificationError) as caught:
        fetch()
    assert caught.value.hint.endswith('trust = "packages-only"')


@pytest.mark.parametrize("name", ["repomd.xml", "primary.xml.gz", "filelists.xml.gz"])
def test_a_flipped_bit_is_refused(archive, fetch, name):
    path = archive.publish().directory / "repodata" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VnfsbuildError):
        fetch()


def test_an_index_that_unpacks_to_another_is_refused(archive, fetch):
    archive.publish()
    path = archive.directory / "repodata"
    text = (path / "repomd.xml").read_text()
    other = sha256(b"other")
    wrong = text.replace(text.split("<open-checksum")[1][15:79], other)
    assert other in wrong
    (path / "repomd.xml").write_text(wrong)
    (path / "repomd.xml.asc").write_bytes(KEY.sign(wrong.encode()))
    with pytest.raises(VerificationError, match="unpacks to"):
        fetch()


def test_older_metadata_than_before_is_refused(archive, fetch):
    archive.publish(date=DATE - 1)
    with pytest.raises(VerificationError, match="older than the lock's"):
        fetch(site=DATE)
    archive.publish(date=DATE)
    assert fetch(site=DATE).epoch == DATE


def test_an_index_that_is_no_archive_is_told(archive, fetch):
    path = archive.publish(signed=False).directory / "repodata"
    packed = path / "primary.xml.gz"
    before = packed.read_bytes()
    broken = before[:10] + b"\xff" * (len(before) - 10)
    packed.write_bytes(broken)
    text = (path / "repomd.xml").read_text()
    (path / "repomd.xml").write_text(text.replace(sha256(before), sha256(broken)))
    with pytest.raises(VnfsbuildError, match="cannot be unpacked"):
        fetch(trust=PACKAGES_ONLY)


def test_an_index_unpacks_to_no_more_than_any_needs(archive, fetch, monkeypatch):
    archive.publish()
    monkeypatch.setattr(indexes, "MAX_INDEX_BYTES", 10)
    with pytest.raises(VerificationError, match="unpacks to more than 10 bytes"):
        fetch()


def test_where_packages_are_signed_the_metadata_need_not_be(archive, fetch):
    archive.publish(signed=False)
    found = fetch(trust=PACKAGES_ONLY)
    assert (found.keys, found.trust) == ((), PACKAGES_ONLY)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><repomd/>", "defines entities"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><repomd/>".encode("utf-16"), "not UTF-8"),
        (b"<repomd>", "not XML"),
        (b'<repomd xmlns="http://linux.duke.edu/metadata/repo"/>', "names no primary"),
    ],
)
def test_what_is_no_repomd_is_told(wrong, told):
    with pytest.raises(VnfsbuildError, match=told):
        parse_repomd(wrong, where="x")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('type="sha256">', 'type="sha">', "by no SHA-256"),
        ("repodata/primary", "../primary", "expected a path below"),
        ("repodata/primary", "/primary", "expected a path below"),
        (f"<timestamp>{DATE}", "<timestamp>x", "expected a number"),
        (f"<timestamp>{DATE}", "<timestamp>\u00b2", "expected a number"),
        (f"<timestamp>{DATE}", f"<timestamp>{'9' * 20}", "expected a number"),
    ],
)
def test_a_repomd_that_we_do_not_follow_is_told(archive, old, new, told):
    archive.publish()
    text = (archive.directory / "repodata/repomd.xml").read_text().replace(old, new, 1)
    with pytest.raises(VnfsbuildError, match=told):
        parse_repomd(text.encode(), where="x")


# Packages


@pytest.fixture
def check(tmp_path):
    def call(item, data):
        path = tmp_path / "package.rpm"
        path.write_bytes(data)
        return verify_package(item, path, keys=KEY.public(), gpgv=["gpgv"])

    return call


def test_a_package_says_who_it_is(tmp_path):
    path = tmp_path / "a.rpm"
    path.write_bytes(make_rpm("NetworkManager", "1.2", "3.el9", epoch=1))
    found = read_rpm(path)
    assert (found.name, found.version, found.architecture) == (
        "NetworkManager", "1:1.2-3.el9", "noarch",
    )  # fmt: skip
    assert make_version("0", "1", "2") == make_version("", "1", "2") == "1-2"


def test_a_signed_package_is_believed(check):
    data = make_rpm("hello", key=KEY)
    assert check(row("hello", data), data) == (KEY.fingerprint,)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make_rpm("hello"), "not signed, and neither is the metadata"),
        (make_rpm("hello", key=Key("other")), "not signed by the key"),
        (make_rpm("other", key=KEY), "is, by its own header, other"),
        (make_rpm("hello", "2", key=KEY), "is, by its own header, hello 2-1"),
        (make_rpm("hello", key=KEY, tag5092=None), "has no SHA-256 of its payload"),
        (make_rpm("hello", key=KEY, tag5093=[2]), "has no SHA-256 of its payload"),
        (make_rpm("hello", key=KEY)[:-1] + b"\xff", "payload is sha256:"),
        (make_rpm("hello", key=KEY) + b"more", "payload is sha256:"),
    ],
)
def test_no_other_package_is(check, data, told):
    with pytest.raises(VerificationError, match=told):
        check(row("hello", data), data)


def test_no_byte_of_a_signed_package_can_be_another(check):
    """But those of the lead and of the signature header that say nothing of the package."""
    good = make_rpm("hello", key=KEY)
    header = good.rindex(b"\x8e\xad\xe8\x01")
    passed = []
    for position in range(header, len(good), 7):
        data = bytearray(good)
        data[position] ^= 0x10
        try:
            check(row("hello", good), bytes(data))
        except VnfsbuildError:
            continue
        passed.append(position)
    assert passed == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not an RPM package"),
        (b"!<arch>\n" + bytes(200), "not an RPM package"),
        (make_rpm("hello")[:200], "broken download"),
        (make_rpm("hello")[:96] + bytes(64), "found no header"),
        (make_rpm("hello", tag1106=[1]), "a source package"),
        (make_rpm("hello", tag1000=None), "has no tag 1000"),
    ],
)
def test_what_is_no_package_is_told(tmp_path, data, told):
    path = tmp_path / "x.rpm"
    path.write_bytes(data)
    with pytest.raises(VnfsbuildError, match=told):
        read_rpm(path)


def test_a_package_of_another_lock_row_is_refused(tmp_path):
    path = tmp_path / "x.rpm"
    path.write_bytes(make_rpm("hello"))
    verify_row(row("hello", b""), path)
    with pytest.raises(VerificationError) as caught:
        verify_row(row("hello", b"", version="2-1"), path)
    assert caught.value.hint.startswith("the lock was edited")


def test_a_whole_payload_is_needed(tmp_path):
    path = tmp_path / "x.rpm"
    path.write_bytes(make_rpm("hello", payload=PAYLOAD))
    verify_payload(read_rpm(path), path)


def test_a_file_that_a_package_lacks_is_told(tmp_path):
    path = tmp_path / "x.rpm"
    path.write_bytes(b"nothing")
    with pytest.raises(VnfsbuildError, match="not an RPM package"):
        read_rpm_files(path, ["etc/passwd"])


# Fragments


def test_what_is_cut_out_can_be_put_together_again(archive, tmp_path):
    archive.publish()
    indexes = {}
    for kind in ("primary", "filelists"):
        indexes[kind] = tmp_path / kind
        packed = (archive.directory / f"repodata/{kind}.xml.gz").read_bytes()
        indexes[kind].write_bytes(gzip.decompress(packed))
    shas = {name: sha256(data) for (name, _), (_, data, _, _) in archive.rows.items()}
    texts = cut_fragments(indexes["primary"], indexes["filelists"], [*shas.values(), "0" * 64])
    assert list(texts) == list(shas.values())
    found = parse_fragment(texts[shas["hello"]], repository="site", below="os/")
    assert (found.name, found.version, found.path) == (
        "hello", "1-1", "os/Packages/hello-1-1.noarch.rpm",
    )  # fmt: skip
    again = render_indexes(texts.values())
    for kind, data in again.items():
        (tmp_path / kind).write_bytes(data)
    assert cut_fragments(tmp_path / "primary", tmp_path / "filelists", shas.values()) == texts
    assert parse_repomd(render_repomd(again).encode(), where="x").epoch == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Packages/", "../", "expected \\*.rpm"),
        ('type="sha256" pkgid', 'type="sha" pkgid', "by no SHA-256"),
        ('size package="', 'size package="-', "is said to have size"),
        ("<arch>", "<arhc>", "not XML"),
    ],
)
def test_a_fragment_that_no_lock_can_name_is_told(archive, tmp_path, old, new, told):
    archive.publish()
    primary, filelists = tmp_path / "p", tmp_path / "f"
    text = gzip.decompress((archive.directory / "repodata/primary.xml.gz").read_bytes()).decode()
    primary.write_text(text.replace(old, new))
    filelists.write_bytes(
        gzip.decompress((archive.directory / "repodata/filelists.xml.gz").read_bytes())
    )
    _, data, *_ = archive.rows["hello", "1"]
    (fragment,) = cut_fragments(primary, filelists, [sha256(data)]).values()
    with pytest.raises(VnfsbuildError, match=told):
        parse_fragment(fragment, repository="site")


def test_a_digest_is_no_path(archive, fetch):
    archive.publish()
    indexes_of = fetch().indexes
    wanted = sha256(archive.rows["lib", "1"][1])
    texts = cut_fragments(indexes_of["primary"], indexes_of["filelists"], [wanted])
    fragment = texts[wanted].replace(f">{wanted}<", f">{'../' * 21}x<")
    with pytest.raises(VnfsbuildError, match="by no SHA-256"):
        parse_fragment(fragment, repository="site")


def test_a_package_is_not_another_that_speaks_of_it(archive, fetch):
    chosen = sha256(archive.rows["lib", "1"][1])
    archive.publish()
    found = fetch()
    assert [item.name for item in _look_up([found], [chosen])] == ["lib"]
    primary = found.indexes["primary"]
    own = sha256(archive.rows["hello", "1"][1])
    lies = primary.read_text().replace("<arch>", f"<summary>{chosen} {own}</summary><arch>", 1)
    primary.write_text(lies)
    with pytest.raises(VnfsbuildError, match="in no index by SHA-256"):
        _look_up([found], [chosen])


# Versions


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("5.14.0-427.el9", "5.14.0-427.2.el9"),
        ("1.0-1", "1.1-1"),
        ("1.9-1", "1.10-1"),
        ("2-1", "1:1-1"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0^git1-1"),
        ("1.0^git1-1", "1.0.1-1"),
        ("1.0~~-1", "1.0~-1"),
        ("1.0a-1", "1.0.1-1"),
        ("1.0-1.el9", "1.0-1.el9_4"),
        ("a-1", "b-1"),
        ("1.a-1", "1.1-1"),
        ("1-1", "1.0-1"),
    ],
)
def test_the_newer_version_is_told(older, newer):
    assert compare_rpm_versions(older, newer) < 0
    assert compare_rpm_versions(newer, older) > 0
    assert compare_rpm_versions(newer, newer) == 0


def test_versions_that_differ_in_signs_alone_are_the_same():
    assert compare_rpm_versions("1.0-1", "1_0-1") == 0
    assert compare_rpm_versions("1.001-1", "1.1-1") == 0
    assert compare_rpm_versions("0:1-1", "1-1") == 0


# Distributions


def test_mirrors_are_laid_out_as_each_distribution_does():
    words = {"release": "9.4", "architecture": "x86_64"}
    assert place_component("rocky", "BaseOS", **words) == ("9.4", "BaseOS/x86_64/os")
    assert place_component("rhel", "baseos", **words) == (
        "content/dist/rhel9/9.4/x86_64", "baseos/os",
    )  # fmt: skip
    assert place_component("fedora", "releases", release="42", architecture="x86_64") == (
        "", "releases/42/Everything/x86_64/os",
    )  # fmt: skip
    assert place_component("fedora", "updates", release="42", architecture="x86_64") == (
        "", "updates/42/Everything/x86_64",
    )  # fmt: skip
    assert {keyring_of(name, "9.4") for name in RPM}.isdisjoint({""})
    assert distribution_of("rocky-BaseOS") == "rocky"
    assert distribution_of("rocky") is None
