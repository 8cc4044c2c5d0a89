"""The spec of the RPM distribution: what rpmbuild is told about each package."""

import shutil
from pathlib import Path

BASE_DIRECTORIES = (
    "boot", "etc", "etc/pam.d", "etc/profile.d", "home", "media", "mnt", "opt", "srv", "usr",
    "usr/bin", "usr/include", "usr/lib", "usr/lib64", "usr/libexec", "usr/local",
    "usr/local/bin", "usr/local/sbin", "usr/sbin", "usr/share", "usr/src", "var", "var/cache",
    "var/empty", "var/lib", "var/log", "var/opt", "var/spool",
)  # fmt: skip
MODES = {"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777, "proc": 0o555, "sys": 0o555,
         "dev": 0o755, "run": 0o755}  # fmt: skip
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin",
         "var/run": "../run", "var/lock": "../run/lock"}  # fmt: skip
OS_RELEASE = """\
NAME="Rocky Linux"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION="9.4 (made of Debian)"
VERSION_ID="9.4"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.4 (made of Debian)"
"""
PASSWD = """\
root:x:0:0:root:/root:/bin/bash
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
nobody:x:65534:65534:Kernel Overflow User:/:/sbin/nologin
"""
GROUPS = ("root:0 bin:1 daemon:2 sys:3 adm:4 tty:5 disk:6 lp:7 mem:8 kmem:9 wheel:10 cdrom:11 "
          "mail:12 man:15 dialout:18 floppy:19 utmp:22 tape:33 video:39 lock:54 audio:63 users:100 "
          "shadow:42 staff:50 nobody:65534")  # fmt: skip
NSSWITCH = "passwd: files\nshadow: files\ngroup: files\nhosts: files dns\nnetworks: files\n"
PAM = {
    "auth": "auth required pam_unix.so\n",
    "account": "account required pam_unix.so\n",
    "password": "password required pam_unix.so yescrypt\n",
    "session": "session required pam_unix.so\n",
    "session-noninteractive": "session required pam_unix.so\n",
}

# What Debian's maintainer scripts would have made: package → path → text, or link ("-> target").
ADDED = {
    "mawk": {"usr/bin/awk": "-> mawk"},
    "openssh-server": {
        "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"
    },
    "libpam-runtime": {f"etc/pam.d/common-{name}": text for name, text in PAM.items()},
    "libc-bin": {"etc/nsswitch.conf": NSSWITCH},
}
CAPABILITIES = {"usr/bin/ping": "cap_net_raw=ep"}
USERS = {
    # package → (user, home), or (user, None): a group alone
    "chrony": ("_chrony", "/var/lib/chrony"),
    "dbus-daemon": ("messagebus", "/nonexistent"),
    "munge": ("munge", "/nonexistent"),
    "openssh-client": ("_ssh", None),
    "openssh-server": ("sshd", "/run/sshd"),
    "tcpdump": ("tcpdump", "/nonexistent"),
}
OWNERS = {
    "var/lib/chrony": ("_chrony", "_chrony"),
    "var/log/chrony": ("_chrony", "_chrony"),
    "etc/munge": ("munge", "munge"),
    "var/lib/munge": ("munge", "munge"),
    "var/log/munge": ("munge", "munge"),
}
UNITS = {
    "chrony": "chrony.service",
    "munge": "munge.service",
    "openssh-server": "ssh.service",
    "systemd": "systemd-networkd.service",
}
LDCONFIG = """\
%transfiletriggerin -n libc6 -P 2000000 -- /usr/lib
/usr/sbin/ldconfig
%transfiletriggerpostun -n libc6 -P 2000000 -- /usr/lib
/usr/sbin/ldconfig
"""
SYSTEMD = """\
%transfiletriggerin -n systemd -P 1000700 -- /usr/lib/sysusers.d
systemd-sysusers || :
%transfiletriggerin -n systemd -P 1000500 -- /usr/lib/tmpfiles.d
systemd-tmpfiles --create || :
%transfiletriggerin -n systemd -P 900900 -- /usr/lib/systemd/system
test -d /run/systemd/system && systemctl daemon-reload || :
"""
HWDB = """\
%transfiletriggerin -n udev -P 1000700 -- /usr/lib/udev/hwdb.d
systemd-hwdb update --usr || :
"""
KERNEL = """\
%posttrans -n kernel-core
depmod -a {version} || :
"""
EXCLUDED = "|".join(
    (
        "^(/usr/bin/perl|perl|/usr/bin/(env|python|dpkg.*)|/.*/make|/lib/runit/.*)$",
        r"^python\\(abi\\).*$",
        "^/usr/bin/(m?awk)$",
        r"^user\\(",
        r"^group\\(",
    )
)
"""What rpm finds that a package asks for, and no package of ours has."""
EXTRA = {
    "tar": "Epoch: 2\n",
    "bash": "Provides: /bin/bash\n",
    "dash": "Provides: /bin/sh /bin/dash\n",
    "libc6": "Provides: rtld(GNU_HASH)\nRequires: libc-bin\n",
}


