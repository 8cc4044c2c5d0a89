"""A cached build gives what a clean one gives, whatever was changed in between, and how often.

The recipes are a base and a child of it; their packages are unpacked by a toy of a package manager,
for mkosi would take seconds (tests/integration/test_cached_builds.py has it). All else is the real
thing: locks, keys, the cache, trees, differences; and the packer writes what packers read.
"""

import hashlib
import itertools
import os
import random
import shutil

import pytest

from vnfsbuild import payloads, trees
from vnfsbuild.builder import find_builder
from vnfsbuild.digest import Digest
from vnfsbuild.errors import InputError
from vnfsbuild.lock import (
    Lock,
    LockedBase,
    LockedPackage,
    LockedRepository,
    digest_of_lock,
    sort_packages,
)
from vnfsbuild.pack.stream import write_stream
from vnfsbuild.recipefiles import load_recipe
from vnfsbuild.sources import deb
from vnfsbuild.stagecache import StageCache
from vnfsbuild.timings import Timings
from vnfsbuild.tree import settle
from vnfsbuild.trees import Line, make_parts

from .debs import make_deb, regular

EPOCH = 1_700_000_000
RECIPE = """\
name = "{name}"
{base}
[distribution]
id = "debian"
release = "trixie"
[kernel]
package = "linux-image-toy"
[files]
copy = "files"
[[files.write]]
path = "/etc/written"
content = "{written}"
owner = "{owner}"
[exclude]
paths = [{exclude}]
[rootfs]
level = {level}
[agent]
enabled = false
"""
DIGEST = Digest("sha256:" + "ab" * 32)
ARCHIVE = LockedRepository(
    id="toy", suite="x", components=("main",), keys=("A" * 40,), metadata=DIGEST, epoch=EPOCH
)


def pack_plainly(tools, entries, root, out, *, epoch, level):
    with out.open("wb") as file:
        file.write(f"{epoch} {level}\n".encode())
        write_stream(entries, root, file)


@pytest.fixture(autouse=True)
def _plain_packer(monkeypatch):
    monkeypatch.setitem(payloads.FORMATS, "squashfs", ("plain", pack_plainly))


def install(line, part, below, essential):
    """Return a tree with the packages unpacked: what went of older ones is removed."""
    line._count += 1
    root = line.workspace / f"installed-{line._count}"
    if below:
        shutil.copytree(below, root, symlinks=True)
    else:
        root.mkdir()
        for name in ("boot", "etc", "usr/lib/modules", "var/lib/toy"):
            (root / name).mkdir(parents=True)
    for item in part.essential if essential else part.lock.packages:
        remove_package(root, item.name)
        before = {path for path in root.rglob("*") if not path.is_dir()}
        deb.unpack(line.packages / "packages/sha256" / item.sha256, root)
        after = {path for path in root.rglob("*") if not path.is_dir()}
        names = sorted(str(path.relative_to(root)) for path in after - before)
        (root / "var/lib/toy" / item.name).write_text("\n".join(names))
    for name in () if essential else part.lock.removed:
        remove_package(root, name)
    settle(root)
    return root


def remove_package(root, name):
    note = root / "var/lib/toy" / name
    if note.exists():
        for path in note.read_text().splitlines():
            (root / path).unlink(missing_ok=True)
        note.unlink()


