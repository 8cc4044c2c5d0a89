"""Kernel modules that do nothing but say what they are."""

import struct


def make_module(**says):
    """Return an ELF file whose section .modinfo says *says*: texts, or lists of them."""
    items = [
        f"{key}={value}\0"
        for key, values in says.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    info = "".join(items).encode()
    names = b"\0.modinfo\0.shstrtab\0"
    start = 64
    table = start + len(info) + len(names)

    def section(name, offset, size):
        return struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 0, 0)

    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    return header + info + names + bytes(64) + section(1, start, len(info)) + section(
        10, start + len(info), len(names)
    )  # fmt: skip
