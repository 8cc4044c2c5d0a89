"""SQLite and PostgreSQL keep the same promises; a connection that is cut loses nothing."""

import asyncio
import json
from dataclasses import replace

import pytest

from provisiond.nodes.database import DatabaseError, NodeDatabase, RolloutChange, Stored
from provisiond.nodes.model import Node, Session
from provisiond.nodes.registry import Registry
from provisiond.nodes.rollout import Member, Rollout
from provisiond.nodes.scopes import Scopes

from .daemon import BOOT, hwaddr, site
from .postgres import Postgres

pytestmark = pytest.mark.integration

NODE = Node(
    node_id="52:54:00:00:00:01", name="n00001", uuid=None, approved_by="administrator",
    hwaddrs=("52:54:00:00:00:01", "52:54:00:00:00:02"), address="10.87.0.100", groups=("b", "a"),
    attributes={"vnfs": "minimal", "enabled": False, "kernel_arguments": ("+", "a", "b"),
                "tag.place": "Süd", "interface.eth1.mtu": 9000},
    created=1_700_000_000,
)  # fmt: skip
OTHER = replace(NODE, node_id="52:54:00:00:00:09", name="n00002", hwaddrs=("52:54:00:00:00:09",))
SESSION = Session(
    boot_id="1" * 32, state="ready", since=1_700_000_000.25, hwaddr=NODE.node_id,
    peer="10.87.0.100", last_contact=1_700_000_001.5, detail="x", key_hash="a" * 64,
    key_used=True, capsule="sha256:1", last_good="sha256:2", phases={"init": 1.25},
    report={"kernel": "6.12", "failedUnits": ["a.service"]},
)  # fmt: skip
SETTINGS = {
    ("group", "a"): {"dns": ("10.0.0.1",)},
    ("group", "b"): {},
    ("capsule", "minimal"): {"timezone": "UTC"},
    ("defaults", ""): {"method": "pivot"},
}
SCOPES = Scopes(
    defaults={"method": "pivot"},
    capsules={"minimal": {"timezone": "UTC"}},
    groups={"a": {"dns": ("10.0.0.1",)}, "b": {}},
)

NEW_IN_3 = ("rollouts", "rollout_nodes")


