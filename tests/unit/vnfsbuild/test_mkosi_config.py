"""What mkosi is told, word for word."""

import sys
from dataclasses import replace
from pathlib import Path

from vnfsbuild.install import mkosi_argv
from vnfsbuild.mkosi_config import MkosiPlaces, render_mkosi
from vnfsbuild.sandbox import SET_HOST_NAME

from .test_inputs import INPUTS
from .test_lock import PACKAGE

PLACES = MkosiPlaces(
    tools=Path("/cache/tools/build"), repository=Path("/cache/repo"), workspace=Path("/work")
)


def test_the_configuration_is_this():
    ssh = replace(PACKAGE, name="openssh-server")
    assert render_mkosi(replace(INPUTS, packages=(ssh,)), PLACES) == {
        "mkosi.conf": """\
[Distribution]
Distribution=debian
Release=trixie
Architecture=x86-64
LocalMirror=file:///cache/repo

[Output]
Format=directory
Output=root
OutputDirectory=/work/output

[Build]
ToolsTree=/cache/tools/build
WorkspaceDirectory=/work/scratch
PackageCacheDirectory=/work/package-cache
History=no
Environment=INITRD=No

[Content]
SourceDateEpoch=1700000000
Bootable=no
WithDocs=no
WithRecommends=no
CleanPackageMetadata=no
Packages=
    linux-image-amd64
    ssh
""",
        "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources": (
            "Types: deb\nURIs: file:///cache/repo\nSuites: ./\nTrusted: yes\n"
        ),
        "mkosi.skeleton/etc/ssh/ssh_host_ecdsa_key": "",
        "mkosi.skeleton/etc/ssh/ssh_host_ed25519_key": "",
        "mkosi.skeleton/etc/ssh/ssh_host_rsa_key": "",
    }


def test_without_packages_that_make_secrets_no_place_is_taken_for_them():
    assert len(render_mkosi(INPUTS, PLACES)) == 2


def test_recommends_are_passed_on():
    conf = render_mkosi(replace(INPUTS, recommends=True), PLACES)["mkosi.conf"]
    assert "WithRecommends=yes\n" in conf


def test_mkosi_has_no_network_and_not_the_hosts_name():
    argv = mkosi_argv(PLACES)
    assert argv[:4] == ["unshare", "--net", "--uts", "--"]
    assert argv[4:9] == [sys.executable, "-SI", "-c", SET_HOST_NAME, "localhost"]
    assert argv[9:] == [
        sys.executable, "-m", "mkosi", "--directory", "/work/mkosi", "--force", "build"
    ]  # fmt: skip


def test_a_base_is_copied_and_what_goes_of_it_is_named():
    inputs = replace(INPUTS, base="/work/tree", removed=("postfix",))
    conf = render_mkosi(inputs, PLACES)["mkosi.conf"]
    assert "BaseTrees=/work/tree\n" in conf
    assert conf.endswith("Packages=\n    linux-image-amd64\n    ssh\n    postfix-\n")
