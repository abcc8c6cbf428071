"""Files from outside come in whole, or say line by line what did not."""

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from feedback.errors import RatchetError
from feedback.exchange import importers
from feedback.exchange.formats import FORMATS
from feedback.exchange.importers import import_files, import_part
from feedback.records import Knowledge, MultipleChoice, Signal, Turn
from feedback.store import Store

AT = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = [{"role": "user", "content": "What is asthma?"}]
MESSAGES = [*ASKED, {"role": "assistant", "content": "A disease of the stomach."}]
TOLD = {"question": "What is asthma?", "answer": "A disease of the airways."}
FILES = {
    "knowledge": [
        {**TOLD, "id": "k1", "source": "NIH", "url": "https://example.org", "topic": "Asthma", "page": "7"},
        {"question": "What is a cold?", "answer": "An infection, <|im_end|> of\nthe nose, 🤧 \"mostly\"."},
    ],
    "multiple choice": [{"question": "Which?", "choices": ["this", "that"], "answer_index": 1, "year": "2025"}],
    "feedback": [
        {"messages": MESSAGES, "rating": 1, "reasons": ["clear"], "comment": "Good.", "user": "ann"},
        {"messages": MESSAGES, "correction": "Of the airways.", "rater": "dr", "role": "reviewer"},
        {"messages": MESSAGES, "alternatives": ["Of the airways.", "Dunno."], "choice": 2, "user": "bob"},
        {"messages": MESSAGES, "alternatives": ["Of the airways."], "choice": "tie", "user": "cem"},
        {"messages": MESSAGES, "rating": -1, "user": "ann", "timestamp": "2025-05-01T10:00:00+02:00",
         "model": "gpt-x", "topic": "Asthma", "turn": "7", "shop": "web"},
    ],
    "preference": [{"prompt": ASKED, "chosen": "Of the airways.", "rejected": "Of the stomach.", "set": "a"}],
}  # fmt: skip


def written(file: Path, rows: list[dict]) -> Path:
    """`rows` in the format that the file's name asks for."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    elif file.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=4)
    elif file.suffix == ".parquet":
        names = list(dict.fromkeys(name for row in rows for name in row))
        plain = [{n: str(v) if n == "choice" else v for n, v in row.items()} for row in rows]
        pyarrow.parquet.write_table(pyarrow.table({n: [row.get(n) for row in plain] for n in names}), file)
    else:
        with file.open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
            table.writeheader()
            for row in rows:
                table.writerow({n: v if isinstance(v, str) else json.dumps(v) for n, v in row.items()})
    return file


def lines(file: Path, *rows: dict | bytes) -> Path:
    """A JSON Lines file; bytes are a line as it is."""
    file.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows))
    return file


@dataclass
class Shelf:
    """A store in memory: what was imported into it."""

    lines: dict[str, list[Any]] = field(default_factory=dict)

    def add_import(self, file: str, at: datetime, lines: Mapping[str, list[Any]]) -> set[str]:
        new = lines.keys() - self.lines.keys()
        self.lines |= {key: records for key, records in lines.items() if key in new}
        return new

    def turns_among(self, ids: set[str]) -> list[Turn]:
        turns = {r.id: r for records in self.lines.values() for r in records if isinstance(r, Turn)}
        return [turn for turn in turns.values() if turn.id in ids]


def brought(store: Any, *files: Path) -> dict[str, Any]:
    """The document of an import of `files` into `store`, with the law that every row is counted once."""

    def take_part(file: str, format: str, begin: tuple[int, int]) -> dict[str, Any]:
        answer = import_part(store, Path(file), FORMATS[format], tuple(begin), AT)
        return json.loads(json.dumps(answer, allow_nan=False))  # it may travel through a server

    document = import_files(files, take_part, lambda _: None)
    for part in (document, *document["files"]):
        assert part["read"] == part["accepted"] + sum(part["skipped"].values())
    return document


@dataclass
class Import:
    """What one file gave."""

    document: dict[str, Any]
    lines: dict[str, list[Any]]

    @property
    def skipped(self) -> dict[str, int]:
        return self.document["skipped"]

    @property
    def shown(self) -> list[str]:
        return self.document["first_bad_lines"]


def taken(file: Path) -> Import:
    """What an import of one file takes."""
    shelf = Shelf()
    (document,) = brought(shelf, file)["files"]
    return Import(document, shelf.lines)


def records(result: Import, kind: type) -> list:
    """The records of one kind that an import brings."""
    return [record for found in result.lines.values() for record in found if isinstance(record, kind)]


def one_line(error: pytest.ExceptionInfo) -> str:
    """What a person reads, which is one line."""
    text = str(error.value)
    assert text and "\n" not in text
    return text


def as_said(result: Import) -> list[tuple]:
    """What was taken, without ids and the file's name."""
    said = [(k.question, k.answer, k.topic, k.source, k.url, k.metadata) for k in records(result, Knowledge)]
    said += [(m.question, m.choices, m.answer_index, m.metadata) for m in records(result, MultipleChoice)]
    said += [
        (t.messages, t.answer, t.user, t.version, t.topic, t.at, t.metadata) for t in records(result, Turn)
    ]
    return said + [(s.user, s.role, s.kind, s.value, s.at) for s in records(result, Signal)]


