"""What a store holds, as its ``index.json`` says it. Pure: :mod:`.store` has the files.

Format: docs/capsule-format.md. Each capsule stands there once for each of its tags (once without a
name when it has none), and once more for the index of what refers to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vnfsbuild.capsule import REF_NAME, Head
from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.dsse import KeyId, parse_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import (
    BOOTSTRAP,
    CAPSULE,
    OCI_INDEX,
    OCI_MANIFEST,
    Config,
    Descriptor,
    IndexEntry,
    Manifest,
    parse_index,
    render_index,
)
from vnfsbuild.reference import CURRENT, Reference, parse_reference
from vnfsbuild.referrers.attachment import Attachment
from vnfsbuild.referrers.index import make_referrers, referrers_tag

PREVIOUS = "previous"
"""The tag of what ``current`` meant before it moved the last time."""

MOVED = (CURRENT, PREVIOUS)
"""Tags that promotion moves, and nobody sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreIndex:
    """The capsules of a store by digest, their tags, and where their referrers are listed."""

    capsules: Mapping[Digest, IndexEntry] = field(default_factory=dict)
    """Digest of the manifest → its descriptor and artifact type."""
    tags: Mapping[str, Digest] = field(default_factory=dict)
    """``NAME:TAG`` → digest of the manifest."""
    referrers: Mapping[Digest, Descriptor] = field(default_factory=dict)
    """Digest of the manifest → the index of what refers to it."""

    def tags_of(self, digest: Digest) -> tuple[str, ...]:
        """Return the tags of a capsule, without the name: the serial first, then by alphabet."""
        names = (name.partition(":")[2] for name, held in self.tags.items() if held == digest)
        return tuple(sorted(names, key=lambda tag: (not tag.isdigit(), tag)))

    def resolve(self, reference: Reference) -> Digest | None:
        """Return the digest of the capsule that *reference* means, if the store has it."""
        if reference.digest is not None:
            return reference.digest if reference.digest in self.capsules else None
        return self.tags.get(f"{reference.name}:{reference.tag}")

    def with_capsule(
        self, head: Head, *, current: bool, others: Sequence[IndexEntry] = ()
    ) -> StoreIndex:
        """Return the index with this capsule and the list of what refers to it: *others* too.

        It gets the tag of its serial, and with *current* the one that a bare name means.
        """
        digest = head.capsule.digest
        manifest = Descriptor(OCI_MANIFEST, digest, len(head.manifest_bytes))
        entry: IndexEntry = (manifest, head.capsule.manifest.artifact_type, {})
        added = StoreIndex(
            capsules={**self.capsules, digest: entry}, tags=self.tags, referrers=self.referrers
        )
        added = added.with_referrers(head, others).with_tag(
            head.name, str(head.capsule.config.serial), digest
        )
        return added.with_current(head.name, digest) if current else added

    def with_type(self, digest: Digest, artifact_type: str) -> StoreIndex:
        """Return the index in which the capsule *digest* is listed as what it is."""
        descriptor, _, notes = self.capsules[digest]
        entry: IndexEntry = (descriptor, artifact_type, notes)
        capsules = {**self.capsules, digest: entry}
        return StoreIndex(capsules=capsules, tags=self.tags, referrers=self.referrers)

    def with_referrers(self, head: Head, others: Sequence[IndexEntry]) -> StoreIndex:
        """Return the index in which a capsule has what *head* carries, and *others*."""
        listed = dict(self.referrers)
        if head.envelopes or head.attestations or others:
            text = make_store_referrers(head, others)
            listed[head.capsule.digest] = Descriptor(OCI_INDEX, digest_of(text), len(text))
        return StoreIndex(capsules=self.capsules, tags=self.tags, referrers=listed)

    def without_referrers(self, digest: Digest) -> StoreIndex:
        """Return the index in which nothing refers to the capsule *digest*."""
        listed = {key: held for key, held in self.referrers.items() if key != digest}
        return StoreIndex(capsules=self.capsules, tags=self.tags, referrers=listed)

    def with_tag(self, name: str, tag: str, digest: Digest) -> StoreIndex:
        """Return the index in which ``NAME:TAG`` means the capsule *digest*."""
        return StoreIndex(
            capsules=self.capsules,
            tags={**self.tags, f"{name}:{tag}": digest},
            referrers=self.referrers,
        )

    def with_current(self, name: str, digest: Digest) -> StoreIndex:
        """Return the index in which a bare *name* means the capsule *digest*.

        What it meant until now is ``NAME:previous``; it stays so when nothing moves.
        """
        before = self.tags.get(f"{name}:{CURRENT}")
        if before == digest:
            return self
        moved = self if before is None else self.with_tag(name, PREVIOUS, before)
        return moved.with_tag(name, CURRENT, digest)

    def without_tag(self, name: str, tag: str) -> StoreIndex:
        """Return the index in which ``NAME:TAG`` means nothing."""
        return StoreIndex(
            capsules=self.capsules,
            tags={key: held for key, held in self.tags.items() if key != f"{name}:{tag}"},
            referrers=self.referrers,
        )

    def without_capsule(self, digest: Digest) -> StoreIndex:
        """Return the index without the capsule *digest*, its tags and its referrers."""
        return StoreIndex(
            capsules={key: entry for key, entry in self.capsules.items() if key != digest},
            tags={name: held for name, held in self.tags.items() if held != digest},
            referrers={key: held for key, held in self.referrers.items() if key != digest},
        )


