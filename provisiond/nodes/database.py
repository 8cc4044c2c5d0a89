"""The node database: SQLite or PostgreSQL by SQLAlchemy Core.

Every method is one transaction, durable when it returns. One process writes; the registry keeps
what it needs in memory and reads only when it starts.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from provisiond.nodes import rolloutrows
from provisiond.nodes import tables as tables
from provisiond.nodes.attributes import GROUP, NODE
from provisiond.nodes.model import Node, Session
from provisiond.nodes.rollout import Rollout
from provisiond.nodes.scopes import Scopes, Settings
from vnfsbuild.errors import InputError, VnfsbuildError

POSTGRESQL = "postgresql"
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 20
LOCK = 0x766E6673
"""The advisory lock that says that no other provisiond writes to a PostgreSQL database."""

Change = Mapping[tuple[str, str], Settings | None]
"""(scope, subject) → all that is set there from now on; None: the subject is forgotten."""


class DatabaseError(VnfsbuildError):
    """The database could not be read or written; nothing was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """All that is in a database."""

    nodes: dict[str, Node]
    """By node id."""
    sessions: dict[str, Session]
    """By node id."""
    scopes: Scopes
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    """By id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutChange:
    """A rollout as it is to be, and as it was."""

    rollout: Rollout
    before: Rollout | None
    forgotten: tuple[int, ...] = ()
    """The ids of others that need not be known any more."""


class NodeDatabase:
    """The nodes, their sessions, and what is set for groups, capsules and all."""

    def __init__(self, place: Path | str) -> None:
        """Open the SQLite file *place*, or the PostgreSQL database of the URL *place*.

        Missing tables are made, those of an older version brought to this one.

        Raises:
            DatabaseError: it cannot be opened, is of a version that is not known, or another
                provisiond writes to it.
            InputError: the URL is none, or the driver is missing.
        """
        if isinstance(place, Path):
            self._engine, self._shown = _open_sqlite(place), str(place)
        else:
            self._engine, self._shown = _open_postgresql(place)
        try:
            with self._begin() as connection:
                self._prepare(connection)
        except BaseException:
            self._engine.dispose()
            raise

    def load(self) -> Stored:
        """Return all that there is.

        Raises:
            DatabaseError: it cannot be read.
        """
        with self._begin() as connection:
            return Stored(
                nodes=tables.read_nodes(connection),
                sessions=tables.read_sessions(connection),
                scopes=tables.read_scopes(connection),
                rollouts=rolloutrows.read_rollouts(connection),
            )

    def save_nodes(
        self,
        nodes: Iterable[Node],
        *,
        deleted: Iterable[str] = (),
        settings: Change | None = None,
        rollout: RolloutChange | None = None,
    ) -> None:
        """Write *nodes* and *settings* as they are now, and forget the nodes of ids *deleted*.

        With them *rollout*, on whose account that may be.

        Raises:
            DatabaseError: nothing was written.
        """
        with self._begin() as connection:
            _delete_nodes(connection, tuple(deleted))
            _write_nodes(connection, tuple(nodes))
            for (scope, subject), values in (settings or {}).items():
                _write_settings(connection, scope, subject, values)
            if rollout is not None:
                self._write_rollout(connection, rollout)

    def save_sessions(
        self, sessions: Mapping[str, Session], *, events: Mapping[int, Any] | None = None
    ) -> None:
        """Write *sessions*, by node id, as they are now; those of nodes that are gone are not.

        With them *events*, JSON values by id, which tell of it.

        Raises:
            DatabaseError: nothing was written.
        """
        if not sessions and not events:
            return
        nodes = tables.NODES
        with self._begin() as connection:
            told = (events or {}).items()
            rows = [{"id": key, "value": json.dumps(value)} for key, value in told]
            self._upsert(connection, tables.EVENTS, rows)
            if not sessions:
                return
            wanted = sql.select(nodes.c.node_id).where(nodes.c.node_id.in_(list(sessions)))
            known = connection.execute(wanted).scalars().all()
            rows = [tables.session_row(node_id, sessions[node_id]) for node_id in known]
            self._upsert(connection, tables.SESSIONS, rows)

    def load_events(self) -> list[Any]:
        """Return the JSON values of all events that are kept, oldest first.

        Raises:
            DatabaseError: they cannot be read.
        """
        table = tables.EVENTS
        with self._begin() as connection:
            found = connection.execute(sql.select(table.c.value).order_by(table.c.id)).scalars()
            return [json.loads(value) for value in found]

    def forget_events(self, before: int) -> None:
        """Forget the events with an id below *before*.

        Raises:
            DatabaseError: they are still there.
        """
        with self._begin() as connection:
            connection.execute(tables.EVENTS.delete().where(tables.EVENTS.c.id < before))

    def load_note(self, key: str) -> Any:
        """Return what :meth:`save_note` last wrote as *key*; None when it never did.

        Raises:
            DatabaseError: it cannot be read.
        """
        about = tables.ABOUT
        with self._begin() as connection:
            wanted = sql.select(about.c.value).where(about.c.key == _note(key))
            found = connection.execute(wanted).scalar()
        return None if found is None else json.loads(found)

    def save_note(self, key: str, value: Any) -> None:
        """Keep the JSON *value* under *key*.

        Raises:
            DatabaseError: nothing was written.
        """
        row = {"key": _note(key), "value": json.dumps(value)}
        with self._begin() as connection:
            self._upsert(connection, tables.ABOUT, [row])

    def close(self) -> None:
        """Close the file, or the connection."""
        self._engine.dispose()

    def _prepare(self, connection: sql.Connection) -> None:
        """Make the tables, or bring those of an older version to this one."""
        about = tables.ABOUT
        if not sql.inspect(connection).has_table(about.name):
            tables.METADATA.create_all(connection)
            connection.execute(about.insert().values(key="schema", value=str(tables.SCHEMA)))
            return
        wanted = sql.select(about.c.value).where(about.c.key == "schema")
        found = connection.execute(wanted).scalar()
        if found not in [str(number) for number in range(1, tables.SCHEMA + 1)]:
            raise DatabaseError(
                f"{self._shown}: found a database of version {found}, expected {tables.SCHEMA}",
                hint="use the provisiond that wrote it, or another database",
            )
        if int(found) != tables.SCHEMA:
            tables.migrate(connection, int(found))

    @contextlib.contextmanager
    def _begin(self) -> Iterator[sql.Connection]:
        """Run the block in a transaction; what fails in it has changed nothing."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            told = " ".join(str(getattr(error, "orig", None) or error).split())
            if self._engine.dialect.name == POSTGRESQL:
                hint = "is PostgreSQL up? provisiond tries again by itself"
            else:
                hint = "df shows whether the disk is full"
            raise DatabaseError(f"{self._shown}: {told}", hint=hint) from error

    def _write_rollout(self, connection: sql.Connection, change: RolloutChange) -> None:
        self._upsert(connection, tables.ROLLOUTS, [rolloutrows.rollout_row(change.rollout)])
        rows = rolloutrows.member_rows(change.rollout, change.before)
        self._upsert(connection, tables.ROLLOUT_NODES, rows)
        rolloutrows.delete_rollouts(connection, change.forgotten)

    def _upsert(
        self, connection: sql.Connection, table: sql.Table, rows: list[dict[str, Any]]
    ) -> None:
        if not rows:
            return
        connection.execute(_make_upsert(table, self._engine.dialect.name), rows)


