"""The cache of stages: what came out of a stage, by what went into it.

An entry is a directory named by its key. It holds files, and ``entry.json`` with their digests and
what the key was made of. It appears by one rename, whole; on use every byte is verified, and what
is not as its digest says is thrown away, so that the stage is made anew. Format: docs/cache.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from vnfsbuild.digest import Digest, digest_of, digest_of_stream, parse_json, render_json
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import list_directory
from vnfsbuild.inputs import StageInputs

logger = logging.getLogger(__name__)

STAGES = "stages"
"""The folder of the cache with what came out of stages."""

FORMAT = 1
NOTE = "entry.json"
PARENT = "parent"
"""Of the facts: the key of the entry that this one is stored upon, and needs."""
MAX_NOTE_BYTES = 16 * 1024 * 1024
DRAFT = ".new."
ABANDONED_SECONDS = 60
"""A draft that nobody holds is this old before it is taken for abandoned: it may be new."""

LIMIT_BYTES = 20 * 10**9
"""How large the cache of stages may become, where the environment says nothing else."""

_SIZE = re.compile(r"(\d+)([kMGT]?)(B?)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What the cache has for one key, verified."""

    key: Digest
    directory: Path
    stage: str
    recipe: str
    facts: Mapping[str, Any]
    """what else is known of it, as JSON has it"""
    files: Mapping[str, tuple[Digest, int]]
    """name → digest and size"""
    used: float = 0.0
    """when it was used last"""

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(size for _, size in self.files.values())


@dataclass(kw_only=True, slots=True)
class Draft:
    """An entry that is being made."""

    directory: Path
    facts: dict[str, Any] = field(default_factory=dict)


class StageCache:
    """The entries below *directory*."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, key: Digest) -> Entry | None:
        """Return the entry of *key*, every byte of it verified; None where there is none.

        One that is damaged is thrown away.
        """
        found = self.peek(key)
        if found is None:
            return None
        try:
            for name in found.files:
                with open_verified(found, name):
                    pass
        except (VerificationError, OSError) as error:
            self.throw_away(found, error)
            return None
        self.touch(found)
        return found

    def peek(self, key: Digest) -> Entry | None:
        """Return the entry of *key* by its note alone: nothing else of it is verified."""
        directory = self._path(key)
        try:
            return _load(directory, key)
        except FileNotFoundError:
            return None
        except (VerificationError, OSError) as error:
            logger.warning("%s: %s: thrown away", directory, _words(error))
            _remove(directory)
            return None

    def throw_away(self, entry: Entry, error: Exception) -> None:
        """Remove *entry*, which *error* says is of no use: it is made anew."""
        logger.warning("cache: %s of %s: %s: made anew", entry.stage, entry.recipe, _words(error))
        _remove(entry.directory)

    def touch(self, entry: Entry) -> None:
        """Note that *entry* was used."""
        with contextlib.suppress(OSError):
            os.utime(entry.directory / NOTE)

    @contextlib.contextmanager
    def making(self, inputs: StageInputs) -> Iterator[Draft]:
        """Make the entry of *inputs* of the files that the block puts into the draft's directory.

        It appears when the block ends well. Where somebody else has made it meanwhile, that one
        stays: it is the same.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.directory)
        work = Path(tempfile.mkdtemp(dir=self.directory, prefix=DRAFT))
        holder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(holder, fcntl.LOCK_SH)
            draft = Draft(directory=work)
            yield draft
            _finish(draft, inputs)
            with contextlib.suppress(OSError):  # theirs is there
                work.rename(self._path(inputs.key))
        finally:
            os.close(holder)
            _remove(work)

    def list_entries(self) -> list[Entry]:
        """Return all entries, the one that was used last first; their files are not verified."""
        found = []
        for path in list_directory(self.directory):
            if _HEX.match(path.name):
                with contextlib.suppress(VerificationError, OSError):
                    found.append(_load(path, Digest(f"sha256:{path.name}")))
        return sorted(found, key=lambda entry: (-entry.used, entry.key))

    def trim(self, limit_bytes: int, *, dry_run: bool = False) -> list[Entry]:
        """Remove what was not used for longest, until all is no larger than *limit_bytes*.

        What a running build has open it keeps. Return what went.
        """
        if not dry_run:
            _remove_abandoned(self.directory)
            self._remove_unreadable()
        kept_bytes, gone, kept = 0, [], set()
        entries = self.list_entries()
        for entry in entries:
            kept_bytes += entry.size_bytes
            if kept_bytes > limit_bytes:
                gone.append(entry)
            else:
                kept.add(entry.key)
        # What is stored upon an entry is of no use without it.
        while lost := [
            entry
            for entry in entries
            if entry.key in kept and entry.facts.get(PARENT, entry.key) not in {None, *kept}
        ]:
            gone += lost
            kept -= {entry.key for entry in lost}
        for entry in gone if not dry_run else ():
            _remove(entry.directory)
        return gone

    def _remove_unreadable(self) -> None:
        known = {entry.directory for entry in self.list_entries()}
        for path in list_directory(self.directory):
            if _HEX.match(path.name) and path not in known:
                _remove(path)

    def _path(self, key: Digest) -> Path:
        return self.directory / key.removeprefix("sha256:")


