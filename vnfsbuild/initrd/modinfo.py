"""What a kernel module says of itself: its description, the firmware files that it asks for.

Read from the section ``.modinfo`` of the ELF file (``include/linux/moduleparam.h`` of the kernel).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from vnfsbuild.errors import InputError

SECTION = b".modinfo"

Modinfo = Mapping[str, tuple[str, ...]]
"""Key → its values, in the order of the file."""


def parse_modinfo(data: bytes, *, where: str) -> Modinfo:
    """Return what the module *data*, unpacked, says of itself.

    Raises:
        InputError: it is no ELF file of 64 bits, or has no such section.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise InputError(f"{where}: found {data[:6]!r}, expected a 64-bit ELF file")
    try:
        text = _find_section(data)
    except (struct.error, ValueError) as error:
        raise InputError(f"{where}: a damaged ELF file: {error}") from error
    if text is None:
        raise InputError(f"{where}: found no section .modinfo, expected a kernel module")
    found: dict[str, tuple[str, ...]] = {}
    for item in text.split(b"\0"):
        key, equals, value = item.decode("utf-8", "replace").partition("=")
        if equals:
            found[key] = (*found.get(key, ()), value)
    return found


def _find_section(data: bytes) -> bytes | None:
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + n * size) for n in range(count)]
    if names >= len(headers):
        raise ValueError(f"no section {names} with names")
    start, length = headers[names][4:6]
    table_of_names = data[start : start + length]
    for name, _, _, _, offset, size_bytes in headers:
        if table_of_names[name : table_of_names.index(b"\0", name)] == SECTION:
            return data[offset : offset + size_bytes]
    return None
