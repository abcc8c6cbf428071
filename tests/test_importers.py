"""Files from outside come in whole, or say line by line what did not."""

import csv
import json
import shutil
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from feedback.errors import RatchetError
from feedback.importers import Import, read_import
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


def taken(file: Path, digests=(), turns=()) -> Import:
    """What an import takes, with the law that every line is counted once."""
    result = read_import(file, set(digests), set(turns), AT, log=lambda _: None)
    assert result.read == len(result.lines) + sum(result.skipped.values())
    document = json.loads(json.dumps(result.document(), allow_nan=False))
    assert document["read"] == document["accepted"] + sum(document["skipped"].values())
    return result


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
    assert [f.format for f in found] == [name] * 3
    assert [f.document()["accepted"] for f in found] == [len(FILES[name])] * 3
    assert as_said(found[0]) == as_said(found[1]) == as_said(found[2])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_twice_adds_nothing(tmp_path, name, suffix):
    """The same file again, under any name, has nothing that is not there."""
    file = written(tmp_path / f"f{suffix}", FILES[name])
    other = shutil.copy(file, tmp_path / f"renamed{suffix}")
    with Store.open(tmp_path / "store.duckdb") as store:
        first = taken(file, *store.imported())
        store.add_import(file.name, AT, first.lines)
        before, kept = store.counts(), store.events()
        for again in (taken(file, *store.imported()), taken(other, *store.imported())):
            assert again.document()["skipped"] == {"imported before": again.read}
            assert again.document()["first_bad_lines"] == []
            store.add_import(file.name, AT, again.lines)
        assert (store.counts(), store.events()) == (before, kept)


def test_lines_that_repeat_in_a_file_count_once(tmp_path):
    """The second of two equal lines was imported before."""
    assert taken(lines(tmp_path / "f.jsonl", TOLD, TOLD)).document()["skipped"] == {"imported before": 1}


def test_statements_about_one_turn_are_joined(tmp_path):
    """Lines with the same `turn` and words speak of one answer, in this file and in later ones."""
    said = [
        {"messages": MESSAGES, "turn": "7", "rating": r, "rater": f"r{i}"} for i, r in enumerate((1, 1, -1))
    ]
    with Store.open(tmp_path / "store.duckdb") as store:
        for name, rows in (("a.jsonl", said[:2]), ("b.jsonl", said[2:])):
            store.add_import(name, AT, taken(lines(tmp_path / name, *rows), *store.imported()).lines)
        (turn,) = store.events().turns
        assert {(s.turn, s.user) for s in store.events().signals} == {(turn.id, f"r{i}") for i in range(3)}


def test_other_words_under_the_same_turn_are_another_turn(tmp_path):
    """A `turn` that two sets happen to share does not join their answers."""
    other = [*ASKED, {"role": "assistant", "content": "No idea."}]
    rows = [{"messages": m, "turn": "7", "rating": 1} for m in (MESSAGES, other)]
    assert len(records(taken(lines(tmp_path / "f.jsonl", *rows)), Turn)) == 2


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
    rows += [{"question": "a", "choices": ["b"], "answer_index": 0}]
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
        store.add_import("f", AT, taken(tmp_path / "f.parquet").lines)
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
        store.add_import("f", AT, taken(lines(tmp_path / "f.jsonl", deep)).lines)
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
    assert (result.format, len(result.lines), result.skipped) == (format, lines, DIRT.get(name, {}))
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add_import(name, AT, result.lines)
        counts = store.counts()
        assert (counts["imported"], counts["turn"]) == (lines, turns)
        assert signals is None or counts["signal"] == signals
        kept = store.events()
    assert kept.knowledge == records(result, Knowledge)
    assert sorted(kept.turns, key=lambda t: t.id) == sorted(records(result, Turn), key=lambda t: t.id)
    assert kept.signals == records(result, Signal)
