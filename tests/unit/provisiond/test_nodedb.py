"""The database, and the registry that keeps memory and database in step."""

import asyncio
import sqlite3
import threading
from dataclasses import replace

import pytest

from provisiond.nodes.database import DatabaseError, NodeDatabase, Stored
from provisiond.nodes.model import Node, Session
from provisiond.nodes.registry import Registry
from provisiond.nodes.scopes import Scopes

NODE = Node(
    node_id="52:54:00:00:00:01",
    name="n00001",
    hwaddrs=("52:54:00:00:00:01", "52:54:00:00:00:02"),
    uuid="11111111-2222-3333-4444-555555555555",
    approved_by="administrator",
    address="10.87.0.100",
    attributes={"vnfs": "minimal", "enabled": False, "kernel_arguments": ("a", "b")},
    created=1_700_000_000,
)
SESSION = Session(
    boot_id="1" * 32, state="ready", since=1.5, hwaddr=NODE.node_id, peer="10.87.0.100",
    last_contact=2.5, detail="x", key_hash="a" * 64, key_used=True, capsule="sha256:" + "1" * 64,
    phases={"init": 1.25}, report={"kernel": "6.12", "failedUnits": ["a.service"]},
)  # fmt: skip
EMPTY = Stored(nodes={}, sessions={}, scopes=Scopes())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "provisiond.db"


def test_what_is_saved_is_loaded(path):
    database = NodeDatabase(path)
    database.save_nodes([NODE])
    database.save_sessions({NODE.node_id: SESSION})
    database.close()
    database = NodeDatabase(path)
    stored = database.load()
    assert (stored.nodes, stored.sessions) == ({NODE.node_id: NODE}, {NODE.node_id: SESSION})
    changed = replace(NODE, attributes={}, hwaddrs=NODE.hwaddrs[:1], approved_by=None)
    database.save_nodes([changed])
    database.save_sessions({NODE.node_id: replace(SESSION, state="halted")})
    stored = database.load()
    assert stored.nodes == {NODE.node_id: changed}
    assert stored.sessions[NODE.node_id].state == "halted"
    database.close()


def test_deleting_leaves_nothing(path):
    database = NodeDatabase(path)
    database.save_nodes([NODE])
    database.save_sessions({NODE.node_id: SESSION})
    database.save_nodes([], deleted=[NODE.node_id])
    assert database.load() == EMPTY
    # A check-in that was on its way does not bring it back.
    database.save_sessions({NODE.node_id: SESSION})
    assert database.load() == EMPTY
    database.close()


def test_a_transaction_is_whole_or_not_at_all(path):
    database = NodeDatabase(path)
    other = replace(NODE, node_id="52:54:00:00:00:09", hwaddrs=("52:54:00:00:00:09",))
    with pytest.raises(DatabaseError, match="UNIQUE"):
        database.save_nodes([NODE, other])
    assert database.load() == EMPTY
    database.close()


def test_a_file_that_is_no_database_is_told(path):
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(DatabaseError, match="file is not a database"):
        NodeDatabase(path)


