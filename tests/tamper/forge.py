"""Forged capsules: rendered as our writers do it, but nothing here asks whether it is right.

Every document can be edited on its way out. What stands above it, up to the signatures, is then
made to fit: so each row of the table has one fault, and no digest that gives it away.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vnfsbuild import manifest as m
from vnfsbuild import ustar
from vnfsbuild.digest import digest_of
from vnfsbuild.dsse import key_id, render_envelope, signed_bytes
from vnfsbuild.dsse import make_envelope as sign_dsse
from vnfsbuild.referrers import attestation

from ..unit.vnfsbuild.conftest import Workshop

Edit = Callable[[bytes], bytes]

REF_NAME = "org.opencontainers.image.ref.name"
WORKSHOP = Workshop()
SIGNERS = ("dev", "ops")
"""The rule of the site wants both."""

CONFIG = {
    "architecture": "x86_64",
    "bootstrapProtocol": 1,
    "distribution": "debian trixie",
    "epoch": 1_700_000_000,
    "kernel": {"arguments": ["quiet"], "version": "6.12.0"},
    "layers": ["rootfs", "modules"],
    "name": "toy",
    "serial": 3,
}
PAYLOADS = (
    ("source", m.SOURCE, b"source\n"),
    ("kernel", m.KERNEL, b"kernel\n" * 100),
    ("initrd", m.INITRD, b"initrd\n" * 33),
    ("layer 0", m.LAYER_SQUASHFS, b"rootfs\n" * 200),
    ("layer 1", m.LAYER_SQUASHFS, b"modules\n" * 9),
)
DOCUMENTS = (
    "layout",
    "index",
    "manifest",
    "referrers index",
    "signature manifest",
    "envelope",
    "provenance manifest",
    "provenance",
    "config",
)
REGIONS = (*DOCUMENTS[:3], "empty blob", *DOCUMENTS[3:], *(name for name, _, _ in PAYLOADS))
"""What a file consists of."""


def dump(value):
    """Return canonical JSON, also of what our own writer refuses to write."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def describe(media_type, data, **more):
    """Return the descriptor of *data* as it stands in JSON."""
    return {"digest": digest_of(data), "mediaType": media_type, "size": len(data), **more}


def sign(manifest, *names, kind=m.OCI_MANIFEST):
    """Return one envelope over *manifest*, with a signature by each of the keys *names*."""
    keys = [WORKSHOP.key(name) for name in names]
    return render_envelope(sign_dsse(kind, manifest, [(key.public_key, key.sign) for key in keys]))


def envelope(manifest, *signatures, kind=m.OCI_MANIFEST):
    """Return an envelope with *signatures*, each (key id, bytes), whatever these are."""
    return dump(
        {
            "payload": base64.b64encode(manifest).decode(),
            "payloadType": kind,
            "signatures": [
                {"keyid": keyid, "sig": base64.b64encode(sig).decode()} for keyid, sig in signatures
            ],
        }
    )


def signature(name, manifest, kind=m.OCI_MANIFEST):
    """Return key id and signature of the key *name* over *manifest*."""
    key = WORKSHOP.key(name)
    return key_id(key.public_key), key.sign(signed_bytes(kind, manifest))


def statement(manifest, **changes):
    """Return what a builder says of *manifest*, rightly but for *changes*."""
    value = json.loads(manifest)
    parameters = {"recipe": "toy", "source": value["layers"][0].get("digest")}
    said = json.loads(
        attestation.render_statement("toy", CONFIG["serial"], digest_of(manifest), {})
    )
    said["predicate"] = {
        "buildDefinition": {
            "buildType": attestation.BUILD_TYPE,
            "externalParameters": parameters,
        },
        "runDetails": {"builder": {"id": attestation.BUILDERS + WORKSHOP.key("dev").key_id}},
    }
    return dump({**said, **changes})


def attest(manifest, by="dev", **changes):
    """Return the provenance of the capsule with *manifest*, by the key *by*."""
    return sign(statement(manifest, **changes), by, kind=attestation.STATEMENT)


