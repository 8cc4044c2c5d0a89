"""The overlay, brought up to date while the node runs: the server's renderer, the agent's hands."""

import getpass
import grp
import os
from dataclasses import replace

import pytest

from provisiond.agent.node import Node
from provisiond.agent.refresh import apply_overlay
from provisiond.agent.running import Running
from provisiond.agent.system import System
from provisiond.overlays.files import Entry, Overlay, OverlayFile, Run
from provisiond.overlays.render import Memo, pack_overlay, render_node
from provisiond.protocol import Answer, PlannedOverlay
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError

ME = {"owner": str(os.getuid()), "group": str(os.getgid())}


def pack(*files, runs=()):
    """Return the tar that the server would make of *files*."""
    entries = tuple(Entry(file=file, where=file.path) for file in files)
    overlay = Overlay(name="site", entries=entries, runs=tuple(runs))
    rendered = render_node([overlay], None, with_secrets=True, memo=Memo())
    assert rendered.faults == ()
    return pack_overlay(rendered.files, Memo())


def file(path, text, **words):
    return OverlayFile(path=path, data=text.encode(), **{**ME, **words})


def apply(root, *files, runs=()):
    return apply_overlay(pack(*files, runs=runs), root=root, timeout_seconds=10)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/etc").mkdir(parents=True)
    return tmp_path / "root"


def test_files_are_written_changed_and_removed_with_their_modes(root):
    first = apply(root, file("etc/a", "1", mode=0o600), file("etc/new/deep/b", "b"),
                  OverlayFile(path="etc/link", link="a"))  # fmt: skip
    assert first.changed == ("/etc/a", "/etc/link", "/etc/new/deep/b")
    assert first.failure == ""
    assert (root / "etc/a").stat().st_mode & 0o7777 == 0o600
    assert (root / "etc/new").stat().st_mode & 0o7777 == 0o755
    assert os.readlink(root / "etc/link") == "a"
    assert apply(root, file("etc/a", "1", mode=0o600), file("etc/new/deep/b", "b"),
                 OverlayFile(path="etc/link", link="a")).changed == ()  # fmt: skip
    inode = (root / "etc/new/deep/b").stat().st_ino
    second = apply(root, file("etc/a", "2", mode=0o640), file("etc/new/deep/b", "b"))
    assert second.changed == ("/etc/a", "/etc/link")
    assert (root / "etc/a").read_text() == "2"
    assert (root / "etc/a").stat().st_mode & 0o7777 == 0o640
    assert not (root / "etc/link").is_symlink()
    assert (root / "etc/new/deep/b").stat().st_ino == inode
    assert not list(root.rglob(".*"))


def test_what_was_changed_on_the_node_stays_until_the_server_changes_it(root):
    apply(root, file("etc/a", "1"), file("etc/b", "1"), file("etc/gone", "1"))
    (root / "etc/a").write_text("by hand")
    (root / "etc/gone").write_text("by hand")
    (root / "etc/b").unlink()
    assert apply(root, file("etc/a", "1"), file("etc/b", "1")).changed == ("/etc/b",)
    assert (root / "etc/a").read_text() == "by hand"
    assert (root / "etc/gone").read_text() == "by hand"
    assert apply(root, file("etc/a", "2"), file("etc/b", "1")).changed == ("/etc/a",)


def test_a_link_in_the_way_is_replaced_and_a_linked_directory_gone_through(root):
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/resolv.conf").symlink_to("/nowhere/at/all")
    apply(root, file("etc/resolv.conf", "nameserver 10.0.0.1\n"), file("lib/x", "x"))
    assert not (root / "etc/resolv.conf").is_symlink()
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/x").read_text() == "x"


def test_one_that_cannot_be_written_is_told_and_tried_again_and_the_others_are_there(root):
    (root / "etc/dir/full").mkdir(parents=True)
    done = apply(root, file("etc/a", "1"), file("etc/dir", "file"),
                 file("etc/owned", "x", owner="nobody-of-that-name"))  # fmt: skip
    assert done.changed[0] == "/etc/a"
    assert "overlay: /etc/dir: found a directory, expected a file" in done.failure
    assert "overlay: /etc/owned: nobody-of-that-name: no such user or group here" in done.failure
    assert not (root / "etc/owned").exists()
    assert not (root / "etc/vnfs/overlay.json").exists()


def test_owners_by_name(root):
    mine = grp.getgrgid(os.getgid()).gr_name
    done = apply(root, file("etc/a", "1", owner=getpass.getuser(), group=mine))
    assert done.faults == ()
    assert apply(root, file("etc/a", "1", owner=getpass.getuser(), group=mine)).changed == ()


RUN = Run(when=("/etc/a*",), command=("sh", "-c", 'echo "did $VNFS_CHANGED"'))


