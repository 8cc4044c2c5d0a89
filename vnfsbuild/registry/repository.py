"""One repository of an OCI registry (distribution-spec 1.1): manifests, blobs, referrers.

All that is returned was verified by its digest, but for what a tag names: there the signatures in
it have the word.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

from vnfsbuild.digest import Digest, digest_of, verify_stream
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import (
    MAX_METADATA_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    IndexEntry,
)
from vnfsbuild.referrers.index import referrers_tag
from vnfsbuild.registry.answer import Answer, RegistryError, read_count
from vnfsbuild.registry.authfiles import DOCKER_HUB
from vnfsbuild.registry.foreignjson import merge_into_index, parse_foreign_index
from vnfsbuild.registry.http import RegistryHttp
from vnfsbuild.registry.login import Credentials
from vnfsbuild.registry.name import RegistryReference

MAX_REFERRERS = 1000
MAX_PAGES = 50
SETTLE_SECONDS = 0.5
"""How long two writers of a referrers tag may be apart for both to see what the other did."""
MERGE_ATTEMPTS = 10

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/")
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?', re.IGNORECASE)


class Repository:
    """The repository *name* of a registry; reading methods may be called by several threads."""

    def __init__(
        self, http: RegistryHttp, name: str, *, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        self.http = http
        self.name = name
        self.path = f"/v2/{name}"
        self.place = f"{http.host}/{name}"
        self._settle_seconds = settle_seconds
        self.reads = (f"repository:{name}:pull",)
        self.writes = (f"repository:{name}:pull,push",)

    def get_manifest(self, wanted: str) -> bytes | None:
        """Return the manifest or index with the tag or digest *wanted*; None when there is none.

        Raises:
            VerificationError: the registry sent other bytes than those of the digest.
            RegistryError: no answer, or an error.
        """
        return self._get_manifest(wanted)[0]

    def _get_manifest(self, wanted: str) -> tuple[bytes | None, str | None]:
        """Return the manifest, and its entity tag."""
        accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}

        def read() -> tuple[bytes | None, Mapping[str, str]]:
            url = f"{self.path}/manifests/{wanted}"
            with self._get(url, accept, (200, 404), attempts=1) as answer:
                return answer.read() if answer.status == 200 else None, answer.headers

        data, headers = self.http.patiently(read)
        if data is None:
            return None, None
        self._verify_manifest(data, wanted, headers.get("Docker-Content-Digest"))
        return data, headers.get("ETag")

    def _verify_manifest(self, data: bytes, wanted: str, told: str | None) -> None:
        found = digest_of(data)
        where = f"{self.place}: manifest {wanted}"
        if wanted.startswith("sha256:") and found != wanted:
            raise VerificationError(f"{where}: found digest {found}, expected {wanted}")
        if told and told.startswith("sha256:") and told != found:
            raise VerificationError(f"{where}: found digest {found}, and the registry says {told}")

    def put_manifest(
        self, wanted: str, data: bytes, media_type: str, *, unchanged: str | None = None
    ) -> bool:
        """Put a manifest or index under a tag or its digest; tell whether the registry lists it as
        a referrer of its subject by itself.

        *unchanged* is the entity tag of what it is to replace, for registries that look at it.

        Raises:
            RegistryError: it did not work; status 412 where it was no more *unchanged*.
        """
        headers = {"Content-Type": media_type}
        if unchanged:
            headers["If-Match"] = unchanged
        url = f"{self.path}/manifests/{wanted}"
        with self.http.request(
            "PUT", url, statuses=(200, 201, 202), headers=headers, body=data, scopes=self.writes
        ) as answer:
            return "OCI-Subject" in answer.headers

    def has_manifest(self, wanted: str) -> bool:
        """Tell whether there is a manifest with the tag or digest *wanted*."""
        return self.get_manifest(wanted) is not None

    def has_blob(self, blob: Descriptor) -> bool:
        """Tell whether the repository has *blob*, as far as the registry says so.

        Raises:
            VerificationError: it says that the blob has another size.
            RegistryError: no answer, or an error.
        """
        url = f"{self.path}/blobs/{blob.digest}"
        with self.http.request("HEAD", url, statuses=(200, 404), scopes=self.writes) as answer:
            size = read_count(answer.headers.get("Content-Length"))
            if answer.status == 200 and size not in (None, blob.size_bytes):
                raise VerificationError(
                    f"{self.place}: blob {blob.digest}: the registry has {size} bytes, "
                    f"expected {blob.size_bytes}"
                )
            return answer.status == 200

    def get_blob(self, blob: Descriptor, *, limit_bytes: int = MAX_METADATA_BYTES) -> bytes:
        """Return a small blob, verified.

        Raises:
            VerificationError: it is too large or not there, or other bytes came.
            RegistryError: no answer, or an error.
        """
        where = f"{self.place}: {blob.media_type}"
        if blob.size_bytes > limit_bytes:
            raise VerificationError(
                f"{where}: found {blob.size_bytes} bytes, expected at most {limit_bytes}"
            )

        def read() -> bytes:
            with self.open_blob(blob, 0) as (_, pieces):
                return b"".join(pieces)

        try:
            data = self.http.patiently(read)
        except RegistryError as error:
            if error.status == 404:
                raise VerificationError(
                    f"{where}: {blob.digest} is named, and not there"
                ) from error
            raise
        return b"".join(
            verify_stream(iter([data]), digest=blob.digest, size_bytes=blob.size_bytes, where=where)
        )

    @contextlib.contextmanager
    def open_blob(
        self, blob: Descriptor, first_byte: int, size_bytes: int | None = None
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Give the block where the answer begins, and its bytes: never more than were asked for.

        It begins with *first_byte*, or with 0 where the registry knows no ranges. Asked for is
        all that follows, or *size_bytes* of it. Only the digest says whether they are right.

        Raises:
            RegistryError: no such blob, no answer, or an error.
        """
        rest_bytes = blob.size_bytes - first_byte
        wanted_bytes = rest_bytes if size_bytes is None else min(size_bytes, rest_bytes)
        headers = {}
        if first_byte or wanted_bytes != blob.size_bytes:
            headers["Range"] = f"bytes={first_byte}-{first_byte + wanted_bytes - 1}"
        with self._get(
            f"{self.path}/blobs/{blob.digest}", headers, (200, 206), attempts=1
        ) as answer:
            start = self._start_of(answer, blob, first_byte)
            most_bytes = wanted_bytes if start == first_byte else blob.size_bytes
            yield start, self._bounded(answer, most_bytes)

    def _start_of(self, answer: Answer, blob: Descriptor, first_byte: int) -> int:
        if answer.status == 200:
            return 0
        found = _CONTENT_RANGE.match(answer.headers.get("Content-Range") or "")
        if not found or int(found[1]) != first_byte:
            raise RegistryError(
                f"{self.place}: blob {blob.digest}: asked from byte {first_byte}, "
                f"found range {answer.headers.get('Content-Range')!r}"
            )
        return first_byte

    def _bounded(self, answer: Answer, most_bytes: int) -> Iterator[bytes]:
        left = most_bytes
        for piece in answer.pieces():
            left -= len(piece)
            if left < 0:
                raise VerificationError(
                    f"{self.place}: sent more than the {most_bytes} bytes that were asked for"
                )
            yield piece
        if left:
            raise RegistryError(
                f"{self.place}: sent {most_bytes - left} bytes, expected {most_bytes}", again=True
            )

    def _get(
        self,
        url: str,
        headers: dict[str, str],
        statuses: tuple[int, ...],
        *,
        attempts: int | None = None,
    ) -> contextlib.AbstractContextManager[Answer]:
        return self.http.request(
            "GET", url, statuses=statuses, headers=headers, scopes=self.reads, attempts=attempts
        )

    def list_referrers(self, digest: Digest) -> list[IndexEntry]:
        """Return what refers to the manifest *digest*: by the API, and by the fallback tag.

        Both are asked, for what was copied by its tag into a registry that has the API is only
        under the tag.

        Raises:
            VerificationError: what the registry lists is no list, or is too long.
            RegistryError: no answer, or an error.
        """
        listed = self._listed_by_api(digest)
        data = self.get_manifest(referrers_tag(digest))
        if data is not None:
            listed += parse_foreign_index(data, where=f"{self.place}:{referrers_tag(digest)}")
        entries = {entry[0].digest: entry for entry in listed}
        if len(entries) > MAX_REFERRERS:
            raise VerificationError(
                f"{self.place}: found {len(entries)} referrers, expected at most {MAX_REFERRERS}"
            )
        return list(entries.values())

    def _listed_by_api(self, digest: Digest) -> list[IndexEntry]:
        url: str | None = f"{self.path}/referrers/{digest}"
        found: list[IndexEntry] = []
        for _ in range(MAX_PAGES):
            if url is None or len(found) > MAX_REFERRERS:
                break
            # Registries without the API have many ways to say so.
            statuses = (200, 400, 404, 405, 501)
            with self._get(url, {"Accept": OCI_INDEX}, statuses) as answer:
                if answer.status != 200:
                    break
                if "json" not in answer.headers.get("Content-Type", "json"):
                    break  # a page for people, from a proxy that knows no such path
                data = answer.read()
            found += parse_foreign_index(data, where=f"{self.place}: referrers")
            link = _NEXT.search(answer.headers.get("Link") or "")
            url = self._same_place(urllib.parse.urljoin(answer.url, link[1])) if link else None
        return found

    def _same_place(self, url: str) -> str:
        if not url.startswith(f"{self.http.base}/"):
            raise VerificationError(f"{self.place}: the list of referrers goes on elsewhere")
        return url

    def put_referrer(self, entry: IndexEntry, data: bytes) -> bool:
        """Put the manifest *data* of a referrer; tell whether the registry lists it by itself.

        Where it does not: :meth:`list_by_tag`.

        Raises:
            RegistryError: it did not work.
        """
        return self.put_manifest(entry[0].digest, data, OCI_MANIFEST)

    def list_by_tag(self, digest: Digest, entries: list[IndexEntry]) -> None:
        """List *entries* under the fallback tag of *digest*, beside what stands there already.

        A registry without the referrers API cannot change a tag in one step, and others may be
        doing the same: so it is read again, after a while, until all is there.

        Raises:
            VerificationError: what stands there is no list.
            RegistryError: it did not work, or others took our entries away again and again.
        """
        for _ in range(MERGE_ATTEMPTS):
            began = time.monotonic()
            if not self._merge(digest, entries):
                return
            # Somebody who read before we wrote may write after it: wait as long as that takes.
            spent_seconds = time.monotonic() - began
            pause = max(self._settle_seconds, 3 * spent_seconds)
            time.sleep(pause * random.uniform(1.0, 1.5))
        raise RegistryError(
            f"{self.place}:{referrers_tag(digest)}: others write it again and again, "
            "and leave out what we add",
            hint="push again, when the others are done",
        )

    def _merge(self, digest: Digest, entries: list[IndexEntry]) -> bool:
        """Add what is missing under the fallback tag; tell whether there was anything."""
        tag = referrers_tag(digest)
        data, unchanged = self._get_manifest(tag)
        merged = merge_into_index(data, entries, where=f"{self.place}:{tag}")
        if merged is None:
            return False
        with contextlib.suppress(_ChangedMeanwhile):
            self._put_if_unchanged(tag, merged, unchanged)
        return True

    def _put_if_unchanged(self, tag: str, data: bytes, unchanged: str | None) -> None:
        try:
            self.put_manifest(tag, data, OCI_INDEX, unchanged=unchanged)
        except RegistryError as error:
            if error.status == 412:
                raise _ChangedMeanwhile from error
            raise


class _ChangedMeanwhile(Exception):
    """Somebody else wrote the tag after we read it."""


def open_repository(
    wanted: RegistryReference, *, plain_http: bool = False, ca_file: Path | None = None
) -> Repository:
    """Return the repository that *wanted* is in, with the login that docker or podman has for it.

    Raises:
        InputError: *ca_file* holds no certificates.
    """
    credentials = Credentials(host=wanted.host, repository=wanted.repository, plain_http=plain_http)
    http = RegistryHttp(
        wanted.host, plain_http=plain_http, ca_file=ca_file, credentials=credentials
    )
    repository = wanted.repository
    if wanted.host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return Repository(http, repository)
