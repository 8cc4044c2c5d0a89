"""A blob on its way into a registry: in pieces, going on where a broken connection left off.

A registry gives a place to send to (a session), and says after each piece how much it has. Some
(Debian's docker-registry among them) lose the session when a connection breaks within a piece: then
the blob begins anew. The registry computes the digest at the end, and refuses other bytes.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import BinaryIO

from vnfsbuild.capsule import Advance
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.manifest import Descriptor
from vnfsbuild.registry.answer import PIECE_BYTES, Answer, RegistryError, read_count
from vnfsbuild.registry.repository import Repository

PART_BYTES = 32 * 1024 * 1024
"""So much is sent by one request: what may have to be sent again."""

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})\Z")

Open = Callable[[], BinaryIO]
"""Opens the blob, which can be sought in."""


def upload_blob(
    repository: Repository,
    blob: Descriptor,
    open_blob: Open,
    *,
    mount_from: str | None = None,
    advance: Advance | None = None,
    part_bytes: int = PART_BYTES,
) -> bool:
    """Bring *blob* into *repository*; tell whether it had to be sent.

    *mount_from* is a repository of the same registry that may have it: then nothing is sent.

    Raises:
        RegistryError: it did not work, also after some more attempts.
    """
    upload = _Upload(repository, blob, open_blob, advance or (lambda _: None), part_bytes)
    return upload.run(mount_from)


class _Upload:
    def __init__(
        self,
        repository: Repository,
        blob: Descriptor,
        open_blob: Open,
        advance: Advance,
        part_bytes: int,
    ) -> None:
        self._repository = repository
        self._http = repository.http
        self._blob = blob
        self._open = open_blob
        self._advance = advance
        self._part_bytes = part_bytes
        self._told_bytes = 0
        self._location: str | None = None
        self._offset = 0
        """how much the registry has, as it says"""

    def run(self, mount_from: str | None) -> bool:
        """Do it; failures without any progress in between are counted."""
        failures = 0
        if mount_from and self._start(mount_from):
            self._tell(self._blob.size_bytes)
            return False
        while True:
            before = self._offset
            try:
                if self._location is None:
                    self._start(None)
                if self._step():
                    return True
            except RegistryError as error:
                failures = 1 if self._offset > before else failures + 1
                if failures >= self._http.patience.attempts or not self._can_go_on(error):
                    raise
                self._http.wait(failures, error)
                if self._repository.has_blob(self._blob):  # only the answer was lost
                    self._tell(self._blob.size_bytes)
                    return True
                self._ask_how_far()

    def _start(self, mount_from: str | None) -> bool:
        """Get a session; or, where the registry takes the blob from elsewhere, tell so."""
        repository = self._repository
        scopes: tuple[str, ...] = repository.writes
        query = ""
        if mount_from:
            scopes = (*scopes, f"repository:{mount_from}:pull")
            query = "?" + urllib.parse.urlencode({"mount": self._blob.digest, "from": mount_from})
        try:
            with self._http.request(
                "POST",
                f"{repository.path}/blobs/uploads/{query}",
                statuses=(201, 202),
                scopes=scopes,
            ) as answer:
                if answer.status == 201 and mount_from:
                    return True
                self._move(answer, 0)
                least = read_count(answer.headers.get("OCI-Chunk-Min-Length"))
                self._part_bytes = max(self._part_bytes, least or 0)
        except RegistryError as error:
            # It may be that we must not read there, or that this registry does not mount at all.
            if mount_from is None or error.again:
                raise
        return False

    def _step(self) -> bool:
        """Send the next part; tell whether it was the last, and the registry has taken the blob."""
        assert self._location is not None
        left = self._blob.size_bytes - self._offset
        if left <= self._part_bytes:
            self._send("PUT", self._with_digest(self._location), left, (201, 204))
            self._tell(self._blob.size_bytes)
            return True
        count = self._part_bytes
        self._move(self._send("PATCH", self._location, count, (202, 204)), self._offset + count)
        return False

    def _send(self, method: str, url: str, count: int, statuses: tuple[int, ...]) -> Answer:
        first = self._offset
        headers = {"Content-Type": "application/octet-stream"}
        # A blob that is sent whole is no part, and some registries want none then.
        if count and count < self._blob.size_bytes:
            headers["Content-Range"] = f"{first}-{first + count - 1}"
        with self._http.request(
            method,
            url,
            statuses=statuses,
            headers=headers,
            body=lambda: self._read(first, count),
            size_bytes=count,
            scopes=self._repository.writes,
            attempts=1,
        ) as answer:
            return answer

    def _read(self, first: int, count: int) -> Iterator[bytes]:
        self._tell(first)
        with self._open() as file:
            file.seek(first)
            while count > 0:
                piece = file.read(min(PIECE_BYTES, count))
                if not piece:
                    raise VnfsbuildError(
                        f"blob {self._blob.digest}: became shorter while it was sent"
                    )
                count -= len(piece)
                yield piece
                self._tell(self._told_bytes + len(piece))

    def _can_go_on(self, error: RegistryError) -> bool:
        if error.status in (405, 501) and self._part_bytes < self._blob.size_bytes:
            self._part_bytes = self._blob.size_bytes  # it wants blobs whole
            self._location = None
            return True
        # 416: it has more or less than we think. 404 and 400: it has forgotten the session.
        forgotten = error.status in (400, 404, 416) and "DIGEST" not in error.message
        return error.again or (forgotten and self._location is not None)

    def _ask_how_far(self) -> None:
        """Find out how much has arrived; begin anew where the registry does not know any more."""
        if self._location is None:
            return
        try:
            with self._http.request(
                "GET", self._location, statuses=(200, 204), scopes=self._repository.writes
            ) as answer:
                found = _RANGE.match((answer.headers.get("Range") or "").strip())
                # "0-0" is what they say when there is nothing.
                has_bytes = int(found[1]) + 1 if found and int(found[1]) else 0
                if has_bytes > self._blob.size_bytes:
                    raise RegistryError(f"{self._repository.place}: has more than was sent")
                self._move(answer, has_bytes)
        except RegistryError:
            self._location, self._offset = None, 0
        self._tell(self._offset)

    def _move(self, answer: Answer, offset: int) -> None:
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._repository.place}: gave no place to send the blob to")
        self._location = urllib.parse.urljoin(answer.url, location)
        self._offset = offset

    def _with_digest(self, url: str) -> str:
        return f"{url}{'&' if '?' in url else '?'}digest={urllib.parse.quote(self._blob.digest)}"

    def _tell(self, done_bytes: int) -> None:
        self._advance(done_bytes - self._told_bytes)
        self._told_bytes = done_bytes
