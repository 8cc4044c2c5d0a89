"""Forgeries in which every digest fits: what is wrong is what they claim.

One row each: what is claimed, what the refusal must say, and how it is made. A row is a capsule as
somebody can make who has the tools and perhaps one of the keys, but not what the site asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.referrers.attestation import STATEMENT

from .forge import (
    CONFIG,
    PAYLOADS,
    Forgery,
    attest,
    describe,
    dump,
    edited,
    envelope,
    sign,
    signature,
    statement,
)

ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519's group: adding it to the second half of a signature says the same in other bytes."""


WRONG = "not that of the key|not over these bytes"
"""How the two Ed25519 primitives, of servers and of nodes, say no."""


@dataclass(frozen=True)
class Claim:
    """A row of the table."""

    told: str
    """A regular expression for the line."""
    forgery: Forgery
    on_node: bool = True
    """Whether a node must refuse it; of a store's own papers it sees nothing, and boots what was
    signed all the same."""
    is_missing: bool = False
    """Whether a store can only say that something is not there, which is status 1."""
    is_late: bool = False
    """Whether it is a lie about a payload that both keys signed: told when it is come to."""


def signed(by: Callable, told: str, **words) -> Claim:
    """Return the claim of a capsule with the envelopes that *by* makes of its manifest."""
    return Claim(told, Forgery(sign=by), **words)


def of_config(told: str, *drop: str, **changes) -> Claim:
    """Return the claim of a capsule, rightly signed, with another config."""
    value = {key: item for key, item in {**CONFIG, **changes}.items() if key not in drop}
    return Claim(told, Forgery(config=value))


def of_manifest(told: str, change: Callable) -> Claim:
    """Return the claim of a capsule, rightly signed, with another manifest."""
    return Claim(told, Forgery(edits={"manifest": edited(change)}))


def of_payloads(told: str, *payloads, layers=("rootfs", "modules")) -> Claim:
    """Return the claim of a capsule, rightly signed, with these payloads."""
    return Claim(told, Forgery(payloads=payloads, config={**CONFIG, "layers": list(layers)}))


def of_papers(document: str, told: str, change: Callable) -> Claim:
    """Return the claim of a capsule whose *document*, which nobody signs, says something else."""
    return Claim(told, Forgery(edits={document: edited(change)}), on_node=False)


def both(manifest):
    """Return the two signatures that the site wants."""
    return [sign(manifest, "dev"), sign(manifest, "ops")]


def malleated(manifest):
    """Return the signature of dev in other bytes that a careless verifier takes too."""
    keyid, sig = signature("dev", manifest)
    second = int.from_bytes(sig[32:], "little") + ORDER
    return envelope(manifest, (keyid, sig[:32] + second.to_bytes(32, "little")))


def under_the_id_of(name, by, manifest):
    """Return the signature of *by* that says it is one of *name*."""
    return envelope(manifest, (signature(name, manifest)[0], signature(by, manifest)[1]))


def other_manifest(manifest):
    """Return another manifest that both keys did sign."""
    value = json.loads(manifest)
    value["layers"][1] = describe(m.KERNEL, b"another kernel")
    return dump(value)


def of_size(told: str, value, *, is_late: bool = False) -> Claim:
    """Return the claim of a capsule, rightly signed, whose kernel is said to have another size."""
    claim = of_manifest(told, lambda manifest: manifest["layers"][1].update(size=value))
    return replace(claim, is_late=is_late)


def kind_of(position, kind):
    """Return the change that gives a payload another media type."""
    return lambda manifest: manifest["layers"][position].update(mediaType=kind)


SOURCE, KERNEL, INITRD, LAYER_0, LAYER_1 = PAYLOADS
DEV = signature("dev", b"")[0]

