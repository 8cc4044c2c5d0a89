"""Overlays: folders read, layered, rendered; what is wrong with them; what the verbs show."""

import importlib.util
import io
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisiond.overlays.folders import Loaded, load_overlay, load_overlays
from provisiond.overlays.overlays import Overlays
from provisiond.overlays.render import Memo, choose_overlays, keep_members, pack_overlay
from provisiond.watch import take_overlays
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError

_SPEC = importlib.util.spec_from_file_location(
    "overlayworld", Path(__file__).with_name("overlayworld.py")
)
w = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(w)


@pytest.fixture
def folder(tmp_path):
    """Write the folder of an overlay; paths with a slash are files of it."""

    def write(name, toml="", files=None, directory="overlays"):
        path = tmp_path / directory / name
        (path / "files").mkdir(parents=True, exist_ok=True)
        (path / "overlay.toml").write_text(toml)
        for where, text in (files or {}).items():
            target = path / where
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return path

    return write


def read(overlay, values=None, **words):
    rendered = w.render([overlay], values or w.values_of(), **words)
    return {file.path: file for file in rendered.files}, rendered


def test_files_templates_owners_modes_and_scripts(folder):
    path = folder("site", '''
        description = "ours"
        [[file]]
        path = "etc/x.conf"
        mode = "0640"
        owner = "munge"
        group = "5"
        [[link]]
        path = "etc/motd"
        target = "issue.{{ node.name }}"
        [[run]]
        when = ["/etc/x*"]
        command = ["systemctl", "reload", "x.service"]
        [scripts]
        ready = ["50-look"]
        ''', {"files/etc/x.conf.j2": "{{ tags.rack }}\n", "files/etc/plain": "as it is {{ }}",
              "scripts/50-look": "#!/bin/sh\n"})  # fmt: skip
    (path / "files/empty").mkdir()
    (path / "files/etc/plain").chmod(0o755)
    files, rendered = read(load_overlay(path), w.values_of(tag__rack="r7"))
    assert rendered.faults == ()
    x = files["etc/x.conf"]
    assert (x.data, x.mode, x.owner, x.group, x.overlay) == (b"r7\n", 0o640, "munge", "5", "site")
    assert (files["etc/plain"].data, files["etc/plain"].mode) == (b"as it is {{ }}", 0o755)
    assert files["etc/motd"].link == "issue.n00001"
    assert files["empty"].is_directory
    assert files["etc/vnfs/ready.d/50-look"].mode == 0o755
    assert b'z "/etc/x.conf" 0640 munge 5 -' in files["etc/tmpfiles.d/vnfs-owners.conf"].data
    assert b'"command":["systemctl","reload","x.service"]' in files["etc/vnfs/overlay.json"].data


def test_the_tar_has_directories_before_files_and_names_of_owners(folder):
    path = folder("site", '[[file]]\npath = "etc/k/key"\nmode = "0400"\nowner = "munge"\n',
                  {"files/etc/k/key": "k"})  # fmt: skip
    files, _ = read(load_overlay(path))
    data = pack_overlay(files.values(), Memo())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {item.name: item for item in archive}
    names = list(found)
    assert names.index("etc") < names.index("etc/k") < names.index("etc/k/key")
    assert (found["etc/k"].mode, found["etc/k"].uid, found["etc/k"].uname) == (0o755, 0, "")
    key = found["etc/k/key"]
    assert (key.mode, key.uid, key.uname, key.mtime) == (0o400, 0, "munge", 0)


def test_all_faults_of_a_folder_at_once(folder):
    path = folder("site", '''
        secrets = true
        [[file]]
        path = "etc/../x"
        mode = "rw"
        owner = "a b"
        [[run]]
        when = ["etc/x"]
        [scripts]
        redy = ["x"]
        ready = ["nothing"]
        ''', {"files/etc/x": ""})  # fmt: skip
    with pytest.raises(InputError) as caught:
        load_overlay(path)
    assert str(caught.value).splitlines() == [
        "overlay site: overlay.toml: secrets: unknown key; did you mean 'secret'?",
        "overlay site: overlay.toml: file[0].path: found 'etc/../x', expected a path as etc/hosts",
        "overlay site: overlay.toml: file[0].mode: found 'rw', expected one as \"0640\"",
        "overlay site: overlay.toml: file[0].owner: found 'a b', expected a name or a number",
        "overlay site: overlay.toml: run[0].command: found None, expected a list of texts",
        "overlay site: overlay.toml: run[0].when: found 'etc/x', expected an absolute path",
        "overlay site: overlay.toml: scripts.redy: unknown phase; did you mean 'ready'?",
        "overlay site: overlay.toml: scripts.ready: found no scripts/nothing",
    ]


