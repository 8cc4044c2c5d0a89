"""The ways to tamper: each a small function from what is right to what is not."""

from __future__ import annotations

import json
import os

from vnfsbuild.manifest import MAX_METADATA_BYTES

# --- bytes: (data, start, end) → data; [start, end) is the region --------------------------------


def first_bit_flipped(data, start, end):
    return data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]


def last_bit_flipped(data, start, end):
    return data[: end - 1] + bytes([data[end - 1] ^ 0x80]) + data[end:]


def zeroed(data, start, end):
    return data[:start] + bytes(end - start) + data[end:]


def file_ends_before_it(data, start, end):
    return data[:start]


def file_ends_in_it(data, start, end):
    return data[: (start + end) // 2]


def cut_out(data, start, end):
    return data[:start] + data[end:]


def a_byte_less(data, start, end):
    return data[: end - 1] + data[end:]


def a_byte_more(data, start, end):
    return data[:end] + b"\0" + data[end:]


def a_block_more(data, start, end):
    return data[:end] + bytes(512) + data[end:]


def twice(data, start, end):
    return data[:end] + data[start:end] + data[end:]


def backwards(data, start, end):
    return data[:start] + data[start:end][::-1] + data[end:]


def first_bytes_swapped(data, start, end):
    if end - start < 2:
        return data
    return data[:start] + data[start : start + 2][::-1] + data[start + 2 :]


FLIPS = (first_bit_flipped, last_bit_flipped)
BYTE_WAYS = (
    *FLIPS,
    zeroed,
    file_ends_before_it,
    file_ends_in_it,
    cut_out,
    a_byte_less,
    a_byte_more,
    a_block_more,
    twice,
    backwards,
    first_bytes_swapped,
)

# --- tar headers: (block of 512 bytes) → block, its checksum right again --------------------------


def sealed(block):
    """Return *block* with the checksum that it should have."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def put(block, offset, data, width=0):
    """Return *block* with *data* at *offset*, up to *width* bytes filled with zeros."""
    data = data.ljust(width, b"\0")
    return sealed(block[:offset] + data + block[offset + len(data) :])


def renamed(name):
    return lambda block: put(block, 0, name, 100)


def of_type(flag, target=b"/etc/passwd"):
    return lambda block: put(put(block, 156, flag), 157, target, 100)


def of_size(field):
    return lambda block: put(block, 124, field, 12)


def base256(value):
    """Return a size as GNU tar writes those that eleven octal digits cannot say."""
    return b"\x80" + (value % 2**88).to_bytes(11, "big")


HEADER_WAYS = {
    "path with ..": renamed(b"../../../../etc/cron.d/owned"),
    "path with .. in the middle": renamed(b"blobs/../../owned"),
    "absolute path": renamed(b"/etc/cron.d/owned"),
    "NUL in the name": lambda block: put(block, 4, b"\0"),
    "control characters in the name": renamed(b"a\n\x1b[2Jerror: all is well\r"),
    "name that is no UTF-8": renamed(b"\xff\xfe"),
    "empty name": renamed(b""),
    "prefix": lambda block: put(block, 345, b"a"),
    "symbolic link": of_type(b"2"),
    "hard link": of_type(b"1"),
    "directory": of_type(b"5", b""),
    "character device": of_type(b"3", b""),
    "FIFO": of_type(b"6", b""),
    "old regular file": of_type(b"\0", b""),
    "contiguous file": of_type(b"7", b""),
    "GNU sparse file": of_type(b"S", b""),
    "GNU long name": of_type(b"L", b""),
    "GNU long link": of_type(b"K", b""),
    "pax header": of_type(b"x", b""),
    "global pax header": of_type(b"g", b""),
    "link target left over": lambda block: put(block, 157, b"x"),
    "set-uid": lambda block: put(block, 100, b"0004755\0"),
    "another owner": lambda block: put(block, 108, b"0001750\0"),
    "a time": lambda block: put(block, 136, b"14525252000\0"),
    "an owner's name": lambda block: put(block, 265, b"root"),
    "GNU magic": lambda block: put(block, 257, b"ustar  \0"),
    "checksum with blanks": lambda block: block[:148] + b" " + block[149:],
    "checksum of signed bytes": lambda block: block[:148] + b"777777\0 " + block[156:],
    "length 0": of_size(b"00000000000\0"),
    "length one more": lambda block: of_size(b"%011o\0" % (int(block[124:135], 8) + 1))(block),
    "length 8 GiB less one": of_size(b"77777777777\0"),
    "length 8 GiB": of_size(base256(2**33)),
    "length 2^63": of_size(base256(2**63)),
    "length 2^63 - 512": of_size(base256(2**63 - 512)),
    "length -1": of_size(base256(-1)),
    "length -512": of_size(base256(-512)),
    "length with a minus": of_size(b"-0000000001\0"),
    "length with a plus": of_size(b"+0000000007\0"),
    "length with an underscore": of_size(b"000_0000007\0"),
    "length with blanks": of_size(b"          7\0"),
    "length in twelve digits": of_size(b"000000000007"),
    "length that is no number": of_size(b"seven\0"),
}

# --- documents: bytes → bytes that a lenient reader would take for the same, or would choke on ----


def _reversed_keys(data):
    value = json.loads(data)
    text = json.dumps(dict(reversed(list(value.items()))), separators=(",", ":"))
    # One key has no other order.
    return text.encode() if len(value) > 1 else data + b" "


def _first_key_twice(data):
    value = json.loads(data)
    key = next(iter(value))
    return data[:-1] + b"," + json.dumps({key: value[key]}).encode()[1:]


JSON_WAYS = {
    "not JSON": lambda data: b"not JSON",
    "empty": lambda data: b"",
    "blank in front": lambda data: b" " + data,
    "line feed at the end": lambda data: data + b"\n",
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "NUL at the end": lambda data: data + b"\0",
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "no UTF-8": lambda data: data[:-1] + b',"zz":"\xff"}',
    "indented": lambda data: json.dumps(json.loads(data), indent=1, sort_keys=True).encode(),
    "keys in another order": _reversed_keys,
    "a key twice": _first_key_twice,
    "a key more": lambda data: data[:-1] + b',"zz":1}',
    "a key more, nested": lambda data: data[:-1] + b',"zz":{"a":[{}]}}',
    "no keys": lambda data: b"{}",
    "a list": lambda data: b"[]",
    "a number": lambda data: b"1",
    "null": lambda data: b"null",
    "letter as an escape": lambda data: data.replace(b'"', b'"\\u0061', 1),
    "lone surrogate": lambda data: data[:-1] + b',"zz":"\\ud800"}',
    "float": lambda data: data[:-1] + b',"zz":1.0}',
    "exponent beyond all floats": lambda data: data[:-1] + b',"zz":1e999}',
    "NaN": lambda data: data[:-1] + b',"zz":NaN}',
    "number of 4000 digits": lambda data: data[:-1] + b',"zz":' + b"9" * 4000 + b"}",
    "number of 5000 digits": lambda data: data[:-1] + b',"zz":' + b"9" * 5000 + b"}",
    "minus zero": lambda data: data[:-1] + b',"zz":-0}',
    "100000 lists deep": lambda data: data[:-1] + b',"zz":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "900 lists deep": lambda data: data[:-1] + b',"zz":' + b"[" * 900 + b"]" * 900 + b"}",
    "100000 objects deep": lambda data: b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "never closed": lambda data: b"[" * 10**6,
    "4 MiB and more": lambda data: data[:-1] + b',"zz":"' + b"z" * MAX_METADATA_BYTES + b'"}',
}

# --- files of a directory: (path) → nothing -------------------------------------------------------


def _rewritten(way):
    def tamper(path, other):
        data = path.read_bytes()
        path.write_bytes(way(data, 0, len(data)))

    return tamper


def _swapped(path, other):
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def _copied_over(path, other):
    path.write_bytes(other.read_bytes())


def _linked(path, other):
    path.unlink()
    path.symlink_to(os.path.relpath(other, path.parent))


def _linked_out(path, other):
    path.unlink()
    path.symlink_to("/etc/hostname")


def _linked_to_itself(path, other):
    path.unlink()
    path.symlink_to(path.name)


def _hard_linked(path, other):
    path.unlink()
    path.hardlink_to(other)


def _huge(path, other):
    """A file of 8 EiB less one page, that takes no room; or what the file system can do."""
    with path.open("r+b") as file:
        for size in (2**63 - 4096, 2**43, 2**40):
            try:
                file.truncate(size)
                return
            except OSError:
                continue


FILE_WAYS = {
    "first bit flipped": _rewritten(first_bit_flipped),
    "truncated": _rewritten(file_ends_in_it),
    "empty": _rewritten(file_ends_before_it),
    "extended by a byte": _rewritten(a_byte_more),
    "backwards": _rewritten(backwards),
    "swapped": _swapped,
    "another blob's content": _copied_over,
    "symbolic link to another blob": _linked,
    "symbolic link out of the store": _linked_out,
    "symbolic link to itself": _linked_to_itself,
    "hard link to another blob": _hard_linked,
    "terabytes of nothing": _huge,
}
"""(file, another file) → nothing."""