# the formats


def test_knowledge_becomes_rows(tmp_path):
    """Every field is kept; what the format does not know is metadata."""
    rows = records(taken(written(tmp_path / "k.jsonl", FILES["knowledge"])), Knowledge)
    assert [(r.question, r.answer) for r in rows] == [tuple(f.values())[:2] for f in FILES["knowledge"]]
    assert (rows[0].topic, rows[0].source, rows[0].url) == ("Asthma", "NIH", "https://example.org")
    assert (rows[0].metadata, rows[1].metadata) == ({"id": "k1", "page": "7"}, {})
    assert rows[0].id < rows[1].id


def test_feedback_becomes_turns_and_statements(tmp_path):
    """A line gives its turn and one signal for each thing that was said."""
    result = taken(written(tmp_path / "f.jsonl", FILES["feedback"]))
    first, *_, last = result.lines.values()
    assert [(s.kind, s.value, s.user, s.role) for s in first[1:]] == [
        ("rating", {"rating": 1, "reasons": ["clear"]}, "ann", "user"),
        ("comment", {"text": "Good."}, "ann", "user"),
    ]
    assert {s.turn for s in first[1:]} == {first[0].id}
    assert [m["content"] for m in first[0].messages] == ["What is asthma?"]
    assert first[0].answer == "A disease of the stomach."
    assert (last[0].version, last[0].topic, last[0].metadata) == ("gpt-x", "Asthma", {"shop": "web"})
    assert last[0].at == last[1].at == datetime(2025, 5, 1, 8, tzinfo=UTC)
    choices = [s.value["choice"] for s in records(result, Signal) if s.kind == "choice"]
    assert choices == [2, "tie"]


def test_a_preference_is_a_choice_of_the_other_answer(tmp_path):
    """The rejected answer is what was given; a reviewer, the file's author, chose the other."""
    extra = {"choice": 0, "rating": 1, "alternatives": "x", "user": "u", "timestamp": "no time"}
    file = lines(tmp_path / "p.jsonl", FILES["preference"][0], {**FILES["preference"][0], **extra})
    for turn, *said in taken(file).lines.values():
        assert turn.answer == "Of the stomach."
        assert [(s.kind, s.value, s.role) for s in said] == [
            ("choice", {"alternatives": ["Of the airways."], "choice": 1}, "reviewer")
        ]
    assert turn.metadata == {"set": "a", **extra}


def test_a_system_prompt_is_kept_apart(tmp_path):
    """The system message is the turn's, not part of what was asked."""
    spoken = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    (turn,) = records(taken(lines(tmp_path / "f.jsonl", {"messages": spoken, "rating": 1})), Turn)
    assert (turn.system_prompt, turn.messages) == ("Be brief.", tuple(ASKED))