def test_a_database_of_another_version_is_told(path):
    NodeDatabase(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update about set value = '99'")
    connection.close()
    with pytest.raises(DatabaseError, match="version 99, expected 3"):
        NodeDatabase(path)


def in_registry(path, story):
    async def tell():
        registry = Registry(NodeDatabase(path))
        try:
            return await story(registry)
        finally:
            await registry.close()

    return asyncio.run(tell())


def test_what_could_not_be_written_is_not_there(path):
    """As on a full disk: the change fails, memory and database stay as they were."""

    async def story(registry):
        await registry.save_nodes((NODE,))
        await registry.save_session(NODE.node_id, SESSION)
        with sqlite3.connect(path) as connection:
            connection.execute("create trigger full before insert on sessions begin "
                               "select raise(abort, 'disk is full'); end")  # fmt: skip
            connection.execute("create trigger full2 before insert on nodes begin "
                               "select raise(abort, 'disk is full'); end")  # fmt: skip
        connection.close()
        with pytest.raises(DatabaseError, match="disk is full"):
            await registry.save_session(NODE.node_id, replace(SESSION, state="halted"))
        with pytest.raises(DatabaseError, match="disk is full"):
            await registry.save_nodes((replace(NODE, name="n00009"),))
        assert registry.sessions[NODE.node_id] == SESSION
        assert registry.nodes[NODE.node_id] == NODE
        assert list(registry.names) == ["n00001"]
        with sqlite3.connect(path) as connection:
            connection.execute("drop trigger full")
            connection.execute("drop trigger full2")
        connection.close()
        await registry.save_session(NODE.node_id, replace(SESSION, state="halted"))

    in_registry(path, story)
    assert NodeDatabase(path).load().sessions[NODE.node_id].state == "halted"


def test_what_was_touched_is_written_by_flush(path):
    async def story(registry):
        await registry.save_nodes((NODE,))
        await registry.save_session(NODE.node_id, SESSION)
        registry.touch_session(NODE.node_id, replace(SESSION, last_contact=99.0))
        assert registry.sessions[NODE.node_id].last_contact == 99.0
        assert NodeDatabase(path).load().sessions[NODE.node_id].last_contact == 2.5
        await registry.flush()
        assert NodeDatabase(path).load().sessions[NODE.node_id].last_contact == 99.0

    in_registry(path, story)


class SlowDatabase(NodeDatabase):
    """A disk that takes its time over the first sessions that it is given."""

    def __init__(self, path, *, fails=()):
        super().__init__(path)
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self.fails = list(fails)

    def save_sessions(self, sessions, *, events=None):
        if sessions:
            self.began.set()
            assert self.may_go_on.wait(10)
            if self.fails:
                raise self.fails.pop()
        super().save_sessions(sessions, events=events)


def in_slow_registry(path, story, **words):
    database = NodeDatabase(path)
    database.save_nodes((NODE,))
    database.save_sessions({NODE.node_id: SESSION})
    database.close()

    async def run():
        slow = SlowDatabase(path, **words)
        registry = Registry(slow)
        try:
            await asyncio.wait_for(story(registry, slow), 10)
        finally:
            slow.may_go_on.set()
            # Killed: nothing is written in the end.
            registry._writer.shutdown()
            slow.close()

    asyncio.run(run())


def test_what_was_touched_is_not_written_over_what_was_saved_after_it(path):
    async def story(registry, slow):
        registry.touch_session(NODE.node_id, replace(SESSION, last_contact=99.0))
        halted = replace(SESSION, state="halted", last_contact=100.0)
        saving = asyncio.create_task(registry.save_session(NODE.node_id, halted))
        await asyncio.to_thread(slow.began.wait, 10)
        flushing = asyncio.create_task(registry.flush())
        await asyncio.sleep(0)
        slow.may_go_on.set()
        await asyncio.gather(saving, flushing)
        assert registry.sessions[NODE.node_id] == halted

    in_slow_registry(path, story)
    assert NodeDatabase(path).load().sessions[NODE.node_id].state == "halted"


def test_what_could_not_be_flushed_is_not_written_over_what_was_saved_meanwhile(path):
    async def story(registry, slow):
        registry.touch_session(NODE.node_id, replace(SESSION, last_contact=99.0))
        flushing = asyncio.create_task(registry.flush())
        await asyncio.to_thread(slow.began.wait, 10)
        halted = replace(SESSION, state="halted", last_contact=100.0)
        saving = asyncio.create_task(registry.save_session(NODE.node_id, halted))
        await asyncio.sleep(0.05)
        slow.may_go_on.set()
        with pytest.raises(DatabaseError):
            await flushing
        await saving
        await registry.flush()

    in_slow_registry(path, story, fails=[DatabaseError("away")])
    assert NodeDatabase(path).load().sessions[NODE.node_id].state == "halted"


def test_what_was_touched_is_kept_when_what_came_after_it_could_not_be_saved(path):
    async def story(registry, slow):
        registry.touch_session(NODE.node_id, replace(SESSION, last_contact=99.0))
        saving = asyncio.create_task(
            registry.save_session(NODE.node_id, replace(SESSION, state="halted"))
        )
        await asyncio.to_thread(slow.began.wait, 10)
        flushing = asyncio.create_task(registry.flush())
        await asyncio.sleep(0)
        slow.may_go_on.set()
        with pytest.raises(DatabaseError):
            await saving
        await flushing
        await registry.flush()

    in_slow_registry(path, story, fails=[DatabaseError("away")])
    assert NodeDatabase(path).load().sessions[NODE.node_id].last_contact == 99.0


def test_a_bug_leaves_nobody_waiting_for_a_session_to_be_saved(path):
    async def story(registry, slow):
        slow.may_go_on.set()
        with pytest.raises(TypeError):
            await registry.save_session(NODE.node_id, replace(SESSION, report={"x": object()}))

    in_slow_registry(path, story)


def test_nodes_are_found_by_any_address_and_the_first_counts(path):
    other = replace(NODE, node_id="52:54:00:00:00:09", name="n00002",
                    hwaddrs=("52:54:00:00:00:09",))  # fmt: skip

    async def story(registry):
        await registry.save_nodes((NODE, other))
        assert registry.find(["52:54:00:00:00:02"]) == NODE
        assert registry.find(["ff:ff:ff:ff:ff:ff", "52:54:00:00:00:09"]) == other
        assert registry.find(["52:54:00:00:00:09", "52:54:00:00:00:01"]) == other
        assert registry.find(["ff:ff:ff:ff:ff:ff"]) is None
        await registry.save_nodes((), deleted=(NODE.node_id,))
        assert registry.find(["52:54:00:00:00:02"]) is None
        assert list(registry.names) == ["n00002"]

    in_registry(path, story)


def test_who_watches_is_told_of_a_change_of_its_node_only(path):
    async def story(registry):
        await registry.save_nodes((NODE,))
        with (
            registry.watching(NODE.hwaddrs[1]) as mine,
            registry.watching("ff:ff:ff:ff:ff:ff") as others,
        ):
            await registry.save_nodes((replace(NODE, approved_by=None),))
            assert mine.is_set()
            assert not others.is_set()
            mine.clear()
            registry.wake_all()
            assert mine.is_set()
            assert others.is_set()
        assert len(registry._watchers) == 0

    in_registry(path, story)


VERSION_1 = """
CREATE TABLE about ("key" TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE nodes (node_id TEXT NOT NULL, name TEXT NOT NULL, uuid TEXT, approved BOOLEAN NOT NULL,
    address TEXT, created INTEGER NOT NULL, PRIMARY KEY (node_id), UNIQUE (name));
CREATE TABLE hwaddrs (hwaddr TEXT NOT NULL, node_id TEXT NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (hwaddr));
CREATE INDEX ix_hwaddrs_node_id ON hwaddrs (node_id);
CREATE TABLE attributes (scope TEXT NOT NULL, subject TEXT NOT NULL, "key" TEXT NOT NULL,
    value TEXT NOT NULL, PRIMARY KEY (scope, subject, "key"));
CREATE TABLE sessions (node_id TEXT NOT NULL, boot_id TEXT NOT NULL, state TEXT NOT NULL,
    since FLOAT NOT NULL, hwaddr TEXT NOT NULL, peer TEXT NOT NULL, last_contact FLOAT NOT NULL,
    detail TEXT NOT NULL, key_hash TEXT, key_used BOOLEAN NOT NULL, capsule TEXT,
    phases TEXT NOT NULL, report TEXT NOT NULL, PRIMARY KEY (node_id));
INSERT INTO about VALUES ('schema', '1');
INSERT INTO nodes VALUES ('52:54:00:00:00:01', 'n00001', NULL, 1, '10.87.0.100', 7),
    ('52:54:00:00:00:02', 'n00002', NULL, 1, NULL, 8),
    ('52:54:00:00:00:03', 'n00003', NULL, 0, NULL, 9);
INSERT INTO hwaddrs VALUES ('52:54:00:00:00:01', '52:54:00:00:00:01', 0),
    ('52:54:00:00:00:02', '52:54:00:00:00:02', 0), ('52:54:00:00:00:03', '52:54:00:00:00:03', 0);
INSERT INTO attributes VALUES ('node', '52:54:00:00:00:01', 'vnfs', '"minimal"'),
    ('node', '52:54:00:00:00:01', 'kernel_arguments', '["a", "b"]');
INSERT INTO sessions VALUES ('52:54:00:00:00:01', '1', 'ready', 1.0, '52:54:00:00:00:01',
    '10.87.0.100', 2.0, '', NULL, 0, 'sha256:1', '{}', '{}');
"""


def make_version_1(path):
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.close()


def test_a_database_of_the_version_before_is_brought_to_this_one(path):
    """Approved by whom is known of those only that were assigned a capsule by hand."""
    make_version_1(path)
    for groups in ((), ("x",)):
        database = NodeDatabase(path)
        stored = database.load()
        first, second, third = (stored.nodes[f"52:54:00:00:00:0{n}"] for n in (1, 2, 3))
        assert (first.approved_by, first.gets_secrets) == ("administrator", True)
        assert (second.approved_by, second.gets_secrets) == ("registration", False)
        assert (third.approved_by, third.approved) == (None, False)
        assert first.attributes == {"vnfs": "minimal", "kernel_arguments": ("a", "b")}
        assert (first.address, first.created, first.groups) == ("10.87.0.100", 7, groups)
        assert stored.sessions[first.node_id].last_good == "sha256:1"
        assert stored.scopes == Scopes(groups={name: {} for name in groups})
        database.save_nodes([replace(first, groups=("x",))], settings={("group", "x"): {}})
        database.save_sessions(stored.sessions)
        database.close()


def test_a_migration_that_is_cut_off_leaves_the_old_database(path, monkeypatch):
    make_version_1(path)
    with monkeypatch.context() as patch:
        patch.setattr("provisiond.nodes.tables.SESSIONS.update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            NodeDatabase(path)
    connection = sqlite3.connect(path)
    columns = [row[1] for row in connection.execute("pragma table_info(nodes)")]
    assert "approved" in columns
    assert "approved_by" not in columns
    connection.close()
    NodeDatabase(path).close()


def interrupt():
    raise KeyboardInterrupt


def test_names_may_be_exchanged_in_one_change(path):
    database = NodeDatabase(path)
    other = replace(NODE, node_id="52:54:00:00:00:09", name="n00002",
                    hwaddrs=("52:54:00:00:00:09",))  # fmt: skip
    database.save_nodes([NODE, other])
    database.save_sessions({NODE.node_id: SESSION})
    swapped = [
        replace(NODE, name="n00002", hwaddrs=(NODE.node_id, other.node_id)),
        replace(other, name="n00001", hwaddrs=("52:54:00:00:00:02",)),
    ]
    database.save_nodes(swapped)
    stored = database.load()
    assert stored.nodes == {node.node_id: node for node in swapped}
    assert stored.sessions == {NODE.node_id: SESSION}
    database.close()


def test_groups_capsules_and_defaults_are_kept(path):
    database = NodeDatabase(path)
    database.save_nodes(
        [replace(NODE, groups=("b", "a"))],
        settings={
            ("group", "a"): {"dns": ("+", "10.0.0.1"), "debug": True},
            ("group", "b"): {},
            ("capsule", "minimal"): {"timezone": "UTC"},
            ("defaults", ""): {"method": "pivot", "tag.x": "ü"},
        },
    )
    stored = database.load()
    assert stored.nodes[NODE.node_id].groups == ("b", "a")
    assert stored.scopes == Scopes(
        defaults={"method": "pivot", "tag.x": "ü"},
        capsules={"minimal": {"timezone": "UTC"}},
        groups={"a": {"debug": True, "dns": ("+", "10.0.0.1")}, "b": {}},
    )
    database.save_nodes(
        [], settings={("group", "a"): None, ("capsule", "minimal"): {}, ("defaults", ""): {}}
    )
    assert database.load().scopes == Scopes(groups={"b": {}})
    database.save_note("cursor", {"x": 1})
    database.save_note("cursor", {"x": 2})
    assert (database.load_note("cursor"), database.load_note("other")) == ({"x": 2}, None)
    database.close()


def test_what_counts_for_a_node_follows_each_change(path):
    async def story(registry):
        await registry.save_nodes(
            (replace(NODE, groups=("g",)),), settings={("group", "g"): {"debug": True}}
        )
        node = registry.named("n00001")
        assert registry.effective(node) is registry.effective(node)
        assert registry.effective(node)["debug"].value is True
        with registry.watching(NODE.hwaddrs[0]) as mine:
            await registry.save_nodes((), settings={("group", "g"): {"debug": False}})
            assert mine.is_set()
        assert registry.effective(node)["debug"].value is False
        await registry.save_nodes((), settings={("defaults", ""): {"timezone": "UTC"}})
        assert registry.effective(node)["timezone"].origin == "defaults"
        await registry.save_nodes((replace(node, attributes={"debug": True}),))
        assert registry.effective(registry.named("n00001"))["debug"].origin == "node"
        # What is not known yet is worked out and not kept.
        candidate = replace(node, name="other", attributes={"timezone": "Asia/Tokyo"})
        assert registry.effective(candidate)["timezone"].value == "Asia/Tokyo"
        assert registry.effective(registry.named("n00001"))["timezone"].value == "UTC"
        await registry.save_nodes((), settings={("group", "g"): None, ("defaults", ""): {}})
        assert registry.scopes == Scopes()

    in_registry(path, story)
