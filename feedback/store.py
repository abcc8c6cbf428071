"""The event log in one DuckDB file; with `schema`, the room that speaks SQL.

Rows are only ever added; what is current is a view. One process has the file open, one writer thread
commits small groups, readers take a cursor each. A high-water mark beside the file, written after each
commit, tells a store that has lost its tail from a whole one.
"""

import fcntl
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import duckdb

from feedback.compiling.compiler import Events
from feedback.errors import RatchetError, StoreBehind, StoreBusy
from feedback.likeness.sides import Side
from feedback.records import Event, Knowledge, Review, Signal, Turn
from feedback.schema import (
    STREAMED,
    TABLE_OF,
    TABLES,
    copy_rows,
    insert_all,
    insert_columns,
    insert_many,
    insert_new,
    migrate,
    naive,
    select,
    stream,
)

GROUP_LIMIT = 256  # writes that share one commit at most

Write = Callable[[duckdb.DuckDBPyConnection], int]  # does its work and says by how many rows the store grew


@dataclass(frozen=True)
class _Added:
    """The write that adds records; those of neighbours are inserted together, which costs a quarter."""

    records: tuple[Any, ...]

    def __call__(self, connection: duckdb.DuckDBPyConnection) -> int:
        return insert_all(connection, self.records)


class Store:
    """An open store; use as a context manager, from any thread of the process that opened it."""

    def __init__(self, file: Path, connection: duckdb.DuckDBPyConnection):
        self.file = file
        self._connection = connection
        self._process = os.getpid()
        self._writes: queue.SimpleQueue[tuple[Write, Future] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._writing, self._reading = _Doorway(), _Doorway()
        self._guard: int | None = None  # keeps others from a file that took this one's place; see `rewrite`
        self._count = _count_rows(connection)
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
            store._remove_draft()
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
        with self._writing.alone():  # nothing is being rewritten
            self._connection.close()
            if self._guard is not None:
                os.close(self._guard)

    # writing

    def add(self, *records: Any) -> None:
        """Add `records` (of feedback.records) in one transaction; returns after their commit."""
        self.write(_Added(records))

    def add_turn(self, turn: Turn) -> None:
        """Add one answer that was shown."""
        self.add(turn)

    def add_signal(self, signal: Signal) -> None:
        """Add one thing that was said; acknowledged only after its commit."""
        self.add(signal)

    def add_import(self, file: str, at: datetime, lines: Mapping[str, Sequence[Any]]) -> set[str]:
        """Add the records of imported lines, {line digest: records}, all or nothing; returns the digests
        that were new. The others add nothing, and a turn that is there stays as it is.
        """
        new: set[str] = set()

        def write(connection: duckdb.DuckDBPyConnection) -> int:
            columns = {
                "digest": list(lines),
                "file": [file] * len(lines),
                "happened": [naive(at)] * len(lines),
            }
            new.clear()
            new.update(insert_new(connection, "imported", columns))
            added = [record for key, records in lines.items() if key in new for record in records]
            turns = {record.id: record for record in reversed(added) if isinstance(record, Turn)}
            others = [record for record in added if not isinstance(record, Turn)]
            return (
                len(new)
                + insert_many(connection, "turn", turns.values(), "ON CONFLICT DO NOTHING")
                + sum(
                    insert_many(connection, table, [r for r in others if TABLE_OF[type(r)] == table])
                    for table in {TABLE_OF[type(r)] for r in others}
                )
            )

        self.write(write)
        return new

    def record_sides(self, sides: Mapping[str, tuple[str, Side]], at: datetime) -> None:
        """Record the sides that were seen first; an item that has one keeps it."""
        columns = {
            "item": list(sides),
            "cluster": [cluster for cluster, _ in sides.values()],
            "side": [side for _, side in sides.values()],
            "happened": [naive(at)] * len(sides),
        }
        self.write(lambda connection: insert_columns(connection, "side", columns, "ON CONFLICT DO NOTHING"))

    def add_vectors(self, encoder: str, digests: Sequence[str], vectors: Sequence[bytes]) -> None:
        """Keep what `encoder` made of the texts with these digests."""
        columns = {"digest": list(digests), "encoder": [encoder] * len(digests), "vector": list(vectors)}

        def write(connection: duckdb.DuckDBPyConnection) -> int:
            insert_columns(connection, "vector", columns)
            return 0  # no events

        self.write(write)

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
            with self._writing.among():
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
            added = sum(work(self._connection) for work in _joined(works))
            if added < 0:
                # Before the commit: a crash in between leaves a mark that is too low, never ahead.
                self._write_mark(self._count + added)
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()  # one that fails has rolled back already
        return added

    # rewriting

    def rewrite(self, take_away: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Put a fresh file with what `take_away` leaves in this one's place.

        DuckDB keeps deleted texts in its file; a copy of the rows that are left holds none of them. Meanwhile
        writers queue, and readers wait while the files change places. A kill leaves the one file or the other.
        """
        self._same_process()
        with self._writing.alone():
            if self._closed:
                raise RatchetError("the store is closed; nothing was rewritten")
            try:
                count = self._copy(take_away)
                with self._reading.alone():
                    self._swap(count)
            except (duckdb.Error, OSError) as error:
                raise _in_words(error, self.file) from None
            finally:
                self._remove_draft()

    @property
    def _draft(self) -> Path:
        return self.file.with_suffix(".rewriting")

    def _remove_draft(self) -> None:
        for suffix in (".rewriting", ".rewriting.wal"):
            self.file.with_suffix(suffix).unlink(missing_ok=True)

    def _copy(self, take_away: Callable[[duckdb.DuckDBPyConnection], None]) -> int:
        """Write the draft; returns how many rows the store has in it. Nothing changes in the store itself."""
        self._remove_draft()
        self._connection.begin()
        try:
            take_away(self._connection)
            with duckdb.connect(str(self._draft)) as draft:
                migrate(draft)
                copy_rows(self._connection, draft)
                return _count_rows(draft)
        finally:
            self._connection.rollback()

    def _swap(self, count: int) -> None:
        """Put the draft in the store's place and open it; nobody else reads or writes meanwhile."""
        self._connection.execute("CHECKPOINT")  # no log of the old file may be left beside the new one
        if (log := self.file.with_name(self.file.name + ".wal")).exists():
            raise RatchetError(f"{log} cannot be emptied; check permission and space on the disk")
        self._write_mark(count)  # lower than before: right for either file
        # Locked before it can be found under the store's name, so that no other process opens it first. The
        # lock is the process's own: DuckDB takes it too, and closing any handle of the file would drop it.
        guard = os.open(self._draft, os.O_RDWR)
        fcntl.lockf(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(self._draft, self.file)
        self._connection.close()
        self._connection = _connect(self.file)
        self._count = count
        if self._guard is not None:
            os.close(self._guard)
        self._guard = guard

    # the high-water mark

    @property
    def mark_file(self) -> Path:
        """Beside the store: how many rows were committed at least."""
        return self.file.with_suffix(".mark")

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
        """A cursor of its own, for the queries of this room; closed at the end. Nothing is written inside."""
        self._same_process()
        with self._reading.among():
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
        """All that a compilation reads, in the order of ids; of turns those whose conversation has a signal.

        They are read anew each time: one that is deleted in between is gone, and one that comes has no signal.
        """
        with self.reader() as cursor:
            cursor.begin()  # one snapshot: no review without its signal
            return Events(
                signals=select(cursor, Signal),
                reviews=select(cursor, Review),
                knowledge=select(cursor, Knowledge),
                turns=_JudgedTurns(self),
                grouped=True,
            )

    def sides(self) -> dict[str, tuple[str, Side]]:
        """The recorded sides: {item: (cluster, side)}."""
        with self.reader() as cursor:
            rows = cursor.execute("SELECT item, cluster, side FROM side").fetchall()
        return {item: (cluster, side) for item, cluster, side in rows}

    def turns_among(self, ids: Iterable[str]) -> list[Turn]:
        """The answers that have one of these ids."""
        wanted = list(ids)
        return self.records(Turn, "WHERE id IN (SELECT unnest(?::VARCHAR[]))", [wanted]) if wanted else []

    def told(self) -> Iterator[tuple[Signal, Turn]]:
        """Everything that was said, in the order of ids, each with its answer; never all of it in memory."""
        with self.reader() as cursor:
            signals = stream(cursor, Signal)
            while some := list(islice(signals, 1000)):
                turns = {turn.id: turn for turn in self.turns_among({signal.turn for signal in some})}
                yield from ((signal, turns[signal.turn]) for signal in some if signal.turn in turns)

    def untold(self) -> Iterator[Turn]:
        """The answers that nobody said anything about, in the order of ids."""
        with self.reader() as cursor:
            yield from stream(cursor, Turn, "WHERE id NOT IN (SELECT turn FROM signal)")

    def vectors(self, encoder: str, digests: Sequence[str]) -> list[tuple[str, bytes]]:
        """What `encoder` made of the texts with these digests, each with its digest."""
        with self.reader() as cursor:
            query = "SELECT digest, vector FROM vector WHERE encoder = ? AND digest IN (SELECT unnest(?))"
            return cursor.execute(query, [encoder, list(digests)]).fetchall()

    def log(self, *kinds: str) -> list[Event]:
        """What operators and rounds did, of these kinds or of all, oldest first."""
        return (
            self.records(Event, "WHERE list_contains(?, kind)", [list(kinds)])
            if kinds
            else self.records(Event)
        )

    @property
    def rows(self) -> int:
        """How many rows of events there are, as the last commit left them."""
        return self._count

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


@dataclass(frozen=True)
class _JudgedTurns:
    """The turns of every conversation that has a signal, conversation by conversation, the first turn first."""

    store: Store

    def __iter__(self) -> Iterator[Turn]:
        with self.store.reader() as cursor:
            # Sorted without their words, which would fill the memory.
            cursor.execute(
                "SELECT id FROM turn WHERE conversation IN "
                "(SELECT conversation FROM turn WHERE id IN (SELECT turn FROM signal)) "
                "ORDER BY conversation, json_array_length(messages), id"
            )
            while rows := cursor.fetchmany(STREAMED):
                turns = {turn.id: turn for turn in self.store.turns_among(id for (id,) in rows)}
                yield from (turns[id] for (id,) in rows if id in turns)


class _Doorway:
    """Lets threads in side by side, until one wants to be alone: those inside leave, new ones wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: Counter[int] = Counter()  # by thread: whoever is inside may come in again
        self._shut = False

    @contextmanager
    def among(self) -> Iterator[None]:
        """Be inside, with others."""
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._shut or thread in self._inside)
            self._inside[thread] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[thread] -= 1
                self._inside += Counter()  # forgets who has left
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one inside."""
        with self._changed:
            self._changed.wait_for(lambda: not self._shut)
            self._shut = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._shut = False
                self._changed.notify_all()


def _joined(works: Iterable[Write]) -> Iterator[Write]:
    """`works` in their order, neighbours that only add records as one."""
    for adds, run in groupby(works, lambda work: isinstance(work, _Added)):
        if adds:
            yield _Added(tuple(record for work in run for record in work.records))
        else:
            yield from run


def _count_rows(connection: duckdb.DuckDBPyConnection) -> int:
    return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES)


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