def make_store_referrers(head: Head, others: Iterable[IndexEntry]) -> bytes:
    """Return the referrers index of a capsule in a store: what *head* carries, and *others*."""
    return make_referrers(
        head.manifest_bytes, head.envelopes, head.attestations, others=others
    ).index


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredCapsule:
    """A capsule in a store: whole in itself, its signatures not verified."""

    head: Head
    tags: tuple[str, ...]
    """The serial first, then by alphabet."""
    attachments: tuple[Attachment, ...] = ()
    """What else refers to it, besides signatures and attestations: one of each type."""

    @property
    def digest(self) -> Digest:
        """Return the digest of the capsule."""
        return self.head.capsule.digest

    @property
    def name(self) -> str:
        """Return the name of the capsule."""
        return self.head.name

    @property
    def manifest(self) -> Manifest:
        """Return what it consists of."""
        return self.head.capsule.manifest

    @property
    def config(self) -> Config:
        """Return what a node needs to know of it."""
        return self.head.capsule.config

    @property
    def manifest_bytes(self) -> bytes:
        """Return the bytes that are signed."""
        return self.head.manifest_bytes

    @property
    def config_bytes(self) -> bytes:
        """Return the text of the config."""
        return self.head.config_bytes

    @property
    def envelopes(self) -> tuple[bytes, ...]:
        """Return the texts of its signatures."""
        return self.head.envelopes

    @property
    def attestations(self) -> tuple[bytes, ...]:
        """Return the texts of what builders say of it."""
        return self.head.attestations

    def attached(self, artifact_type: str) -> Descriptor | None:
        """Return the blob of this type that refers to it, if there is one."""
        for item in self.attachments:
            if item.artifact_type == artifact_type:
                return item.blob
        return None

    @property
    def signature_digests(self) -> tuple[Digest, ...]:
        """Return the digests of the envelopes; they are blobs of the store."""
        return tuple(digest_of(envelope) for envelope in self.envelopes)

    @property
    def signers(self) -> tuple[KeyId, ...]:
        """Return the ids of the keys that are said to have signed; nothing of it is verified."""
        return tuple(sorted(signer_of(envelope) for envelope in self.envelopes))

    @property
    def attesters(self) -> tuple[KeyId, ...]:
        """Return the ids of the keys that are said to attest; nothing of it is verified."""
        return tuple(sorted(signer_of(envelope) for envelope in self.attestations))

    @property
    def size_bytes(self) -> int:
        """Return the size of its payloads and config, each blob once."""
        return sum({blob.digest: blob.size_bytes for blob in self.manifest.blobs}.values())


def render_store_index(index: StoreIndex) -> bytes:
    """Return the text of ``index.json``."""
    entries: list[IndexEntry] = []
    names: dict[Digest, list[str]] = {}
    for name, held in sorted(index.tags.items()):
        names.setdefault(held, []).append(name)
    for digest, (descriptor, artifact_type, _) in sorted(index.capsules.items()):
        notes: list[dict[str, str]] = [{REF_NAME: name} for name in names.get(digest, ())] or [{}]
        entries += [(descriptor, artifact_type, note) for note in notes]
        if digest in index.referrers:
            entries.append((index.referrers[digest], None, {REF_NAME: referrers_tag(digest)}))
    return render_index(entries)


def parse_store_index(data: bytes, *, where: str) -> StoreIndex:
    """Return what ``index.json`` says.

    Raises:
        VerificationError: any other text than :func:`render_store_index` writes.
    """
    capsules: dict[Digest, IndexEntry] = {}
    tags: dict[str, Digest] = {}
    referrers: dict[Digest, Descriptor] = {}
    try:
        for descriptor, artifact_type, notes in parse_index(data, where=where):
            name = notes.get(REF_NAME, "")
            if descriptor.media_type == OCI_INDEX:
                referrers[Digest(name.replace("-", ":", 1))] = descriptor
            elif descriptor.media_type == OCI_MANIFEST and artifact_type in (CAPSULE, BOOTSTRAP):
                capsules[descriptor.digest] = (descriptor, artifact_type, {})
                if name:
                    reference = parse_reference(name)
                    if f"{reference.name}:{reference.tag}" != name:
                        raise InputError(f"found the tag {name!r:.80}, expected NAME:TAG")
                    tags[name] = descriptor.digest
        index = StoreIndex(capsules=capsules, tags=tags, referrers=referrers)
        canonical = render_store_index(index)
    except (InputError, TypeError) as error:
        raise VerificationError(f"{where}: not the index of a store: {error}") from error
    if canonical != data:
        raise VerificationError(f"{where}: not the index of a store as we write it")
    return index


def find_untrue_tags(index: StoreIndex, digest: Digest, config: Config) -> list[str]:
    """Return the tags of the capsule *digest* that are not true: under another name than it calls
    itself by, or with the serial of another.
    """
    return [
        name for name, held in index.tags.items() if held == digest and not fits_tag(name, config)
    ]


def fits_tag(text: str, config: Config) -> bool:
    """Tell whether the capsule with *config* may have the tag *text*, ``NAME:TAG``."""
    name, _, tag = text.partition(":")
    return name == config.name and (not tag.isdigit() or tag == str(config.serial))


def merge_signatures(
    held: Iterable[bytes], incoming: Iterable[bytes], believed: set[KeyId]
) -> tuple[bytes, ...]:
    """Return one signature, or one attestation, per key. Where both have one, the new one wins
    only if verified: else an import could put rubbish in the place of what somebody else trusts.
    """
    merged = {signer_of(envelope): envelope for envelope in held}
    for envelope in incoming:
        signer = signer_of(envelope)
        if signer in believed or signer not in merged:
            merged[signer] = envelope
    return tuple(merged.values())


def signer_of(envelope: bytes) -> KeyId:
    """Return the id of the key that is said to have made the one signature of *envelope*."""
    return parse_envelope(envelope, where="envelope").signatures[0][0]