@pytest.mark.parametrize("name", FILES)
def test_every_container_says_the_same(tmp_path, name):
    """JSON Lines, CSV and Parquet of the same rows bring the same things."""
    found = [taken(written(tmp_path / f"f{s}", FILES[name])) for s in (".jsonl", ".csv", ".parquet")]
    assert [f.document["format"] for f in found] == [name] * 3
    assert [f.document["accepted"] for f in found] == [len(FILES[name])] * 3
    assert as_said(found[0]) == as_said(found[1]) == as_said(found[2])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_twice_adds_nothing(tmp_path, name, suffix):
    """The same file again, under any name, has nothing that is not there."""
    file = written(tmp_path / f"f{suffix}", FILES[name])
    other = shutil.copy(file, tmp_path / f"renamed{suffix}")
    with Store.open(tmp_path / "store.duckdb") as store:
        assert brought(store, file)["accepted"] == len(FILES[name])
        before, kept = store.counts(), store.events()
        again = brought(store, file, other)
        assert again["skipped"] == {"imported before": again["read"]}
        assert [f["first_bad_lines"] for f in again["files"]] == [[], []]
        assert (store.counts(), store.events()) == (before, kept)


def test_lines_that_repeat_in_a_file_count_once(tmp_path):
    """The second of two equal lines was imported before."""
    assert taken(lines(tmp_path / "f.jsonl", TOLD, TOLD)).skipped == {"imported before": 1}


def test_statements_about_one_turn_are_joined(tmp_path):
    """Lines with the same `turn` and words speak of one answer, in this file and in later ones."""
    said = [
        {"messages": MESSAGES, "turn": "7", "rating": r, "rater": f"r{i}"} for i, r in enumerate((1, 1, -1))
    ]
    with Store.open(tmp_path / "store.duckdb") as store:
        for name, rows in (("a.jsonl", said[:2]), ("b.jsonl", said[2:])):
            brought(store, lines(tmp_path / name, *rows))
        (turn,) = store.records(Turn)
        assert {(s.turn, s.user) for s in store.events().signals} == {(turn.id, f"r{i}") for i in range(3)}


def test_other_words_under_the_same_turn_are_another_turn(tmp_path):
    """A `turn` that two sets happen to share does not join their answers."""
    other = [*ASKED, {"role": "assistant", "content": "No idea."}]
    rows = [{"messages": m, "turn": "7", "rating": 1} for m in (MESSAGES, other)]
    assert len(records(taken(lines(tmp_path / "f.jsonl", *rows)), Turn)) == 2


# in parts


def numbered(suffix: str, folder: Path, count: int = 23) -> Path:
    """A file with so many rows, some of them bad and some of them twice; a folder of leaflets for none."""
    texts = ["", *(f"Answer {i % 20}." for i in range(1, count))]
    if suffix:
        rows = [{"question": f"Question\n{i % 20}?", "answer": text} for i, text in enumerate(texts)]
        return written(folder / f"f{suffix}", rows)
    for i, text in enumerate(texts):
        (folder / "texts").mkdir(exist_ok=True)
        headings = "".join(f"## Question {i} {j}?\n{text}\n" for j in range(2))
        (folder / "texts" / f"{i:02}.md").write_text(headings)
    return folder / "texts"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".arrow", ""])
def test_parts_bring_what_the_whole_brings(tmp_path, monkeypatch, suffix):
    """Wherever a part ends, reading goes on with the next row; places are those of the whole file."""
    file = numbered(suffix, tmp_path)
    whole = Shelf()
    expected = brought(whole, file)
    for part, batch in ((5, 2), (1, 1), (7, 100)):
        monkeypatch.setattr(importers, "PART", part)
        monkeypatch.setattr(importers, "BATCH", batch)
        pieces = Shelf()
        assert brought(pieces, file) == expected
        assert [*pieces.lines] == [*whole.lines]


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_an_import_that_was_stopped_goes_on_without_doubles(tmp_path, monkeypatch, stop_after):
    """What was stored stays; the repeat stores the rest, and a third time nothing."""
    monkeypatch.setattr(importers, "PART", 4)
    monkeypatch.setattr(importers, "BATCH", 2)
    rows = [FILES["feedback"][0] | {"turn": str(i)} for i in range(15)]
    file = written(tmp_path / "f.jsonl", rows)
    with Store.open(tmp_path / "store.duckdb") as store:
        parts = []

        def take_part(file: str, format: str, begin: tuple[int, int]) -> dict[str, Any]:
            parts.append(begin)
            if len(parts) > stop_after:
                raise KeyboardInterrupt
            return import_part(store, Path(file), FORMATS[format], begin, AT)

        with pytest.raises(KeyboardInterrupt):
            import_files([file], take_part, lambda _: None)
        assert store.counts()["turn"] == 4 * stop_after
        again = brought(store, file)
        assert (again["accepted"], again["skipped"]) == (
            15 - 4 * stop_after,
            {"imported before": 4 * stop_after} if stop_after else {},
        )
        assert (store.counts()["turn"], store.counts()["signal"]) == (15, 30)
        assert brought(store, file)["skipped"] == {"imported before": 15}


