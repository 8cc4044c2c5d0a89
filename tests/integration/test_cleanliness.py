"""A capsule holds nothing of the host that built it: what is planted there is looked for in it.

The whole of debian-13-compute is built, for its packages make keys, users and caches when they are
installed. Nothing of this machine is touched: what is planted lies in a mount namespace of its own.
"""

import gzip
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import pyzstd

from vnfsbuild.manifest import INITRD, LAYER_SQUASHFS
from vnfsbuild.places import find_places
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_tools_tree

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("compute"),
]

PLACES = find_places()
RECIPE = "debian-13-compute"

HOST_NAME = "canary-host-6f1b"
DOMAIN = "canary-domain-2c9e.example.org"
USER = "canary-user-a7d4"
VARIABLE = "canary-variable-90be"
PLACE = "canary-path-3e58"
SSH_KEY = "CanarySshKey51d8" * 3
MUNGE_KEY = "CanaryMungeKey77aa"
MACHINE_ID = "c0ffee00ca9a12ec0ffee00ca9a12e00"
APT = "canary-apt-e4f2"
CANARIES = (HOST_NAME, DOMAIN, USER, VARIABLE, PLACE, SSH_KEY, MUNGE_KEY, MACHINE_ID, APT)

# Over the /etc of this build alone.
SETUP = """\
set -eu
mount -t overlay overlay -o "lowerdir=$1:/etc" /etc
hostname "$2"
shift 2
exec "$@"
"""


def plant(etc: Path) -> None:
    """Write what a host has in its /etc below the directory *etc*."""
    files = {
        "hostname": HOST_NAME,
        "mailname": DOMAIN,
        "hosts": f"127.0.0.1 localhost {HOST_NAME} {HOST_NAME}.{DOMAIN}\n",
        "machine-id": f"{MACHINE_ID}\n",
        "ssh/ssh_host_ed25519_key": f"-----BEGIN OPENSSH {'PRIVATE'} KEY-----\n{SSH_KEY}\n",
        "ssh/ssh_host_ed25519_key.pub": f"ssh-ed25519 {SSH_KEY} {USER}@{HOST_NAME}\n",
        "munge/munge.key": MUNGE_KEY,
        "apt/apt.conf.d/99canary": f'Canary "{APT}";\n',
        "passwd": f"{USER}:x:0:0:{USER}:/root:/bin/sh\n" + Path("/etc/passwd").read_text(),
    }
    for name, text in files.items():
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text(text)


def run(env, *argv):
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the capsule, built where canaries sit wherever one could leak from."""
    top = tmp_path_factory.mktemp(PLACE)
    plant(top / "etc")
    shutil.copytree(PLACES.share / "recipes" / RECIPE, top / RECIPE)
    (top / RECIPE / "recipe.lock").unlink(missing_ok=True)
    (top / "workspace").mkdir()
    env = {
        **os.environ,
        "VNFS_STORE": str(top / "store"),
        "VNFS_SITE": str(top / "site"),
        "VNFS_CACHE": str(PLACES.cache),
        "VNFS_WORKSPACE": str(top / "workspace"),
        "PYTHONPATH": str(PLACES.share),
        **dict.fromkeys(("USER", "LOGNAME", "SUDO_USER"), USER),
        **dict.fromkeys(("VARIABLE", "EMAIL", "DEBEMAIL", "GIT_AUTHOR_NAME"), VARIABLE),
    }
    planted = [
        "unshare", "--mount", "--uts", "--", "sh", "-c", SETUP, "sh", str(top / "etc"), HOST_NAME
    ]  # fmt: skip
    seen = run(env, *planted, "sh", "-c", "uname -n; id -un; cat /etc/machine-id /etc/munge/*")
    assert seen == f"{HOST_NAME}\n{USER}\n{MACHINE_ID}\n{MUNGE_KEY}"
    run(env, *planted, sys.executable, "-m", "vnfsbuild", "build", str(top / RECIPE))
    assert list((top / "workspace").iterdir()) == []
    yield Store(top / "store")
    shutil.rmtree(top / "store")


@pytest.fixture(scope="module")
def unpacked(store, tmp_path_factory):
    """All payloads, as they are and unpacked: a directory for each."""
    top = tmp_path_factory.mktemp("payloads")
    tools = ensure_tools_tree("build", PLACES.cache)
    (capsule,) = store.list_capsules()
    for number, payload in enumerate(capsule.manifest.payloads):
        place = top / f"{number}"
        place.mkdir()
        path = store.blob_path(payload.digest)
        if payload.media_type == LAYER_SQUASHFS:
            words = ["-no-progress", "-quiet", "-d", str(place / "tree"), str(path)]
            subprocess.run(tree_argv(tools, "unsquashfs", words), check=True, capture_output=True)
        else:
            data = path.read_bytes()
            (place / "whole").write_bytes(data)
            if payload.media_type == INITRD:
                (place / "cpio").write_bytes(pyzstd.ZstdDecompressor().decompress(data))
    yield top
    shutil.rmtree(top)


def contents(path):
    """Yield all that the file *path* holds: itself, and what is packed in it."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif path.suffix == ".pyz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def test_no_canary_is_in_any_byte_of_any_payload(store, unpacked):
    found = []
    searched_bytes = 0
    wanted = {name: name.encode() for name in CANARIES}
    for path in unpacked.rglob("*"):
        name = str(path.relative_to(unpacked))
        text = [name] + ([str(path.readlink())] if path.is_symlink() else [])
        found += [(name, one) for one in CANARIES if any(one in word for word in text)]
        if path.is_file() and not path.is_symlink():
            for data in contents(path):
                searched_bytes += len(data)
                found += [(name, one) for one, sought in wanted.items() if sought in data]
    (capsule,) = store.list_capsules()
    for data in (capsule.manifest_bytes, capsule.config_bytes):
        found += [("manifest", one) for one, sought in wanted.items() if sought in data]
    assert found == []
    # And it was looked for in something.
    assert searched_bytes > 200e6


@pytest.fixture
def root(unpacked):
    return next(unpacked.glob("*/tree/etc")).parent


def test_what_every_node_makes_or_gets_for_itself_is_not_there(root):
    assert not list(root.glob("etc/ssh/ssh_host_*"))
    assert list(root.glob("etc/munge/*")) == []
    assert (root / "etc/machine-id").read_bytes() == b""
    assert not [path for path in root.glob("var/log/**/*") if not path.is_dir()]
    for line in (root / "etc/shadow").read_text().splitlines():
        assert line.split(":")[1].strip("!*") == "", line


def test_users_have_the_ids_of_the_recipe_and_own_what_is_theirs(root):
    rows = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    ids = {row[0]: (int(row[2]), int(row[3])) for row in rows}
    owned = {"munge": "etc/munge", "slurm": "var/lib/slurm", "_chrony": "var/lib/chrony"}
    assert {name: ids[name] for name in owned} == {
        "munge": (201, 201), "slurm": (64030, 64030), "_chrony": (202, 202)
    }  # fmt: skip
    for name, path in owned.items():
        found = (root / path).stat()
        assert (found.st_uid, found.st_gid) == ids[name], path