@functools.cache
def _make_upsert(table: sql.Table, dialect_name: str) -> sql.Insert:
    """Return what inserts rows into *table*, or makes those that are there what is given."""
    # Only the one that is used: PostgreSQL's takes three megabytes.
    dialect = importlib.import_module(f"sqlalchemy.dialects.{dialect_name}")
    statement = dialect.insert(table)
    update = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if not column.primary_key
    }
    keys = [column.name for column in table.primary_key]
    upsert: sql.Insert = statement.on_conflict_do_update(index_elements=keys, set_=update)
    return upsert


def _open_sqlite(path: Path) -> sql.Engine:
    engine = sql.create_engine(
        f"sqlite:///{path}",
        poolclass=sql.pool.StaticPool,
        connect_args={"check_same_thread": False},
    )
    sql.event.listen(engine, "connect", _configure_sqlite)
    sql.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Readers never wait for the writer, and a commit has reached the disk when it returns."""
    # Else Python's module begins no transaction before a change of tables.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sql.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _open_postgresql(text: str) -> tuple[sql.Engine, str]:
    """Return the engine of the URL *text*, and how it is shown: without a password."""
    try:
        url = sql.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise InputError("database: found no URL, expected postgresql://USER@HOST/NAME") from error
    shown = url.render_as_string(hide_password=True)
    # A connection that was cut is noticed on both sides within seconds, and made anew.
    settings = {
        "statement_timeout": f"{STATEMENT_SECONDS}s",
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "synchronous_commit": "on",
    }
    try:
        engine = sql.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 1000 * STATEMENT_SECONDS,
                "application_name": "provisiond",
                "options": " ".join(f"-c {key}={value}" for key, value in settings.items()),
            },
        )
    except ModuleNotFoundError as error:
        raise InputError(
            f"{shown}: the driver of PostgreSQL is missing",
            hint="pip install 'vnfsbuild[postgresql]'",
        ) from error
    sql.event.listen(engine, "connect", _lock_postgresql)
    return engine, shown


def _lock_postgresql(connection: Any, _record: Any) -> None:
    """Take what says that we write to this database; it is given back with the connection."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_try_advisory_lock({LOCK})")
        (taken,) = cursor.fetchone()
    connection.commit()
    if not taken:
        connection.close()
        raise DatabaseError(
            "database: another provisiond writes to it",
            hint="end that one; after a crash PostgreSQL notices within a minute",
        )


