"""Provenance and the bill of materials: what they say follows from the capsule, and is true."""

import io
import json
import tarfile
import warnings
from dataclasses import replace

import pytest

from vnfsbuild.capsule import verify_attestations, verify_file
from vnfsbuild.digest import digest_of, parse_json
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.lock import Lock, LockedBuilder, LockedPackage, LockedRepository, render_lock
from vnfsbuild.reference import parse_reference
from vnfsbuild.referrers.attachment import SBOM
from vnfsbuild.referrers.attestation import BUILD_TYPE, BUILDERS, parse_attestation
from vnfsbuild.referrers.provenance import TREES, make_provenance
from vnfsbuild.referrers.publish import (
    attest_file,
    attest_reproduced,
    derive_sbom,
    make_attestation,
    publish,
    read_lock,
    read_lock_of_file,
    require_attestable,
)
from vnfsbuild.referrers.purl import make_purl
from vnfsbuild.referrers.sbom import make_sbom
from vnfsbuild.referrers.sourcelock import read_source_lock

TOY = parse_reference("toy")
EPOCH = 1_700_000_000


def package(name, version="1.0-1", repository="debian-trixie", content=None, **words):
    fields = {
        "name": name,
        "version": version,
        "architecture": "amd64",
        "size_bytes": 7,
        "sha256": digest_of((content or name).encode())[7:],
        "path": f"pool/{name}_{version}_amd64.deb",
        "repository": repository,
    }
    return LockedPackage(**{**fields, **words})


PACKAGES = (
    package("base-files", "13.8+deb13u7"),
    package("coreutils", "1:9.7~rc1-3"),
    package("libstdc++6"),
    package("lustre-client", repository="lustre"),
    package("site-tools", repository="lustre"),
)
TOOLS = (package("base-files", "13.8+deb13u7"), package("busybox-static"), package("zstd"))


def make_lock(**words):
    fields = {
        "serial": 1,
        "epoch": EPOCH,
        "distribution": "debian",
        "release": "trixie",
        "architecture": "x86_64",
        "recipe": digest_of(b"recipe"),
        "files": (),
        "repositories": tuple(
            LockedRepository(
                id=name, suite="x", components=("main",), keys=("A" * 40,),
                metadata=digest_of(b"x"), epoch=EPOCH,
            )
            for name in ("debian-trixie", "lustre")
        ),
        "packages": PACKAGES,
        "tools": TOOLS,
        "builder": LockedBuilder(version="0.1.0", digest=digest_of(b"builder")),
    }  # fmt: skip
    return Lock(**{**fields, **words})


def pack(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def source_of(lock):
    return pack(recipe_lock=render_lock(lock).encode(), recipe_toml=b"name = 'toy'\n")


@pytest.fixture
def lock():
    return make_lock()


@pytest.fixture
def toy(workshop, lock):
    return workshop.capsule(payloads=[source_of(lock), b"k", b"i", b"r", b"m"])


# The lock inside


def test_the_lock_is_found_in_store_and_file(workshop, toy, lock, store, tmp_path):
    toy.add_to(store)
    path = toy.write(tmp_path / "toy.vnfs")
    assert read_lock("toy", store) == (toy.head, lock)
    assert read_lock(str(path), store) == (toy.head, lock)
    assert read_lock_of_file(path) == (toy.head, lock)
    with pytest.raises(InputError, match="no such capsule"):
        read_lock("boy", store)


WRONG = {
    "no tar": b"source",
    "nothing in it": pack(),
    "no lock in it": pack(recipe_toml=b""),
    "an empty lock": pack(recipe_lock=b""),
    "no lock": pack(recipe_lock=b"x = 1\n"),
    "cut off": source_of(make_lock())[:700],
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_a_source_without_a_lock_is_told(workshop, data):
    with pytest.raises(VerificationError, match=r"^toy: source: [^\n]*\Z"):
        read_source_lock(io.BytesIO(data), workshop.config(), where="toy")


@pytest.mark.parametrize("words", [{"serial": 2}, {"epoch": 1}, {"release": "forky"}])
def test_the_lock_of_another_capsule_is_refused(workshop, words):
    data = source_of(make_lock(**words))
    with pytest.raises(VerificationError, match="as in the config"):
        read_source_lock(io.BytesIO(data), workshop.config(), where="toy")


# Package URLs


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (PACKAGES[0], "pkg:deb/debian/base-files@13.8%2Bdeb13u7?arch=amd64&distro=trixie"),
        (PACKAGES[1], "pkg:deb/debian/coreutils@1:9.7~rc1-3?arch=amd64&distro=trixie"),
        (PACKAGES[2], "pkg:deb/debian/libstdc%2B%2B6@1.0-1?arch=amd64&distro=trixie"),
        (PACKAGES[3], "pkg:deb/lustre/lustre-client@1.0-1?arch=amd64"),
        (package("x", repository="local"), "pkg:deb/local/x@1.0-1?arch=amd64"),
        (
            package("x", repository="ubuntu-noble-security"),
            "pkg:deb/ubuntu/x@1.0-1?arch=amd64&distro=noble",
        ),
    ],
)
def test_a_package_has_the_url_that_the_world_knows(item, expected):
    assert make_purl(item) == expected


