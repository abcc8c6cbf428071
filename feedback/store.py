"""The event log in one DuckDB file; with `schema`, the room that speaks SQL.

Rows are only ever added; what is current is a view. One process has the file open, one writer thread
commits small groups, readers take a cursor each. A high-water mark beside the file, written after each
commit, tells a store that has lost its tail from a whole one.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from feedback.compiler import Events
from feedback.errors import RatchetError, StoreBehind, StoreBusy
from feedback.records import Event, Knowledge, Review, Signal, Turn
from feedback.schema import TABLE_OF, TABLES, insert, insert_columns, insert_many, migrate, naive, select
from feedback.sides import Side

GROUP_LIMIT = 256  # writes that share one commit at most

Write = Callable[[duckdb.DuckDBPyConnection], int]  # does its work and says by how many rows the store grew


class Store:
    """An open store; use as a context manager, from any thread of the process that opened it."""

    def __init__(self, file: Path, connection: duckdb.DuckDBPyConnection):
        self.file = file
        self._connection = connection
        self._process = os.getpid()
        self._writes: queue.SimpleQueue[tuple[Write, Future] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._count = self._count_rows()
        self._writer = threading.Thread(target=self._write_groups, name="store-writer", daemon=True)

    @classmethod
    def open(cls, file: Path) -> "Store":
        """Open or make the store in `file`.

        StoreBusy when another process has it, StoreBehind when acknowledged events are missing.
        """
        connection = _connect(file)
        try:
            migrate(connection)
            store = cls(file, connection)
            store._check_mark()
            store._write_mark(store._count)
        except (duckdb.Error, OSError) as error:
            connection.close()
            raise _in_words(error, file) from None
        except BaseException:
            connection.close()
            raise
        store._writer.start()
        return store

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what waits to be written, then let go of the file; nothing in a forked child."""
        if os.getpid() != self._process:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._writes.put(None)
        self._writer.join()
        self._connection.close()

    # writing

    def add(self, *records: Any) -> None:
        """Add `records` (of feedback.records) in one transaction; returns after their commit."""
        self.write(lambda connection: sum(insert(connection, record) for record in records))

    def add_turn(self, turn: Turn) -> None:
        """Add one answer that was shown."""
        self.add(turn)

    def add_signal(self, signal: Signal) -> None:
        """Add one thing that was said; acknowledged only after its commit."""
        self.add(signal)

    def add_import(self, file: str, at: datetime, lines: Mapping[str, Sequence[Any]]) -> None:
        """Add the records of imported lines, {line digest: records}, all or nothing."""

        def write(connection: duckdb.DuckDBPyConnection) -> int:
            rows = [record for records in lines.values() for record in records]
            added = sum(
                insert_many(connection, table, [r for r in rows if TABLE_OF[type(r)] == table])
                for table in TABLES
            )
            columns = {
                "digest": list(lines),
                "file": [file] * len(lines),
                "happened": [naive(at)] * len(lines),
            }
            return added + insert_columns(connection, "imported", columns)

        self.write(write)

    def record_sides(self, sides: Mapping[str, tuple[str, Side]], at: datetime) -> None:
        """Record the sides that were seen first; an item that has one keeps it."""
        columns = {
            "item": list(sides),
            "cluster": [cluster for cluster, _ in sides.values()],
            "side": [side for _, side in sides.values()],
            "happened": [naive(at)] * len(sides),
        }
        self.write(lambda connection: insert_columns(connection, "side", columns, "ON CONFLICT DO NOTHING"))

    def write(self, work: Write) -> None:
        """Run `work` in the writer thread; returns after its commit, raises what it raised."""
        self._same_process()
        done: Future = Future()
        with self._closing:
            if self._closed:
                raise RatchetError("the store is closed; nothing was written")
            self._writes.put((work, done))
        done.result()

    def _write_groups(self) -> None:
        while (first := self._writes.get()) is not None:
            group, last = [first], False
            while len(group) < GROUP_LIMIT and not last:
                try:
                    another = self._writes.get_nowait()
                except queue.Empty:
                    break
                last = another is None
                if another:
                    group.append(another)
            self._commit(group)
            if last:
                return

    def _commit(self, group: list[tuple[Write, Future]]) -> None:
        """Commit `group` together; when one of it fails, each for itself, so that only that one fails."""
        try:
            self._count += self._commit_together([work for work, _ in group])
        except Exception as error:  # handed to whoever asked for it
            if len(group) == 1:
                group[0][1].set_exception(_in_words(error, self.file))
                return
            for member in group:
                self._commit([member])
            return
        try:
            self._write_mark(self._count)
        except OSError as error:
            # What was committed stands and must not be tried again; a mark that lags is never ahead.
            for _, done in group:
                done.set_exception(
                    RatchetError(f"kept, but {self.mark_file} cannot be written: {error.strerror or error}")
                )
            return
        for _, done in group:
            done.set_result(None)

    def _commit_together(self, works: list[Write]) -> int:
        self._connection.begin()
        try:
            added = sum(work(self._connection) for work in works)
            if added < 0:
                # Before the commit: a crash in between leaves a mark that is too low, never ahead.
                self._write_mark(self._count + added)
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()  # one that fails has rolled back already
        return added

    # the high-water mark

    @property
    def mark_file(self) -> Path:
        """Beside the store: how many rows were committed at least."""
        return self.file.with_suffix(".mark")

    def _count_rows(self) -> int:
        return sum(
            self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES
        )

    def _check_mark(self) -> None:
        if not self.mark_file.exists():
            return
        text = self.mark_file.read_text("utf-8", "replace").strip()
        if text and not (text.isascii() and text.isdigit()):
            raise RatchetError(
                f"{self.mark_file} holds no number of rows; if the store is whole, delete that file"
            )
        acknowledged = int(text or 0)
        if self._count < acknowledged:
            raise StoreBehind(
                f"{self.file} holds {self._count} rows, but {acknowledged} were acknowledged: its tail is lost. "
                f"Put a whole copy of the store and its .wal back in place, or, to accept the loss, "
                f"delete {self.mark_file}"
            )

    def _write_mark(self, count: int) -> None:
        draft = self.mark_file.with_suffix(".mark.new")
        draft.write_text(str(count))
        os.replace(draft, self.mark_file)

    # reading

    @contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor of its own, for the queries of this room; closed at the end."""
        self._same_process()
        cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def _same_process(self) -> None:
        if os.getpid() != self._process:
            raise RatchetError("a store that was opened before a fork cannot be used after it; open it anew")

    def records(self, kind: type, condition: str = "", arguments: Sequence[Any] = ()) -> list[Any]:
        """The records of `kind` that meet `condition` (SQL, from WHERE on), in the order of ids."""
        with self.reader() as cursor:
            return select(cursor, kind, condition, arguments)

    def turn(self, turn_id: str) -> Turn | None:
        """The answer with this id, or None."""
        found = self.records(Turn, "WHERE id = ?", [turn_id])
        return found[0] if found else None

    def turns_of(self, conversation: str) -> list[Turn]:
        """The answers of one conversation, oldest first."""
        return self.records(Turn, "WHERE conversation = ?", [conversation])

    def current_signals(self, turn_id: str, user: str) -> dict[str, Signal]:
        """What `user` says of a turn now, by kind."""
        said = self.records(Signal, "WHERE turn = ? AND person = ?", [turn_id, user])
        return {signal.kind: signal for signal in said}  # the last of a kind stands

    def awaiting_review(self) -> list[tuple[Signal, Turn]]:
        """Users' corrections that no reviewer has judged, oldest first, each with its turn."""
        condition = "WHERE id IN (SELECT id FROM signal_awaiting_review)"
        return [(signal, self.turn(signal.turn)) for signal in self.records(Signal, condition)]

    def signal(self, signal_id: str) -> Signal | None:
        """The signal with this id, or None."""
        found = self.records(Signal, "WHERE id = ?", [signal_id])
        return found[0] if found else None

    def events(self) -> Events:
        """All that a compilation reads, in the order of ids, as of one moment."""
        with self.reader() as cursor:
            cursor.begin()  # one snapshot: no signal without its turn
            return Events(
                turns=select(cursor, Turn),
                signals=select(cursor, Signal),
                reviews=select(cursor, Review),
                knowledge=select(cursor, Knowledge),
            )

    def sides(self) -> dict[str, tuple[str, Side]]:
        """The recorded sides: {item: (cluster, side)}."""
        with self.reader() as cursor:
            rows = cursor.execute("SELECT item, cluster, side FROM side").fetchall()
        return {item: (cluster, side) for item, cluster, side in rows}

    def imported(self) -> tuple[set[str], set[str]]:
        """The digests of every line imported so far, and the ids of every turn."""
        with self.reader() as cursor:
            digests = {row[0] for row in cursor.execute("SELECT digest FROM imported").fetchall()}
            return digests, {row[0] for row in cursor.execute("SELECT id FROM turn").fetchall()}

    def log(self, *kinds: str) -> list[Event]:
        """What operators and rounds did, of these kinds or of all, oldest first."""
        return (
            self.records(Event, "WHERE list_contains(?, kind)", [list(kinds)])
            if kinds
            else self.records(Event)
        )

    def made_at(self) -> datetime:
        """When the store was made."""
        with self.reader() as cursor:
            return cursor.execute("SELECT min(happened) FROM migration").fetchone()[0].replace(tzinfo=UTC)

    def counts(self) -> dict[str, int]:
        """How many rows each table holds."""
        with self.reader() as cursor:
            return {t: cursor.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in TABLES}

    def signals_since(self, signal_id: str) -> int:
        """How many signals and reviews came after the one with this id."""
        with self.reader() as cursor:
            query = "SELECT (SELECT count(*) FROM signal WHERE id > $1) + (SELECT count(*) FROM review WHERE id > $1)"
            return cursor.execute(query, [signal_id]).fetchone()[0]


def _connect(file: Path) -> duckdb.DuckDBPyConnection:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = duckdb.connect(str(file), config={"enable_external_access": "false"})
    except (duckdb.Error, OSError) as error:
        raise _in_words(error, file) from None
    try:
        connection.execute("SET lock_configuration = true")
    except duckdb.InvalidInputException:  # locked already: DuckDB shares an open file within a process
        connection.close()
        raise StoreBusy(f"{file} is open in this process already; close it first") from None
    return connection


def _in_words(error: Exception, file: Path) -> Exception:
    """The error that a person can act on, for what DuckDB or the system says."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, duckdb.IOException) and "Could not set lock" in text:
        return StoreBusy(f"{file} is open in another process; stop it, or wait until it is done")
    if isinstance(error, duckdb.IOException | OSError) or "Could not write" in text:
        return RatchetError(
            f"{file} cannot be read or written: {text}; check permission and space on the disk"
        )
    if isinstance(error, duckdb.SerializationException | duckdb.FatalException):
        return RatchetError(f"{file} is no whole store: {text}")
    return error
