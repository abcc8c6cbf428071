"""The tables of the store and how records become rows: with `store`, the room that speaks SQL."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache, lru_cache
from sys import intern
from typing import Any

import duckdb
import pyarrow

from feedback.errors import RatchetError
from feedback.records import (
    Account,
    Draft,
    Event,
    Judgement,
    Knowledge,
    MultipleChoice,
    Review,
    Signal,
    Title,
    Turn,
)

MIGRATIONS = (
    (
        "001 events",
        """
        CREATE TABLE turn (
            id VARCHAR PRIMARY KEY, conversation VARCHAR NOT NULL, person VARCHAR NOT NULL,
            messages VARCHAR NOT NULL, answer VARCHAR NOT NULL, version VARCHAR NOT NULL, happened TIMESTAMP NOT NULL,
            source VARCHAR NOT NULL, topic VARCHAR, system_prompt VARCHAR, sampling VARCHAR NOT NULL,
            latency_s DOUBLE, prompt_tokens INTEGER, completion_tokens INTEGER, finish VARCHAR NOT NULL,
            red_flag VARCHAR, metadata VARCHAR NOT NULL);
        CREATE TABLE signal (
            id VARCHAR PRIMARY KEY, turn VARCHAR NOT NULL, person VARCHAR NOT NULL, role VARCHAR NOT NULL,
            kind VARCHAR NOT NULL, value VARCHAR NOT NULL, happened TIMESTAMP NOT NULL, source VARCHAR NOT NULL);
        CREATE TABLE review (
            id VARCHAR PRIMARY KEY, signal VARCHAR NOT NULL, reviewer VARCHAR NOT NULL,
            verdict VARCHAR NOT NULL, text VARCHAR, happened TIMESTAMP NOT NULL);
        CREATE TABLE knowledge (
            id VARCHAR PRIMARY KEY, question VARCHAR NOT NULL, answer VARCHAR NOT NULL, happened TIMESTAMP NOT NULL,
            topic VARCHAR, source VARCHAR, url VARCHAR, metadata VARCHAR NOT NULL);
        CREATE TABLE multiple_choice (
            id VARCHAR PRIMARY KEY, question VARCHAR NOT NULL, choices VARCHAR NOT NULL,
            answer_index INTEGER NOT NULL, happened TIMESTAMP NOT NULL, metadata VARCHAR NOT NULL);
        CREATE TABLE imported (digest VARCHAR PRIMARY KEY, file VARCHAR NOT NULL, happened TIMESTAMP NOT NULL);
        CREATE TABLE side (
            item VARCHAR PRIMARY KEY, cluster VARCHAR NOT NULL, side VARCHAR NOT NULL, happened TIMESTAMP NOT NULL);
        CREATE TABLE event (
            id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, who VARCHAR NOT NULL, payload VARCHAR NOT NULL,
            happened TIMESTAMP NOT NULL);
        CREATE VIEW current_signal AS
            SELECT * FROM signal
            QUALIFY row_number() OVER (PARTITION BY turn, person, kind ORDER BY id DESC) = 1;
        CREATE VIEW signal_awaiting_review AS
            SELECT s.* FROM current_signal s
            WHERE s.kind = 'correction' AND s.role = 'user'
              AND NOT EXISTS (SELECT 1 FROM review r WHERE r.signal = s.id);
        """,
    ),
    (
        "002 judgements, drafts, titles, accounts",
        """
        CREATE TABLE judgement (
            id VARCHAR PRIMARY KEY, turn VARCHAR NOT NULL, reviewer VARCHAR NOT NULL, verdict VARCHAR NOT NULL,
            given VARCHAR NOT NULL, undoes VARCHAR, happened TIMESTAMP NOT NULL);
        CREATE TABLE draft (
            id VARCHAR PRIMARY KEY, turn VARCHAR NOT NULL, reviewer VARCHAR NOT NULL, text VARCHAR NOT NULL,
            happened TIMESTAMP NOT NULL);
        CREATE TABLE title (
            id VARCHAR PRIMARY KEY, conversation VARCHAR NOT NULL, person VARCHAR NOT NULL, title VARCHAR NOT NULL,
            happened TIMESTAMP NOT NULL);
        CREATE TABLE account (
            id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, role VARCHAR NOT NULL, password_hash VARCHAR NOT NULL,
            happened TIMESTAMP NOT NULL);
        CREATE OR REPLACE VIEW signal_awaiting_review AS
            SELECT s.* FROM current_signal s
            WHERE s.kind = 'correction' AND s.role = 'user' AND json_extract_string(s.value, '$.text') <> ''
              AND coalesce((SELECT arg_max(r.verdict, r.id) FROM review r WHERE r.signal = s.id), 'withdraw')
                  = 'withdraw';
        """,
    ),
    (
        "003 vectors",
        """
        CREATE TABLE vector (digest VARCHAR NOT NULL, encoder VARCHAR NOT NULL, vector BLOB NOT NULL);
        """,
    ),
)
TABLE_OF = {
    Turn: "turn",
    Signal: "signal",
    Review: "review",
    Judgement: "judgement",
    Draft: "draft",
    Title: "title",
    Knowledge: "knowledge",
    MultipleChoice: "multiple_choice",
    Event: "event",
    Account: "account",
}
TABLES = (*TABLE_OF.values(), "imported", "side")
COPIED_AT_ONCE = 10_000  # rows
FEW = 4  # rows from which whole columns are inserted sooner than row by row
STREAMED = 2_000  # rows that are fetched together
_AS_JSON = {"messages", "sampling", "metadata", "value", "choices", "payload", "given"}
_TUPLES = {"messages", "choices", "given"}
_NAMES = {"user", "role", "kind", "version", "source", "finish"}  # that many records have in common
SHORT = 60  # characters of a value that others are likely to have too: a thumb
_as_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring an open store to this release's tables, each step in a transaction of its own."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migration (name VARCHAR PRIMARY KEY, happened TIMESTAMP NOT NULL)"
    )
    done = {row[0] for row in connection.execute("SELECT name FROM migration").fetchall()}
    if ahead := done - {name for name, _ in MIGRATIONS}:
        raise RatchetError(
            f"the store was written by a newer release (it has {sorted(ahead)[0]!r}); update this one"
        )
    waiting = [(name, statements) for name, statements in MIGRATIONS if name not in done]
    for name, statements in waiting:
        connection.begin()
        connection.execute(statements)
        connection.execute("INSERT INTO migration VALUES (?, ?)", [name, naive(datetime.now(UTC))])
        connection.commit()
    if waiting:
        connection.execute("CHECKPOINT")


def _column(name: str) -> str:
    return {"user": "person", "at": "happened"}.get(name, name)  # both are reserved words in SQL


def naive(at: datetime) -> datetime:
    """`at` in UTC, as the store keeps it."""
    return at.astimezone(UTC).replace(tzinfo=None)


def _columns(records: Sequence[Any]) -> dict[str, list]:
    """Records of one kind, at least one, as the columns of their table."""
    columns = {}
    for name in (f.name for f in fields(records[0])):
        values = [getattr(record, name) for record in records]
        if name in _AS_JSON:
            values = [_as_json(value) for value in values]
        elif name == "at":
            values = [naive(value) for value in values]
        columns[_column(name)] = values
    return columns


@cache
def _readers(kind: type) -> tuple[Callable[[Any], Any] | None, ...]:
    """How each column of a table becomes a field; None: as it is."""
    readers = {"at": _in_utc} | dict.fromkeys(_NAMES, _shared) | dict.fromkeys(_AS_JSON, _from_json)
    readers |= dict.fromkeys(_TUPLES, _as_tuple) | {"messages": _as_messages}
    return tuple(readers.get(f.name) for f in fields(kind))


def _record(kind: type, row: Sequence[Any]) -> Any:
    return kind(*[read(value) if read else value for read, value in zip(_readers(kind), row, strict=True)])


def _in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)


def _shared(name: str | None) -> str | None:
    """`name`, as one object in all records: a million of them are read at once."""
    return name and intern(name)


def _from_json(text: str) -> Any:
    return _common(text) if len(text) < SHORT else json.loads(text)


_common = lru_cache(4096)(json.loads)  # shared by the records that hold it, as nobody changes a record


def _as_tuple(text: str) -> tuple[Any, ...]:
    return tuple(json.loads(text))


def _as_messages(text: str) -> tuple[dict[str, str], ...]:
    return tuple({"role": intern(m["role"]), "content": m["content"]} for m in json.loads(text))


def select(
    cursor: duckdb.DuckDBPyConnection, kind: type, condition: str = "", arguments: Sequence[Any] = ()
) -> list[Any]:
    """The records of `kind` that meet `condition` (SQL, from WHERE on), in the order of ids."""
    columns = ", ".join(_column(f.name) for f in fields(kind))
    query = f"SELECT {columns} FROM {TABLE_OF[kind]} {condition} ORDER BY id"
    return [_record(kind, row) for row in cursor.execute(query, arguments).fetchall()]


def stream(
    cursor: duckdb.DuckDBPyConnection,
    kind: type,
    condition: str = "",
    arguments: Sequence[Any] = (),
) -> Iterator[Any]:
    """As `select`, some at a time."""
    columns = ", ".join(_column(f.name) for f in fields(kind))
    cursor.execute(f"SELECT {columns} FROM {TABLE_OF[kind]} {condition} ORDER BY id", arguments)
    while rows := cursor.fetchmany(STREAMED):
        yield from (_record(kind, row) for row in rows)


def insert(connection: duckdb.DuckDBPyConnection, record: Any) -> int:
    """Insert one record; returns 1."""
    columns = _columns([record])
    places = ", ".join("?" * len(columns))
    connection.execute(
        f"INSERT INTO {TABLE_OF[type(record)]} ({', '.join(columns)}) VALUES ({places})",
        [value for (value,) in columns.values()],
    )
    return 1


def insert_all(connection: duckdb.DuckDBPyConnection, records: Sequence[Any]) -> int:
    """Insert records of any tables; returns how many were added."""
    if len(records) < FEW:
        return sum(insert(connection, record) for record in records)
    tables = dict.fromkeys(TABLE_OF[type(record)] for record in records)
    return sum(
        insert_many(connection, table, [r for r in records if TABLE_OF[type(r)] == table]) for table in tables
    )


def insert_many(
    connection: duckdb.DuckDBPyConnection, table: str, records: Iterable[Any], conflict: str = ""
) -> int:
    """Insert records of one table at once; returns how many were added."""
    rows = list(records)
    return insert_columns(connection, table, _columns(rows), conflict) if rows else 0


def copy_rows(source: duckdb.DuckDBPyConnection, target: duckdb.DuckDBPyConnection) -> None:
    """Copy every row that `source` sees into `target`, which has the same tables and is empty but for them."""
    target.execute("DELETE FROM migration")  # those of the source say when the store was made
    for (table,) in source.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall():
        incoming = source.execute(f"SELECT * FROM {table}").to_arrow_reader(COPIED_AT_ONCE)
        target.register("incoming", incoming)
        target.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        target.unregister("incoming")


def delete_vectors(connection: duckdb.DuckDBPyConnection, digests: Sequence[str]) -> None:
    """Delete what any encoder made of the texts with these digests."""
    connection.execute("DELETE FROM vector WHERE digest IN (SELECT unnest(?))", [list(digests)])


def insert_columns(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, list], conflict: str = ""
) -> int:
    """Insert whole columns at once; returns how many rows were added."""
    names = ", ".join(columns)
    connection.register("incoming", pyarrow.table(dict(columns)))
    try:
        query = f"INSERT INTO {table} ({names}) SELECT {names} FROM incoming {conflict}"
        return connection.execute(query).fetchone()[0]
    finally:
        connection.unregister("incoming")


def insert_new(connection: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, list]) -> list[str]:
    """Insert the rows whose key, the first column, is not there yet; returns their keys."""
    names = list(columns)
    connection.register("incoming", pyarrow.table(dict(columns)))
    try:
        query = f"INSERT INTO {table} ({', '.join(names)}) FROM incoming ON CONFLICT DO NOTHING RETURNING {names[0]}"
        return [row[0] for row in connection.execute(query).fetchall()]
    finally:
        connection.unregister("incoming")
