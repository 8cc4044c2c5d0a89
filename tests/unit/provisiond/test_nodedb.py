"""The database, and the registry that keeps memory and database in step."""

import asyncio
import sqlite3
from dataclasses import replace

import pytest

from provisiond.model import Node, Session
from provisiond.nodedb import DatabaseError, NodeDatabase
from provisiond.registry import Registry

NODE = Node(
    node_id="52:54:00:00:00:01",
    name="n00001",
    hwaddrs=("52:54:00:00:00:01", "52:54:00:00:00:02"),
    uuid="11111111-2222-3333-4444-555555555555",
    approved=True,
    address="10.87.0.100",
    attributes={"vnfs": "minimal", "enabled": False, "kernel_arguments": ["a", "b"]},
    created=1_700_000_000,
)
SESSION = Session(
    boot_id="1" * 32, state="ready", since=1.5, hwaddr=NODE.node_id, peer="10.87.0.100",
    last_contact=2.5, detail="x", key_hash="a" * 64, key_used=True, capsule="sha256:" + "1" * 64,
    phases={"init": 1.25}, report={"kernel": "6.12", "failedUnits": ["a.service"]},
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "provisiond.db"


def test_what_is_saved_is_loaded(path):
    database = NodeDatabase(path)
    database.save_nodes([NODE])
    database.save_sessions({NODE.node_id: SESSION})
    database.close()
    database = NodeDatabase(path)
    assert database.load() == ({NODE.node_id: NODE}, {NODE.node_id: SESSION})
    changed = replace(NODE, attributes={}, hwaddrs=NODE.hwaddrs[:1], approved=False)
    database.save_nodes([changed])
    database.save_sessions({NODE.node_id: replace(SESSION, state="halted")})
    nodes, sessions = database.load()
    assert nodes == {NODE.node_id: changed}
    assert sessions[NODE.node_id].state == "halted"
    database.close()


def test_deleting_leaves_nothing(path):
    database = NodeDatabase(path)
    database.save_nodes([NODE])
    database.save_sessions({NODE.node_id: SESSION})
    database.save_nodes([], deleted=[NODE.node_id])
    assert database.load() == ({}, {})
    # A check-in that was on its way does not bring it back.
    database.save_sessions({NODE.node_id: SESSION})
    assert database.load() == ({}, {})
    database.close()


def test_a_transaction_is_whole_or_not_at_all(path):
    database = NodeDatabase(path)
    other = replace(NODE, node_id="52:54:00:00:00:09", hwaddrs=("52:54:00:00:00:09",))
    with pytest.raises(DatabaseError, match="UNIQUE"):
        database.save_nodes([NODE, other])
    assert database.load() == ({}, {})
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
    with pytest.raises(DatabaseError, match="version 99, expected 1"):
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
    _, sessions = NodeDatabase(path).load()
    assert sessions[NODE.node_id].state == "halted"


def test_what_was_touched_is_written_by_flush(path):
    async def story(registry):
        await registry.save_nodes((NODE,))
        await registry.save_session(NODE.node_id, SESSION)
        registry.touch_session(NODE.node_id, replace(SESSION, last_contact=99.0))
        assert registry.sessions[NODE.node_id].last_contact == 99.0
        assert NodeDatabase(path).load()[1][NODE.node_id].last_contact == 2.5
        await registry.flush()
        assert NodeDatabase(path).load()[1][NODE.node_id].last_contact == 99.0

    in_registry(path, story)


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
            await registry.save_nodes((replace(NODE, approved=False),))
            assert mine.is_set()
            assert not others.is_set()
            mine.clear()
            registry.wake_all()
            assert mine.is_set()
            assert others.is_set()
        assert registry._watching == {}

    in_registry(path, story)
