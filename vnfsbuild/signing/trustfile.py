"""trust.json of a site, and how it is changed: read, decided, signed, replaced, in one turn.

One change at a time, under the lock of the site; the file is the old version or the new one. Where
more root keys must sign than are here, what was signed so far waits in ``trust.next.json``, an
envelope like trust.json, and goes from holder to holder until there are enough.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.dsse import Envelope, KeyId, key_id, parse_envelope, render_envelope, signed_bytes
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.files import locked, read_bounded, write_atomic
from vnfsbuild.reference import parse_name
from vnfsbuild.signing.keys import (
    NEXT_TRUST,
    ROOT,
    list_keys,
    load_key,
    load_public_key,
    load_trust,
    make_key,
    verify_ed25519,
)
from vnfsbuild.signing.passphrase import choose_passphrase
from vnfsbuild.signing.trustrules import first_trust, is_same
from vnfsbuild.trust import TRUST, Trust, parse_trust, render_trust, verify_trust

logger = logging.getLogger(__name__)

MAX_TRUST_BYTES = 256 * 1024
"""It goes to nodes with answers that have bounds of their own: room for a thousand keys."""

_KEY_ID = re.compile(r"[0-9a-f]{12,64}\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """What a change came to."""

    before: Trust | None
    trust: Trust
    path: Path
    """trust.json, or the file that waits for signatures."""
    signers: tuple[KeyId, ...]
    """Root keys that have signed, of the version before too."""
    missing: int
    """Signatures that are still wanted; 0: it is the site's trust.json now."""


def change_trust(site: Path, decide: Callable[[Trust], Trust], *, now: int) -> Changed:
    """Let *decide* make the next version of what the site holds; sign it, and replace it.

    One that has expired can be changed, if what comes out has not.

    Raises:
        InputError: there is no trust.json, no root key, another change that waits for signatures;
            or what *decide* raises. All is then as it was.
        VerificationError: trust.json was changed by another hand.
    """
    with _turn(site):
        _refuse_waiting(site)
        held = load_trust(site, now=0)
        new = decide(held)
        if is_same(new, held):
            path = site / "trust.json"
            return Changed(before=held, trust=held, path=path, signers=(), missing=0)
        if new.expires <= now:
            raise InputError(
                f"{site / 'trust.json'}: version {held.version} has expired",
                hint="vnfsbuild trust renew --days 365",
            )
        return _sign(site, new, (), held, where=site / NEXT_TRUST, now=now)


def init_trust(
    site: Path,
    roots: tuple[str, ...],
    *,
    threshold: int,
    expires: int,
    now: int,
    under_passphrase: bool = False,
) -> Changed:
    """Make version 1 with the root keys *roots*; without any the key ``root``, made if need be.

    Raises:
        InputError: there is a trust.json; or a key of these is not to be had.
    """
    with _turn(site):
        for path in (site / "trust.json", site / NEXT_TRUST):
            if path.exists():
                raise InputError(
                    f"{path}: is there, and is not written over",
                    hint="vnfsbuild trust allow, renew or sign change it",
                )
        if not roots:
            roots = (ROOT,)
            if not (site / "keys" / f"{ROOT}.pub").exists():
                phrase = choose_passphrase(ROOT) if under_passphrase else None
                make_key(site, ROOT, passphrase=phrase)
        public = find_keys(site, roots, None)
        trust = first_trust(public, root_keys=tuple(public), threshold=threshold, expires=expires)
        return _sign(site, trust, (), None, where=site / NEXT_TRUST, now=now)


