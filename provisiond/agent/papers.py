"""A capsule's papers: manifest, config and signatures, all that the verdict on it needs.

The bootstrap hands them to the capsule that it boots (``/run/vnfs/site/capsule.json``), so that
its agent can judge anew when trust.json changes, whatever the servers have by then.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Tuple

from vnfsbuild.digest import Digest, render_json
from vnfsbuild.dsse import VerifyEd25519
from vnfsbuild.errors import VerificationError
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule, verify_capsule

FILE = "capsule.json"


@dataclass(frozen=True)
class Papers:
    """What a capsule says of itself, and who vouches for it; nothing of it is verified."""

    manifest: bytes
    config: bytes
    envelopes: Tuple[bytes, ...]


def judge(
    papers: Papers, digest: Digest, *, trust: Trust, now: int, verify_ed25519: VerifyEd25519
) -> VerifiedCapsule:
    """Return the capsule *digest* when *trust* says that it may run.

    Raises:
        VerificationError: it may not.
    """
    return verify_capsule(
        papers.manifest,
        papers.config,
        papers.envelopes,
        trust=trust,
        now=now,
        verify_ed25519=verify_ed25519,
        digest=digest,
    )


def render_papers(papers: Papers) -> bytes:
    """Return the text of *papers*."""
    return render_json(
        {
            "config": _encode(papers.config),
            "envelopes": [_encode(data) for data in papers.envelopes],
            "manifest": _encode(papers.manifest),
        }
    )


def load_papers(path: Path) -> Optional[Papers]:
    """Return the papers in the file *path*; none, where an older bootstrap has left none.

    Raises:
        VerificationError: it is something else.
    """
    try:
        value = json.loads(path.read_bytes())
        return Papers(
            manifest=_decode(value["manifest"]),
            config=_decode(value["config"]),
            envelopes=tuple(_decode(item) for item in value["envelopes"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError(f"{path}: not a capsule's papers: {error!r}") from error


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)