@pytest.mark.parametrize(
    ("repository", "version", "expected"),
    [
        ("rocky-BaseOS", "5.1.8-6.el9", "rocky/bash@5.1.8-6.el9?arch=x86_64&distro=rocky-9"),
        ("rocky-BaseOS", "1:5-6", "rocky/bash@5-6?arch=x86_64&distro=rocky-9&epoch=1"),
        ("epel", "5-6.el9", "epel/bash@5-6.el9?arch=x86_64"),
        ("local", "5-6", "local/bash@5-6?arch=x86_64"),
    ],
)
def test_so_has_an_rpm_package(repository, version, expected):
    item = LockedPackage(
        name="bash",
        version=version,
        architecture="x86_64",
        size_bytes=1,
        sha256="0" * 64,
        path="Packages/bash.rpm",
        repository=repository,
    )
    assert make_purl(item, release="9") == f"pkg:rpm/{expected}"


# Provenance


def test_the_statement_says_what_went_in_and_what_came_out(workshop, toy, lock):
    key = workshop.key()
    said = parse_json(make_provenance(toy.head.capsule, lock, key.key_id), where="test")
    assert said["subject"] == [{"name": "toy:1", "digest": {"sha256": toy.digest[7:]}}]
    build, run = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    source = digest_of(source_of(lock))
    assert build["buildType"] == BUILD_TYPE
    assert build["externalParameters"] == {"recipe": "toy", "source": source}
    assert run == {
        "builder": {
            "id": BUILDERS + key.key_id,
            "version": {"vnfsbuild": "0.1.0", "vnfsbuild code": digest_of(b"builder")},
        }
    }
    first, *packages = build["resolvedDependencies"]
    assert first["digest"] == {"sha256": source[7:]}
    by_name = {item["name"]: item for item in packages}
    assert sorted(by_name) == [item["name"] for item in packages]
    assert by_name.keys() == {item.name for item in (*PACKAGES, *TOOLS)}
    assert by_name["base-files"]["annotations"] == {TREES: ["root", "tools"]}
    assert by_name["zstd"]["annotations"] == {TREES: ["tools"]}
    assert by_name["coreutils"]["uri"] == make_purl(PACKAGES[1])
    assert by_name["coreutils"]["digest"] == {"sha256": PACKAGES[1].sha256}


def test_two_builders_differ_in_nothing_but_who_they_are(workshop, toy, lock):
    one, two = (workshop.key(name).key_id for name in ("dev", "ops"))
    texts = [make_provenance(toy.head.capsule, lock, keyid) for keyid in (one, two)]
    assert texts[0] != texts[1]
    assert texts[0].replace(one.encode(), two.encode()) == texts[1]
    again = make_attestation(toy.head, lock, workshop.key())
    assert again == make_attestation(toy.head, lock, workshop.key())


