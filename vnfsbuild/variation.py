"""In which ways an environment is varied on purpose: by what the host is, and told in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UMASK = 0o077
TIME_ZONE = "VNF-05:45VNS"
"""Spelled out, so that no database is needed for it; 45 minutes trap what knows whole hours."""
HOST_NAME = "elsewhere"
DIRECTORY = "another/place/for-the-same-recipe"
"""Below the scratch directory: other names, and another depth."""
HASH_SEED = "4711"

LOCALE = "tr_TR.UTF-8"
"""In Turkish an i in capitals has a dot: sorting and comparing by locale comes out another way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What there is to vary on this machine."""

    uid: int
    user: tuple[str, int, int] | None
    """name, uid and gid of an ordinary user who can build here"""
    user_lacking: str
    """why there is none, in words"""
    host_name: str
    processors: Sequence[int]
    """numbers of those that we may use"""
    locale: str
    time_zone: str
    umask: int
    memory_first: bool
    """whether a build here works in memory, if not told otherwise"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """The environment to rebuild in."""

    uid: int | None
    gid: int | None
    """None: the user who we are"""
    host_name: str | None
    processor: int | None
    in_memory: bool
    environment: Mapping[str, str]
    varied: Mapping[str, str]
    """what was varied, and how, in words"""
    not_varied: Mapping[str, str]
    """what was not, and why"""


def choose_variation(host: Host, *, here: str, there: str) -> Variation:
    """Return how to build on *host* in another way than it would by itself.

    *here* and *there* are the file systems of a plain build and of this one, in words.
    """
    varied = {
        "directory": f"…/{DIRECTORY}",
        "umask": f"{UMASK:04o} ({host.umask:04o} here)",
        "locale": f"{LOCALE} ({host.locale or 'none'} here)",
        "time zone": f"TZ={TIME_ZONE} ({host.time_zone or 'the system’s'} here)",
        "hash seed": f"PYTHONHASHSEED={HASH_SEED}",
        "order of directories": "the recipe's files were made in the reverse order",
        "tools": "the tools tree was unpacked anew",
    }
    not_varied = {
        "clock": "this host's",
        "kernel": "this host's",
        "processor": "this host's model",
    }
    root = host.uid == 0
    _tell(
        varied,
        not_varied,
        "network",
        root and "none",
        "none for programs that make bytes; only root can do without for all",
    )
    user = host.user if root else None
    processor = host.processors[-1] if len(host.processors) > 1 else None
    _tell(varied, not_varied, "user", user and f"{user[0]} (root here)", host.user_lacking)
    _tell(
        varied,
        not_varied,
        "host name",
        f"{HOST_NAME} ({host.host_name} here)" if root else None,
        "only root may, outside of a namespace",
    )
    _tell(
        varied,
        not_varied,
        "processors",
        processor is not None and f"1 ({len(host.processors)} here)",
        "this host has one",
    )
    _tell(
        varied,
        not_varied,
        "file system",
        there != here and f"{there} ({here} here)",
        f"{there}: there is no other",
    )
    return Variation(
        uid=user[1] if user else None,
        gid=user[2] if user else None,
        host_name=HOST_NAME if root else None,
        processor=processor,
        in_memory=not host.memory_first,
        environment={
            "LANG": LOCALE,
            "LC_ALL": LOCALE,
            "TZ": TIME_ZONE,
            "PYTHONHASHSEED": HASH_SEED,
            "HOME": "/nowhere",
            "USER": "somebody-else",
        },
        varied=dict(sorted(varied.items())),
        not_varied=dict(sorted(not_varied.items())),
    )


def _tell(
    varied: dict[str, str],
    not_varied: dict[str, str],
    what: str,
    how: str | bool | None,
    lacking: str,
) -> None:
    if how:
        varied[what] = str(how)
    else:
        not_varied[what] = lacking
