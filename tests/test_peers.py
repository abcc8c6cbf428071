"""What other programs export comes in as it was said there."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from feedback.errors import RatchetError
from feedback.records import Knowledge, Signal, Turn
from tests.test_importers import Shelf, brought

ASKED = [{"role": "user", "content": "What is asthma?"}]
GOOD, BAD = "A disease of the airways.", "A disease of the stomach."


def said(text: str) -> list[dict[str, str]]:
    """An answer as a list of messages."""
    return [{"role": "assistant", "content": text}]


def told(folder: Path, rows: list[Any], name: str = "export.json") -> tuple[dict[str, Any], list[Any]]:
    """The document and the records of an import of `rows` in one JSON file."""
    file = folder / name
    file.write_text(json.dumps(rows))
    return into(file)


def into(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """The document and the records of an import of a file or a folder."""
    shelf = Shelf()
    document = brought(shelf, path)
    return document, [record for records in shelf.lines.values() for record in records]


def pick(records: list[Any], kind: type) -> list[Any]:
    """The records of one kind."""
    return [record for record in records if isinstance(record, kind)]


# Open WebUI


def message(name: str, parent: str | None, role: str, content: str, *children: str) -> dict[str, Any]:
    """One message of a chat, as Open WebUI keeps it."""
    return {"id": name, "parentId": parent, "childrenIds": [*children], "role": role, "content": content}


WEBUI = {
    "id": "f1",
    "user_id": "u1",
    "version": 0,
    "type": "rating",
    "data": {
        "rating": 1,
        "model_id": "llama3",
        "sibling_model_ids": ["qwen"],
        "reason": "accurate_information",
        "comment": "Good.",
        "tags": ["health"],
        "details": {"rating": 9},
    },
    "meta": {"arena": False, "chat_id": "c1", "message_id": "m4", "message_index": 4, "model_id": "llama3"},
    "snapshot": {
        "chat": {
            "id": "c1",
            "title": "Asthma",
            "chat": {
                "history": {
                    "currentId": "m4",
                    "messages": {
                        "m1": message("m1", None, "user", "Hello", "m2"),
                        "m2": message("m2", "m1", "assistant", "Hi.", "m3"),
                        "m3": message("m3", "m2", "user", "What is asthma?", "m4", "m5"),
                        "m4": message("m4", "m3", "assistant", GOOD),
                        "m5": message("m5", "m3", "assistant", BAD),
                    },
                }
            },
        }
    },
    "created_at": 1767225600,
    "updated_at": 1767229200,
}


def webui(**changes: Any) -> dict[str, Any]:
    """A feedback of Open WebUI with other data."""
    row = copy.deepcopy(WEBUI)
    row["data"] |= changes
    return row


def test_open_webui_is_read_along_the_branch_of_the_rated_message(tmp_path: Path):
    """The chat is a tree: what was said before the rated message is its path to the root."""
    document, records = told(tmp_path, [WEBUI])
    assert document["files"][0]["format"] == "Open WebUI"
    (turn,) = pick(records, Turn)
    assert [m["content"] for m in turn.messages] == ["Hello", "Hi.", "What is asthma?"]
    assert (turn.answer, turn.user, turn.version) == (GOOD, "u1", "llama3")
    assert turn.at.isoformat() == "2026-01-01T01:00:00+00:00"
    assert [(s.kind, s.value, s.role) for s in pick(records, Signal)] == [
        ("rating", {"rating": 1, "reasons": ["accurate_information"]}, "user"),
        ("comment", {"text": "Good."}, "user"),
        ("choice", {"alternatives": [BAD], "choice": 0}, "user"),
    ]


def test_a_sibling_is_not_worse_only_because_it_is_a_sibling(tmp_path: Path):
    """Who dislikes an answer chooses none, and a sibling that was liked as well lost nothing."""
    liked = webui(reason="", comment="")
    liked["snapshot"]["chat"]["chat"]["history"]["messages"]["m5"]["annotation"] = {"rating": 1}
    for row, rating in ((liked, 1), (webui(rating=-1, reason=None, comment=None), -1)):
        _, records = told(tmp_path, [row])
        assert [(s.kind, s.value) for s in pick(records, Signal)] == [
            ("rating", {"rating": rating, "reasons": []})
        ]


def test_a_later_export_of_open_webui_adds_only_what_is_new(tmp_path: Path):
    """What changes around a feedback (the person's profile, the chat's title) makes it no other feedback."""
    shelf = Shelf()
    for number, rows in enumerate(([WEBUI], [WEBUI | {"user": {"last_active_at": 7}}, webui(rating=-1)])):
        (tmp_path / f"{number}.json").write_text(json.dumps(rows))
        document = brought(shelf, tmp_path / f"{number}.json")
    assert (document["accepted"], document["skipped"]) == (1, {"imported before": 1})
    assert len({t.id for records in shelf.lines.values() for t in records if isinstance(t, Turn)}) == 1


def test_a_feedback_without_its_chat_is_counted_by_what_is_missing(tmp_path: Path):
    """A deleted chat leaves no snapshot; a message that is not in it cannot be found."""
    lost = webui()
    lost["meta"] = {"message_id": "m9"}
    document, _ = told(tmp_path, [WEBUI, WEBUI | {"snapshot": None}, lost, webui(rating=None, comment=None)])
    assert document["skipped"] == {
        "snapshot: Input should be a valid dictionary or instance of _Snapshot": 1,
        "snapshot: the rated message is not in the chat": 1,
        "no rating, comment, correction or choice": 1,
    }


# Label Studio

TASK = {
    "id": 7,
    "data": {"prompt": "What is asthma?", "answer1": BAD, "answer2": GOOD},
    "annotations": [
        {
            "id": 1,
            "completed_by": {"id": 3, "email": "ann@example.org"},
            "updated_at": "2026-01-01T01:00:00.000000Z",
            "was_cancelled": False,
            "result": [
                {
                    "id": "x",
                    "type": "pairwise",
                    "value": {"selected": "right"},
                    "to_name": "answer1,answer2",
                    "from_name": "comparison",
                }
            ],
        },
        {"id": 2, "completed_by": 4, "was_cancelled": True, "result": []},
    ],
}


def test_label_studio_pairs_become_choices(tmp_path: Path):
    """Left is the first name of the comparison; each annotator is a rater, a skipped task says nothing."""
    second = copy.deepcopy(TASK["annotations"][0]) | {"completed_by": 4}
    second["result"][0]["value"] = {"selected": "none"}
    document, records = told(tmp_path, [TASK | {"annotations": [*TASK["annotations"], second]}])
    assert document["files"][0]["format"] == "Label Studio"
    assert {(turn.asked, turn.answer) for turn in pick(records, Turn)} == {("What is asthma?", BAD)}
    assert [(s.user, s.role, s.value) for s in pick(records, Signal)] == [
        ("ann@example.org", "reviewer", {"alternatives": [GOOD], "choice": 1}),
        ("label-studio:4", "reviewer", {"alternatives": [GOOD], "choice": "tie"}),
    ]
    assert len({s.turn for s in pick(records, Signal)}) == 1


def ranking(value: Any) -> dict[str, Any]:
    """A task of the ranker template."""
    items = [{"id": "a", "title": "A", "body": BAD}, {"id": "b", "title": "B", "body": GOOD}]
    result = {"type": "ranker", "value": {"ranker": value}, "to_name": "answers", "from_name": "rank"}
    return {
        "id": 8,
        "data": {"prompt": "What is asthma?", "items": items},
        "annotations": [{"completed_by": 1, "result": [result]}],
    }


def test_label_studio_rankings_choose_the_first(tmp_path: Path):
    """One ordered list says which is best; groups of answers say no order."""
    document, records = told(
        tmp_path, [ranking({"rank": ["b", "a"]}), ranking({"_": [], "good": ["b"], "biased": ["a"]})]
    )
    assert [s.value for s in pick(records, Signal)] == [{"alternatives": [GOOD], "choice": 1}]
    assert document["skipped"] == {"a ranking by groups does not say which answer is best": 1}


def test_a_task_that_nobody_finished_is_counted(tmp_path: Path):
    """Tasks without a comparison, without a prompt or without their answers say why they were left out."""
    unnamed = TASK | {"data": {"text": "x", "answer1": BAD, "answer2": GOOD}}
    unanswered = TASK | {"data": {"prompt": "What is asthma?", "answer1": BAD}}
    document, _ = told(tmp_path, [TASK, TASK | {"annotations": []}, unnamed, unanswered])
    assert document["skipped"] == {
        "no finished comparison of answers": 1,
        "no prompt: it is looked for under prompt, instruction, question, input, messages, conversation": 1,
        "alternatives: Input should be a valid string": 1,
    }


# Argilla

RECORD = {
    "id": "r1",
    "fields": {"instruction": "What is asthma?", "response1": BAD, "response2": GOOD},
    "metadata": {},
    "suggestions": {"ranking": {"value": ["response1", "response2"], "score": None, "agent": "gpt"}},
    "responses": {"ranking": [{"value": ["response2", "response1"], "user_id": "u1"}]},
    "vectors": {},
    "_server_id": "s1",
}


def test_argilla_rankings_become_choices(tmp_path: Path):
    """What people answered counts, what a model suggested does not."""
    tied = [{"value": "response1", "rank": 1}, {"value": "response2", "rank": 1}]
    two = RECORD | {
        "responses": {"ranking": [*RECORD["responses"]["ranking"], {"value": tied, "user_id": "u2"}]}
    }
    document, records = told(tmp_path, [two, RECORD | {"id": "r2", "responses": {}}])
    assert document["files"][0]["format"] == "Argilla"
    assert [(s.user, s.role, s.value) for s in pick(records, Signal)] == [
        ("u1", "reviewer", {"alternatives": [GOOD], "choice": 1}),
        ("u2", "reviewer", {"alternatives": [GOOD], "choice": "tie"}),
    ]
    assert document["skipped"] == {"no response that compares answers": 1}


def test_a_table_of_argilla_says_the_same(tmp_path: Path):
    """`to_datasets` writes a column for each field and three for each question; drafts do not count."""
    row = {
        "id": "r1",
        "status": "completed",
        "_server_id": "s1",
        **RECORD["fields"],
        "ranking.responses": [["response2", "response1"], ["response1", "response2"]],
        "ranking.responses.users": ["u1", "u2"],
        "ranking.responses.status": ["submitted", "draft"],
        "ranking.suggestion": ["response1", "response2"],
    }
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "records.parquet")
    document, table = into(tmp_path / "records.parquet")
    _, records = told(tmp_path, [RECORD])
    assert document["files"][0]["format"] == "Argilla table"
    assert [(s.user, s.value, s.turn) for s in pick(table, Signal)] == [
        (s.user, s.value, s.turn) for s in pick(records, Signal)
    ]


# TRL

PREFERENCES = {
    "conversational": {"prompt": ASKED, "chosen": said(GOOD), "rejected": said(BAD)},
    "text": {"prompt": "What is asthma?", "chosen": GOOD, "rejected": BAD},
    "implicit prompt": {"chosen": [*ASKED, *said(GOOD)], "rejected": [*ASKED, *said(BAD)]},
    "prompt twice": {
        "prompt": "What is asthma?",
        "chosen": [*ASKED, *said(GOOD)],
        "rejected": [*ASKED, *said(BAD)],
    },
}


@pytest.mark.parametrize("shape", PREFERENCES)
def test_every_shape_of_a_preference_says_the_same(tmp_path: Path, shape: str):
    """TRL knows text and messages, and prompts of their own or within both answers."""
    document, records = told(tmp_path, [PREFERENCES[shape]])
    assert document["files"][0]["format"] == "preference"
    (turn,), (signal,) = pick(records, Turn), pick(records, Signal)
    assert (turn.messages, turn.answer) == (tuple(ASKED), BAD)
    assert signal.value == {"alternatives": [GOOD], "choice": 1}


def test_a_preference_whose_prompt_cannot_be_told_is_counted(tmp_path: Path):
    """Two bare texts have no prompt; two conversations that differ have no common one."""
    apart = {"chosen": [*ASKED, *said(GOOD)], "rejected": [{"role": "user", "content": "Flu?"}, *said(BAD)]}
    document, _ = told(tmp_path, [PREFERENCES["text"], {"chosen": GOOD, "rejected": BAD}, apart])
    assert document["skipped"] == {
        "prompt: Field required": 1,
        "chosen and rejected do not begin alike: they answer different conversations": 1,
    }


@pytest.mark.parametrize("prompt", ["What is asthma?", [{"role": "system", "content": "Be brief."}, *ASKED]])
def test_prompt_and_completion_are_knowledge(tmp_path: Path, prompt: Any):
    """One question with its answer; a dialogue of several turns is none."""
    longer = {"prompt": [*ASKED, *said(BAD), *ASKED], "completion": said(GOOD)}
    document, records = told(
        tmp_path, [{"prompt": prompt, "completion": said(GOOD), "topic": "Asthma"}, longer]
    )
    assert [(k.question, k.answer, k.topic) for k in records] == [("What is asthma?", GOOD, "Asthma")]
    assert document["skipped"] == {"no single question with its answer": 1}


def test_a_label_makes_it_a_thumb(tmp_path: Path):
    """Unpaired rows are ratings; who wrote the file vouches for them."""
    rows = [
        {"prompt": ASKED, "completion": GOOD, "label": True},
        {"prompt": ASKED, "completion": said(BAD), "label": False},
    ]
    document, records = told(tmp_path, rows)
    assert document["files"][0]["format"] == "unpaired"
    assert [(s.value["rating"], s.role) for s in pick(records, Signal)] == [(1, "reviewer"), (-1, "reviewer")]


@pytest.mark.parametrize("write", ["parquet", "json", "disk", "disk of splits"])
def test_a_dataset_folder_is_taken_whole(tmp_path: Path, write: str):
    """As `datasets` writes it: data files, or `save_to_disk` with or without splits."""
    folder = tmp_path / "set"
    rows = datasets.Dataset.from_list([PREFERENCES["conversational"]])
    if write == "disk of splits":
        datasets.DatasetDict(
            train=rows, test=rows.map(lambda row: {"rejected": said("Dunno.")})
        ).save_to_disk(folder)
    elif write == "disk":
        rows.save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        getattr(rows, f"to_{write}")(folder / "data" / f"train.{write}")
        (folder / "README.md").write_text("# A card")
    document, records = into(folder)
    splits = 2 if write == "disk of splits" else 1
    assert (document["read"], document["accepted"], len(document["files"])) == (splits, splits, splits)
    assert [s.value["choice"] for s in pick(records, Signal)] == [1] * splits


def test_messages_are_imitated_only_from_a_dataset(tmp_path: Path):
    """In a dataset folder messages are demonstrations; a log of conversations alone is refused."""
    rows = [{"messages": [*ASKED, *said(GOOD)]}]
    (tmp_path / "set").mkdir()
    with pytest.raises(RatchetError, match="no line can be taken as feedback"):
        told(tmp_path, rows)
    (tmp_path / "set" / "train.json").write_text(json.dumps(rows))
    document, records = into(tmp_path / "set")
    assert document["files"][0]["format"] == "demonstrations"
    assert [(k.question, k.answer) for k in pick(records, Knowledge)] == [("What is asthma?", GOOD)]


def test_feedback_in_a_folder_stays_feedback(tmp_path: Path):
    """One rating in the file says that its messages are judged, not to be imitated."""
    rows = [{"messages": [*ASKED, *said(GOOD)]}, {"messages": [*ASKED, *said(BAD)], "rating": -1}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    document, _ = into(tmp_path)
    assert document["files"][0]["format"] == "feedback"
    assert document["skipped"] == {"no rating, comment, correction or choice": 1}


# all of them

STRANGE = [None, 7, "x", [], {}, [7], {"x": 7}, [[]], [{"role": "user"}], {"value": {"selected": [1]}}]


@pytest.mark.parametrize("row", [WEBUI, TASK, RECORD, *PREFERENCES.values()], ids=range(3 + len(PREFERENCES)))
def test_strange_values_are_counted_never_raised(tmp_path: Path, row: dict[str, Any]):
    """Whatever stands in a field of another program's row, the rows beside it come in."""
    strange = [row | {name: value} for name in row for value in STRANGE]
    if row is TASK:
        strange += [TASK | {"annotations": [{"result": [value]}]} for value in STRANGE]
        strange += [TASK | {"data": TASK["data"] | {"prompt": value}} for value in STRANGE]
        strange += [ranking(value) for value in STRANGE]
    if row is RECORD:
        strange += [RECORD | {"responses": {"ranking": value}} for value in STRANGE]
        strange += [RECORD | {"responses": {"ranking": [{"value": value}]}} for value in STRANGE]
    document, _ = told(tmp_path, [row, *strange])
    assert document["read"] == 1 + len(strange)
    assert document["accepted"] >= 1


def test_a_broken_json_file_is_refused(tmp_path: Path):
    """A list that does not end is no list; an object a line is JSON Lines, whatever the file is called."""
    for content in ("[", "[" * 100_000, "[{}] x"):
        (tmp_path / "f.json").write_text(content)
        with pytest.raises(RatchetError, match=r"is no \.json file"):
            into(tmp_path / "f.json")
    (tmp_path / "f.json").write_text(
        '{"question": "a", "answer": "b"}\n\n{"question": "c", "answer": "d"}\nx'
    )
    document, _ = into(tmp_path / "f.json")
    assert (document["accepted"], document["skipped"]) == (2, {"not JSON": 1})
