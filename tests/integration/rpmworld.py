"""An RPM distribution made of Debian's files: real programs, real rpm packages, no RPM mirror.

Debian's packages are repacked by rpmbuild, with dependencies that rpm itself finds in them, and
with what RPM distributions do when packages are installed: users and groups made by scriptlets,
file triggers, configuration files, capabilities, a kernel below /usr/lib/modules. It calls itself
Rocky Linux 9, since it is installed as that is. The same Debian packages give the same bytes; the
result is kept in the cache by their digest.
"""

import base64
import hashlib
import re
import shutil
import stat
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.files import locked
from vnfsbuild.packages import fetch_locked, find_stanza, package_path
from vnfsbuild.places import find_places
from vnfsbuild.sandbox import sandbox_argv
from vnfsbuild.sources import deb
from vnfsbuild.sources.createrepo import link_or_copy
from vnfsbuild.toolstree import KINDS, Kind, ensure_tools_tree, load_tools

from ..unit.vnfsbuild.archives import Archive
from ..unit.vnfsbuild.pgp import Key
from . import rpmspec

EPOCH = 1_760_000_000
KEY = Key("rpm-distribution")
TOOLS_KEY = Key("archive")

# What is repacked, with all that it depends on.
KINDS["rpm-world"] = Kind(
    packages=(
        "bash", "bc", "bzip2", "chrony", "coreutils", "cpio", "curl", "dash", "dbus", "debianutils",
        "diffutils", "dmidecode", "e2fsprogs", "ethtool", "file", "findutils", "gawk", "grep",
        "gzip", "hdparm", "hostname", "hwloc-nox", "ibverbs-providers", "iproute2", "iputils-ping",
        "jq", "kmod", "less", "libc-bin", "libcap2-bin", "linux-image-cloud-amd64", "login", "lshw",
        "lsof", "make", "mawk", "mount", "munge", "nano", "ncurses-base", "ncurses-bin", "netbase",
        "netcat-openbsd", "numactl", "openssh-client", "openssh-server", "parted", "passwd",
        "patch", "pciutils", "procps", "psmisc", "python3", "rdma-core", "rsync", "screen", "sed",
        "socat", "sqlite3", "strace", "systemd", "systemd-sysv", "tar", "tcpdump", "time", "tmux",
        "tree", "tzdata", "udev", "usbutils", "util-linux", "wget", "xz-utils", "zip", "unzip",
        "zstd",
    ),
)  # fmt: skip

# Debian's own machinery, which an RPM distribution has no use for.
LEFT_OUT = {
    "adduser", "base-files", "base-passwd", "debconf", "dpkg", "dracut-install", "gcc-14-base",
    "init-system-helpers", "initramfs-tools", "initramfs-tools-bin", "initramfs-tools-core",
    "klibc-utils", "libdebconfclient0", "libklibc", "libtext-charwidth-perl",
    "libtext-wrapi18n-perl", "linux-base", "linux-image-cloud-amd64", "perl-base", "runit-helper",
    "sensible-utils", "sgml-base", "ucf", "xml-core",
}  # fmt: skip
DROPPED = re.compile(
    r"usr/share/(doc|man|info|locale|lintian|bug|initramfs-tools|bash-completion|menu)(/|\Z)"
    r"|etc/(init\.d|kernel|initramfs-tools|dpkg|apt)(/|\Z)|usr/lib/(klibc|dpkg)"
    r"|var/(lib/)?dpkg|boot(/|\Z)|usr/lib/kernel/install\.d"
)


@dataclass
class Member:
    """A file of a package: as %files has it."""

    path: str
    mode: int
    user: str
    group: str
    kind: str


@dataclass
class Package:
    """A package to be made."""

    name: str
    version: str
    members: list = field(default_factory=list)
    requires: list = field(default_factory=list)
    extra: str = ""
    """lines of its preamble"""
    scripts: str = ""
    """scriptlets and triggers"""