class World:
    """A base and a child, in the state that a sequence of edits has brought them to."""

    def __init__(self, top, *, seed=0):
        self.top, self.chance = top, random.Random(seed)
        self.cache = StageCache(top / "stages")
        self.numbers = itertools.count()
        self.sets = [
            {"base-files": "1", "linux-image-toy": "1", "tools": "1", "extra-0-0": "1"},
            {"more": "1"},
        ]
        self.texts = [
            {"written": "x", "exclude": '"usr/share/doc/*"', "level": 6} for _ in range(2)
        ]
        self.removed = ()
        for number, name in enumerate(("base", "child")):
            (top / name / "files/etc").mkdir(parents=True)
            (top / name / f"files/etc/of-{name}").write_text(f"{number}\n")
        self.write()

    def write(self):
        for name, text in zip(("base", "child"), self.texts, strict=True):
            base = 'base = "../base"\n' if name == "child" else ""
            (self.top / name / "recipe.toml").write_text(
                RECIPE.format(name=name, base=base, owner=f"{os.geteuid()}:{os.getegid()}", **text)
            )

    def package(self, name, version):
        members = {
            f"usr/bin/{name}": f"{name} {version}".encode(),
            f"usr/share/doc/{name}/readme": b"read\n",
            f"usr/share/{name}/{version}": b"of this version alone",
            "usr/share/common": b"common",
        }
        if name != "base-files":
            del members["usr/share/common"]
        if name.startswith("linux-image"):
            members[f"boot/vmlinuz-{version}"] = b"kernel " + version.encode()
            members[f"usr/lib/modules/{version}/a.ko"] = b"module " + version.encode()
        path = self.top / "debs" / f"{name}_{version}.deb"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            essential = "Essential: yes\n" if name == "base-files" else ""
            control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n{essential}"
            make_deb(path, control, [(regular(f"./{n}"), data) for n, data in members.items()])
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        target = self.top / "packages/sha256" / sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return LockedPackage(
            name=name,
            version=version,
            architecture="amd64",
            size_bytes=len(data),
            sha256=sha256,
            path=f"pool/{name}.deb",
            repository="toy",
        )

    def locks(self, loaded):
        locks = []
        for item, packages in zip(loaded.chain, self.sets, strict=True):
            base = None
            if locks:
                base = LockedBase(name="base", serial=1, digest=digest_of_lock(locks[-1]))
            locks.append(
                Lock(
                    serial=1,
                    epoch=EPOCH,
                    distribution="debian",
                    release="trixie",
                    architecture="x86_64",
                    recipe=item.digest,
                    files=item.files,
                    repositories=(ARCHIVE,),
                    packages=sort_packages(self.package(*each) for each in packages.items()),
                    tools=(),
                    builder=find_builder(),
                    base=base,
                    removed=self.removed if base else (),
                )
            )
        return tuple(locks)

    def build(self, *, cache=None):
        """Return name → bytes of the layers, and what became of the stages."""
        loaded = load_recipe(self.top / "child")
        parts = make_parts(loaded, self.locks(loaded), packages=self.top)
        work = self.top / f"work.{next(self.numbers)}"
        work.mkdir()
        line = Line(
            parts=parts,
            packages=self.top,
            tools_tree=self.top,
            workspace=work,
            scratch=work,
            logs=work,
            agent=None,
            cache=cache,
            timings=Timings(),
            install=install,
        )
        try:
            layers = payloads.make_layers(line)
            found = {item.name: item.path.read_bytes() for item in layers}
        finally:
            shutil.rmtree(work)
        told = {f"{i.recipe} {i.stage}": line.told.get(i.key) for p in parts for i in p.inputs}
        return found, told

    def edit(self):
        """Change something, as people do; return what, in words."""
        which = self.chance.randrange(2)
        edits = [
            self.add_package, self.drop_package, self.upgrade, self.upgrade_in_child,
            self.remove_of_base, self.remove_of_base, self.edit_file, self.add_file,
            self.drop_file, self.rewrite, self.leave_out, self.pack_otherwise,
            self.nothing, self.damage, self.trim,
        ]  # fmt: skip
        edit = self.chance.choice(edits)
        edit(which)
        self.write()
        return f"{edit.__name__} {which}"

    def add_package(self, which):
        self.sets[which][f"extra-{self.chance.randrange(3)}-{which}"] = "1"

    def drop_package(self, which):
        extras = [name for name in self.sets[which] if name.startswith("extra")]
        if extras:
            name = self.chance.choice(extras)
            del self.sets[which][name]
            self.removed = tuple(item for item in self.removed if item != name)

    def upgrade(self, which):
        name = self.chance.choice(sorted(self.sets[which]))
        self.sets[which][name] = str(self.chance.randrange(1, 4))

    def upgrade_in_child(self, _):
        name = self.chance.choice(sorted(self.sets[0]))
        if name not in self.removed:
            self.sets[1][name] = str(self.chance.randrange(4, 6))

    def remove_of_base(self, _):
        extras = [name for name in self.sets[0] if name.startswith("extra")]
        gone = tuple(sorted(name for name in extras if name not in self.sets[1]))
        self.removed = () if self.removed else gone

    def files(self, which):
        return self.top / ("base", "child")[which] / "files/etc"

    def edit_file(self, which):
        path = self.chance.choice(sorted(self.files(which).iterdir()))
        path.write_text(f"{self.chance.randrange(3)}\n")
        path.chmod(self.chance.choice((0o644, 0o755)))

    def add_file(self, which):
        (self.files(which) / f"file-{self.chance.randrange(3)}").write_text("added\n")

    def drop_file(self, which):
        for path in sorted(self.files(which).glob("file-*"))[:1]:
            path.unlink()

    def rewrite(self, which):
        self.texts[which]["written"] = str(self.chance.randrange(3))

    def leave_out(self, which):
        self.texts[which]["exclude"] = self.chance.choice(
            ('"usr/share/doc/*"', '"usr/share/*"', '"etc/file-1", "usr/bin/to*"', "")
        )

    def pack_otherwise(self, which):
        self.texts[which]["level"] = self.chance.choice((6, 9))

    def nothing(self, _):
        pass

    def damage(self, _):
        """Flip a bit anywhere in the cache."""
        paths = sorted(path for path in self.cache.directory.rglob("*") if path.is_file())
        paths = [path for path in paths if path.stat().st_size]
        if paths:
            path = self.chance.choice(paths)
            data = bytearray(path.read_bytes())
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            path.write_bytes(data)

    def trim(self, _):
        self.cache.trim(self.chance.choice((0, 3000, 20_000, 10**9)))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_was_changed_the_bytes_are_those_of_a_clean_build(seed, tmp_path):
    world = World(tmp_path, seed=seed)
    done = []
    for _ in range(8):
        done.append(world.edit())
        cached, _ = world.build(cache=world.cache)
        clean, _ = world.build()
        assert cached.keys() == clean.keys(), done
        for name, data in clean.items():
            assert cached[name] == data, f"{name}: {done}"