def _note(key: str) -> str:
    return f"note {key}"


def _write_nodes(connection: sql.Connection, nodes: tuple[Node, ...]) -> None:
    """Write *nodes*; what they give each other, names say, is free before it is taken."""
    node_ids = [node.node_id for node in nodes]
    _delete(connection, (tables.NODES, tables.HWADDRS, tables.MEMBERSHIP), node_ids)
    _delete_settings(connection, NODE, node_ids)
    _insert(connection, tables.NODES, [tables.node_row(node) for node in nodes])
    _insert(connection, tables.HWADDRS, _rows(tables.hwaddr_rows, nodes))
    _insert(connection, tables.MEMBERSHIP, _rows(tables.membership_rows, nodes))
    _insert(connection, tables.ATTRIBUTES, _rows(tables.node_setting_rows, nodes))


def _rows(
    make: Callable[[Node], list[dict[str, Any]]], nodes: tuple[Node, ...]
) -> list[dict[str, Any]]:
    return [row for node in nodes for row in make(node)]


def _delete_nodes(connection: sql.Connection, node_ids: tuple[str, ...]) -> None:
    _delete(connection, tables.BY_NODE, node_ids)
    _delete_settings(connection, NODE, node_ids)


def _delete(
    connection: sql.Connection, from_tables: Iterable[sql.Table], node_ids: Sequence[str]
) -> None:
    if not node_ids:
        return
    rows = [{"wanted": node_id} for node_id in node_ids]
    for table in from_tables:
        connection.execute(table.delete().where(table.c.node_id == sql.bindparam("wanted")), rows)


def _delete_settings(connection: sql.Connection, scope: str, subjects: Sequence[str]) -> None:
    if not subjects:
        return
    table = tables.ATTRIBUTES
    statement = table.delete().where(
        table.c.scope == scope, table.c.subject == sql.bindparam("wanted")
    )
    connection.execute(statement, [{"wanted": subject} for subject in subjects])


def _insert(connection: sql.Connection, table: sql.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _write_settings(
    connection: sql.Connection, scope: str, subject: str, values: Settings | None
) -> None:
    _delete_settings(connection, scope, [subject])
    if scope == GROUP:
        connection.execute(tables.GROUPS.delete().where(tables.GROUPS.c.name == subject))
        if values is not None:
            connection.execute(tables.GROUPS.insert().values(name=subject))
    _insert(connection, tables.ATTRIBUTES, tables.setting_rows(scope, subject, values or {}))
