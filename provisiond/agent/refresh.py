"""The node's overlay, brought up to date while the node runs.

Each file is replaced as a whole: who reads it sees the old one or the new one. Only what the server
changed is touched; a file that was changed on the node stays, until the server changes it too.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import io
import json
import os
import pwd
import stat
import tarfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from provisiond.agent.readyscripts import Outcome, run_command, run_scripts, tail
from vnfsbuild.errors import VnfsbuildError

RECORD = "etc/vnfs/overlay.json"
"""What the overlay that is laid over consists of: written by the server, part of each overlay."""
CHANGE_SCRIPTS = "etc/vnfs/change.d"
CHANGED = "VNFS_CHANGED"
"""Names for scripts the files that changed: absolute paths, one a line."""
_TEMPORARY = ".{name}.vnfs-new"
_DIRECTORY_MODE = 0o755
_MAX_TOLD = 5

Print = List[Any]
"""Kind, digest or target, mode, owner, group: what says which file is meant."""


@dataclass(frozen=True)
class Applied:
    """What came of laying over another overlay."""

    changed: Tuple[str, ...]
    """Absolute paths that were written or removed."""
    faults: Tuple[str, ...]
    """What could not be done; it is tried again."""
    outcome: Outcome
    """Of the commands and scripts that the changes set going; they are not run again."""

    @property
    def failure(self) -> str:
        """What went wrong, for people; empty when nothing did."""
        told = list(self.faults[:_MAX_TOLD])
        if len(self.faults) > _MAX_TOLD:
            told.append(f"and {len(self.faults) - _MAX_TOLD} more")
        return "; ".join(told + [self.outcome.failure] * bool(self.outcome.failure))


def apply_overlay(data: bytes, *, root: Path = Path("/"), timeout_seconds: float) -> Applied:
    """Make what the tar *data* holds the node's files below *root*, and run what that sets going.

    Raises:
        VnfsbuildError: it is no overlay of ours; nothing has changed.
    """
    members = _read(data)
    new = _parse_record(members[RECORD][1])
    old = _load_record(root)
    changed: List[str] = []
    faults: List[str] = []
    for path in sorted(members):
        if path == RECORD or path not in new["files"]:
            continue
        wanted = new["files"][path]
        try:
            if _put(root, path, members[path][1], wanted, old["files"].get(path)):
                changed.append(path)
        except (OSError, KeyError, VnfsbuildError) as error:
            faults.append(f"overlay: /{path}: {_told(error)}")
    for path in sorted(set(old["files"]) - set(new["files"]), reverse=True):
        try:
            if _remove(root, path, old["files"][path]):
                changed.append(path)
        except OSError as error:
            faults.append(f"overlay: /{path}: {_told(error)}")
    if not faults:
        record = ["file", hashlib.sha256(members[RECORD][1]).hexdigest(), 0o600, "root", "root"]
        _put(root, RECORD, members[RECORD][1], record, None)
    told = tuple(f"/{path}" for path in sorted(changed))
    outcome = _run(new["run"], told, root, timeout_seconds) if told else Outcome("", "")
    return Applied(changed=told, faults=tuple(faults), outcome=outcome)


def _read(data: bytes) -> Dict[str, Tuple[tarfile.TarInfo, bytes]]:
    """Return the members of the tar by path.

    Raises:
        VnfsbuildError: it is none, or a path leads elsewhere.
    """
    found: Dict[str, Tuple[tarfile.TarInfo, bytes]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                parts = member.name.split("/")
                if member.name.startswith("/") or any(part in ("", ".", "..") for part in parts):
                    raise VnfsbuildError(f"overlay: found the path {member.name!r:.80}")
                file = archive.extractfile(member) if member.isfile() else None
                found[member.name] = (member, file.read() if file else b"")
    except (tarfile.TarError, EOFError) as error:
        raise VnfsbuildError(f"overlay: not a tar: {error}") from error
    if RECORD not in found:
        raise VnfsbuildError(f"overlay: found no {RECORD}: the server is older than this agent")
    return found


def _parse_record(data: bytes) -> Dict[str, Any]:
    try:
        value = json.loads(data)
        files, runs = value["files"], value["run"]
        if all(len(item) == 5 for item in files.values()) and isinstance(runs, list):
            return {"files": files, "run": runs}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise VnfsbuildError(f"{RECORD}: not the record of an overlay")


def _load_record(root: Path) -> Dict[str, Any]:
    """Return what was laid over last: at boot or since. A boot by an older server left nothing."""
    try:
        return _parse_record((root / RECORD).read_bytes())
    except (OSError, VnfsbuildError):
        return {"files": {}, "run": []}


def _put(root: Path, path: str, data: bytes, wanted: Print, before: Optional[Print]) -> bool:
    """Put *wanted* at *path*, unless it is there; tell whether that took a change."""
    target = root / path
    found = _look_at(target)
    if found is not None and (found == _named(wanted) or before == wanted):
        # What the server did not change is left as the node has it.
        return False
    kind, link, mode, owner, group = wanted
    if kind == "file" and hashlib.sha256(data).hexdigest() != link:
        raise VnfsbuildError("found other content than the overlay's record says")
    if kind == "directory":
        if found is not None and found[0] != "directory":
            raise VnfsbuildError("found a file, expected a directory")
        _make_parents(root, target)
        target.mkdir(mode=mode, exist_ok=True)
        _own(target, mode, owner, group)
        return True
    if found is not None and found[0] == "directory":
        raise VnfsbuildError("found a directory, expected a file")
    ids = _ids(owner, group)
    _make_parents(root, target)
    new = target.with_name(_TEMPORARY.format(name=target.name))
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    try:
        if kind == "link":
            new.symlink_to(link)
        else:
            _write(new, data, mode, ids)
        new.replace(target)
    except BaseException:
        if os.path.lexists(new):
            new.unlink()
        raise
    return True


def _write(path: Path, data: bytes, mode: int, ids: Tuple[int, int]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        status = os.fstat(file.fileno())
        if (status.st_uid, status.st_gid) != ids:
            os.fchown(file.fileno(), *ids)
        os.fchmod(file.fileno(), mode)


def _remove(root: Path, path: str, before: Print) -> bool:
    """Remove what the last overlay put at *path*; what is another file by now stays."""
    target = root / path
    found = _look_at(target)
    if found is None or found[:2] != before[:2]:
        return False
    if found[0] != "directory":
        target.unlink()
        return True
    try:
        target.rmdir()
    except OSError:
        return False  # it has something in it, or something is mounted there
    return True


def _look_at(path: Path) -> Optional[Print]:
    """Return what is at *path*, as the record tells it; None when nothing is."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        return ["link", str(path.readlink()), 0o777, "root", "root"]
    mode = stat.S_IMODE(status.st_mode)
    owners = [_name(pwd.getpwuid, status.st_uid), _name(grp.getgrgid, status.st_gid)]
    if stat.S_ISDIR(status.st_mode):
        return ["directory", "", mode, *owners]
    if not stat.S_ISREG(status.st_mode):
        return ["special", "", mode, *owners]
    return ["file", hashlib.sha256(path.read_bytes()).hexdigest(), mode, *owners]


