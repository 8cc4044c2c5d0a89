"""Other signatures and attestations for a capsule in a ``.vnfs`` file, which is replaced whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from vnfsbuild import ustar
from vnfsbuild.capsule import (
    Advance,
    Head,
    load_capsule,
    payloads_after,
    write_head,
    write_payload,
)
from vnfsbuild.files import open_atomic
from vnfsbuild.manifest import Descriptor


def rewrite_capsule(
    path: Path, change: Callable[[Head], Head], *, advance: Advance | None = None
) -> Head:
    """Put what *change* makes of its head into the file *path*; the payloads stay; return it.

    *path* is as it was until the new file is whole, and for good when *change* raises. Where it is
    a link, the file that it leads to is replaced; who may read that stays as it is.

    Raises:
        InputError: the file cannot be read.
        VerificationError: it is not the one valid byte sequence for what it holds.
    """
    real = Path(os.path.realpath(path))
    mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else 0o644
    with open_atomic(real, mode=mode) as file:
        changed: list[Head] = []

        def admit(head: Head) -> None:
            changed.append(change(head))
            write_head(file, changed[0])

        def take(payload: Descriptor, chunks: Iterator[bytes]) -> None:
            if payload in payloads_after(changed[0]):
                write_payload(file, payload, chunks, advance)
            else:  # the empty blob, say, which is part of the new head
                b"".join(chunks)

        load_capsule(path, admit=admit, take=take)
        file.write(ustar.END)
    return changed[0]