def test_what_is_declared_must_be_there_and_secrets_need_a_secret_overlay(folder):
    path = folder("site", '[[file]]\npath = "etc/nothing"\nmode = "0600"\n',
                  {"files/etc/x.j2": "{{ root_password }}",
                   "files/etc/y.j2": "\n{% if x %}"})  # fmt: skip
    with pytest.raises(InputError) as caught:
        load_overlay(path)
    assert str(caught.value).splitlines() == [
        "overlay site: files/etc/y.j2 line 2: Unexpected end of template. Jinja was looking for the"
        " following tags: 'elif' or 'else' or 'endif'. The innermost block that needs to be closed"
        " is 'if'.",
        "overlay site: overlay.toml: file: found no files/etc/nothing or files/etc/nothing.j2",
        "overlay site: files/etc/x.j2: found root_password, which is for overlays that are declared"
        " secret; overlay.toml: secret = true",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\n{{ rack }}\n", "line 2: 'rack' is undefined"),
        ("{{ tags.rack }}", "line 1: 'dict object' has no attribute 'rack'"),
        ("{{ node.nme }}", "line 1: 'dict object' has no attribute 'nme'"),
        ("\n\n{{ 1 / 0 }}", "line 3: division by zero"),
        ("{% include 'x' %}", "line 1: no loader for this environment specified"),
        ("{{ ''.__class__.__mro__ }}", "line 1: access to attribute '__class__' of 'str' object is "
         "unsafe."),
        ("{{ [1] | random }}", "line 1: No filter named 'random'."),
    ],
)  # fmt: skip
def test_what_a_template_does_wrong_is_told_with_file_and_line(folder, text, told):
    path = folder("site", "", {"files/etc/x.j2": text})
    try:
        _, rendered = read(load_overlay(path))
        (fault,) = rendered.faults
    except InputError as error:
        fault = str(error)
    assert fault == f"overlay site: files/etc/x.j2 {told}"


def test_each_makes_a_file_for_each_member(folder):
    path = folder("site", '[[file]]\npath = "etc/if-@name@"\neach = "interfaces"\n',
                  {"files/etc/if-@name@.j2": "{{ item.mtu }}"})  # fmt: skip
    values = w.values_of(interface__eth1__mtu="9000", interface__eth2__mtu="1500")
    files, _ = read(load_overlay(path), values)
    assert files["etc/if-eth1"].data == b"9000"
    assert files["etc/if-eth2"].data == b"1500"


def test_the_stronger_overlay_counts_and_secret_ones_are_held_back(folder):
    weak = load_overlay(folder("weak", "", {"files/etc/a": "weak", "files/etc/b": "weak"}))
    strong = load_overlay(folder("strong", "secret = true", {"files/etc/a": "strong"}))
    files, _ = read(weak)
    both = w.render([weak, strong], w.values_of())
    assert {f.path: f.data for f in both.files if f.path in files and "vnfs" not in f.path} == {
        "etc/a": b"strong", "etc/b": b"weak",
    }  # fmt: skip
    held = w.render([weak, strong], w.values_of(), with_secrets=False)
    assert held.held_back == ("strong",)
    assert {f.path: f.data for f in held.files}["etc/a"] == b"weak"


def test_a_file_where_another_needs_a_directory_is_a_fault(folder):
    one = load_overlay(folder("one", "", {"files/etc/a": ""}))
    two = load_overlay(folder("two", "", {"files/etc/a/b": ""}))
    assert w.render([one, two], w.values_of()).faults == (
        "overlay two: etc/a/b: etc/a is no directory in overlay one",
    )


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("a b", "a b"), ("a b -a", "b"), ("a b -a a", "b a"), ("a b a", "b a"), ("-a", ""),
    ],
)  # fmt: skip
def test_overlays_add_up_and_are_taken_away(words, names):
    assert choose_overlays(words.split()) == tuple(names.split())


NAMES = st.sampled_from(sorted(w.BUILT_INS))
SETTINGS = st.fixed_dictionaries({}, optional={
    "timezone": st.sampled_from(["UTC", "Europe/Berlin"]),
    "ntp": st.sampled_from(["a", "a,b"]),
    "hosts": st.sampled_from(["self", "all"]),
    "interface__eth1__address": st.sampled_from(["10.1.0.7/16", "fd00::7/64"]),
    "user__alice__uid": st.sampled_from(["1000", "1001"]),
    "sysctl__vm__swappiness": st.sampled_from(["1", "60"]),
    "root_password": st.just("$6$saltsalt$abcdefgh"),
})  # fmt: skip


