"""Debian packages made by hand, for tests that read them."""

import hashlib
import io
import tarfile

from vnfsbuild.lock import LockedPackage


def make_deb(path, control, members):
    """Write a package: *members* are TarInfo and content, of data.tar."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": make_tar([(regular("./control"), control.encode())]),
        "data.tar.gz": make_tar(members),
    }
    data = b"!<arch>\n"
    for name, content in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        data += header.encode() + content + b"\n" * (len(content) % 2)
    path.write_bytes(data)
    return path


def make_tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def regular(name, mode=0o644):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, 1000
    return info


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def lock_bytes(data, name="hello", repository="debian-trixie"):
    return LockedPackage(
        name=name,
        version="1:1.0",
        architecture="all",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        path=f"pool/{name}.deb",
        repository=repository,
    )