def edited(change):
    """Return the edit that applies *change* to the JSON value of a document."""

    def edit(data):
        value = json.loads(data)
        change(value)
        return dump(value)

    return edit


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """A capsule as somebody who holds some keys could make it."""

    config: Mapping = field(default_factory=lambda: CONFIG)
    payloads: tuple = PAYLOADS
    artifact_type: str = m.CAPSULE
    announced_type: str | None = None
    """What the index says that the manifest is; the truth by default."""
    announced_name: str | None = None
    sign: Callable = lambda manifest: [sign(manifest, name) for name in SIGNERS]
    """Manifest → envelopes."""
    attest: Callable | None = None
    """Manifest → attestations; by default one, which is right."""
    edits: Mapping[str, Edit] = field(default_factory=dict)
    """Region → what is done to its bytes before anything refers to them."""

    def _edit(self, region, data):
        return self.edits.get(region, lambda same: same)(data)

    def _manifest(self, config, payloads):
        value = {
            "artifactType": self.artifact_type,
            "config": describe(m.CONFIG, config),
            "layers": [describe(kind, data) for _, kind, data in payloads],
            "mediaType": m.OCI_MANIFEST,
            "schemaVersion": 2,
        }
        return self._edit("manifest", dump(value))

    def _referrer(self, manifest, kind, data):
        """Return what refers to *manifest*: type, the regions, manifest and envelope of it."""
        is_signature = kind == m.SIGNATURE
        region, envelope = ("signature manifest", "envelope") if is_signature else (
            "provenance manifest", "provenance")  # fmt: skip
        data = self._edit(envelope, data)
        value = {
            "artifactType": kind,
            "config": describe(m.OCI_EMPTY, b"{}"),
            "layers": [describe(m.ENVELOPE if is_signature else kind, data)],
            "mediaType": m.OCI_MANIFEST,
            "schemaVersion": 2,
            "subject": describe(m.OCI_MANIFEST, manifest),
        }
        return kind, (region, self._edit(region, dump(value))), (envelope, data)

    def _attestations(self, manifest):
        if self.attest is not None:
            return self.attest(manifest)
        # It would be said of another capsule.
        is_toy = self.config == CONFIG and "manifest" not in self.edits
        return [attest(manifest)] if is_toy else []

    def _index(self, entries):
        value = {"manifests": entries, "mediaType": m.OCI_INDEX, "schemaVersion": 2}
        return dump(value)

    def members(self, *names):
        """Return (region, bytes) of all in the order of a file; *names* are what the index says."""
        # Payloads are edited last: a signed digest is what gives a damaged payload away.
        config = self._edit("config", dump(dict(self.config)))
        manifest = self._manifest(config, self.payloads)
        referrers = sorted(
            [self._referrer(manifest, m.SIGNATURE, data) for data in self.sign(manifest)]
            + [
                self._referrer(manifest, attestation.PROVENANCE, data)
                for data in self._attestations(manifest)
            ],
            key=lambda item: digest_of(item[1][1]),
        )
        entries = [describe(m.OCI_MANIFEST, item[1][1], artifactType=item[0]) for item in referrers]
        listed = self._edit("referrers index", self._index(entries))
        kind = self.announced_type or self.artifact_type
        entries = [
            describe(m.OCI_MANIFEST, manifest, artifactType=kind, annotations={REF_NAME: name})
            for name in names
        ]
        if referrers:
            tag = digest_of(manifest).replace(":", "-")
            entries.append(describe(m.OCI_INDEX, listed, annotations={REF_NAME: tag}))
        index = self._edit("index", self._index(entries))
        found = [("layout", self._edit("layout", b'{"imageLayoutVersion":"1.0.0"}'))]
        found += [("index", index), ("manifest", manifest)]
        if referrers:
            found += [("empty blob", b"{}"), ("referrers index", listed)]
        for _, *pair in referrers:
            found += pair
        found.append(("config", config))
        return found + [(name, data) for name, _, data in self.payloads]

    @property
    def name(self):
        """Return the name that it is announced by."""
        return self.announced_name or self.config.get("name", "toy")

    def file_members(self):
        """Return (region, name in the archive, bytes) of what a file holds."""
        found, seen = [], set()
        for region, data in self.members(self.name):
            name = {"layout": "oci-layout", "index": "index.json"}.get(region)
            name = name or f"blobs/sha256/{digest_of(data)[7:]}"
            if name not in seen:
                seen.add(name)
                found.append((region, name, data))
        return found

    def file(self):
        """Return the bytes of the ``.vnfs`` file."""
        return archive((name, data) for _, name, data in self.file_members())

    def lay_out(self, directory):
        """Write the store that holds it, and nothing else; return region → path of the file."""
        (directory / "blobs/sha256").mkdir(parents=True)
        serial = self.config.get("serial", 3)
        members = self.members(f"{self.name}:{serial}", f"{self.name}:current")
        found = {}
        for region, data in members:
            name = {"layout": "oci-layout", "index": "index.json"}.get(region)
            path = directory / (name or f"blobs/sha256/{digest_of(data)[7:]}")
            path.write_bytes(data)
            found.setdefault(region, path)
        return found


def archive(members):
    """Return an archive of *members*: name, bytes."""
    parts = [
        ustar.render_header(name, len(data)) + data + ustar.padding(len(data))
        for name, data in members
    ]
    return b"".join(parts) + ustar.END
