"""Files from outside, line by line, into records: knowledge, multiple choice, feedback, preferences.

One format a file, told by its fields. Bad lines are skipped and counted by reason; a line that was
imported before adds nothing.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from feedback.errors import RatchetError, Refused
from feedback.records import Knowledge, MultipleChoice, Role, Signal, Turn, digest, new_id
from feedback.text import acceptable

SHOWN = 3  # bad lines that are shown
MAX_NESTING = 50  # levels of a row; deeper ones could not be read back everywhere


def _acceptable(text: str) -> str:
    try:
        return acceptable(text)
    except Refused as error:
        raise ValueError(str(error)) from None


def _acceptable_name(text: str | None) -> str | None:
    return _acceptable(text) if text else None


Text = Annotated[str, AfterValidator(_acceptable)]
Name = Annotated[str | None, AfterValidator(_acceptable_name)]  # one that is empty is none


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the years 1 to 9999 in UTC") from None


class _Line(BaseModel):
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _metadata_can_be_kept(self) -> "_Line":
        try:
            json.dumps(self.metadata, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(
                "an unknown field holds half of a surrogate pair, which is no character"
            ) from None
        return self

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields that the format does not know, kept as they are."""
        return self.model_extra or {}


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: Text


class KnowledgeLine(_Line):
    """A question and its answer."""

    question: Text
    answer: Text
    id: Name = None
    source: Name = None
    url: Name = None
    topic: Name = None

    def records(self, at: datetime, _line: str, _source: str) -> list[Any]:
        """One knowledge row."""
        extra = self.metadata | ({"id": self.id} if self.id else {})
        return [
            Knowledge(new_id(at), self.question, self.answer, at, self.topic, self.source, self.url, extra)
        ]


class MultipleChoiceLine(_Line):
    """A question with options, one of them right."""

    question: Text
    choices: list[Text] = Field(min_length=2)
    answer_index: int = Field(ge=0)

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "MultipleChoiceLine":
        if self.answer_index >= len(self.choices):
            raise ValueError("answer_index is beyond the choices")
        return self

    def records(self, at: datetime, _line: str, _source: str) -> list[Any]:
        """One multiple-choice item."""
        return [
            MultipleChoice(
                new_id(at), self.question, tuple(self.choices), self.answer_index, at, self.metadata
            )
        ]


class FeedbackLine(_Line):
    """A conversation that ends with an answer, and what somebody said of that answer."""

    messages: list[_Message]
    rating: Literal[1, -1] | None = None
    reasons: list[Text] = []
    comment: Text | None = None
    correction: Text | None = None
    alternatives: list[Text] = []
    choice: int | Literal["tie"] | None = None
    turn: Name = None
    user: Name = None
    rater: Name = None
    role: Role = "user"
    topic: Name = None
    timestamp: Annotated[AwareDatetime, AfterValidator(_utc)] | None = None
    model: Name = None

    @model_validator(mode="after")
    def _says_something(self) -> "FeedbackLine":
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ValueError("messages must end with the assistant's answer to a question")
        if not any(message.role == "user" for message in self.messages):
            raise ValueError("messages hold no question of a user")
        if self.choice is not None and not self.alternatives:
            raise ValueError("choice needs alternatives")
        if isinstance(self.choice, int) and not 0 <= self.choice <= len(self.alternatives):
            raise ValueError("choice is beyond the alternatives")
        if not self._statements():
            raise ValueError("no rating, comment, correction or choice")
        return self

    def _statements(self) -> list[tuple[str, dict[str, Any]]]:
        said: list[tuple[str, dict[str, Any]]] = []
        if self.rating is not None:
            said.append(("rating", {"rating": self.rating, "reasons": self.reasons}))
        if self.comment is not None:
            said.append(("comment", {"text": self.comment}))
        if self.correction is not None:
            said.append(("correction", {"text": self.correction}))
        if self.choice is not None:
            said.append(("choice", {"alternatives": self.alternatives, "choice": self.choice}))
        return said

    def records(self, at: datetime, line: str, source: str) -> list[Any]:
        """The turn, then one signal for each statement."""
        when = self.timestamp or at
        person = self.rater or self.user or "importer"
        system, spoken = _split([m.model_dump() for m in self.messages])
        turn_id = "t" + digest([self.turn or line, spoken])[:21]
        turn = Turn(
            id=turn_id,
            conversation=turn_id,
            user=self.user or person,
            messages=tuple(spoken[:-1]),
            answer=spoken[-1]["content"],
            version=self.model or "unknown",
            at=when,
            source=source,
            topic=self.topic,
            system_prompt=system,
            metadata=self.metadata,
        )
        return [turn] + [
            Signal(
                new_id(at + timedelta(microseconds=i)), turn_id, person, self.role, kind, value, when, source
            )
            for i, (kind, value) in enumerate(self._statements())
        ]


class PreferenceLine(_Line):
    """Two answers to one prompt, one preferred; the operator vouches for the file."""

    prompt: list[_Message] = Field(min_length=1)
    chosen: Text
    rejected: Text
    rater: Name = None
    role: Role = "reviewer"
    topic: Name = None
    model: Name = None

    def records(self, at: datetime, line: str, source: str) -> list[Any]:
        """The rejected answer as a turn, and the choice of the other one."""
        conversation = [*self.prompt, _Message(role="assistant", content=self.rejected)]
        feedback = FeedbackLine(
            messages=conversation,
            alternatives=[self.chosen],
            choice=1,
            rater=self.rater,
            role=self.role,
            topic=self.topic,
            model=self.model,
        )
        turn, *signals = feedback.records(at, line, source)
        return [replace(turn, metadata=self.metadata), *signals]