def test_what_did_not_change_is_reused(tmp_path):
    world = World(tmp_path)
    _, told = world.build(cache=world.cache)
    assert set(told.values()) == {"made"}
    _, told = world.build(cache=world.cache)
    assert told["child local"] == "reused"
    assert "made" not in told.values()
    (tmp_path / "child/files/etc/of-child").write_text("new\n")
    _, told = world.build(cache=world.cache)
    assert told["child install"] == "reused"
    assert told["child local"] == "made"
    world.sets[1]["extra"] = "1"
    _, told = world.build(cache=world.cache)
    assert told["base local"] == "reused"
    assert told["child install"] == "made"
    world.sets[0]["extra-1-0"] = "1"
    _, told = world.build(cache=world.cache)
    assert told["base essential"] == "reused"
    assert told["base install"] == "made"


def test_a_layer_of_the_base_is_that_of_its_own_capsule(tmp_path):
    world = World(tmp_path)
    before, _ = world.build()
    world.sets[1]["extra"] = "1"
    world.edit_file(1)
    after, _ = world.build()
    assert after["rootfs"] == before["rootfs"]
    assert after["modules"] == before["modules"]
    assert after["rootfs-1"] != before["rootfs-1"]
    assert "modules-1" not in after


def test_modules_of_another_kernel_take_the_place_of_the_bases(tmp_path):
    world = World(tmp_path)
    world.sets[1]["linux-image-toy"] = "2"
    layers, _ = world.build()
    assert list(layers) == ["rootfs", "rootfs-1", "modules-1"]
    assert b"module 2" in layers["modules-1"]
    assert not any(b"module 1" in data for data in layers.values())


def test_a_tree_that_is_trimmed_while_it_is_read_is_made_anew(tmp_path):
    world = World(tmp_path)
    world.build(cache=world.cache)

    class Trimmed(StageCache):
        """Somebody removes what is in a cache as soon as it was found there."""

        def peek(self, key):
            found = super().peek(key)
            if found:
                shutil.rmtree(found.directory)
            return found

    clean, _ = world.build()
    found, _ = world.build(cache=Trimmed(world.cache.directory))
    assert found == clean


def test_of_files_that_are_changed_meanwhile_nothing_is_kept(tmp_path, monkeypatch):
    world = World(tmp_path)
    path = tmp_path / "child/files/etc/of-child"
    before = path.read_text()
    real = trees.apply_local

    def edit_and_apply(root, recipe, **words):
        path.write_text("edited\n")
        real(root, recipe, **words)

    with monkeypatch.context() as patch:
        patch.setattr(trees, "apply_local", edit_and_apply)
        with pytest.raises(InputError, match="changed while it was built"):
            world.build(cache=world.cache)
    path.write_text(before)
    clean, _ = world.build()
    assert world.build(cache=world.cache)[0] == clean


def test_a_cache_that_cannot_be_written_is_told_and_does_without(tmp_path, caplog):
    world = World(tmp_path)
    clean, _ = world.build()

    class Full(StageCache):
        def making(self, inputs):
            raise OSError(28, "No space left on device")

    found, _ = world.build(cache=Full(tmp_path / "full"))
    assert found == clean
    assert "is not kept" in caplog.text