def test_a_part_that_fails_inside_stores_whole_batches_only(tmp_path, monkeypatch):
    """A row and its digest come in together or not at all."""
    monkeypatch.setattr(importers, "BATCH", 2)
    file = written(tmp_path / "f.jsonl", [FILES["feedback"][0] | {"turn": str(i)} for i in range(6)])
    with Store.open(tmp_path / "store.duckdb") as store:

        class Broken:
            """A store whose disk is full at the second batch."""

            batches = 0

            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            def add_import(self, *given: Any) -> set[str]:
                self.batches += 1
                if self.batches == 2:
                    raise RatchetError("no space left")
                return store.add_import(*given)

        with pytest.raises(RatchetError, match="no space"):
            brought(Broken(), file)
        assert (store.counts()["turn"], store.counts()["imported"]) == (2, 2)
        assert brought(store, file)["accepted"] == 4


def test_progress_is_told(tmp_path, monkeypatch):
    """Each part says how far it is, and of how many rows."""
    monkeypatch.setattr(importers, "PART", 10)
    told: list[str] = []
    shelf = Shelf()

    def take_part(file: str, format: str, begin: tuple[int, int]) -> dict[str, Any]:
        return import_part(shelf, Path(file), FORMATS[format], begin, AT)

    import_files([numbered(".jsonl", tmp_path)], take_part, told.append)
    assert told == [f"f.jsonl: {rows} of 23 rows" for rows in (10, 20, 23)]


def test_all_files_are_checked_before_the_first_is_stored(tmp_path):
    """One that fits nothing, or changes its format on the last line, leaves all of them outside."""
    good = lines(tmp_path / "good.jsonl", TOLD)
    turned = lines(
        tmp_path / "turned.jsonl", *[GOOD | {"id": str(i)} for i in range(50)], FILES["feedback"][0]
    )
    hopeless = lines(tmp_path / "hopeless.jsonl", {"question": "", "answer": "x"})
    for bad, says in (
        (turned, "fits knowledge and feedback"),
        (hopeless, "no line can be taken as knowledge"),
    ):
        shelf = Shelf()
        with pytest.raises(RatchetError, match=says):
            brought(shelf, good, bad)
        assert shelf.lines == {}


def test_several_files_are_counted_together_and_apart(tmp_path):
    """Reasons add up over the files; a line that an earlier file brought is there already."""
    files = [lines(tmp_path / "a.jsonl", TOLD, b"x"), lines(tmp_path / "b.jsonl", TOLD, GOOD, b"x")]
    document = brought(Shelf(), *files)
    assert (document["read"], document["accepted"]) == (5, 2)
    assert document["skipped"] == {"imported before": 1, "not JSON": 2}
    assert [f["accepted"] for f in document["files"]] == [1, 1]


def test_what_is_null_is_absent(tmp_path):
    """JSON writes null where a table has an empty cell."""
    row = FILES["feedback"][0] | {
        "correction": None,
        "choice": None,
        "alternatives": None,
        "role": None,
        "x": None,
    }
    (turn, *said) = next(iter(taken(lines(tmp_path / "f.jsonl", row)).lines.values()))
    assert [s.kind for s in said] == ["rating", "comment"]
    assert turn.metadata == {}


# what is wrong with a line