def sign_trust(
    site: Path, path: Path | None, *, now: int, admit: Callable[[Trust], None] = lambda trust: None
) -> Changed:
    """Add the signatures of the root keys that are here to the file *path*, which waits for them.

    When there are enough it becomes the site's trust.json. Without *path*: the site's own. *admit*
    sees what it says before anything is signed, and raises to refuse it.

    Raises:
        InputError: no such file, or no root key here that has not signed it, and not enough that
            have.
        VerificationError: it does not follow on the trust.json of this site.
    """
    with _turn(site):
        where = path or site / NEXT_TRUST
        data = read_bounded(where, limit_bytes=MAX_TRUST_BYTES)
        envelope = parse_envelope(data, where=os.fspath(where))
        if envelope.payload_type != TRUST:
            raise VerificationError(f"{where}: signed as {envelope.payload_type!r}, not a trust")
        trust = parse_trust(envelope.payload, where=os.fspath(where))
        held = load_trust(site, now=0) if (site / "trust.json").exists() else None
        if held is not None and trust.version <= held.version:
            raise VerificationError(
                f"{where}: found version {trust.version}, expected a later one "
                f"than {held.version}, which this site holds"
            )
        admit(trust)
        return _sign(site, trust, envelope.signatures, held, where=where, now=now)


def load_waiting(site: Path) -> tuple[Trust, tuple[KeyId, ...]] | None:
    """Return the trust.json to be of *site*, unverified, and who is said to have signed it."""
    path = site / NEXT_TRUST
    return read_trust(path) if path.exists() else None


def read_trust(path: Path) -> tuple[Trust, tuple[KeyId, ...]]:
    """Return what the trust.json *path* says, unverified, and who is said to have signed it.

    Raises:
        InputError: no such file.
        VerificationError: it is something else.
    """
    data = read_bounded(path, limit_bytes=MAX_TRUST_BYTES)
    envelope = parse_envelope(data, where=os.fspath(path))
    trust = parse_trust(envelope.payload, where=os.fspath(path))
    return trust, tuple(keyid for keyid, _ in envelope.signatures)


def find_keys(site: Path, words: tuple[str, ...], trust: Trust | None) -> dict[KeyId, bytes]:
    """Return key id → public key of those that *words* mean: names, ``.pub`` files, key ids.

    A file's key is kept in the site, under the name of the file, so that it has a name here too.

    Raises:
        InputError: one of them means no key, or several.
    """
    found: dict[KeyId, bytes] = {}
    for word in words:
        public = _find_key(site, word, trust)
        found[key_id(public)] = public
    return found


def _find_key(site: Path, word: str, trust: Trust | None) -> bytes:
    if os.sep in word or word.endswith(".pub"):
        return _keep_key(site, Path(word))
    path = site / "keys" / f"{word}.pub"
    if path.exists():
        return load_public_key(path)
    known: dict[KeyId, bytes] = dict(trust.keys) if trust else {}
    for public_path in sorted((site / "keys").glob("*.pub")):
        public = load_public_key(public_path)
        known[key_id(public)] = public
    if _KEY_ID.match(word):
        hits = [keyid for keyid in known if keyid.startswith(word)]
        if len(hits) == 1:
            return known[hits[0]]
    raise InputError(
        f"key {word!r}: found no such key in {path.parent}, and none with this id",
        hint="vnfsbuild keys list; a key of others is named by its file, as ./alice.pub",
    )


def _keep_key(site: Path, path: Path) -> bytes:
    public = load_public_key(path)
    if key_id(public) in {key.key_id for key in list_keys(site, None)}:
        return public
    kept = site / "keys" / f"{parse_name(path.stem, where=os.fspath(path))}.pub"
    if kept.exists():
        raise InputError(
            f"{path}: another key is called {path.stem} here",
            hint="give the file another name: the key is called by it",
        )
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(kept, path.read_bytes())
    return public