def ensure_repository(cache: Path) -> Path:
    """Return the directory of the signed repository, made when *cache* has none."""
    tree = ensure_tools_tree("rpm-world", cache)
    builder = ensure_tools_tree("build-rpm", cache)
    debs = load_tools("rpm-world", cache)
    ours = b"".join(Path(module).read_bytes() for module in (__file__, rpmspec.__file__))
    digest = hashlib.sha256(ours + builder.name.encode())
    for item in debs:
        digest.update(item.sha256.encode())
    out = cache / "rpm-world" / digest.hexdigest()[:12]
    with locked(cache / "rpm-world.lock"):
        if not out.is_dir():
            out.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=out.parent, prefix=".work."))
            try:
                packages = make_packages(debs, cache)
                build(packages, tree, work, builder)
                publish(work / "out", builder)
                (work / "out").rename(out)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return out


def make_packages(debs, cache):
    """Return what the Debian packages *debs* become, and the packages that have no such origin."""
    kept = [item for item in debs if item.name not in LEFT_OUT]
    names = {rpm_name(item.name) for item in kept}
    found = {}
    for item in kept:
        path = package_path(cache, item.sha256)
        stanza = deb.make_stanza(path)
        name = rpm_name(item.name)
        found[name] = Package(
            name=name,
            version=rpm_version(item.version),
            members=list_members(path),
            requires=find_requires(stanza, names - {name}),
        )
    return rpmspec.complete(found)


def rpm_name(name):
    return "kernel-core" if name.startswith("linux-image-6") else name


def rpm_version(version):
    return re.sub(r"[^A-Za-z0-9.+~^]", ".", version.partition(":")[2] or version)


def find_requires(stanza, names):
    """Return those of *names* that the package depends on: the first that is there of each."""
    found = []
    for line in stanza.splitlines():
        if line.startswith(("Depends: ", "Pre-Depends: ")):
            for group in line.partition(": ")[2].split(","):
                choices = [re.split(r"[ :(]", one.strip())[0] for one in group.split("|")]
                found += [rpm_name(one) for one in choices if rpm_name(one) in names][:1]
    return sorted(set(found))


def list_members(path):
    found = []
    with deb._open_member(path, "data.tar") as archive:
        for entry in archive:
            name = deb._place(entry.pathname, path)
            if not name or DROPPED.match(name):
                continue
            kind = "directory" if entry.isdir else "link" if entry.issym else "file"
            found.append(
                Member(name, stat.S_IMODE(entry.mode), entry.uname or "root",
                       entry.gname or "root", kind)
            )  # fmt: skip
    return found