SIGNATURES = {
    "nobody signed": signed(lambda manifest: [], "not signed"),
    "other key": signed(lambda manifest: [sign(manifest, "eve")], "signed by 0 .* untrusted"),
    "other keys, as many as must sign": signed(
        lambda manifest: [sign(manifest, "eve"), sign(manifest, "mallory")], "signed by 0 .*untrust"
    ),
    "too few signatures": signed(lambda manifest: [sign(manifest, "dev")], "signed by 1 .*exp.* 2"),
    "too few, and a stranger": signed(
        lambda manifest: [sign(manifest, "dev"), sign(manifest, "eve")], "signed by 1 .*untrusted"
    ),
    "root key": signed(lambda manifest: [sign(manifest, "root"), sign(manifest, "dev")], "by 1 "),
    "same key twice, the second time wrong": signed(
        lambda manifest: [sign(manifest, "dev"), envelope(manifest, (DEV, bytes(64)))],
        f"two signatures by the same key|{WRONG}",
    ),
    "same key twice, in other bytes": signed(
        lambda manifest: [sign(manifest, "dev"), malleated(manifest)],
        f"two signatures by the same key|{WRONG}",
    ),
    "same key twice in one envelope": signed(
        lambda manifest: [envelope(manifest, *[signature("dev", manifest)] * 2)], "envelope"
    ),
    "two keys in one envelope": signed(
        lambda manifest: [sign(manifest, "dev", "ops")], "found 2 signatures in one envelope"
    ),
    "no signature in the envelope": signed(
        lambda manifest: [envelope(manifest), *both(manifest)], "envelope"
    ),
    "another capsule's signatures": signed(
        lambda manifest: both(other_manifest(manifest)), "over another manifest"
    ),
    "another capsule's signature beside a good one": signed(
        lambda manifest: [sign(manifest, "dev"), sign(other_manifest(manifest), "ops")],
        "over another manifest",
    ),
    "another capsule's signature under this manifest": signed(
        lambda manifest: [
            sign(manifest, "dev"),
            envelope(manifest, signature("ops", other_manifest(manifest))),
        ],
        WRONG,
    ),
    "a stranger's signature under a trusted id": signed(
        lambda manifest: [sign(manifest, "dev"), under_the_id_of("ops", "eve", manifest)],
        WRONG,
    ),
    "one good key's signature under the other's id": signed(
        lambda manifest: [sign(manifest, "dev"), under_the_id_of("ops", "dev", manifest)],
        WRONG,
    ),
    "signature of zeros": signed(
        lambda manifest: [sign(manifest, "ops"), envelope(manifest, (DEV, bytes(64)))],
        WRONG,
    ),
    "signature of ones": signed(
        lambda manifest: [sign(manifest, "ops"), envelope(manifest, (DEV, b"\xff" * 64))],
        WRONG,
    ),
    "signature with the group's order added": signed(
        lambda manifest: [sign(manifest, "ops"), malleated(manifest)], WRONG
    ),
    "signature of 63 bytes": signed(
        lambda manifest: [
            sign(manifest, "ops"),
            envelope(manifest, (DEV, signature("dev", manifest)[1][:63])),
        ],
        "a signature of 63 bytes",
    ),
    "signature of 65 bytes": signed(
        lambda manifest: [
            sign(manifest, "ops"),
            envelope(manifest, (DEV, signature("dev", manifest)[1] + b"\0")),
        ],
        "a signature of 65 bytes",
    ),
    "signed as something else": signed(
        lambda manifest: [
            sign(manifest, name, kind="application/vnd.vnfs.trust.v1+json")
            for name in ("dev", "ops")
        ],
        "another manifest|signed as",
    ),
    "signed as something else, said to be a manifest": signed(
        lambda manifest: [
            envelope(manifest, signature(name, manifest, kind="text/plain"))
            for name in ("dev", "ops")
        ],
        WRONG,
    ),
    "the digest signed instead of the manifest": signed(
        lambda manifest: [
            envelope(manifest, signature(name, digest_of(manifest).encode()))
            for name in ("dev", "ops")
        ],
        WRONG,
    ),
    "key id in capitals": signed(
        lambda manifest: [
            sign(manifest, "dev"),
            envelope(manifest, (signature("ops", manifest)[0].upper(), signature("ops", b"")[1])),
        ],
        "",
    ),
    "key id that drives terminals": signed(
        lambda manifest: [envelope(manifest, ("\x1b[2J\nok: \x07", bytes(64)))], ""
    ),
    "key id of a million characters": signed(
        lambda manifest: [envelope(manifest, ("a" * 10**6, bytes(64)))], ""
    ),
    "65 signatures": signed(
        lambda manifest: both(manifest) + [sign(manifest, f"s{number}") for number in range(63)],
        "65 signatures|expected (1 to|at most) 64",
    ),
}

