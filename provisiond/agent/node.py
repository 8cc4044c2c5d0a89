"""node.json: what the bootstrap's agent hands to the capsule's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Tuple

from vnfsbuild.digest import Digest, parse_digest, render_json
from vnfsbuild.errors import InputError, VnfsbuildError


@dataclass(frozen=True)
class Node:
    """This node, as the server knows it, in this boot."""

    node_id: str
    name: str
    boot_id: str
    node_key: Optional[str]
    hwaddrs: Tuple[str, ...]
    uuid: Optional[str]
    capsule: Digest
    checkin_seconds: int
    overlay: Optional[Digest] = None
    """Of what was laid over its root; a bootstrap from before it was told does not."""


def render_node(node: Node) -> bytes:
    """Return the text of node.json."""
    return render_json(
        {
            "bootId": node.boot_id,
            "capsule": node.capsule,
            "checkinSeconds": node.checkin_seconds,
            "hwaddrs": list(node.hwaddrs),
            "name": node.name,
            "nodeId": node.node_id,
            "nodeKey": node.node_key,
            "overlay": node.overlay,
            "uuid": node.uuid,
        }
    )


def load_node(path: Path) -> Node:
    """Return the node that the file *path* describes.

    Raises:
        VnfsbuildError: there is none: this system was not booted by a bootstrap.
    """
    try:
        value: Any = json.loads(path.read_bytes())
        return Node(
            node_id=value["nodeId"],
            name=value["name"],
            boot_id=value["bootId"],
            node_key=value["nodeKey"],
            hwaddrs=tuple(value["hwaddrs"]),
            uuid=value["uuid"],
            capsule=parse_digest(value["capsule"], where=str(path)),
            checkin_seconds=int(value["checkinSeconds"]),
            overlay=_parse_overlay(value.get("overlay"), path),
        )
    except OSError as error:
        raise VnfsbuildError(
            f"{path}: {error.strerror}; this system was not started by a vnfs bootstrap"
        ) from error
    except (ValueError, KeyError, TypeError, InputError) as error:
        raise VnfsbuildError(f"{path}: not a node's description: {error!r}") from error


def _parse_overlay(text: Any, path: Path) -> Optional[Digest]:
    return None if text is None else parse_digest(text, where=str(path))
