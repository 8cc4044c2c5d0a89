"""What a ``.vnfs`` file is made of, byte by byte: where to tamper."""

from __future__ import annotations

from .forge import REGIONS

BLOCK = 512

FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "owner": (108, 8),
    "group": (116, 8),
    "size": (124, 12),
    "time": (136, 12),
    "checksum": (148, 8),
    "type": (156, 1),
    "link target": (157, 100),
    "magic and version": (257, 8),
    "names of owner and group": (265, 64),
    "device": (329, 16),
    "prefix": (345, 155),
    "rest": (500, 12),
}
"""Field of a tar header → offset, bytes."""

ZONES = (
    *(f"tar header: {field}" for field in FIELDS),
    "tar header",
    *REGIONS,
    "padding",
    "first end block",
    "last end block",
)
"""Each kind of region of a file, in the order in which a reader meets them."""


def spans(forgery):
    """Return zone → (start, end) of each of its places in the file of *forgery*."""
    found = {zone: [] for zone in ZONES}
    offset = 0
    for region, _, data in forgery.file_members():
        for field, (start, length) in FIELDS.items():
            found[f"tar header: {field}"].append((offset + start, offset + start + length))
        found["tar header"].append((offset, offset + BLOCK))
        offset += BLOCK
        found[region].append((offset, offset + len(data)))
        offset += len(data)
        if len(data) % BLOCK:
            found["padding"].append((offset, offset - len(data) % BLOCK + BLOCK))
            offset += -len(data) % BLOCK
    found["first end block"].append((offset, offset + BLOCK))
    found["last end block"].append((offset + BLOCK, offset + 2 * BLOCK))
    return found