def build(packages, tree, work, builder):
    """Make rpm packages in *work*/out, signed."""
    out = work / "out"
    source = work / "source"
    rpmspec.lay_out(packages, tree, source)
    (work / "world.spec").write_text(rpmspec.render(packages, source, EPOCH))
    argv = sandbox_argv(builder, writable=[work])
    tools.run(
        [*argv, "rpmbuild", "-bb", "--nodeps", "--target=x86_64", str(work / "world.spec"),
         f"--define=_topdir {work}/top", f"--define=_rpmdir {out}/Packages",
         f"--define=_tmppath {work}", "--define=_build_name_fmt %%{NAME}-%%{VERSION}.%%{ARCH}.rpm",
         "--define=_binary_payload w1T2.zstdio", "--define=_buildhost localhost",
         "--define=use_source_date_epoch_as_buildtime 1",
         "--define=build_mtime_policy clamp_to_source_date_epoch"],
        env={"SOURCE_DATE_EPOCH": str(EPOCH), "HOME": str(work), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    for path in sorted((out / "Packages").iterdir()):
        path.write_bytes(sign(path.read_bytes()))


def publish(directory, builder, *, signed=True, key=KEY, epoch=EPOCH):
    """Write repodata for the packages below *directory*."""
    shutil.rmtree(directory / "repodata", ignore_errors=True)
    argv = sandbox_argv(builder, writable=[directory])
    tools.run(
        [*argv, "createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz",
         f"--revision={epoch}", "--set-timestamp-to-revision", str(directory)],
    )  # fmt: skip
    path = directory / "repodata/repomd.xml"
    if signed:
        path.with_suffix(".xml.asc").write_bytes(key.sign(path.read_bytes()))


def sign(data, key=KEY):
    """Return the rpm package *data* with a signature header that has a signature by *key*."""
    lead, rest = data[:96], data[96:]
    end = header_end(rest)
    old = end + -end % 8
    main = rest[old : old + header_end(rest[old:])]
    armour = key.sign(main).decode().split("\n\n", 1)[1].split("-----END", 1)[0]
    signature = base64.b64decode("".join(armour.split()))
    sha256 = hashlib.sha256(main).hexdigest().encode() + b"\0"
    size = struct.pack(">I", len(rest) - old)
    head = render_header(62, [(267, 7, signature), (273, 6, sha256), (1000, 4, size)])
    return lead + head + b"\0" * (-len(head) % 8) + rest[old:]


def header_end(data):
    """Return how long the header is that *data* begins with."""
    count, size = struct.unpack(">II", data[8:16])
    return 16 + 16 * count + size


def render_header(region, entries):
    """Return an rpm header of *entries*: (tag, type, data), the immutable *region* around them."""
    index, store = b"", b""
    for tag, kind, data in entries:
        while kind == 4 and len(store) % 4:
            store += b"\0"
        count = len(data) if kind == 7 else 1
        index += struct.pack(">IIII", tag, kind, len(store), count)
        store += data
    total = len(entries) + 1
    first = struct.pack(">IIII", region, 7, len(store), 16)
    store += struct.pack(">IIiI", region, 7, -16 * total, 16)
    return (
        b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", total, len(store)) + first + index + store
    )


def make_tools_mirror(top: Path) -> Path:
    """Make *top*/tools a mirror of what this machine's tools trees consist of, and a cache.

    *top*/cache has those trees, in which a test key is Debian's.
    """
    cache = find_places().cache
    tools_mirror = Archive(top / "tools", suite="trixie", key=TOOLS_KEY)
    for kind in ("build", "build-rpm"):
        tree = ensure_tools_tree(kind, cache)
        copy_linked(tree, top / "cache/tools" / tree.name)
        path = top / f"cache/tools/{tree.name}/usr/share/keyrings/debian-archive-keyring.gpg"
        path.unlink()
        path.write_bytes(TOOLS_KEY.public())
        shutil.copy(cache / f"tools/{kind}.json", top / f"cache/tools/{kind}.json")
        packages = load_tools(kind, cache)
        fetch_locked(packages, cache=cache)
        for item in packages:
            target = tools_mirror.directory / item.path
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(package_path(cache, item.sha256), target)
                tools_mirror.stanzas[item.name, item.version] = find_stanza(cache, item)
    tools_mirror.publish()
    Archive(top / "tools", suite="trixie-updates", key=TOOLS_KEY).publish()
    return top


def copy_linked(source: Path, target: Path) -> None:
    """Copy the directory *source*; its files are the same, where hard links go."""

    def link(one, other):
        if Path(one).is_symlink():
            Path(other).symlink_to(Path(one).readlink())
        else:
            link_or_copy(Path(one), Path(other))

    shutil.copytree(source, target, symlinks=True, copy_function=link)


NAME = "rocky-9-of-debian"
RECIPE = """\
name = "rocky-9-of-debian"

[distribution]
id = "rocky"
release = "9"
components = ["BaseOS"]
mirror = "{mirror}"
key = "test.asc"

[packages]
install = [{install}]

[kernel]
package = "kernel-core"
arguments = ["console=tty0", "console=ttyS0,115200"]

[[users.system]]
name = "munge"
uid = 201

[[files.write]]
path = "/etc/systemd/network/80-wired.network"
content = "[Match]\\nType=ether\\n\\n[Network]\\nDHCP=yes\\n"

[services]
enable = ["ssh.service", "systemd-networkd.service"]
# What their packages' configuration files would say, nobody made.
disable = ["chrony.service", "munge.service"]

[security]
selinux = "disabled"

[exclude]
paths = ["usr/lib/modules/*/vmlinuz"]
"""


def make_recipe(directory: Path, mirror: Path, cache: Path) -> Path:
    """Make *directory* a recipe of all packages of the distribution, and *mirror* its mirror."""
    repository = ensure_repository(cache)
    target = mirror / "9/BaseOS/x86_64/os"
    if not target.exists():
        copy_linked(repository, target)
    names = sorted(path.name.rpartition("-")[0] for path in (repository / "Packages").iterdir())
    directory.mkdir()
    install = ", ".join(f'"{name}"' for name in names)
    text = RECIPE.format(mirror=mirror.as_uri(), install=install)
    (directory / "recipe.toml").write_text(text)
    (directory / "test.asc").write_bytes(KEY.armoured())
    return directory