CAPSULES = {
    "older than the least serial": of_config("found serial 1, expected at least 2", serial=1),
    "bootstrap presented as a capsule": Claim(
        "bootstrap|expected a capsule|another form|no such|not in the store|found artifact",
        Forgery(
            artifact_type=m.BOOTSTRAP,
            announced_type=m.CAPSULE,
            payloads=PAYLOADS[:3],
            config={**CONFIG, "layers": []},
        ),
    ),
    "capsule presented as a bootstrap": Claim(
        "", Forgery(announced_type=m.BOOTSTRAP), on_node=False
    ),
    "capsule presented as a signature": Claim("", Forgery(announced_type=m.SIGNATURE)),
    "manifest of another name": Claim(
        "", Forgery(config={**CONFIG, "name": "tax"}, announced_name="toy")
    ),
    "unknown kind of artifact": Claim(
        "artifact type",
        Forgery(artifact_type="application/vnd.docker.image", announced_type=m.CAPSULE),
    ),
    "no layer": of_payloads(
        "expected source, kernel, initrd, at least one layer", *PAYLOADS[:3], layers=()
    ),
    "no source": of_payloads("found payloads", *PAYLOADS[1:]),
    "two kernels": of_payloads("found payloads", SOURCE, KERNEL, *PAYLOADS[1:]),
    "kernel and initrd reordered": of_payloads(
        "found payloads", SOURCE, INITRD, KERNEL, LAYER_0, LAYER_1
    ),
    "kernel after the layers": of_payloads(
        "found payloads", SOURCE, INITRD, LAYER_0, LAYER_1, KERNEL
    ),
    "a layer more than named": of_payloads("layers named", *PAYLOADS, LAYER_1),
    "a layer fewer than named": of_payloads("layers named", *PAYLOADS[:4]),
    "wrong media type of the kernel": of_manifest("found payloads", kind_of(1, m.INITRD)),
    "wrong media type of a layer": of_manifest("found payloads", kind_of(3, "application/x-tar")),
    "wrong media type of the config": of_manifest(
        "found a config", lambda value: value["config"].update(mediaType="application/json")
    ),
    "media type that drives terminals": of_manifest("found payloads", kind_of(3, "\n\x1b[2J\r")),
    "media type of a million characters": of_manifest("found payloads", kind_of(3, "a" * 10**6)),
    "media type that is a number": of_manifest("not a descriptor", kind_of(3, 7)),
    "digest by another algorithm": of_manifest(
        "sha256", lambda value: value["layers"][1].update(digest="sha512:" + "0" * 128)
    ),
    "digest in capitals": of_manifest(
        "sha256", lambda value: value["layers"][1].update(digest=digest_of(KERNEL[2]).upper())
    ),
    "digest that is a path": of_manifest(
        "sha256", lambda value: value["layers"][1].update(digest="sha256:../../../etc/passwd")
    ),
    "digest with a line feed": of_manifest(
        "sha256", lambda value: value["layers"][1].update(digest=digest_of(KERNEL[2]) + "\n")
    ),
    "digest of a million characters": of_manifest(
        "sha256", lambda value: value["layers"][1].update(digest="\x1b" * 10**6)
    ),
    "no digest": of_manifest("not a descriptor", lambda value: value["layers"][1].pop("digest")),
    "size -1": of_size("size", -1),
    "size as text": of_size("size", "700"),
    "size true": of_size("size", True),
    "size null": of_size("size", None),
    "size one less": of_size("of 700 bytes", len(KERNEL[2]) - 1, is_late=True),
    "size one more": of_size("of 700 bytes", len(KERNEL[2]) + 1, is_late=True),
    "size 0": of_size("of 700 bytes", 0, is_late=True),
    "size 8 GiB": of_size("8 GiB or more", 2**33),
    "size 2^63": of_size("8 GiB or more", 2**63),
    "size of 4300 digits": of_size("8 GiB or more", 10**4299),
    "sizes whose sum has 4301 digits": of_manifest(
        "8 GiB or more", lambda value: [item.update(size=10**4300 - 1) for item in value["layers"]]
    ),
    "a blob with two sizes": of_manifest(
        "two sizes", lambda value: value["layers"].append({**value["layers"][4], "size": 1})
    ),
    "schema 1": of_manifest("more than the format", lambda value: value.update(schemaVersion=1)),
    "schema as text": of_manifest(
        "more than the format", lambda value: value.update(schemaVersion="2")
    ),
    "annotations in the manifest": of_manifest(
        "more than the format", lambda value: value.update(annotations={"a": "b"})
    ),
    "annotations at a payload": of_manifest(
        "more than the format", lambda value: value["layers"][0].update(annotations={"a": "b"})
    ),
    "payloads that are no list": of_manifest("", lambda value: value.update(layers={"0": 1})),
    "payloads of payloads": of_manifest("", lambda value: value.update(layers=[value["layers"]])),
    "3000 payloads": of_manifest(
        "", lambda value: value.update(layers=value["layers"] + value["layers"][-1:] * 3000)
    ),
    "no name": of_config("name", "name"),
    "name with a path": of_config("name", name="../toy"),
    "name in capitals": of_config("name", name="Toy"),
    "name of 129 characters": of_config("name", name="a" * 129),
    "name that is a number": of_config("expected text", name=7),
    "no serial": of_config("config", "serial"),
    "serial -1": of_config("whole number", serial=-1),
    "serial true": of_config("whole number", serial=True),
    "serial as text": of_config("whole number", serial="9"),
    "layer's name with a path": of_config("layers", layers=["../../etc", "modules"]),
    "layer's name with a NUL": of_config("layers", layers=["a\0b", "modules"]),
    "layers that are text": of_config("config", layers="ab"),
    "kernel argument with a line feed": of_config(
        "text", kernel={"arguments": ["quiet\ninit=/bin/sh"], "version": "6"}
    ),
    "kernel arguments that are text": of_config(
        "list", kernel={"arguments": "quiet", "version": "6"}
    ),
    "kernel version that drives terminals": of_config(
        "text", kernel={"arguments": [], "version": "\x1b[2J" * 10**5}
    ),
    "no kernel": of_config("config", "kernel"),
    "kernel null": of_config("config", kernel=None),
    "something more in the config": of_config("more than the format", more=1),
}