@pytest.fixture(scope="module")
def running():
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Return where a database is, empty."""
    if request.param == "sqlite":
        return tmp_path / "provisiond.db"
    url = request.getfixturevalue("running").url
    database = NodeDatabase(url)
    stored = database.load()
    forget = {("group", name): None for name in stored.scopes.groups}
    forget |= {("capsule", name): None for name in stored.scopes.capsules}
    database.save_nodes([], deleted=stored.nodes, settings={**forget, ("defaults", ""): {}})
    assert database.load() == Stored(nodes={}, sessions={}, scopes=Scopes())
    database.close()
    return url


def test_what_is_saved_is_loaded(place):
    database = NodeDatabase(place)
    database.save_nodes([NODE, OTHER], settings=SETTINGS)
    database.save_sessions({NODE.node_id: SESSION, "gone": SESSION})
    database.save_note("cursor", {"at": [1, 2]})
    database.close()
    database = NodeDatabase(place)
    stored = database.load()
    assert stored.nodes == {NODE.node_id: NODE, OTHER.node_id: OTHER}
    assert (stored.sessions, stored.scopes) == ({NODE.node_id: SESSION}, SCOPES)
    assert database.load_note("cursor") == {"at": [1, 2]}
    database.save_nodes([replace(NODE, name="n00002"), replace(OTHER, name="n00001", groups=())])
    database.save_sessions({NODE.node_id: replace(SESSION, state="halted")})
    stored = database.load()
    assert [stored.nodes[key].name for key in sorted(stored.nodes)] == ["n00002", "n00001"]
    assert stored.sessions[NODE.node_id].state == "halted"
    database.save_nodes([], deleted=[NODE.node_id])
    assert set(database.load().nodes) == {OTHER.node_id}
    assert database.load().sessions == {}
    database.close()


def test_a_change_is_whole_or_not_at_all(place):
    database = NodeDatabase(place)
    database.save_nodes([NODE])
    before = database.load()
    same_name = replace(OTHER, name=NODE.name)
    with pytest.raises(DatabaseError, match=r"(?i)unique"):
        database.save_nodes([same_name], deleted=["none"], settings=SETTINGS)
    assert database.load() == before
    database.close()


def test_a_rollout_is_kept_and_changed_with_its_nodes_or_not_at_all(place):
    database = NodeDatabase(place)
    members = {NODE.node_id: Member(since=1.5), OTHER.node_id: Member(since=1.5)}
    rollout = Rollout(
        id=1, capsule="minimal", digest="sha256:1", reference="minimal", batch="10%", when="idle",
        created=1.5, members=members,
    )  # fmt: skip
    database.save_nodes([NODE, OTHER], rollout=RolloutChange(rollout=rollout, before=None))
    assert database.load().rollouts == {1: rollout}
    begun = replace(
        members[OTHER.node_id], state="active", batch=1, boot_id="1" * 32, before="minimal",
        ran="minimal@sha256:0", was_assigned=True, reason="Süd",
    )  # fmt: skip
    after = replace(rollout, number=1, go_since=2.25, members={**members, OTHER.node_id: begun})
    before = database.load()
    same_name = replace(OTHER, name=NODE.name)
    with pytest.raises(DatabaseError, match=r"(?i)unique"):
        database.save_nodes([same_name], rollout=RolloutChange(rollout=after, before=rollout))
    assert database.load() == before
    database.save_nodes([OTHER], rollout=RolloutChange(rollout=after, before=rollout))
    assert database.load().rollouts == {1: after}
    assert list(database.load().rollouts[1].members) == [NODE.node_id, OTHER.node_id]
    second = replace(rollout, id=2, members={})
    change = RolloutChange(rollout=second, before=None, forgotten=(1,))
    database.save_nodes([], deleted=[NODE.node_id, OTHER.node_id], rollout=change)
    assert database.load().rollouts == {2: second}
    database.save_nodes(
        [], rollout=replace(change, rollout=replace(second, id=3), forgotten=(2, 3))
    )
    assert database.load().rollouts == {}
    database.close()


def test_a_database_of_version_2_is_brought_to_this_one(place):
    """As it was before there were rollouts, tasks and drivers."""
    database = NodeDatabase(place)
    database.save_nodes([NODE], settings=SETTINGS)
    database.save_sessions({NODE.node_id: SESSION})
    with database._engine.begin() as connection:
        for statement in (
            *(f"DROP TABLE {name}" for name in NEW_IN_3),
            "ALTER TABLE sessions DROP COLUMN drivers",
            "ALTER TABLE sessions DROP COLUMN task",
            "UPDATE about SET value = '2' WHERE key = 'schema'",
        ):
            connection.exec_driver_sql(statement)
    database.close()
    database = NodeDatabase(place)
    stored = database.load()
    assert stored.nodes == {NODE.node_id: NODE}
    assert stored.sessions == {NODE.node_id: SESSION}
    assert stored.scopes == SCOPES
    assert stored.rollouts == {}
    rollout = Rollout(
        id=1, capsule="minimal", digest="sha256:1", reference="minimal", batch="1", when="now",
        created=1.5, members={NODE.node_id: Member()},
    )  # fmt: skip
    database.save_nodes([], rollout=RolloutChange(rollout=rollout, before=None))
    database.close()
    database = NodeDatabase(place)
    assert database.load().rollouts == {1: rollout}
    forget = RolloutChange(rollout=rollout, before=None, forgotten=(1,))
    database.save_nodes([], rollout=forget)
    database.close()


def test_ten_thousand_nodes_are_one_change(place):
    nodes = [
        replace(NODE, node_id=f"52:54:00:00:{n // 256:02x}:{n % 256:02x}", name=f"m{n:05}",
                hwaddrs=(f"52:54:00:00:{n // 256:02x}:{n % 256:02x}",))
        for n in range(10_000)
    ]  # fmt: skip
    database = NodeDatabase(place)
    database.save_nodes(nodes)
    assert database.load().nodes == {node.node_id: node for node in nodes}
    database.save_nodes([], deleted=[node.node_id for node in nodes])
    assert database.load().nodes == {}
    database.close()


def test_only_one_provisiond_writes_to_postgresql(running):
    database = NodeDatabase(running.url)
    with pytest.raises(DatabaseError, match="another provisiond writes to it"):
        NodeDatabase(running.url)
    database.close()
    NodeDatabase(running.url).close()


def test_a_url_that_leads_nowhere_is_told_without_its_password():
    with pytest.raises(DatabaseError) as caught:
        NodeDatabase("postgresql://me:secret@/x?host=/nonexistent")
    assert "secret" not in str(caught.value)
    assert "postgresql://me:***@/x" in str(caught.value)


def test_a_connection_that_is_cut_is_made_anew_and_memory_is_what_is_on_disk():
    server = Postgres()

    async def story():
        registry = Registry(NodeDatabase(server.url))
        try:
            await registry.save_nodes((NODE,), settings=SETTINGS)
            await registry.save_session(NODE.node_id, SESSION)
            registry.touch_session(NODE.node_id, replace(SESSION, last_contact=1_700_000_099.0))
            server.kill()
            with pytest.raises(DatabaseError):
                await registry.save_nodes((OTHER,))
            with pytest.raises(DatabaseError):
                await registry.flush()
            assert OTHER.node_id not in registry.nodes
            server.start()
            await registry.save_nodes((OTHER,))
            await registry.flush()
        finally:
            await registry.close()

    try:
        server.start()
        asyncio.run(story())
        database = NodeDatabase(server.url)
        stored = database.load()
        database.close()
        assert set(stored.nodes) == {NODE.node_id, OTHER.node_id}
        assert stored.sessions[NODE.node_id].last_contact == 1_700_000_099.0
    finally:
        server.remove()


def test_the_daemon_answers_503_while_postgresql_is_away_and_goes_on_by_itself():
    server = Postgres()
    try:
        server.start()
        with site(init=("--no-dnsmasq", "--user", "")) as made:
            text = made.config.read_text()
            made.config.write_text(f'database = "{server.url}"\n{text}')
            made.serve()
            name = made.checkin(1)["plan"]["name"]
            assert made.ctl("node", "set", "debug", "true", name).returncode == 0
            server.kill()
            value = {"protocol": 1, "hwaddrs": [hwaddr(1)], "bootId": BOOT, "state": "fetching"}
            body = json.dumps(value)
            status, answer = made.post(body)
            assert status == 503, answer
            done = made.ctl("node", "set", "debug", "false", name)
            assert done.returncode == 1
            assert "hint: is PostgreSQL up? provisiond tries again by itself" in done.stderr
            # What is known is still told.
            (node,) = made.client.get("/v1/nodes")
            assert (node["state"], node["attributes"]) == ("init", {"debug": True})
            server.start()
            assert made.post(body)[0] == 200
            assert made.ctl("node", "set", "debug", "false", name).returncode == 0
            made.stop()
            made.serve()
            (node,) = made.client.get("/v1/nodes")
            assert (node["state"], node["attributes"]) == ("fetching", {"debug": False})
    finally:
        server.remove()
