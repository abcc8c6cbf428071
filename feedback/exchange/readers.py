"""Files and folders as rows: JSON Lines, JSON, CSV, Parquet, Arrow, and folders of leaflets or of MedQuAD's XML.

Reading can begin anywhere a row has ended before, so that a long import is done in parts.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feedback.errors import RatchetError
from feedback.exchange.leaflets import leaflet_pairs, medquad_pairs

MAX_NESTING = 50  # levels of a row; deeper ones could not be read back everywhere
LEAFLETS = (".md", ".markdown", ".txt")
ABOUT = ("readme", "license", "manifest.json", "dataset_info", "dataset_dict.json", "state.json", "cache-")

Mark = tuple[int, int]  # where reading goes on: bytes, rows or files from the beginning; and lines so far
BEGINNING: Mark = (0, 0)


@dataclass(frozen=True)
class Row:
    """One row, or the reason why it is none."""

    place: str  # as a person finds it: "line 7", or the file of a folder
    value: dict[str, Any] | str
    after: Mark | None  # where the next row begins; None inside a file of a folder


def files_in(path: Path) -> list[Path]:
    """What there is to import at `path`: itself, or the data files of a folder, each for itself.

    A folder without data files is one thing: leaflets, or MedQuAD's XML.
    """
    if not path.is_dir():
        return [path]
    if tables := _inside(path, _TABLES):
        return tables
    if not _inside(path, _TEXTS):
        raise RatchetError(f"{path} holds nothing to import: no {', '.join((*_FILES, *LEAFLETS))} files")
    return [path]


def _inside(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files of a folder that end so, in order: nothing hidden, nothing that only speaks of the others."""
    found = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in suffixes and file.is_file()]
    return [
        file
        for file in found
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.name.lower().startswith(ABOUT)
    ]


def read_rows(path: Path, begin: Mark = BEGINNING) -> Iterator[Row]:
    """Each row of a file or a folder of texts from `begin` on; RatchetError when it cannot be read."""
    if path.is_dir():
        yield from _folder_rows(path, begin)
        return
    reader = _FILES.get(path.suffix.lower())
    if reader is None:
        raise RatchetError(
            f"{path}: only {', '.join(_FILES)} files can be imported, and folders of leaflets "
            f"({', '.join(LEAFLETS)})"
        )
    try:
        yield from reader(path, begin)
    except FileNotFoundError:
        raise RatchetError(f"{path} does not exist") from None
    except OSError as error:
        raise RatchetError(f"{path} cannot be read: {error.strerror or str(error).strip()}") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise RatchetError(f"{path} is no {path.suffix} file: {str(error).splitlines()[0]}") from None


# JSON


def _jsonl_rows(file: Path, begin: Mark) -> Iterator[Row]:
    position, number = begin
    with file.open("rb") as lines:
        lines.seek(position)
        for line in lines:
            position, number = position + len(line), number + 1
            if line.strip():
                yield Row(f"line {number}", _parsed(line), (position, number))


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):  # a number of thousands of digits is a bare ValueError
        return "not JSON"
    if line.count(b"[") + line.count(b"{") <= MAX_NESTING and isinstance(row, dict):
        return row
    return _sound(row)


def _sound(row: Any) -> dict[str, Any] | str:
    if not isinstance(row, dict):
        return "not a JSON object"
    return "nested too deeply" if _is_deeper(row, MAX_NESTING) else row


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in value if isinstance(part, dict | list))


def _json_rows(file: Path, begin: Mark) -> Iterator[Row]:
    """A list of objects, or what `datasets` and others call JSON too: an object a line."""
    with file.open("rb") as content:
        first = next((line.lstrip() for line in content if line.strip()), b"")
    if not first.startswith(b"["):
        yield from _jsonl_rows(file, begin)
        return
    try:
        rows = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for number, row in enumerate(rows[begin[0] :], begin[0] + 1):
        yield Row(f"entry {number}", _sound(row), (number, number))


# tables

_STRUCTURED = {"messages", "prompt", "choices", "alternatives", "reasons", "withdrawn", "reviews"}
_NUMBERS = {"rating", "choice", "answer_index"}


def _csv_rows(file: Path, begin: Mark) -> Iterator[Row]:
    csv.field_size_limit(64 * 1024 * 1024)
    position, number = 0, 0

    def lines() -> Iterator[str]:
        nonlocal position, number
        for line in content:
            position, number = position + len(line), number + 1
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")

    with file.open("rb") as content:
        rows = csv.DictReader(lines())
        if rows.fieldnames and begin != BEGINNING:
            position, number = begin
            content.seek(position)
        for row in rows:
            if None in row:
                yield Row(f"line {number}", "more cells than columns", (position, number))
            else:
                cells = {name: _cell(name, value) for name, value in row.items() if value not in ("", None)}
                yield Row(f"line {number}", cells, (position, number))


def _cell(name: str, value: str) -> Any:
    """A cell of a structured column is JSON; everything else is text."""
    if name not in _STRUCTURED | _NUMBERS:
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    if isinstance(parsed, list) != (name in _STRUCTURED):
        return value
    return value if _is_deeper(parsed, MAX_NESTING) else parsed


def _parquet_rows(file: Path, begin: Mark) -> Iterator[Row]:
    import pyarrow.parquet

    yield from _table_rows(pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1000), begin)


def _arrow_rows(file: Path, begin: Mark) -> Iterator[Row]:
    import pyarrow.ipc

    with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as batches:
        yield from _table_rows(batches, begin)


def _table_rows(batches: Iterator[Any], begin: Mark) -> Iterator[Row]:
    number = 0
    for batch in batches:
        skipped = min(max(begin[0] - number, 0), batch.num_rows)
        number += skipped
        for row in batch.slice(skipped).to_pylist():
            number += 1
            columns = {name: _plain(name, value) for name, value in row.items() if value is not None}
            yield Row(f"line {number}", columns, (number, number))


def _plain(name: str, value: Any) -> Any:
    """A value of a table as JSON could hold it: what JSON does not know becomes text."""
    if isinstance(value, str):
        return _cell(name, value)
    if isinstance(value, datetime):
        return value.isoformat()
    return json.loads(json.dumps(value, default=_as_text))


def _as_text(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()  # what an old writer kept as text, without saying so
    except UnicodeDecodeError:
        return value.hex()


# texts


def _folder_rows(folder: Path, begin: Mark) -> Iterator[Row]:
    for number, file in enumerate(_inside(folder, _TEXTS)[begin[0] :], begin[0] + 1):
        place = file.relative_to(folder).as_posix()
        pairs = _pairs(file, place)
        for pair in pairs:
            yield Row(place, pair, (number, number) if pair is pairs[-1] else None)


def _xml_rows(file: Path, begin: Mark) -> Iterator[Row]:
    for number, pair in enumerate(_pairs(file, file.name)[begin[0] :], begin[0] + 1):
        yield Row(f"pair {number}", pair, (number, number))


def _pairs(file: Path, source: str) -> list[dict[str, Any] | str]:
    """What one text holds, at least a reason why it holds nothing."""
    content = file.read_bytes()
    try:
        if file.suffix.lower() == ".xml":
            return [*medquad_pairs(content)] or ["a document without questions"]
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ["not UTF-8"]
    except ValueError as error:
        return [str(error)]
    name = re.sub(r"[\s_-]+", " ", file.stem).strip()
    return [pair | {"source": source} for pair in leaflet_pairs(text, name)] or ["a leaflet without text"]


_FILES = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
    ".xml": _xml_rows,
}
_TABLES = _FILES.keys() - {".xml"}
_TEXTS = (".xml", *LEAFLETS)
