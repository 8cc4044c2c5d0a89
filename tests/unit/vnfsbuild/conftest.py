"""Small capsules with real signatures, by keys that are the same in every run."""

import hashlib
import io
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vnfsbuild import cli
from vnfsbuild import manifest as m
from vnfsbuild.capsule import make_head, write_capsule
from vnfsbuild.digest import digest_of
from vnfsbuild.dsse import make_envelope, render_envelope
from vnfsbuild.places import find_places
from vnfsbuild.referrers.attestation import BUILD_TYPE, BUILDERS, STATEMENT, render_statement
from vnfsbuild.signing.keys import SecretKey, sign_manifest
from vnfsbuild.store.store import Store
from vnfsbuild.trust import TRUST, Rule, Trust, parse_trust, render_trust

NOW = 1_700_000_000
LATER = NOW + 1000


@dataclass
class Toy:
    """A capsule in memory."""

    manifest: bytes
    config: bytes
    envelopes: tuple
    blobs: dict = field(repr=False)
    attestations: tuple = ()

    @property
    def head(self):
        return make_head(self.manifest, self.config, self.envelopes, self.attestations)

    @property
    def digest(self):
        return digest_of(self.manifest)

    def write(self, path):
        write_capsule(path, self.head, lambda digest: io.BytesIO(self.blobs[digest]))
        return path

    def add_to(self, store: Store, **words):
        parsed = m.parse_manifest(self.manifest)
        for payload in parsed.payloads:
            store.add_blob(self.blobs[payload.digest], media_type=payload.media_type)
        return store.add_capsule(
            self.manifest, self.config, self.envelopes, self.attestations, **words
        )


class Workshop:
    """Makes keys, trust and capsules."""

    now = NOW
    later = LATER

    def key(self, name="dev"):
        secret = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        return SecretKey(
            name=name, public_key=secret.public_key().public_bytes_raw(), sign=secret.sign
        )

    def trust(
        self,
        *names,
        threshold=1,
        glob="*",
        least_serial=0,
        version=1,
        expires=LATER,
        builders=(),
    ):
        keys = [self.key(name) for name in names or ("dev",)]
        builders = [self.key(name) for name in builders]
        root = self.key("root")
        trust = Trust(
            version=version,
            expires=expires,
            keys={key.key_id: key.public_key for key in [*keys, *builders, root]},
            root_keys=(root.key_id,),
            root_threshold=1,
            rules=(
                Rule(
                    name=glob,
                    keys=tuple(key.key_id for key in keys),
                    threshold=threshold,
                    least_serial=least_serial,
                    builders=tuple(key.key_id for key in builders),
                ),
            ),
        )
        return parse_trust(render_trust(trust), where="test")

    def signed_trust(self, trust, *roots):
        signers = [(key.public_key, key.sign) for key in map(self.key, roots or ("root",))]
        return render_envelope(make_envelope(TRUST, render_trust(trust), signers))

    def config(self, **words):
        fields = {
            "name": "toy",
            "serial": 1,
            "architecture": "x86_64",
            "distribution": "debian trixie",
            "epoch": NOW,
            "kernel": m.Kernel(version="6.12.0", arguments=("quiet",)),
            "layers": ("rootfs", "modules"),
            "bootstrap_protocol": 1,
        }
        return m.Config(**{**fields, **words})

    def predicate(self, name, manifest_bytes, **words):
        """Return the least that a builder says; *words* are other values by the last key."""
        head = m.parse_manifest(manifest_bytes)
        found = {
            "buildType": BUILD_TYPE,
            "externalParameters": {"recipe": "toy", "source": head.payload(m.SOURCE).digest},
            "id": BUILDERS + self.key(name).key_id,
            **words,
        }
        return {
            "buildDefinition": {key: found[key] for key in ("buildType", "externalParameters")},
            "runDetails": {"builder": {"id": found["id"]}},
        }

    def attestation(self, name, manifest_bytes, *, serial=1, predicate=None):
        """Return what the key *name* says of how a toy was built."""
        said = predicate or self.predicate(name, manifest_bytes)
        return self.say(name, render_statement("toy", serial, digest_of(manifest_bytes), said))

    def say(self, *names, payload_type=STATEMENT):
        """Return the envelope of a statement, the last of *names*, by the keys before it."""
        *signers, statement = names
        keys = map(self.key, signers)
        signs = [(key.public_key, key.sign) for key in keys]
        return render_envelope(make_envelope(payload_type, statement, signs))

    def capsule(self, *, signers=("dev",), attesters=(), payloads=None, bootstrap=False, **words):
        if bootstrap:
            words = {"layers": (), "name": "bootstrap", **words}
        config_bytes = m.render_config(self.config(**words))
        kinds = [m.SOURCE, m.KERNEL, m.INITRD, *([] if bootstrap else [m.LAYER_SQUASHFS] * 2)]
        if bootstrap and payloads and len(payloads) > len(kinds):
            kinds.append(m.DRIVERS)
        contents = (
            payloads or [b"source", b"kernel!", b"initrd" * 100, b"", b"modules"][: len(kinds)]
        )
        manifest_bytes = m.render_manifest(
            m.Manifest(
                artifact_type=m.BOOTSTRAP if bootstrap else m.CAPSULE,
                config=m.Descriptor(m.CONFIG, digest_of(config_bytes), len(config_bytes)),
                payloads=tuple(
                    m.Descriptor(kind, digest_of(data), len(data))
                    for kind, data in zip(kinds, contents, strict=True)
                ),
            )
        )
        return Toy(
            manifest=manifest_bytes,
            config=config_bytes,
            envelopes=tuple(sign_manifest(manifest_bytes, self.key(name)) for name in signers),
            blobs={digest_of(data): data for data in contents},
            attestations=tuple(
                self.attestation(name, manifest_bytes, serial=words.get("serial", 1))
                for name in attesters
            ),
        )


@pytest.fixture(scope="session")
def workshop():
    return Workshop()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A site of its own, and a store."""
    for name in ("store", "cache", "site"):
        monkeypatch.setenv(f"VNFS_{name.upper()}", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return find_places()


@pytest.fixture
def run(places, capfd):
    """Run a command line in this process: exit status, output, errors."""

    def run(*arguments):
        status = cli.run([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")
