"""A repository made by hand: packages, indexes, and a Release file signed by a key of the test."""

import hashlib
import lzma
from email.utils import formatdate

from .debs import make_deb, regular
from .pgp import Key

DATE = 1_750_000_000
FOREVER = None


class Archive:
    """A suite of a distribution, or a flat repository, in *directory*."""

    def __init__(self, directory, *, suite="trixie", key=None, component="main"):
        self.directory = directory
        self.suite = suite
        self.key = key or Key("archive")
        self.component = component
        self.stanzas = {}
        (directory / "pool").mkdir(parents=True, exist_ok=True)

    @property
    def url(self):
        return self.directory.as_uri()

    @property
    def flat(self):
        return self.suite.endswith("/")

    @property
    def metadata(self):
        return self.directory if self.flat else self.directory / "dists" / self.suite

    def add(self, name, version="1", *, depends="", files=(), extra=""):
        """Add a package; what has been there in that version goes."""
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
            f"Maintainer: Toy <toy@example.org>\n{extra}"
            + (f"Depends: {depends}\n" if depends else "")
            + f"Description: {name}\n"
        )
        path = f"pool/{name}_{version.replace(':', '%3a')}_all.deb"
        members = [(regular(f"./usr/share/{name}/{file}"), file.encode()) for file in files]
        make_deb(self.directory / path, control, members)
        data = (self.directory / path).read_bytes()
        self.stanzas[name, version] = (
            f"{control}Filename: {path}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        return self

    def drop(self, name, version):
        """Take a package away, as mirrors do with what is superseded."""
        del self.stanzas[name, version]
        (self.directory / f"pool/{name}_{version}_all.deb").unlink()
        return self

    def publish(self, *, date=DATE, expires=FOREVER, names=None, plain=True, detached=False):
        """Write indexes and the signed Release file."""
        index = "\n".join(self.stanzas[item] for item in sorted(self.stanzas)).encode()
        stem = "Packages" if self.flat else f"{self.component}/binary-amd64/Packages"
        packed = lzma.compress(index)
        contents = {f"{stem}.xz": packed, **({stem: index} if plain else {})}
        release = f"Origin: Toy\nSuite: {names or self.suite}\nDate: {date_of(date)}\n"
        if expires is not FOREVER:
            release += f"Valid-Until: {date_of(expires)}\n"
        release += "Architectures: all amd64\nNo-Support-for-Architecture-all: Packages\nSHA256:\n"
        for path, data in contents.items():
            release += f" {hashlib.sha256(data).hexdigest()} {len(data)} {path}\n"
        for path, data in {f"{stem}.xz": packed}.items():
            (self.metadata / path).parent.mkdir(parents=True, exist_ok=True)
            (self.metadata / path).write_bytes(data)
        for name in ("InRelease", "Release", "Release.gpg"):
            (self.metadata / name).unlink(missing_ok=True)
        if detached:
            (self.metadata / "Release").write_text(release)
            (self.metadata / "Release.gpg").write_bytes(self.key.sign(release.encode()))
        else:
            (self.metadata / "InRelease").write_bytes(self.key.clearsign(release))
        return self

    def unsign(self):
        """Leave the Release file, but without a signature."""
        signed = self.metadata / "InRelease"
        (self.metadata / "Release").write_bytes(signed.read_bytes())
        signed.unlink()
        return self


def date_of(epoch):
    return formatdate(epoch, usegmt=True).replace("GMT", "UTC")
