"""What mkosi is told: inputs in, the text of its configuration files out.

mkosi reads a directory. It installs exactly the locked packages from a local repository, as files
of that directory say; nothing of the host's configuration comes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.distributions import is_rpm, major_of
from vnfsbuild.inputs import InstallInputs

OUTPUT = "root"

# Packages whose installation makes a secret leave one that they find alone: an empty file keeps
# them from it, and normalising takes the file away.
SECRETS = {
    "munge": ("etc/munge/munge.key",),
    "openssh-server": (
        "etc/ssh/ssh_host_ecdsa_key",
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_rsa_key",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MkosiPlaces:
    """Where mkosi finds its tools and packages, and where it works."""

    tools: Path
    repository: Path
    workspace: Path

    @property
    def config(self) -> Path:
        """The directory that mkosi reads."""
        return self.workspace / "mkosi"

    @property
    def output(self) -> Path:
        """The directory that mkosi leaves the tree in, as :data:`OUTPUT`."""
        return self.workspace / "output"

    @property
    def scratch(self) -> Path:
        """Where mkosi works."""
        return self.workspace / "scratch"

    @property
    def package_cache(self) -> Path:
        """What apt calls its cache; the packages themselves are read in place."""
        return self.workspace / "package-cache"


def render_mkosi(inputs: InstallInputs, places: MkosiPlaces) -> dict[str, str]:
    """Return mkosi's configuration: path below its directory → text."""
    return {
        "mkosi.conf": _render_conf(inputs, places),
        **_render_sources(inputs, places),
        **{
            f"mkosi.skeleton/{path}": ""
            for package in inputs.packages
            for path in SECRETS.get(package.name, ())
        },
    }


def _render_sources(inputs: InstallInputs, places: MkosiPlaces) -> dict[str, str]:
    # Files of these names replace mkosi's own sources, whole.
    if is_rpm(inputs.distribution):
        text = (
            f"[vnfsbuild]\nname=vnfsbuild\nbaseurl=file://{places.repository}\nenabled=1\n"
            # What the lock has was verified; which streams are meant, the lock has decided.
            "gpgcheck=0\nrepo_gpgcheck=0\nmodule_hotfixes=1\n"
        )
        return {"mkosi.sandbox/etc/yum.repos.d/mkosi.repo": text}
    text = f"Types: deb\nURIs: file://{places.repository}\nSuites: ./\nTrusted: yes\n"
    return {"mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources": text}


def _render_conf(inputs: InstallInputs, places: MkosiPlaces) -> str:
    sections = {
        "Distribution": {
            "Distribution": inputs.distribution,
            # Of a point release mkosi knows no key, nor does it need one.
            "Release": major_of(inputs.release) if is_rpm(inputs.distribution) else inputs.release,
            "Architecture": inputs.architecture.replace("_", "-"),
            # Makes mkosi show the directory to apt inside its sandbox.
            "LocalMirror": f"file://{places.repository}",
        },
        "Output": {
            "Format": "directory",
            "Output": OUTPUT,
            "OutputDirectory": str(places.output),
        },
        "Build": {
            "ToolsTree": str(places.tools),
            "WorkspaceDirectory": str(places.scratch),
            "PackageCacheDirectory": str(places.package_cache),
            "History": "no",
            # Debian's initramfs generators heed it: nodes boot by an initrd of ours.
            "Environment": "INITRD=No",
        },
        "Content": {
            "SourceDateEpoch": str(inputs.epoch),
            "Bootable": "no",
            "WithDocs": "no",
            "WithRecommends": "yes" if inputs.recommends else "no",
            "CleanPackageMetadata": "no",
            **({"BaseTrees": inputs.base} if inputs.base else {}),
            "Packages": "".join(f"\n    {name}" for name in _list_words(inputs)),
        },
    }
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
        for section, settings in sections.items()
    )


def _list_words(inputs: InstallInputs) -> tuple[str, ...]:
    return (*inputs.wanted, *(f"{name}-" for name in inputs.removed))
