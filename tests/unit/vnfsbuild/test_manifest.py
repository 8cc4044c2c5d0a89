"""Manifest, config and indexes: what is read is written the same, and nothing else is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild import manifest as m
from vnfsbuild.digest import Digest, digest_of, render_json
from vnfsbuild.errors import VerificationError

digests = st.binary(min_size=32, max_size=32).map(lambda raw: Digest("sha256:" + raw.hex()))


def descriptors(*kinds):
    """Descriptors of blobs: the size follows from the digest, since a blob has but one."""
    return st.builds(
        lambda kind, digest: m.Descriptor(kind, digest, int(digest[7:15], 16)),
        st.sampled_from(kinds),
        digests,
    )


manifests = st.builds(
    lambda config, source, kernel, initrd, rest: m.Manifest(
        m.CAPSULE if rest and rest[0].media_type in m.LAYER_TYPES else m.BOOTSTRAP,
        config,
        (source, kernel, initrd, *rest),
    ),
    descriptors(m.CONFIG),
    descriptors(m.SOURCE),
    descriptors(m.KERNEL),
    descriptors(m.INITRD),
    st.lists(descriptors(*m.LAYER_TYPES), max_size=3)
    | st.lists(descriptors(m.DRIVERS), min_size=1, max_size=1),
)
printable = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=9)
names = st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,9})?", fullmatch=True)
configs = st.builds(
    m.Config,
    name=names,
    serial=st.integers(0),
    architecture=printable,
    distribution=printable,
    epoch=st.integers(0),
    kernel=st.builds(m.Kernel, printable, st.lists(printable).map(tuple)),
    layers=st.lists(names).map(tuple),
    bootstrap_protocol=st.integers(0),
)


@given(manifests)
def test_a_manifest_is_read_back(manifest):
    assert m.parse_manifest(m.render_manifest(manifest)) == manifest


@given(configs)
def test_a_config_is_read_back(config):
    assert m.parse_config(m.render_config(config)) == config


@given(st.binary(), st.binary())
def test_the_manifest_of_a_signature_is_read_back(manifest, envelope):
    signature = m.make_signature_manifest(manifest, envelope)
    data = m.render_signature_manifest(signature)
    assert m.parse_signature_manifest(data, where="x") == signature
    assert signature.subject.digest == digest_of(manifest)


entries = st.tuples(
    descriptors(m.OCI_MANIFEST, m.OCI_INDEX),
    st.none() | st.sampled_from([m.CAPSULE, m.SIGNATURE]),
    st.dictionaries(printable, printable, max_size=2),
)


@given(st.lists(entries, max_size=3))
def test_an_index_is_read_back(index):
    assert m.parse_index(m.render_index(index), where="x") == index


def set_layer(value):
    value["layers"][3]["mediaType"] = m.LAYER_SQUASHFS


def test_parts_of_a_manifest_are_found_by_type(workshop):
    manifest = m.parse_manifest(workshop.capsule().manifest)
    assert manifest.payload(m.KERNEL).digest == digest_of(b"kernel!")
    assert [layer.size_bytes for layer in manifest.layers] == [0, len(b"modules")]
    assert manifest.blobs[0] == manifest.config
    with pytest.raises(VerificationError, match=r"2 payloads .*squashfs, expected one"):
        manifest.payload(m.LAYER_SQUASHFS)


def test_a_bootstrap_may_have_drivers_beside_its_initrd(workshop):
    toy = workshop.capsule(bootstrap=True, payloads=[b"source", b"kernel", b"initrd", b"more"])
    assert m.parse_manifest(toy.manifest).drivers.digest == digest_of(b"more")
    assert m.parse_manifest(workshop.capsule(bootstrap=True).manifest).drivers is None


BAD_BOOTSTRAPS = {
    "twice drivers": lambda value: value["layers"].append(value["layers"][3]),
    "drivers before the initrd": lambda value: value["layers"].insert(2, value["layers"].pop(3)),
    "a layer": set_layer,
    "drivers of a capsule": lambda value: value.update(artifactType=m.CAPSULE),
}


@pytest.mark.parametrize("change", BAD_BOOTSTRAPS.values(), ids=BAD_BOOTSTRAPS)
def test_what_is_no_manifest_of_a_bootstrap_is_refused(workshop, change):
    toy = workshop.capsule(bootstrap=True, payloads=[b"source", b"kernel", b"initrd", b"more"])
    with pytest.raises(VerificationError, match=r"^here: found payloads"):
        m.parse_manifest(edited(toy.manifest, change), where="here")


def edited(data, change):
    value = json.loads(data)
    change(value)
    return render_json(value)


def set_at(*path):
    *parents, last, new = path

    def change(value):
        for key in parents:
            value = value[key]
        value[last] = new

    return change


BAD_MANIFESTS = {
    "another artifact type": set_at("artifactType", "application/example"),
    "no artifact type": lambda value: value.pop("artifactType"),
    "another schema": set_at("schemaVersion", 1),
    "another media type": set_at("mediaType", m.OCI_INDEX),
    "one key more": set_at("annotations", {}),
    "no layers": set_at("layers", []),
    "layers that are no list": set_at("layers", {}),
    "kernel before source": lambda value: value["layers"].insert(0, value["layers"].pop(1)),
    "a kernel more": lambda value: value["layers"].append(value["layers"][1]),
    "no rootfs layer": lambda value: value["layers"].__delitem__(slice(3, None)),
    "a bootstrap with layers": set_at("artifactType", m.BOOTSTRAP),
    "a config of another type": set_at("config", "mediaType", m.SOURCE),
    "no config": set_at("config", None),
    "a descriptor with more": set_at("layers", 0, "urls", []),
    "a descriptor that is none": set_at("layers", 0, 7),
    "a size that is text": set_at("layers", 0, "size", "1"),
    "a size below zero": set_at("layers", 0, "size", -1),
    "a size that is true": set_at("layers", 0, "size", True),
    "a digest of another kind": set_at("layers", 0, "digest", "sha512:" + "0" * 128),
    "one blob with two sizes": lambda value: value["layers"][4].update(
        digest=value["layers"][3]["digest"]
    ),
}


@pytest.mark.parametrize("change", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_what_is_no_manifest_is_refused(workshop, change):
    with pytest.raises(VerificationError, match=r"^here"):
        m.parse_manifest(edited(workshop.capsule().manifest, change), where="here")


BAD_CONFIGS = {
    "one key more": set_at("x", 1),
    "no serial": lambda value: value.pop("serial"),
    "a serial below zero": set_at("serial", -1),
    "a serial that is true": set_at("serial", True),
    "a name with a slash": set_at("name", "../toy"),
    "a kernel that is text": set_at("kernel", "6.12"),
    "arguments that are text": set_at("kernel", "arguments", "quiet"),
    "an argument with a line feed": set_at("kernel", "arguments", ["quiet\n"]),
    "an argument that is a number": set_at("kernel", "arguments", [1]),
    "a layer called like a way out": set_at("layers", ["../../init", "modules"]),
    "layers that are a number": set_at("layers", 7),
}


@pytest.mark.parametrize("change", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_what_is_no_config_is_refused(workshop, change):
    with pytest.raises(VerificationError, match=r"^here"):
        m.parse_config(edited(workshop.capsule().config, change), where="here")


BAD_SIGNATURES = {
    "no layers": set_at("layers", []),
    "layers that are no list": set_at("layers", 7),
    "no subject": lambda value: value.pop("subject"),
    "an envelope of another type": set_at("layers", 0, "mediaType", m.KERNEL),
    "another artifact type": set_at("artifactType", m.CAPSULE),
    "one key more": set_at("annotations", {}),
}


@pytest.mark.parametrize("change", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_what_is_no_manifest_of_a_signature_is_refused(change):
    good = m.render_signature_manifest(m.make_signature_manifest(b"manifest", b"envelope"))
    with pytest.raises(VerificationError, match=r"^here"):
        m.parse_signature_manifest(edited(good, change), where="here")


BAD_INDEXES = {
    "no list": set_at("manifests", 7),
    "no manifests": lambda value: value.pop("manifests"),
    "an entry that is none": set_at("manifests", 0, 7),
    "annotations that are a list": set_at("manifests", 0, "annotations", []),
    "an annotation that is a number": set_at("manifests", 0, "annotations", {"a": 1}),
    "empty annotations": set_at("manifests", 0, "annotations", {}),
    "an artifact type of a number": set_at("manifests", 0, "artifactType", 0),
    "one key more": set_at("x", 1),
}


@pytest.mark.parametrize("change", BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_what_is_no_index_is_refused(change):
    entry = (m.Descriptor(m.OCI_MANIFEST, digest_of(b""), 0), m.CAPSULE, {"a": "b"})
    with pytest.raises(VerificationError, match=r"^here"):
        m.parse_index(edited(m.render_index([entry]), change), where="here")
