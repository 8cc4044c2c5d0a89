"""RPM packages and repositories made by hand, so that tests need no rpm."""

import base64
import gzip
import hashlib
import struct
from xml.sax.saxutils import escape, quoteattr

from .archives import DATE
from .pgp import Key

STRING, STRINGS, INT32, BINARY = 6, 8, 4, 7
PAYLOAD = gzip.compress(b"", mtime=0)


def render_header(region, entries):
    """Return an rpm header of *entries*: (tag, value), the immutable *region* around them."""
    index, store = b"", b""
    for tag, value in sorted(entries, key=lambda entry: entry[0]):
        kind, count, data = encode(value)
        store += b"\0" * (-len(store) % 4 if kind == INT32 else 0)
        index += struct.pack(">IIII", tag, kind, len(store), count)
        store += data
    total = len(entries) + 1
    first = struct.pack(">IIII", region, BINARY, len(store), 16)
    store += struct.pack(">IIiI", region, BINARY, -16 * total, 16)
    return (
        b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", total, len(store)) + first + index + store
    )


def encode(value):
    if isinstance(value, bytes):
        return BINARY, len(value), value
    if isinstance(value, list) and value and isinstance(value[0], int):
        return INT32, len(value), b"".join(struct.pack(">I", item) for item in value)
    if isinstance(value, list):
        return STRINGS, len(value), b"".join(item.encode() + b"\0" for item in value)
    return STRING, 1, value.encode() + b"\0"


def make_rpm(
    name, version="1", release="1", *, epoch=None, requires=(), key=None, payload=PAYLOAD, **more
):
    """Return the bytes of a package without files; *more* are tags by number, as ``tag1234``."""
    tags = {
        1000: name,
        1001: version,
        1002: release,
        1004: name,
        1005: name,
        1006: [DATE],
        1009: [0],
        1014: "Toy",
        1021: "linux",
        1022: "noarch",
        1047: [name],
        1112: [8],
        1113: [f"{version}-{release}"],
        1124: "cpio",
        1125: "gzip",
        5092: [hashlib.sha256(payload).hexdigest()],
        5093: [8],
    }
    if epoch is not None:
        tags[1003] = [epoch]
    if requires:
        tags |= {1048: [0] * len(requires), 1049: list(requires), 1050: [""] * len(requires)}
    tags |= {int(tag[3:]): value for tag, value in more.items()}
    header = render_header(63, [(tag, value) for tag, value in tags.items() if value is not None])
    signed = [(273, hashlib.sha256(header).hexdigest()), (1000, [len(header) + len(payload)])]
    if key:
        armour = key.sign(header).decode().split("\n\n", 1)[1].split("-----END", 1)[0]
        signed.append((267, base64.b64decode("".join(armour.split()))))
    signature = render_header(62, signed)
    lead = b"\xed\xab\xee\xdb\3\0" + bytes(72 - 6) + b"\0\1\0\5"
    return lead.ljust(96, b"\0") + signature + b"\0" * (-len(signature) % 8) + header + payload


class RpmArchive:
    """A repository in *directory*."""

    def __init__(self, directory, *, key=None):
        self.directory = directory
        self.key = key or Key("rpms")
        self.rows = {}
        (directory / "Packages").mkdir(parents=True, exist_ok=True)

    def add(self, name, version="1", *, requires=(), signed=True, epoch=None):
        """Add a package; what has been there in that version goes."""
        data = make_rpm(
            name, version, epoch=epoch, requires=requires, key=self.key if signed else None
        )
        path = f"Packages/{name}-{version}-1.noarch.rpm"
        (self.directory / path).write_bytes(data)
        self.rows[name, version] = (path, data, tuple(requires), epoch or 0)
        return self

    def drop(self, name, version):
        path, *_ = self.rows.pop((name, version))
        (self.directory / path).unlink()
        return self

    def publish(self, *, date=DATE, signed=True, key=None):
        """Write the indexes and the signed repomd.xml."""
        kinds = {"primary": self._primary(), "filelists": self._filelists()}
        repodata = self.directory / "repodata"
        repodata.mkdir(exist_ok=True)
        parts = [render_part(kind, data, date, repodata) for kind, data in kinds.items()]
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<repomd xmlns='
            f'"http://linux.duke.edu/metadata/repo"><revision>{date}</revision>{"".join(parts)}'
            "</repomd>\n"
        ).encode()
        (repodata / "repomd.xml").write_bytes(text)
        (repodata / "repomd.xml.asc").unlink(missing_ok=True)
        if signed:
            (repodata / "repomd.xml.asc").write_bytes((key or self.key).sign(text))
        return self

    def _primary(self):
        rows = []
        for (name, version), (path, data, requires, epoch) in sorted(self.rows.items()):
            needs = "".join(f"<rpm:entry name={quoteattr(item)}/>" for item in requires)
            evr = f'epoch="{epoch}" ver="{version}" rel="1"'
            rows.append(
                f'<package type="rpm"><name>{escape(name)}</name><arch>noarch</arch>'
                f'<version {evr}/><checksum type="sha256" pkgid="YES">{sha256(data)}</checksum>'
                f'<summary>x</summary><description>x</description><time file="0" build="0"/>'
                f'<size package="{len(data)}" installed="0" archive="0"/>'
                f'<location href="{path}"/><format><rpm:provides>'
                f'<rpm:entry name="{name}" flags="EQ" {evr}/></rpm:provides>'
                f"<rpm:requires>{needs}</rpm:requires></format></package>\n"
            )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<metadata xmlns="http://linux.duke.edu/metadata/common" '
            f'xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="{len(rows)}">\n'
            f"{''.join(rows)}</metadata>\n"
        ).encode()

    def _filelists(self):
        rows = [
            f'<package pkgid="{sha256(data)}" name="{name}" arch="noarch">'
            f'<version epoch="{epoch}" ver="{version}" rel="1"/></package>\n'
            for (name, version), (_, data, _, epoch) in sorted(self.rows.items())
        ]
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<filelists xmlns='
            f'"http://linux.duke.edu/metadata/filelists" packages="{len(rows)}">\n'
            f"{''.join(rows)}</filelists>\n"
        ).encode()


def render_part(kind, data, date, repodata):
    packed = gzip.compress(data, mtime=0)
    (repodata / f"{kind}.xml.gz").write_bytes(packed)
    return (
        f'<data type="{kind}"><checksum type="sha256">{sha256(packed)}</checksum>'
        f'<open-checksum type="sha256">{sha256(data)}</open-checksum>'
        f'<location href="repodata/{kind}.xml.gz"/><timestamp>{date}</timestamp>'
        f"<size>{len(packed)}</size><open-size>{len(data)}</open-size></data>"
    )


def sha256(data):
    return hashlib.sha256(data).hexdigest()