def _named(wanted: Print) -> Print:
    """Return *wanted* with the names that this node has for its owners by number."""
    owner, group = wanted[3:]
    owners = [
        _name(pwd.getpwuid, int(owner)) if owner.isdigit() else owner,
        _name(grp.getgrgid, int(group)) if group.isdigit() else group,
    ]
    return [*wanted[:3], *owners]


def _name(find: Any, number: int) -> str:
    try:
        return str(find(number)[0])
    except KeyError:
        return str(number)


def _ids(owner: str, group: str) -> Tuple[int, int]:
    """Return the numbers of *owner* and *group*.

    Raises:
        VnfsbuildError: this node does not know one of them.
    """
    numbers = []
    for name, find in ((owner, pwd.getpwnam), (group, grp.getgrnam)):
        try:
            numbers.append(int(name) if name.isdigit() else int(find(name)[2]))
        except KeyError as error:
            raise VnfsbuildError(f"{name}: no such user or group here") from error
    return numbers[0], numbers[1]


def _own(path: Path, mode: int, owner: str, group: str) -> None:
    ids = _ids(owner, group)
    status = path.stat()
    if (status.st_uid, status.st_gid) != ids:
        os.chown(path, *ids)
    path.chmod(mode)


def _make_parents(root: Path, target: Path) -> None:
    missing = []
    parent = target.parent
    while parent != root and not parent.is_dir():
        missing.append(parent)
        parent = parent.parent
    for directory in reversed(missing):
        directory.mkdir()
        directory.chmod(_DIRECTORY_MODE)


def _run(
    runs: List[Dict[str, Any]], changed: Tuple[str, ...], root: Path, timeout_seconds: float
) -> Outcome:
    """Run each command that a change sets going, once, then the scripts, whatever fails."""
    failures: List[str] = []
    told: List[str] = []
    done: List[List[str]] = []
    environment = {**os.environ, CHANGED: "\n".join(changed)}
    for item in runs:
        argv = [str(word) for word in item["command"]]
        exists = item.get("ifExists")
        hit = any(fnmatchcase(path, pattern) for path in changed for pattern in item["when"])
        if not hit or argv in done or (exists and not (root / exists.lstrip("/")).exists()):
            continue
        done.append(argv)
        status, output = run_command(argv, timeout_seconds, environment)
        name = " ".join(argv)
        told.append(f"{name}: {status or 'done'}" + (f"\n{output}" if output else ""))
        if status:
            failures.append(f"{name}: {status}" + (f": {output}" if output else ""))
    scripts = run_scripts(
        root / CHANGE_SCRIPTS, timeout_seconds=timeout_seconds, environment=environment
    )
    failures += [scripts.failure] * bool(scripts.failure)
    told += [scripts.output] * bool(scripts.output)
    return Outcome(tail("; ".join(failures)), tail("\n".join(told)))


def _told(error: BaseException) -> str:
    return str((error.strerror if isinstance(error, OSError) else None) or error)