@given(st.lists(NAMES, unique=True), SETTINGS, st.randoms())
def test_equal_values_give_equal_bytes_whatever_was_made_before(names, settings, chance):
    overlays = [w.BUILT_INS[name] for name in names]
    memo = Memo()
    first = w.render(overlays, w.values_of(**settings), memo=memo)
    keep_members(memo)
    w.render(overlays, w.values_of(timezone="Asia/Tokyo"), memo=memo)
    again = w.render(overlays, w.values_of(**settings), memo=memo)
    assert again == first == w.render(overlays, w.values_of(**settings))
    files = list(first.files)
    chance.shuffle(files)
    assert pack_overlay(files, Memo()) == pack_overlay(again.files, memo)


def test_shared_content_is_made_and_kept_once(folder):
    files = {"files/etc/big": "x" * 100_000, "files/etc/zone.j2": "{{ timezone }}"}
    path = folder("big", "", files)
    overlay, memo = load_overlay(path), Memo()
    found = []
    for number in range(3):
        facts = w.FACTS.__class__(name=f"n{number}", node_id=w.FACTS.node_id,
                                  hwaddr=w.FACTS.hwaddr, address=w.FACTS.address)  # fmt: skip
        values = w.values_of(facts=facts, timezone="UTC")
        found.append(read(overlay, values, memo=memo)[0])
    for path in ("etc/big", "etc/zone"):
        assert found[0][path] is found[1][path] is found[2][path]


def test_a_folder_of_the_site_stands_in_place_of_a_built_in_one(folder, tmp_path):
    folder("hosts", "", {"files/etc/hosts": "mine"})
    loaded = load_overlays(tmp_path / "overlays", None, before=Loaded())
    assert loaded.faults == {}
    assert not loaded.overlays["hosts"].built_in
    assert loaded.overlays["hostname"].built_in


def test_a_folder_that_broke_stays_as_it_was(folder, tmp_path):
    folder("site", "", {"files/a": "1"})
    before = load_overlays(tmp_path / "overlays", None, before=Loaded())
    folder("site", "secret = 7", {"files/a": "2"})
    after = load_overlays(tmp_path / "overlays", None, before=before)
    assert after.overlays["site"] == before.overlays["site"]
    assert "expected true or false" in after.faults["site"]
    first = load_overlays(tmp_path / "overlays", None, before=Loaded())
    assert "site" not in first.overlays


# with a server


async def node_with(world, number=1, **attributes):
    machine = world.machine(number)
    world.lease(machine.hwaddr, machine.peer)
    await machine.says()
    await world.administration.nodes.approve([f"n{number:05}"])
    for key, value in attributes.items():
        await world.administration.nodes.set_attribute(key, value, [f"n{number:05}"])
    return machine


def test_a_node_whose_overlay_cannot_be_made_waits_and_says_why(in_world, folder, tmp_path):
    async def story(world):
        await world.import_capsule("story")
        machine = await node_with(world, vnfs="story", overlays="site")
        await machine.says()
        assert machine.plan.reason == "overlay site: not there; provisionctl overlay check n00001"
        folder("site", "", {"files/etc/x.j2": "{{ tags.rack }}"})
        world.parts.overlays.use(
            load_overlays(tmp_path / "overlays", None, before=world.parts.overlays.loaded)
        )
        await machine.says()
        assert machine.plan.reason.startswith("overlay site: files/etc/x.j2 line 1: 'dict object'")
        checked = await world.administration.overlays.check()
        assert [item["nodes"] for item in checked["faults"]] == [["n00001"]]
        await world.administration.nodes.set_attribute("tag.rack", "r7", ["n00001"])
        await machine.says()
        assert (machine.plan.action, machine.plan.reason) == ("boot", "")
        assert (await world.administration.overlays.check())["faults"] == []
        before = machine.plan.overlay
        await machine.says("ready")
        assert machine.plan.overlay == before
        await world.administration.nodes.set_attribute("tag.rack", "r8", ["n00001"])
        await machine.says("ready")
        assert (machine.plan.action, machine.plan.reason) == ("none", "")
        assert machine.plan.overlay != before
        assert digest_of(machine.overlay()) == machine.plan.overlay.digest

    in_world(story)


