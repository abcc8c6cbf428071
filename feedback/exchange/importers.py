"""Files from outside into records, part by part: what was told wrongly is counted, what is there adds nothing.

Each file holds one format, told by the fields of all its rows (see `formats`). A file is read through once
before anything of it is stored; then each part is stored by itself, so that an import that was stopped goes on
when it is repeated.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from feedback.errors import RatchetError
from feedback.exchange.formats import DEMONSTRATIONS, FORMATS, STATEMENTS, FeedbackLine, Format, formats_of
from feedback.exchange.readers import BEGINNING, Mark, Row, files_in, read_rows
from feedback.records import Turn, digest
from feedback.store import Store

SHOWN = 3  # bad lines that are shown
BATCH = 5_000  # rows that are stored together
PART = 10_000  # rows between two lines of progress
BEFORE = "imported before"
FOREIGN = "turn: an answer in other words has this id here"


@dataclass
class Batch:
    """Rows that are stored together: the records of each of their lines, by the line's digest."""

    lines: dict[str, list[Any]] = field(default_factory=dict)
    rows: list[tuple[str, list[str]]] = field(default_factory=list)  # of each good row: place, its digests
    bad: list[tuple[str, str]] = field(default_factory=list)  # of each other row: place, reason
    exported: set[str] = field(default_factory=set)  # the digests of lines that may bring a turn's id along


def import_files(
    paths: Sequence[Path], take_part: Callable[..., dict[str, Any]], log: Callable[[str], None]
) -> dict[str, Any]:
    """Import files and folders; the document says what became of every row.

    All are checked before the first is stored. `take_part` is `import_part`, wherever the store is open.
    """
    files = [(file, examine(file, file != path, log)) for path in paths for file in files_in(path)]
    documents = [_import_file(file, form, total, take_part, log) for file, (form, total) in files]
    skipped: Counter = Counter()
    for document in documents:
        skipped.update(document["skipped"])
    totals = {key: sum(document[key] for document in documents) for key in ("read", "accepted")}
    return totals | {"skipped": dict(sorted(skipped.items())), "files": documents}


def _import_file(
    file: Path,
    form: Format,
    total: int,
    take_part: Callable[..., dict[str, Any]],
    log: Callable[[str], None],
) -> dict[str, Any]:
    accepted, skipped, shown = 0, Counter(), []
    begin: Mark | None = BEGINNING
    while begin is not None:
        part = take_part(file=str(file), format=form.name, begin=begin)
        begin = part["next"]
        accepted += part["accepted"]
        skipped.update(part["skipped"])
        shown = [*shown, *part["first_bad_lines"]][:SHOWN]
        log(f"{file.name}: {accepted + skipped.total():,} of {total:,} rows")
    return {
        "file_path": str(file),
        "format": form.name,
        "read": accepted + skipped.total(),
        "accepted": accepted,
        "skipped": dict(sorted(skipped.items())),
        "first_bad_lines": shown,
    }


def examine(file: Path, in_dataset: bool, log: Callable[[str], None]) -> tuple[Format, int]:
    """The format of `file` and how many rows it has; RatchetError when nothing in it can be taken.

    Messages about which nobody says anything are demonstrations in a folder of data files, and nowhere else:
    a log of conversations is not to be imitated unasked.
    """
    total, told, by_fields = 0, False, {}
    for total, row in enumerate(read_rows(file), 1):
        if isinstance(row.value, dict):
            fields = (row.value.get("label") is None, *row.value)
            if fields not in by_fields:
                by_fields[fields] = formats_of(row.value)
                told = told or not STATEMENTS.isdisjoint(row.value)
        if total % (10 * PART) == 0:
            log(f"{file.name}: {total:,} rows looked at")
    fitting = {form.name: form for forms in by_fields.values() for form in forms}
    if in_dataset and not told and [*fitting] == ["feedback"]:
        fitting = {DEMONSTRATIONS.name: DEMONSTRATIONS}
    if len(fitting) != 1:
        raise RatchetError(f"{file} {_unfitting(fitting)}")
    (form,) = fitting.values()
    _check_some_row(file, form)
    return form, total