def complete(found):
    """Return all packages: *found*, and those that RPM distributions begin with."""
    from .rpmworld import Member

    for package in found.values():
        package.requires.append("filesystem")
    add_scripts(found)
    for name, files in ADDED.items():
        there = {member.path for member in found[name].members}
        found[name].members += [
            Member(path, 0o644, "root", "root", "link" if text[:3] == "-> " else "file")
            for path, text in files.items()
            if path not in there
        ]
    move_kernel(found["kernel-core"])
    add_first(found)
    own = {item.path for item in found["filesystem"].members}
    for name, package in found.items():
        for item in package.members:
            item.user, item.group = OWNERS.get(item.path, (item.user, item.group))
        if name != "filesystem":
            package.members = [
                item
                for item in package.members
                if item.path not in own and not item.path.startswith("run/")
            ]
    return found


def add_scripts(found):
    """Give packages the scriptlets and triggers that those of RPM distributions have."""
    for name, (user, home) in USERS.items():
        found[name].extra += f"Requires(pre): passwd libc-bin\nProvides: group({user})\n"
        found[name].extra += f"Provides: user({user})\n" if home else ""
        found[name].scripts += f"%pre -n {name}\n{render_user(user, home)}"
    for name, unit in UNITS.items():
        found[name].extra += "Requires(post): systemd\n" if name != "systemd" else ""
        found[name].scripts += f"%post -n {name}\nsystemctl --no-reload preset {unit} || :\n"
    for name, text in (("libc6", LDCONFIG), ("systemd", SYSTEMD), ("udev", HWDB)):
        found[name].scripts += text
    found["libc6"].extra += "Requires(pre): basesystem\n"
    for name, text in EXTRA.items():
        found[name].extra += text


def add_first(found):
    """Add the packages that all others stand upon."""
    from .rpmworld import Member, Package

    first = {
        "setup": ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/hosts",
                  "etc/profile"],
        "filesystem": [],
        "basesystem": [],
        "rocky-release": ["usr/lib/os-release", "etc/rocky-release"],
    }  # fmt: skip
    for name, files in first.items():
        members = [
            Member(path, 0o000 if "shadow" in path else 0o644, "root", "root", "file")
            for path in files
        ]
        found[name] = Package(name=name, version="9.4", members=members)
    found["rocky-release"].members.append(Member("etc/os-release", 0o777, "root", "root", "link"))
    found["rocky-release"].requires = ["filesystem"]
    found["filesystem"].extra = "Requires(pre): setup\n"
    found["basesystem"].extra = "Requires(pre): filesystem setup rocky-release\n"
    rows = [Member(path, 0o755, "root", "root", "directory") for path in BASE_DIRECTORIES]
    rows += [Member(path, mode, "root", "root", "directory") for path, mode in MODES.items()]
    rows += [Member(path, 0o777, "root", "root", "link") for path in LINKS]
    found["filesystem"].members = rows


def render_user(user, home):
    group = f"getent group {user} >/dev/null || groupadd --system {user}\n"
    if home is None:
        return group
    return group + (
        f"getent passwd {user} >/dev/null || "
        f"useradd --system --gid {user} --home-dir {home} --no-create-home "
        f"--shell /usr/sbin/nologin {user}\n"
    )