def test_secrets_are_for_nodes_that_an_administrator_approved(in_world):
    async def story(world):
        await world.import_capsule("story")
        await world.administration.settings.set_values("defaults", [""], {
            "vnfs": "story", "overlays": "munge",
            "root_password": "$6$saltsalt$abcdefgh"})  # fmt: skip
        machine = world.machine(1)
        await machine.says()
        await machine.says()
        assert machine.plan.action == "boot"
        assert world.parts.registry.named("n00001").approved_by == "registration"
        data = machine.overlay()
        assert b"munge.key" not in data
        assert b"$6$saltsalt" not in data
        shown = world.administration.overlays.show("n00001")
        assert shown["heldBack"] == ["passwords", "ssh-host-keys", "munge"]
        await world.administration.nodes.approve(["n00001"])
        await machine.says()
        data = machine.overlay()
        assert b"etc/munge/munge.key" in data
        assert b"root:$6$saltsalt$abcdefgh" in data
        show = world.administration.overlays.show
        with pytest.raises(InputError, match="secret, of the overlay munge"):
            show("n00001", "/etc/munge/munge.key")
        assert show("n00001", "/etc/munge/munge.key", secrets=True)["data"]
        assert all("digest" not in f or f["digest"] is None
                   for f in show("n00001")["files"] if f["secret"])  # fmt: skip
        with pytest.raises(InputError, match="did you mean 'etc/hostname'"):
            show("n00001", "/etc/hostnme")

    in_world(story, registration="open")


def test_of_all_nodes_the_hosts_change_with_them(in_world):
    async def story(world):
        await world.import_capsule("story")
        first = await node_with(world, 1, vnfs="story", hosts="all")
        other = await node_with(world, 2, vnfs="story")
        await first.says()
        await other.says()
        one, two = first.plan.overlay, other.plan.overlay
        await node_with(world, 3)
        await first.says()
        await other.says()
        assert first.plan.overlay != one
        assert other.plan.overlay == two
        assert b"n00003" in first.overlay()

    in_world(story)


def test_the_table_of_nodes_is_another_only_when_something_in_it_is(in_world):
    """What a first boot tells of its machine is no reason to render anything anew."""

    async def story(world):
        registry, overlays = world.parts.registry, world.parts.overlays
        await node_with(world, 1)
        await node_with(world, 2)
        table = overlays._table()
        assert [row["name"] for row in table] == ["n00001", "n00002"]

        async def change(**values):
            await registry.save_nodes((replace(registry.named("n00002"), **values),))

        await change(uuid="4c4c4544-0000-2010-8020-80c04f202020")
        assert overlays._table() is table
        await change(address="10.87.0.77")
        moved = overlays._table()
        assert [row["address"] for row in moved][1] == "10.87.0.77"
        await world.administration.settings.set_values("defaults", [""], {"tag.rack": "r1"})
        tagged = overlays._table()
        assert [row["tags"] for row in tagged] == [{"rack": "r1"}] * 2
        await registry.save_nodes((), deleted=(registry.names["n00001"],))
        assert [row["name"] for row in overlays._table()] == ["n00002"]

    in_world(story)


def test_folders_are_taken_as_they_are_changed(in_world, folder, tmp_path):
    async def story(world):
        folder("site", "", {"files/etc/x": "1"})
        await take_overlays(world.parts)
        assert "site" in world.parts.overlays.loaded.overlays
        assert world.events("overlay.changed") == ["overlays of the site: site"]
        await take_overlays(world.parts)
        assert len(world.events("overlay.changed")) == 1
        folder("site", "x", {})
        await take_overlays(world.parts)
        (fault,) = world.events("overlay.fault")
        assert "overlay.toml" in fault
        rows = {row["name"]: row for row in world.administration.overlays.list_overlays()}
        assert rows["site"]["fault"]
        assert rows["hostname"]["forAll"]

    in_world(story, overlay_directory=tmp_path / "overlays")


def test_a_thousand_nodes_in_reasonable_time(in_world):
    async def story(world):
        await world.import_capsule("story")
        machine = await node_with(world, 1, vnfs="story", hosts="all", overlays="munge,slurm",
                                  ntp="a.example.org", timezone="UTC")  # fmt: skip
        await machine.says()
        node = world.parts.registry.named("n00001")
        session = world.parts.registry.sessions[node.node_id]
        overlays = Overlays(world.config, bytes(32), world.parts.registry)
        started = time.perf_counter()
        for number in range(100):
            one = replace(node, node_id=f"52:54:00:00:{number:02x}:01", name=f"m{number:05}")
            overlays.plan(one, session, world.parts.registry.effective(node))
        # A thousand in three seconds on an idle machine; ten times that on a busy one.
        assert time.perf_counter() - started < 3

    in_world(story)