def find_limit(environment: Mapping[str, str] | None = None) -> int:
    """Return how large the cache of stages may become: ``VNFS_CACHE_LIMIT`` says it.

    Raises:
        InputError: it is no size.
    """
    text = (os.environ if environment is None else environment).get("VNFS_CACHE_LIMIT")
    return parse_size(text, where="VNFS_CACHE_LIMIT") if text else LIMIT_BYTES


def parse_size(text: str, *, where: str) -> int:
    """Return how many bytes ``500M`` or ``20GB`` are.

    Raises:
        InputError: it is no size; *where* says what it stands for.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InputError(f"{where}: found {text!r}, expected a size, as in 500M or 20GB")
    return int(found[1]) * _UNITS[found[2]]


@contextlib.contextmanager
def open_verified(entry: Entry, name: str) -> Iterator[BinaryIO]:
    """Open the file *name* of *entry*, all of which was read and is what its digest says.

    What is open stays, whoever removes the entry meanwhile.

    Raises:
        VerificationError: it is damaged.
        OSError: it cannot be read.
    """
    digest, size_bytes = entry.files[name]
    with (entry.directory / name).open("rb") as file:
        if digest_of_stream(file) != (digest, size_bytes):
            raise VerificationError(f"{entry.directory / name}: damaged")
        file.seek(0)
        yield file


def _finish(draft: Draft, inputs: StageInputs) -> None:
    files = {}
    for path in list_directory(draft.directory):
        with path.open("rb") as file:
            digest, size_bytes = digest_of_stream(file)
        path.chmod(0o644)
        files[path.name] = {"digest": digest, "size": size_bytes}
    note = {
        "facts": draft.facts,
        "files": files,
        "format": FORMAT,
        "inputs": inputs.document(),
        "recipe": inputs.recipe,
    }
    # With its digest: a note that lost a bit is no note.
    data = render_json(note)
    (draft.directory / NOTE).write_bytes(data + b"\n" + digest_of(data).encode() + b"\n")
    draft.directory.chmod(0o755)


def _load(directory: Path, key: Digest) -> Entry:
    path = directory / NOTE
    used = path.stat().st_mtime
    data, _, told = read_bounded_note(path).rstrip(b"\n").partition(b"\n")
    if digest_of(data).encode() != told:
        raise VerificationError(f"{path}: damaged")
    note = parse_json(data, where=str(path))
    try:
        if note["format"] != FORMAT or digest_of(render_json(note["inputs"])) != key:
            raise VerificationError(f"{path}: of another key, or another version")
        return Entry(
            key=key,
            directory=directory,
            stage=note["inputs"]["stage"],
            recipe=note["recipe"],
            facts=note["facts"],
            files={name: (row["digest"], row["size"]) for name, row in note["files"].items()},
            used=used,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"{path}: not a note of the cache: {error!r}") from error


def read_bounded_note(path: Path) -> bytes:
    """Return the content of a note.

    Raises:
        OSError: it cannot be read.
        VerificationError: it is too large.
    """
    with path.open("rb") as file:
        data = file.read(MAX_NOTE_BYTES + 1)
    if len(data) > MAX_NOTE_BYTES:
        raise VerificationError(f"{path}: found more than {MAX_NOTE_BYTES} bytes")
    return data


def _remove_abandoned(directory: Path) -> None:
    """Remove the drafts of builds that were killed."""
    for path in directory.glob(f"{DRAFT}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    _remove(path)
            finally:
                os.close(descriptor)


def _remove(directory: Path) -> None:
    # Out of the way first: half an entry is none, but nobody need look at it.
    if _HEX.match(directory.name):
        with contextlib.suppress(OSError):
            gone = directory.with_name(f"{DRAFT}{directory.name[:12]}.{os.getpid()}")
            directory = directory.rename(gone)
    shutil.rmtree(directory, ignore_errors=True)


def _words(error: Exception) -> str:
    return getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