def listed(**changes):
    """Return the change of what an index says of the capsule, or of each signature."""

    def change(value):
        for entry in value["manifests"]:
            if "artifactType" in entry:
                entry.update(changes)

    return change


PAPERS = {
    "signatures left out of the index": of_papers(
        "index", "", lambda value: value["manifests"].pop()
    ),
    "index without entries": of_papers("index", "", lambda value: value["manifests"].clear()),
    "index with an entry twice": of_papers(
        "index", "", lambda value: value["manifests"].insert(0, value["manifests"][0])
    ),
    "index in another order": of_papers("index", "", lambda value: value["manifests"].reverse()),
    "index that names a file outside": of_papers(
        "index", "", listed(digest="sha256:../../../../etc/passwd")
    ),
    "index that names another blob": of_papers(
        "index", "", listed(digest=digest_of(b"{}"), size=2)
    ),
    "index that names a payload": of_papers(
        "index", "", listed(digest=digest_of(KERNEL[2]), size=len(KERNEL[2]))
    ),
    "index with a size of 2^63": of_papers("index", "", listed(size=2**63)),
    "index with another size": of_papers("index", "", listed(size=1)),
    "index whose manifest is an index": of_papers("index", "", listed(mediaType=m.OCI_INDEX)),
    "index with annotations that are a list": of_papers("index", "", listed(annotations=[1])),
    "index with a kind that is an object": of_papers("index", "", listed(artifactType={"a": 1})),
    "index with a kind that is a list": of_papers("index", "", listed(artifactType=[1])),
    "index whose entries are an object": of_papers(
        "index", "", lambda value: value.update(manifests={"digest": 1})
    ),
    "index with URLs": of_papers("index", "", listed(urls=["http://example.org/"])),
    "index with data": of_papers("index", "", listed(data="e30=")),
    "referrers left out": of_papers(
        "referrers index", "", lambda value: value["manifests"].clear()
    ),
    "referrers one fewer": of_papers("referrers index", "", lambda value: value["manifests"].pop()),
    "referrers in another order": of_papers(
        "referrers index", "", lambda value: value["manifests"].reverse()
    ),
    "a referrer twice": of_papers(
        "referrers index", "", lambda value: value["manifests"].append(value["manifests"][-1])
    ),
    "a referrer of another kind": of_papers(
        "referrers index", "", listed(artifactType="application/vnd.example")
    ),
    "a referrer of no kind": of_papers(
        "referrers index", "", lambda value: value["manifests"][0].pop("artifactType")
    ),
    "a referrer with annotations": of_papers("referrers index", "", listed(annotations={"a": "b"})),
    "a referrer that is not there": replace(
        of_papers("referrers index", "", listed(digest=digest_of(b"nowhere"))), is_missing=True
    ),
    "a signature of another capsule": of_papers(
        "signature manifest", "", lambda value: value["subject"].update(digest=digest_of(b"other"))
    ),
    "a signature without a subject": of_papers(
        "signature manifest", "", lambda value: value.pop("subject")
    ),
    "a signature's envelope of another type": of_papers(
        "signature manifest", "", lambda value: value["layers"][0].update(mediaType="text/plain")
    ),
    "a signature with two envelopes": of_papers(
        "signature manifest", "", lambda value: value["layers"].append(value["layers"][0])
    ),
    "a signature without an envelope": of_papers(
        "signature manifest", "", lambda value: value["layers"].clear()
    ),
    "a signature with a config": of_papers(
        "signature manifest", "", lambda value: value["config"].update(mediaType="text/plain")
    ),
    "a signature of another kind": of_papers(
        "signature manifest", "", lambda value: value.update(artifactType="text/plain")
    ),
    "another layout": of_papers(
        "layout", "", lambda value: value.update(imageLayoutVersion="1.1.0")
    ),
}