FORMATS: dict[str, tuple[frozenset[str], type[_Line]]] = {
    "knowledge": (frozenset({"question", "answer"}), KnowledgeLine),
    "multiple choice": (frozenset({"question", "choices", "answer_index"}), MultipleChoiceLine),
    "feedback": (frozenset({"messages"}), FeedbackLine),
    "preference": (frozenset({"prompt", "chosen", "rejected"}), PreferenceLine),
}


@dataclass
class Import:
    """What a file gave: `lines` are the records of each accepted line by its digest."""

    file: str
    format: str = ""
    read: int = 0
    skipped: Counter = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    lines: dict[str, list[Any]] = field(default_factory=dict)

    def skip(self, number: int, reason: str) -> None:
        """Count a line that was not taken."""
        self.skipped[reason] += 1
        if reason != "imported before" and len(self.shown) < SHOWN:
            self.shown.append(f"line {number}: {reason}")

    def document(self) -> dict[str, Any]:
        """As `ratchet import --json` prints it."""
        return {
            "file_path": self.file,
            "format": self.format,
            "read": self.read,
            "accepted": len(self.lines),
            "skipped": dict(sorted(self.skipped.items())),
            "first_bad_lines": self.shown,
        }


def read_import(
    file: Path,
    known_digests: set[str],
    known_turns: set[str],
    at: datetime,
    log: Callable[[str], None] = print,
) -> Import:
    """Read `file` (.jsonl, .csv or .parquet) whole; RatchetError when nothing in it can be taken."""
    result = Import(str(file))
    rows = list(_rows(file))
    result.read = len(rows)
    result.format = _format_of(file, [row for _, row in rows if isinstance(row, dict)])
    _, line_type = FORMATS[result.format]
    digests, turns = set(known_digests), set(known_turns)
    for number, (place, row) in enumerate(rows, 1):
        if isinstance(row, str):
            result.skip(place, row)
            continue
        line = digest(row)
        if line in digests:
            result.skip(place, "imported before")
            continue
        try:
            records = line_type.model_validate(row).records(
                at + timedelta(microseconds=10 * number), line, file.name
            )
        except ValidationError as error:
            result.skip(place, _reason(error))
            continue
        digests.add(line)
        result.lines[line] = [r for r in records if not (isinstance(r, Turn) and r.id in turns)]
        turns.update(record.id for record in records if isinstance(record, Turn))
        if number % 5000 == 0:
            log(f"{file.name}: {number:,} of {len(rows):,} lines")
    if not result.lines and not result.skipped["imported before"]:
        raise RatchetError(f"{file}: no line can be taken as {result.format}; {'; '.join(result.shown)}")
    return result


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _format_of(file: Path, rows: list[dict[str, Any]]) -> str:
    fitting = [name for name, (required, _) in FORMATS.items() if any(required <= row.keys() for row in rows)]
    if len(fitting) == 1:
        return fitting[0]
    wanted = "; ".join(f"{name}: {', '.join(sorted(required))}" for name, (required, _) in FORMATS.items())
    if fitting:
        raise RatchetError(f"{file} fits {' and '.join(fitting)}; split it, one format a file ({wanted})")
    raise RatchetError(f"{file} fits no format that can be imported ({wanted})")


_Row = tuple[int, dict[str, Any] | str]


def _split(messages: list[dict[str, str]]) -> tuple[str | None, list[dict[str, str]]]:
    """The system prompt, if there is one, and what was spoken."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    return (system[0] if system else None), [m for m in messages if m["role"] != "system"]


def _rows(file: Path) -> Iterator[_Row]:
    """Each row with its line (in Parquet its row, from 1): a dict, or the reason why it is none."""
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise RatchetError(f"{file}: only {', '.join(readers)} files can be imported")
    try:
        yield from reader(file)
    except FileNotFoundError:
        raise RatchetError(f"{file} does not exist") from None
    except OSError as error:
        raise RatchetError(f"{file} cannot be read: {error.strerror or str(error).strip()}") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise RatchetError(f"{file} is no {file.suffix} file: {str(error).splitlines()[0]}") from None


def _jsonl_rows(file: Path) -> Iterator[_Row]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):  # a number of thousands of digits is a bare ValueError
        return "not JSON"
    if not isinstance(row, dict):
        return "not a JSON object"
    return "nested too deeply" if _is_deeper(row, MAX_NESTING) else row


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(part, levels - 1) for part in value))


def _csv_rows(file: Path) -> Iterator[_Row]:
    csv.field_size_limit(64 * 1024 * 1024)
    rows = csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""))
    for row in rows:
        if None in row:
            yield rows.line_num, "more cells than columns"
        else:
            yield (
                rows.line_num,
                {name: _cell(name, value) for name, value in row.items() if value not in ("", None)},
            )


_STRUCTURED = {"messages", "prompt", "choices", "alternatives", "reasons", "rating", "choice", "answer_index"}


def _cell(name: str, value: str) -> Any:
    """A cell of a structured column is JSON; everything else is text."""
    if name not in _STRUCTURED:
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return value if _is_deeper(parsed, MAX_NESTING) else parsed


def _parquet_rows(file: Path) -> Iterator[_Row]:
    import pyarrow.parquet

    number = 0
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield number, {name: _plain(name, value) for name, value in row.items() if value is not None}


def _plain(name: str, value: Any) -> Any:
    """A value of Parquet as JSON could hold it: what JSON does not know becomes text."""
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