BAD_LINES = {
    "not JSON": b"{bad",
    "not UTF-8": b'{"question": "\xff\xfe"}',
    "not a JSON object": b"[1, 2]",
    "nested too deeply": json.dumps(TOLD)[:-1].encode() + b', "x": ' + b"[" * 60 + b"]" * 60 + b"}",
    "question: the text is empty": {"question": " ", "answer": "b"},
    "answer: Field required": {"question": "a"},
    "answer: Input should be a valid string": {"question": "a", "answer": 7},
    "question: the text holds a NUL character": {"question": "a\0", "answer": "b"},
    "answer: the text holds half of a surrogate pair, which is no character": {"question": "a", "answer": "\ud800"},
    "topic: the text holds a NUL character": {**TOLD, "topic": "\0"},
    "an unknown field holds half of a surrogate pair, which is no character": {**TOLD, "x": ["\udfff"]},
    "answer: the text has 5,000,000 characters; at most 100,000 are kept": {"question": "a", "answer": "x" * 5_000_000},
}  # fmt: skip
STRANGE_LINES = {
    "a number of thousands of digits": b'{"question": "a", "answer": "b", "n": ' + b"9" * 5000 + b"}",
    "nested beyond the parser": json.dumps(TOLD)[:-1].encode() + b', "x": ' + b"[" * 99_999,
    "NaN": b'{"question": NaN, "answer": "b"}',
    "Infinity": b'{"question": "a", "answer": -Infinity}',
    "a field named in half a surrogate pair": b'{"question": "a", "answer": "b", "\\ud800": 1}',
    "a NUL byte": b'{"question": "a", "answer": "b"}\0',
}
GOOD = {"question": "What is a cold?", "answer": "An infection of the nose."}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_a_bad_line_is_counted_by_its_reason(tmp_path, reason):
    """The reason names the field; the good line beside it comes in."""
    result = taken(lines(tmp_path / "f.jsonl", GOOD, BAD_LINES[reason]))
    assert (result.skipped, result.shown) == ({reason: 1}, [f"line 2: {reason}"])


@pytest.mark.parametrize("name", STRANGE_LINES)
def test_a_strange_line_is_skipped_alone(tmp_path, name):
    """Whatever a line holds, the others come in."""
    result = taken(lines(tmp_path / "f.jsonl", STRANGE_LINES[name], GOOD))
    assert [k.question for k in records(result, Knowledge)] == ["What is a cold?"]


BAD_FEEDBACK = {
    "messages must end with the assistant's answer to a question": {"messages": ASKED, "rating": 1},
    "messages hold no question of a user": {
        "messages": [{"role": "system", "content": "x"}, MESSAGES[1]], "rating": 1},
    "no rating, comment, correction or choice": {"messages": MESSAGES, "alternatives": ["b"]},
    "choice needs alternatives": {"messages": MESSAGES, "choice": 0},
    "choice is beyond the alternatives": {"messages": MESSAGES, "alternatives": ["b"], "choice": 2},
    "rating: Input should be 1 or -1": {"messages": MESSAGES, "rating": 5},
    "role: Input should be 'user' or 'reviewer'": {"messages": MESSAGES, "rating": 1, "role": "admin"},
    "messages.role: Input should be 'system', 'user' or 'assistant'": {
        "messages": [{"role": "tool", "content": "x"}, *MESSAGES], "rating": 1},
    "messages.content: the text is empty": {
        "messages": [*ASKED, {"role": "assistant", "content": ""}], "rating": 1},
    "timestamp: Input should have timezone info": {
        "messages": MESSAGES, "rating": 1, "timestamp": "2025-01-01T00:00:00"},
    "timestamp: is beyond the years 1 to 9999 in UTC": {
        "messages": MESSAGES, "rating": 1, "timestamp": "0001-01-01T00:00:00+05:00"},
    "reasons: the text holds a NUL character": {"messages": MESSAGES, "rating": 1, "reasons": ["\0"]},
    "user: the text holds half of a surrogate pair, which is no character": {
        "messages": MESSAGES, "rating": 1, "user": "\ud800"},
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD_FEEDBACK)
def test_bad_feedback_is_counted_by_its_reason(tmp_path, reason):
    """Statements that nobody can have made are not taken."""
    result = taken(lines(tmp_path / "f.jsonl", BAD_FEEDBACK[reason], FILES["feedback"][0]))
    assert (result.skipped, len(result.lines)) == ({reason: 1}, 1)