DEEP = json.loads("[" * 600 + "]" * 600)
"""What can be read, and not be shown: a message about it must not fail itself."""

DEEP_VALUES = {
    "name 600 lists deep": of_config("", name=DEEP),
    "serial 600 lists deep": of_config("", serial=DEEP),
    "kernel 600 lists deep": of_config("", kernel=DEEP),
    "layer's name 600 lists deep": of_config("", layers=["rootfs", DEEP]),
    "digest 600 lists deep": of_manifest("", lambda value: value["layers"][1].update(digest=DEEP)),
    "size 600 lists deep": of_manifest("", lambda value: value["layers"][1].update(size=DEEP)),
    "artifact type 600 lists deep": of_manifest("", lambda value: value.update(artifactType=DEEP)),
    "index 600 lists deep": of_papers("index", "", listed(artifactType=DEEP)),
    "annotation 600 lists deep": of_papers("index", "", listed(annotations={"a": DEEP})),
}


def attested(told, by) -> Claim:
    """Return the claim of a capsule, rightly signed, with other attestations."""
    return Claim(told, Forgery(attest=by), on_node=False)


def saying(**changes):
    """Return what makes the attestation that says something else, rightly signed."""
    return lambda manifest: [attest(manifest, **changes)]


def of_predicate(change):
    """Return what makes an attestation with another predicate, rightly signed."""

    def make(manifest):
        value = json.loads(statement(manifest))
        change(value["predicate"])
        return [sign(dump(value), "dev", kind=STATEMENT)]

    return make


PROVENANCES = {
    "provenance under the name of another": attested(
        WRONG,
        lambda manifest: [
            envelope(
                statement(manifest),
                (DEV, signature("eve", statement(manifest), kind=STATEMENT)[1]),
                kind=STATEMENT,
            )
        ],
    ),
    "provenance of another capsule": attested(
        "is about", lambda manifest: [attest(other_manifest(manifest))]
    ),
    "provenance twice by one key": attested(
        "two attestations by the same key",
        lambda manifest: [attest(manifest), *saying(more=1)(manifest)],
    ),
    "provenance signed as a manifest": attested(
        "signed as", lambda manifest: [sign(statement(manifest), "dev")]
    ),
    "provenance about two capsules": attested("is about", saying(subject=[{}, {}])),
    "provenance about nothing": attested("is about", saying(subject=[])),
    "provenance about what is 600 lists deep": attested("", saying(subject=DEEP)),
    "provenance of another kind": attested(
        "in-toto statement", saying(predicateType="https://example.org/")
    ),
    "provenance that drives terminals": attested("", saying(_type="\x1b[2J\n" * 1000)),
    "provenance without a predicate": attested("no predicate", saying(predicate=None)),
    "provenance from another source": attested(
        "says",
        of_predicate(lambda value: value["buildDefinition"].update(externalParameters={})),
    ),
    "provenance by another kind of build": attested(
        "says", of_predicate(lambda value: value["buildDefinition"].update(buildType="by hand"))
    ),
    "provenance in another builder's name": attested(
        "says", of_predicate(lambda value: value["runDetails"].update(builder={"id": "eve"}))
    ),
    "65 provenances": attested(
        "65|more than|at most 64",
        lambda manifest: [attest(manifest, by=f"b{number}") for number in range(65)],
    ),
}

CLAIMS = {**SIGNATURES, **CAPSULES, **PAPERS, **DEEP_VALUES, **PROVENANCES}