def _sign(
    site: Path,
    trust: Trust,
    signatures: tuple[tuple[KeyId, bytes], ...],
    held: Trust | None,
    *,
    where: Path,
    now: int,
) -> Changed:
    """Sign *trust* until it has enough, or no key is left; write what that comes to."""
    payload = render_trust(trust)
    if len(payload) > MAX_TRUST_BYTES // 2:
        raise InputError(f"trust.json: {len(payload)} bytes, expected {MAX_TRUST_BYTES // 2}")
    needs = [trust] if held is None else [trust, held]
    message = signed_bytes(TRUST, payload)
    made = _verified(needs, signatures, message, where=where)
    before = set(made)
    for keyid, name in _signers_here(site, needs).items():
        if _count_missing(needs, made) and keyid not in made and _is_wanted(needs, made, keyid):
            made[keyid] = load_key(site, name).sign(message)
    missing = _count_missing(needs, made)
    if missing and set(made) == before:
        raise InputError(
            f"{site / 'keys'}: found no root key that can sign version {trust.version}, "
            f"{missing} more must",
            hint="bring keys/root.pem back, or a link to where it is; or vnfsbuild trust sign FILE "
            "where the other root keys are",
        )
    envelope = Envelope(TRUST, payload, tuple(sorted(made.items())))
    data = render_envelope(envelope)
    if missing:
        write_atomic(where, data)
        return _changed(held, trust, where, made, missing)
    path = site / "trust.json"
    verify_trust(data, pinned=held, now=now, verify_ed25519=verify_ed25519, where=os.fspath(where))
    write_atomic(path, data)
    if where == site / NEXT_TRUST:
        where.unlink(missing_ok=True)
    logger.debug("%s: version %d, signed by %s", path, trust.version, ", ".join(sorted(made)))
    return _changed(held, trust, path, made, 0)


def _changed(
    held: Trust | None, trust: Trust, path: Path, made: Mapping[KeyId, bytes], missing: int
) -> Changed:
    signers = tuple(sorted(made))
    return Changed(before=held, trust=trust, path=path, signers=signers, missing=missing)


def _verified(
    needs: list[Trust],
    signatures: tuple[tuple[KeyId, bytes], ...],
    message: bytes,
    *,
    where: Path,
) -> dict[KeyId, bytes]:
    """Return those of *signatures* that are by a root key.

    Raises:
        VerificationError: one of these is wrong.
    """
    made = {}
    for keyid, signature in signatures:
        for trust in needs:
            if keyid in trust.root_keys:
                try:
                    verify_ed25519(trust.keys[keyid], signature, message)
                except VerificationError as error:
                    raise VerificationError(f"{where}: {error}") from error
                made[keyid] = signature
    return made


def _signers_here(site: Path, needs: list[Trust]) -> dict[KeyId, str]:
    """Return the root keys whose secret half is here: key id → name. Those that stay come first."""
    here = {key.key_id: key.name for key in list_keys(site, None) if key.can_sign}
    roots = [keyid for trust in needs for keyid in trust.root_keys]
    return {keyid: here[keyid] for keyid in roots if keyid in here}


def _is_wanted(needs: list[Trust], made: Mapping[KeyId, bytes], keyid: KeyId) -> bool:
    """Tell whether a signature by *keyid* brings anything: nobody is asked for more than needed."""
    return any(_lacks(trust, made) and keyid in trust.root_keys for trust in needs)


def _count_missing(needs: list[Trust], made: Mapping[KeyId, bytes]) -> int:
    return max(_lacks(trust, made) for trust in needs)


def _lacks(trust: Trust, made: Mapping[KeyId, bytes]) -> int:
    return max(0, trust.root_threshold - len(set(made) & set(trust.root_keys)))


def _refuse_waiting(site: Path) -> None:
    """Raise when another change waits for signatures: one of the two would be lost.

    Raises:
        InputError: one does.
    """
    path = site / NEXT_TRUST
    waiting = load_waiting(site)
    if waiting is None:
        return
    if (site / "trust.json").exists():
        held = load_trust(site, now=0)
        if waiting[0].version <= held.version:
            if waiting[0] != held:  # else the last signature was made elsewhere
                logger.warning("%s: version %d was overtaken, and is dropped", path,
                               waiting[0].version)  # fmt: skip
            path.unlink()
            return
    raise InputError(
        f"{path}: version {waiting[0].version} still waits for signatures",
        hint=f"vnfsbuild trust sign; or, to drop it, rm {path}",
    )


@contextlib.contextmanager
def _turn(site: Path) -> Iterator[None]:
    """Hold the lock of the site, and say so when that has to wait."""
    site.mkdir(parents=True, exist_ok=True)
    path = site / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=False))
        except VnfsbuildError:
            logger.info("%s: waiting for another command that changes keys or trust.json", path)
            stack.enter_context(locked(path))
        yield