def test_a_choice_beyond_the_options_is_no_question(tmp_path):
    """An answer that is not among the choices cannot be right."""
    rows = [{"question": "a", "choices": ["b", "c"], "answer_index": i} for i in (2, -1, 0)]
    rows += [{"question": "a", "choices": choices, "answer_index": 0} for choices in (["b"], ["b", "b"])]
    assert len(taken(lines(tmp_path / "f.jsonl", *rows)).lines) == 1


def test_the_first_three_bad_lines_are_shown_with_their_numbers(tmp_path):
    """Numbers are those of the file as an editor shows it, empty lines counted."""
    file = lines(
        tmp_path / "f.jsonl", b"", GOOD, b"\r", b"{bad", b"[]", GOOD, b"", {"question": "a"}, b"{worse"
    )
    result = taken(file)
    assert result.shown == ["line 4: not JSON", "line 5: not a JSON object", "line 8: answer: Field required"]
    assert result.skipped == {
        "not JSON": 2, "not a JSON object": 1, "answer: Field required": 1, "imported before": 1
    }  # fmt: skip


def test_a_bad_line_of_a_table_has_its_number_too(tmp_path):
    """In CSV the line where the row ends; in Parquet the row."""
    file = tmp_path / "f.csv"
    file.write_text('question,answer\n"two\nlines",b\n,b\na,b,c\n')
    assert taken(file).shown == ["line 4: question: Field required", "line 5: more cells than columns"]
    rows = pyarrow.table({"question": ["a", None], "answer": ["b", "b"]})
    pyarrow.parquet.write_table(rows, tmp_path / "f.parquet")
    assert taken(tmp_path / "f.parquet").shown == ["line 2: question: Field required"]


@pytest.mark.parametrize(
    "cell", ["[" * 100_000, "9" * 5000, "[" * 60 + "]" * 60], ids=["deep", "digits", "nested"]
)
def test_a_strange_cell_is_skipped_alone(tmp_path, cell):
    """A cell that no parser bears is a bad line, not a bad file."""
    (tmp_path / "f.csv").write_text(f'question,choices,answer_index\na,{cell},0\na,"[""b"",""c""]",0\n')
    assert taken(tmp_path / "f.csv").skipped == {"choices: Input should be a valid list": 1}


def test_what_json_cannot_hold_is_kept_as_text(tmp_path):
    """Times, decimals and bytes in unknown columns of Parquet are metadata that the store can keep."""
    columns = {
        "when": [AT],
        "price": [Decimal("1.10")],
        "raw": [b"\xff"],
        "old": [b"text"],
        "nan": [float("nan")],
    }
    pyarrow.parquet.write_table(
        pyarrow.table({"question": ["a"], "answer": ["b"]} | columns), tmp_path / "f.parquet"
    )
    with Store.open(tmp_path / "store.duckdb") as store:
        brought(store, tmp_path / "f.parquet")
        metadata = store.events().knowledge[0].metadata
    assert metadata.pop("nan") != 0
    assert metadata == {"when": "2026-01-01T00:00:00+00:00", "price": "1.10", "raw": "ff", "old": "text"}