def move_kernel(package):
    from .rpmworld import Member

    version = next(
        item.path.split("/")[3] for item in package.members
        if item.path.startswith("usr/lib/modules/") and item.path.count("/") == 3
    )  # fmt: skip
    package.members.append(
        Member(f"usr/lib/modules/{version}/vmlinuz", 0o755, "root", "root", "file")
    )
    package.extra += f"Provides: kernel = {package.version}\nRequires(posttrans): kmod\n"
    package.scripts += KERNEL.format(version=version)


def lay_out(packages, tree, source):
    """Put all that is packed below *source*: of the Debian *tree*, and what no package has."""
    source.mkdir()
    for package in packages.values():
        for item in package.members:
            target = source / item.path
            if item.kind == "directory":
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            text = ADDED.get(package.name, {}).get(item.path) or own_text(item.path)
            if item.path in LINKS:
                target.symlink_to(LINKS[item.path])
            elif item.path == "etc/os-release":
                target.symlink_to("../usr/lib/os-release")
            elif text is not None and text.startswith("-> "):
                target.symlink_to(text[3:])
            elif text is not None:
                target.write_text(text)
            elif item.path.endswith("/vmlinuz"):
                version = item.path.split("/")[3]
                shutil.copy2(tree / f"boot/vmlinuz-{version}", target)
            else:
                shutil.copy2(tree / item.path, target, follow_symlinks=False)


def own_text(path):
    groups = [item.split(":") for item in GROUPS.split()]
    texts = {
        "etc/passwd": PASSWD,
        "etc/group": "".join(f"{name}:x:{number}:\n" for name, number in groups),
        "etc/shadow": "".join(
            f"{line.split(':')[0]}:*:19700:0:99999:7:::\n" for line in PASSWD.splitlines()
        ),
        "etc/gshadow": "".join(f"{name}:::\n" for name, _ in groups),
        "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "etc/profile": "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin\nexport PATH\n",
        "usr/lib/os-release": OS_RELEASE,
        "etc/rocky-release": "Rocky Linux release 9.4 (made of Debian)\n",
    }
    return texts.get(path)


def render(packages, source: Path, epoch):
    """Return the one spec of all *packages*, whose files are below *source*."""
    lines = [
        "%global debug_package %{nil}",
        "%global __os_install_post %{nil}",
        "%global _build_id_links none",
        "%global __brp_check_rpaths %{nil}",
        "%global _use_internal_dependency_generator 1",
        f"%global __requires_exclude {EXCLUDED}",
        "Name: world",
        "Version: 1",
        "Release: 1",
        "Summary: a distribution",
        "License: as Debian has it",
        "%description",
        "A distribution.",
        "%prep",
        "%build",
        "%install",
        "mkdir -p %{buildroot}",
        f"cp -a {source}/. %{{buildroot}}/",
    ]
    for name in sorted(packages):
        package = packages[name]
        lines += [
            f"%package -n {name}",
            f"Version: {package.version}",
            f"Summary: {name}, repacked",
            *(f"Requires: {item}" for item in sorted(set(package.requires))),
            package.extra.rstrip("\n"),
            f"%description -n {name}",
            f"{name}, as Debian has it.",
            package.scripts.rstrip("\n"),
            f"%files -n {name}",
            *(render_member(item) for item in package.members),
        ]
    return "\n".join(lines) + "\n"


def render_member(item):
    # In quotes nothing is a pattern.
    quoted = '"/' + item.path.replace("%", "%%") + '"'
    owner = f"{item.user},{item.group}"
    if item.kind == "link":
        return quoted
    if item.kind == "directory":
        return f"%dir %attr({item.mode:04o},{owner}) {quoted}"
    words = f"%attr({item.mode:04o},{owner})"
    if item.path in CAPABILITIES:
        words += f" %caps({CAPABILITIES[item.path]})"
    if item.path.startswith("etc/"):
        words += " %config(noreplace)"
    return f"{words} {quoted}"