def test_what_is_made_is_what_is_counted(workshop, toy, lock):
    head = replace(toy.head, attestations=(make_attestation(toy.head, lock, workshop.key()),))
    keyid = workshop.key().key_id
    assert verify_attestations(head, trust=workshop.trust()) == (keyid,)
    found = parse_attestation(
        head.attestations[0], name="toy", serial=1, digest=toy.digest, where="test"
    )
    assert found.attester == keyid


def test_a_lock_that_names_no_builder_gives_none(toy):
    said = make_provenance(toy.head.capsule, make_lock(builder=None), "0" * 64)
    assert b"version" not in said.split(b'"runDetails"')[1].split(b'"predicateType"')[0]


# The bill of materials


def validate(data, tmp_path):
    """Return what spdx-tools finds wrong, and the document that it read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries of its own
        from spdx_tools.spdx.parser.parse_anything import parse_file
        from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

        path = tmp_path / "x.spdx.json"
        path.write_bytes(data)
        document = parse_file(str(path))
        return validate_full_spdx_document(document, "SPDX-2.3"), document


@pytest.mark.parametrize("words", [{}, {"bootstrap": True}, {"builder": None}])
def test_spdx_tools_find_nothing_wrong_with_it(workshop, words, tmp_path):
    lock = make_lock(**{key: words[key] for key in words if key == "builder"})
    capsule = workshop.capsule(bootstrap=words.get("bootstrap", False)).head.capsule
    faults, document = validate(make_sbom(capsule, lock), tmp_path)
    assert faults == []
    assert document.creation_info.created.timestamp() >= 0
    # And it is no rubber stamp.
    bad = make_sbom(capsule, lock).replace(b"CC0-1.0", b"MIT")
    assert validate(bad, tmp_path)[0] != []


def test_it_holds_what_is_in_the_capsule(toy, lock):
    document = json.loads(make_sbom(toy.head.capsule, lock))
    packages = {item["SPDXID"]: item for item in document["packages"]}
    assert len(packages) == len(document["packages"])
    names = {item["name"] for item in packages.values()}
    assert names == {*(item.name for item in PACKAGES), "busybox-static", "vnfsbuild", "toy",
                     "toy-source"}  # fmt: skip
    by_name = {item["name"]: item for item in packages.values()}
    assert by_name["base-files"]["versionInfo"] == "13.8+deb13u7"
    assert by_name["base-files"]["supplier"] == "Organization: Debian"
    assert by_name["lustre-client"]["supplier"] == "NOASSERTION"
    assert by_name["base-files"]["checksums"] == [
        {"algorithm": "SHA256", "checksumValue": PACKAGES[0].sha256}
    ]
    assert by_name["base-files"]["externalRefs"][0]["referenceLocator"] == make_purl(PACKAGES[0])
    assert by_name["toy"]["checksums"][0]["checksumValue"] == toy.digest[7:]
    relations = {
        (item["spdxElementId"], item["relationshipType"], item["relatedSpdxElement"])
        for item in document["relationships"]
    }
    assert ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-capsule") in relations
    contained = {item for _, kind, item in relations if kind == "CONTAINS"}
    assert contained == packages.keys() - {"SPDXRef-capsule", "SPDXRef-source"}


def test_it_follows_from_the_capsule_alone(toy, lock):
    text = make_sbom(toy.head.capsule, lock)
    assert text == make_sbom(toy.head.capsule, make_lock())
    document = json.loads(text)
    assert document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert document["documentNamespace"].endswith(f"/toy/{toy.digest.replace(':', '-')}")


def test_two_packages_whose_names_differ_in_a_sign_have_two_ids(toy):
    lock = make_lock(packages=(package("g++"), package("g--")))
    ids = [item["SPDXID"] for item in json.loads(make_sbom(toy.head.capsule, lock))["packages"]]
    assert len(set(ids)) == len(ids)


def test_of_a_bootstrap_single_files_are_kept(workshop, lock):
    document = json.loads(make_sbom(workshop.capsule(bootstrap=True).head.capsule, lock))
    assert "busybox-static" not in {item["name"] for item in document["packages"]}
    kinds = [item["relationshipType"] for item in document["relationships"]]
    assert kinds.count("CONTAINS") == 1
    assert kinds.count("GENERATED_FROM") == 1 + len(PACKAGES)


# Both, once something was built


def test_what_was_built_is_attested_and_has_its_bill_of_materials(workshop, toy, lock, store):
    toy.add_to(store)
    publish(store, TOY, key=workshop.key())
    found = store.get(TOY)
    assert found.attestations == (make_attestation(toy.head, lock, workshop.key()),)
    blob = found.attached(SBOM)
    assert store.blob_path(blob.digest).read_bytes() == make_sbom(toy.head.capsule, lock)
    before = (store.path / "index.json").read_bytes()
    publish(store, TOY, key=workshop.key())
    assert (store.path / "index.json").read_bytes() == before
    assert store.verify(TOY, trust=workshop.trust(), now=workshop.now)


def test_without_a_key_nobody_attests(toy, store):
    toy.add_to(store)
    publish(store, TOY, key=None)
    found = store.get(TOY)
    assert found.attestations == ()
    assert found.attached(SBOM)


def test_what_was_imported_has_the_same_bill_of_materials(workshop, toy, lock, store, tmp_path):
    path = toy.write(tmp_path / "toy.vnfs")
    found = store.import_file(path, trust=workshop.trust(), now=workshop.now)
    derive_sbom(store, found)
    assert store.get(TOY).attached(SBOM).digest == digest_of(make_sbom(toy.head.capsule, lock))
    store.export(TOY, tmp_path / "again.vnfs")
    assert (tmp_path / "again.vnfs").read_bytes() == path.read_bytes()


def test_a_capsule_without_a_lock_is_imported_all_the_same(workshop, store, caplog):
    caplog.set_level("INFO")
    workshop.capsule().add_to(store)
    derive_sbom(store, store.get(TOY))
    assert "no bill of materials: toy: source: found no recipe.lock" in caplog.text
    assert store.get(TOY).attachments == ()


def test_a_rebuilder_adds_to_store_or_file(workshop, toy, store, tmp_path):
    toy.add_to(store)
    publish(store, TOY, key=workshop.key())
    one, two = (workshop.key(name).key_id for name in ("dev", "ops"))
    assert attest_reproduced("toy", toy.digest, store, workshop.key("ops")) == tuple(
        sorted((one, two))
    )
    path = toy.write(tmp_path / "toy.vnfs")
    assert attest_reproduced(str(path), toy.digest, store, workshop.key("ops")) == (two,)
    trust = workshop.trust("dev", builders=("ops",))
    assert verify_file(path, trust=trust, now=workshop.now).digest == toy.digest
    # The file comes home.
    store.delete(TOY)
    toy.add_to(store)
    publish(store, TOY, key=workshop.key())
    store.import_file(path, trust=trust, now=workshop.now)
    assert verify_attestations(store.get(TOY).head, trust=trust) == tuple(sorted((one, two)))


def test_a_file_that_became_another_is_not_attested(workshop, toy, tmp_path):
    path = toy.write(tmp_path / "toy.vnfs")
    before = path.read_bytes()
    with pytest.raises(VerificationError, match="by now, expected sha256:0000"):
        attest_file(path, "sha256:" + "0" * 64, workshop.key())
    assert path.read_bytes() == before


def test_a_disk_that_is_full_leaves_the_file_as_it_was(workshop, toy, tmp_path, monkeypatch):
    path = toy.write(tmp_path / "toy.vnfs")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vnfsbuild.files.os.fsync", full)
    with pytest.raises(VnfsbuildError, match="No space left"):
        attest_file(path, toy.digest, workshop.key())
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["toy.vnfs"]


def test_what_cannot_be_attested_is_told_before_anything_is_built(workshop, tmp_path):
    with pytest.raises(InputError, match="found no key, expected one to attest with"):
        require_attestable("toy", tmp_path, None)