def test_commands_run_once_for_what_changed(root):
    wrong = Run(when=("/etc/b",), command=("sh", "-c", "echo no; exit 3"))
    never = Run(when=("/etc/*",), command=("false",), if_exists="/usr/sbin/not-here")
    runs = (RUN, RUN, wrong, never)
    done = apply(root, file("etc/a1", "1"), file("etc/a2", "1"), file("etc/b", "1"), runs=runs)
    assert done.outcome.output.count("did /etc/a1\n/etc/a2\n/etc/b") == 1
    assert done.outcome.failure == "sh -c echo no; exit 3: exit status 3: no"
    assert done.faults == ()
    again = apply(root, file("etc/a1", "1"), file("etc/a2", "1"), file("etc/b", "1"), runs=runs)
    assert (again.outcome.output, again.failure) == ("", "")


def test_scripts_of_the_phase_change(root):
    script = file("etc/vnfs/change.d/50-say", "#!/bin/sh\necho $VNFS_CHANGED; exit 1\n", mode=0o755)
    done = apply(root, script)
    assert done.outcome.failure.startswith("change.d/50-say: exit status 1: /etc/vnfs/change.d/")


@pytest.mark.parametrize("data", [b"", b"x" * 2048, pack(file("a", ""))[:700]])
def test_what_is_no_overlay_changes_nothing(root, data):
    with pytest.raises(VnfsbuildError, match="overlay"):
        apply_overlay(data, root=root, timeout_seconds=1)
    assert [path.name for path in root.rglob("*")] == ["etc"]


def test_paths_that_lead_elsewhere_are_refused(root):
    with pytest.raises(VnfsbuildError, match="found the path"):
        apply_overlay(pack(file("../x", "")), root=root, timeout_seconds=1)
    assert not (root.parent / "x").exists()


@pytest.fixture
def running(world, tmp_path, root, node_server, make_client, authority):
    node = Node(
        node_id=world.NODE_ID, name="n00001", boot_id="1" * 32, node_key=world.NODE_KEY,
        hwaddrs=(world.NODE_ID,), uuid=None, capsule=digest_of(b"capsule"), checkin_seconds=3600,
    )  # fmt: skip
    site = world.write_site(tmp_path / "site", authority, [node_server.url])
    return Running(
        node, make_client(site), run=tmp_path, root=root, scripts=root / "etc/vnfs/ready.d",
        script_seconds=5, system=System(lambda *, wait=False: "stopping", list),
        tell=[].append, set_clock=lambda seconds: None,
    )  # fmt: skip


def offer(node_server, world, data):
    planned = PlannedOverlay(digest_of(data), len(data))
    node_server.overlays[planned.digest] = data
    plan = replace(world.waiting(), action="none", overlay=planned)
    node_server.answer = lambda checkin: Answer(plan, world.NOW)
    return planned


def test_a_running_node_takes_another_overlay_and_says_so(running, root, node_server, world):
    planned = offer(node_server, world, pack(file("etc/a", "1"), runs=(RUN,)))
    outcome = running.become_ready()
    assert running.say(outcome)
    assert running.refresh()
    assert (root / "etc/a").read_text() == "1"
    assert running.say(outcome)
    told = node_server.checkins[-1]
    assert told.report["overlay"] == planned.digest
    assert "did /etc/a" in told.report["change.d"]
    assert (told.state, told.detail) == ("ready", "")
    fetched = len(node_server.requests)
    assert not running.refresh()
    assert len(node_server.requests) == fetched


def test_what_went_wrong_with_it_is_told_and_tried_again(running, root, node_server, world):
    (root / "etc/a").mkdir()
    offer(node_server, world, pack(file("etc/a", "1")))
    outcome = running.become_ready()
    running.say(outcome)
    assert running.refresh()
    running.say(outcome)
    assert node_server.checkins[-1].detail == (
        "overlay: /etc/a: found a directory, expected a file"
    )
    assert node_server.checkins[-1].state == "ready"
    (root / "etc/a").rmdir()
    assert running.refresh()
    running.say(outcome)
    assert node_server.checkins[-1].detail == ""


def test_other_bytes_than_the_plan_says_are_not_laid_over(running, root, node_server, world):
    planned = offer(node_server, world, pack(file("etc/a", "1")))
    node_server.overlays[planned.digest] = pack(file("etc/a", "2"))
    running.say(running.become_ready())
    assert running.refresh()
    assert not (root / "etc/a").exists()


def test_scripts_of_the_phase_halt(running, root, node_server, world):
    scripts = root / "etc/vnfs/halt.d"
    scripts.mkdir(parents=True)
    (scripts / "10-drain").write_text("#!/bin/sh\necho not drained; exit 2\n")
    (scripts / "10-drain").chmod(0o755)
    running.step()
    assert running.is_stopping()
    running.halt()
    last = node_server.checkins[-1]
    assert (last.state, last.detail) == ("halted", "halt.d/10-drain: exit status 2: not drained")