def _unfitting(fitting: dict[str, Format]) -> str:
    if fitting:
        return f"fits {' and '.join(fitting)}; split it, one format a file"
    wanted = "; ".join(f"{form.name}: {', '.join(sorted(form.fields))}" for form in FORMATS.values())
    return f"fits no format that can be imported ({wanted})"


def _check_some_row(file: Path, form: Format) -> None:
    bad = Batch()
    for row in read_rows(file):
        batch = read_batch([row], form, file.name, datetime.now(UTC))
        if batch.rows:
            return
        bad.bad += batch.bad[: SHOWN - len(bad.bad)]
    shown = "; ".join(f"{place}: {reason}" for place, reason in bad.bad)
    raise RatchetError(f"{file}: no line can be taken as {form.name}; {shown}")


def import_part(store: Store, file: Path, form: Format, begin: Mark, at: datetime) -> dict[str, Any]:
    """Store about PART rows of `file` from `begin` on; says where the next part begins, None at the end.

    What was stored before the part was broken off is there when the same part is asked for again.
    """
    accepted, skipped, shown = 0, Counter(), []
    read, after = 0, None
    for rows in _batches(file, begin):
        batch = read_batch(rows, form, file.name, at + timedelta(microseconds=10 * read))
        _set_foreign_turns_aside(store, batch)
        new = store.add_import(
            file.name, at, {key: batch.lines[key] for _, keys in batch.rows for key in keys}
        )
        for _, keys in batch.rows:
            if new.isdisjoint(keys):
                skipped[BEFORE] += 1
            else:
                accepted += 1
                new.difference_update(keys)  # an equal row below it was imported before
        skipped.update(reason for _, reason in batch.bad)
        shown += [f"{place}: {reason}" for place, reason in batch.bad[: SHOWN - len(shown)]]
        read, after = read + len(rows), rows[-1].after
    ended = read < PART
    return {
        "accepted": accepted,
        "skipped": dict(skipped),
        "first_bad_lines": shown,
        "next": None if ended else after,
    }


def _batches(file: Path, begin: Mark) -> Iterator[list[Row]]:
    """The rows of one part, some at a time; it ends where reading can begin again."""
    rows: list[Row] = []
    for read, row in enumerate(read_rows(file, begin), 1):
        rows.append(row)
        ended = read >= PART and row.after is not None
        if ended or len(rows) == BATCH:
            yield rows
            rows = []
        if ended:
            return
    if rows:
        yield rows


def read_batch(rows: Iterable[Row], form: Format, source: str, at: datetime) -> Batch:
    """`rows` as records; ids follow the order of the rows from `at` on, ten microseconds a row."""
    batch = Batch()
    for number, row in enumerate(rows):
        if isinstance(row.value, str):
            batch.bad.append((row.place, row.value))
            continue
        try:
            lines = [(digest(line), form.line.model_validate(line)) for line in form.lines(row.value)]
        except ValidationError as error:
            batch.bad.append((row.place, _reason(error)))
        except ValueError as error:
            batch.bad.append((row.place, str(error)))
        else:
            batch.rows.append((row.place, [key for key, _ in lines]))
            when = at + timedelta(microseconds=10 * number)
            for key, line in lines:
                if key not in batch.lines:
                    batch.lines[key] = line.records(when, key, source)
                    if isinstance(line, FeedbackLine) and line.conversation:
                        batch.exported.add(key)
    return batch


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _set_foreign_turns_aside(store: Store, batch: Batch) -> None:
    """A row that brings a turn's id along, but other words than are known by it, speaks of another answer."""
    turns = {
        key: r
        for key in batch.lines
        if key in batch.exported
        for r in batch.lines[key]
        if isinstance(r, Turn)
    }
    known = {t.id: (t.messages, t.answer) for t in store.turns_among({t.id for t in turns.values()})}
    foreign = {
        key
        for key, turn in turns.items()
        if known.setdefault(turn.id, (turn.messages, turn.answer)) != (turn.messages, turn.answer)
    }
    batch.bad += [(place, FOREIGN) for place, keys in batch.rows if not foreign.isdisjoint(keys)]
    batch.rows = [(place, keys) for place, keys in batch.rows if foreign.isdisjoint(keys)]