def test_numbers_that_a_table_made_fractions_are_taken(tmp_path):
    """A column with gaps becomes 1.0 and -1.0 in many tools."""
    table = {"messages": [MESSAGES] * 3, "rating": [1.0, -1.0, None], "comment": [None, None, "hm"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "f.parquet")
    said = [s.value.get("rating") for s in records(taken(tmp_path / "f.parquet"), Signal)]
    assert said == [1, -1, None]


def test_a_byte_order_mark_is_no_text(tmp_path):
    """What Windows puts before a file does not become part of it."""
    (tmp_path / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(TOLD).encode())
    (tmp_path / "f.csv").write_bytes(
        b"\xef\xbb\xbfquestion,answer\r\nWhat is asthma?,A disease of the airways.\r\n"
    )
    assert as_said(taken(tmp_path / "f.jsonl")) == as_said(taken(tmp_path / "f.csv"))


def test_a_deeply_nested_field_can_be_read_back(tmp_path):
    """What is accepted is readable, as deep as it may be."""
    deep = json.dumps(TOLD)[:-1].encode() + b', "x": ' + b"[" * 49 + b"]" * 49 + b"}"
    with Store.open(tmp_path / "store.duckdb") as store:
        brought(store, lines(tmp_path / "f.jsonl", deep))
        assert json.dumps(store.events().knowledge[0].metadata["x"]) == "[" * 49 + "]" * 49


# what is wrong with a file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", b""),
        ("empty.csv", b""),
        ("empty.parquet", b""),
        ("blank.jsonl", b"\n\n"),
        ("header.csv", b"question,answer\n"),
        ("rubbish.jsonl", bytes(range(256)) * 99),
        ("rubbish.csv", bytes(range(256)) * 99),
        ("rubbish.parquet", bytes(range(256)) * 99),
        ("half.parquet", b"PAR1" + b"\0" * 99 + b"PAR1"),
        ("none.jsonl", b'{"text": "a"}\n{"question": "a"}'),
        ("two.jsonl", (json.dumps(TOLD) + "\n" + json.dumps(FILES["feedback"][0])).encode()),
        ("both.jsonl", json.dumps(TOLD | {"choices": ["a", "b"], "answer_index": 0}).encode()),
        ("all bad.jsonl", b'{"question": "", "answer": ""}\n{"question": 1, "answer": 2}'),
        ("wrong.txt", b"question"),
        ("none", b"question"),
    ],
)
def test_a_file_that_brings_nothing_is_refused_in_one_line(tmp_path, name, content):
    """Empty, rubbish, of no format or of two: nothing is taken, and the file is named."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RatchetError) as error:
        taken(tmp_path / name)
    assert str(tmp_path / name) in one_line(error)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_what_is_no_file_is_refused_in_one_line(tmp_path, suffix):
    """A missing file, a folder and a path through a file are said, not shown as a traceback."""
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / "file").write_text("")
    for file in (f"missing{suffix}", f"folder{suffix}", f"file/x{suffix}"):
        with pytest.raises(RatchetError) as error:
            taken(tmp_path / file)
        assert file in one_line(error)


# real sets

DIRT = {  # models that said nothing, and a "True" that is no text
    "pandalm_choices": {
        "alternatives: Input should be a valid string": 6,
        "alternatives: the text is empty": 75,
        "messages.content: Input should be a valid string": 12,
        "messages.content: the text is empty": 78,
    }
}


@pytest.mark.parametrize(
    ("name", "format", "lines", "turns", "signals"),
    [
        ("medquad_qa", "knowledge", 6672, 0, 0),
        ("medquad_corrections", "feedback", 240, 240, 480),
        ("expertqa_health_feedback", "feedback", 60, 60, None),
        ("wikiqa_corrections", "feedback", 287, 287, None),
        ("wikiqa_preferences", "preference", 1577, 1577, 1577),
        ("pandalm_choices", "feedback", 1779, 593, 1779),
    ],
)
def test_public_sets_come_in_whole(shared_data, tmp_path, name, format, lines, turns, signals):
    """Only the dirt of a real set is skipped, and all the rest can be stored and read back."""
    result = taken(shared_data / f"{name}.jsonl")
    assert (result.document["format"], len(result.lines), result.skipped) == (
        format,
        lines,
        DIRT.get(name, {}),
    )
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add_import(name, AT, result.lines)
        counts = store.counts()
        assert (counts["imported"], counts["turn"]) == (lines, turns)
        assert signals is None or counts["signal"] == signals
        kept = {kind: store.records(kind) for kind in (Turn, Knowledge, Signal)}
    first = {turn.id: turn for turn in reversed(records(result, Turn))}
    assert kept[Turn] == sorted(first.values(), key=lambda turn: turn.id)
    assert (kept[Knowledge], kept[Signal]) == (records(result, Knowledge), records(result, Signal))
