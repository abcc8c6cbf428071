"""What leaves the house can be read by others, and comes back as it was."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from feedback.compiling.compiler import compile_events
from feedback.compiling.curation import Curation
from feedback.errors import RatchetError
from feedback.exchange.exporters import export_events, export_rows
from feedback.records import Example, Knowledge, Review, Signal, Turn
from feedback.store import Store
from tests.test_importers import AT, brought

SYSTEM = {"role": "system", "content": "Be careful."}
ASKED = {"role": "user", "content": "What is asthma?"}
PROMPT = (SYSTEM, ASKED)
GOOD, BAD = "A disease of the airways.", "A disease of the stomach."


def example(kind: str, number: int, side: str = "train", **more: Any) -> Example:
    """A compiled row of one kind."""
    answers = {
        "sft": {"chosen": GOOD, "rejected": None, "label": None},
        "preference": {"chosen": GOOD, "rejected": BAD, "label": None},
        "unpaired": {"chosen": BAD, "rejected": None, "label": False},
    }[kind]
    given = {
        "id": f"{kind}{number}", "kind": kind, "prompt": PROMPT, "side": side, "rule": "correction",
        "origin": "feedback", "sources": (f"s{number}",), "cluster": "topic:asthma",
    }  # fmt: skip
    return Example(**given | answers | more)


ROWS = [
    example(kind, i, side)
    for kind in ("sft", "preference", "unpaired")
    for i, side in enumerate(["train"] * 3 + ["validation"])
]


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`datasets` keeps what it read outside of the test's folder, unless it is told where."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def conversation(answer: str) -> list[dict[str, str]]:
    """The prompt with an answer."""
    return [*PROMPT, {"role": "assistant", "content": answer}]


# rows


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("kind", ["sft", "preference", "unpaired"])
def test_datasets_and_trl_read_the_folder_as_it_is(tmp_path: Path, kind: str, file_format: str):
    """The card names the splits and the types; the rows are TRL's conversational ones."""
    from trl.data_utils import is_conversational

    counts = export_rows(tmp_path / "out", kind, ROWS, file_format)
    assert counts == {"train": 3, "validation": 1}
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert {split: len(rows) for split, rows in loaded.items()} == counts
    row = loaded["train"][0]
    assert is_conversational(row)
    wanted = {
        "sft": {"prompt": [*PROMPT], "completion": conversation(GOOD)[2:]},
        "preference": {
            "prompt": [*PROMPT],
            "chosen": conversation(GOOD)[2:],
            "rejected": conversation(BAD)[2:],
        },
        "unpaired": {"prompt": [*PROMPT], "completion": conversation(BAD)[2:], "label": False},
    }[kind]
    known_to_trl = ("prompt", "completion", "chosen", "rejected", "messages", "label", "images", "tools")
    assert {name: row[name] for name in row if name in known_to_trl} == wanted
    assert (row["rule"], row["sources"], row["cluster"]) == ("correction", ["s0"], "topic:asthma")


@pytest.mark.parametrize("kind", ["sft", "preference", "unpaired"])
def test_llama_factory_finds_what_its_description_names(tmp_path: Path, kind: str):
    """As its converter reads sharegpt rows: a system message first, then both sides in turns, one message each
    for the better and the worse answer, a bool for the thumb.
    """
    export_rows(tmp_path / "out", kind, ROWS, "parquet")
    described = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert [*described] == [f"ratchet_{kind}_train", f"ratchet_{kind}_validation"]
    for entry in described.values():
        (row, *_) = datasets.Dataset.from_parquet(str(tmp_path / "out" / entry["file_name"]))
        columns, tags = entry["columns"], entry["tags"]
        first, *messages = row[columns["messages"]]
        assert first[tags["role_tag"]] == tags["system_tag"]
        roles = [message[tags["role_tag"]] for message in messages]
        assert roles == [tags["user_tag"]] if entry["ranking"] else [tags["user_tag"], tags["assistant_tag"]]
        assert entry["ranking"] == (kind == "preference")
        if entry["ranking"]:
            assert row[columns["chosen"]] == {"role": tags["assistant_tag"], "content": GOOD}
            assert row[columns["rejected"]] == {"role": tags["assistant_tag"], "content": BAD}
        assert ("kto_tag" in columns) == (kind == "unpaired")
        assert all(isinstance(row[name], bool) for name in [columns.get("kto_tag")] if name)


@pytest.mark.parametrize("kind", ["sft", "preference"])
def test_the_card_tells_axolotl_columns_that_exist(tmp_path: Path, kind: str):
    """Its chat_template strategies take lists of messages, and one message each for the two answers."""
    export_rows(tmp_path / "out", kind, ROWS, "parquet")
    import yaml

    (text,) = (tmp_path / "out" / "README.md").read_text().split("```yaml\n")[1:]
    (entry,) = yaml.safe_load(text.split("```")[0])["datasets"]
    (row, *_) = datasets.Dataset.from_parquet(str(tmp_path / "out" / entry["path"]))
    assert [m["role"] for m in row[entry["field_messages"]]][:2] == ["system", "user"]
    assert entry["ds_type"] == "parquet"
    if kind == "preference":
        assert row[entry["field_chosen"]]["content"] == GOOD
        assert row[entry["field_rejected"]]["content"] == BAD


def test_the_same_rows_give_the_same_bytes(tmp_path: Path):
    """Whatever order they come in."""
    for name, rows in (("a", ROWS), ("b", ROWS[::-1])):
        export_rows(tmp_path / name, "preference", rows, "parquet")
    files = [f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file()]
    assert len(files) == 4
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path):
    """A folder with anything in it is refused, and so is an export of nothing; an empty folder may be used."""
    (tmp_path / "out").mkdir()
    with pytest.raises(RatchetError, match="no unpaired row"):
        export_rows(tmp_path / "out", "unpaired", ROWS[:4], "parquet")
    export_rows(tmp_path / "out", "sft", ROWS[:3], "parquet")
    assert not (tmp_path / "out" / "data" / "validation.parquet").exists()
    with pytest.raises(RatchetError, match="is not empty"):
        export_rows(tmp_path / "out", "sft", ROWS, "parquet")
    with pytest.raises(ZeroDivisionError):
        export_rows(tmp_path / "broken", "sft", (ROWS[1 // i] for i in (1, 0)), "parquet")
    assert [f.name for f in tmp_path.iterdir() if f.name != "cache"] == ["out"]


def test_exported_rows_can_be_brought_in_again(tmp_path: Path):
    """Supervised rows as knowledge, pairs as preferences, thumbs as ratings."""
    with Store.open(tmp_path / "store.duckdb") as store:
        rows = [
            example("sft", i, prompt=(SYSTEM, {"role": "user", "content": f"Question {i}?"})) for i in (1, 2)
        ]
        for kind in ("sft", "preference", "unpaired"):
            export_rows(tmp_path / kind, kind, [*rows, *ROWS[4:]], "jsonl")
            assert brought(store, tmp_path / kind)["accepted"] > 0
        counts = store.counts()
    assert (counts["knowledge"], counts["turn"] > 0, counts["signal"] > 0) == (2, True, True)


# events


def turn(number: int, question: str = "What is asthma?", **more: Any) -> Turn:
    """An answer that was shown, in a conversation of its own."""
    given = {
        "id": f"{number:022x}", "conversation": f"c{number}", "user": "ann",
        "messages": ({"role": "user", "content": question},), "answer": f"{BAD} It is number {number}.",
        "version": "v0001", "at": AT,
    }  # fmt: skip
    return Turn(**given | more)


def signal(number: int, of: Turn, kind: str, value: dict[str, Any], **more: Any) -> Signal:
    """Something that was said about `of`."""
    given = {
        "id": f"{number:022x}", "turn": of.id, "user": "ann", "role": "user", "kind": kind, "value": value, "at": AT,
    }  # fmt: skip
    return Signal(**given | more)


def lived() -> list[Any]:
    """A home in which everything has happened once."""
    turns = [
        turn(1, system_prompt="Be careful."),
        turn(2, "What is flu?", topic="Flu"),
        turn(3, conversation="c2", messages=(*turn(2, "What is flu?").messages,
             {"role": "assistant", "content": "A virus."}, {"role": "user", "content": "And in children?"})),
        turn(4, "What is a cold?", red_flag="chest pain", version="rules"),
        turn(5, "What helps against hay fever?", finish="cancelled"),
        turn(6, "How can I sleep better?"),
        turn(7, "Who asked nothing?"),
        *(turn(10 + i, f"What is illness number {i}?") for i in range(20)),
    ]  # fmt: skip
    like = {"rating": 1, "reasons": ["clear"]}
    signals = [
        signal(101, turns[0], "rating", like),
        signal(102, turns[0], "rating", {"rating": -1, "reasons": []}),  # a changed mind
        signal(103, turns[0], "comment", {"text": "Wrong."}),
        signal(104, turns[0], "correction", {"text": GOOD}),
        signal(105, turns[1], "correction", {"text": "An infection by a virus of the airways."}, user="bob"),
        signal(106, turns[1], "correction", {"text": ""}, user="bob"),  # withdrawn
        signal(107, turns[2], "rating", {"rating": 0, "reasons": []}),  # withdrawn
        signal(108, turns[3], "rating", like),
        signal(109, turns[4], "rating", like),
        signal(110, turns[5], "choice", {"alternatives": ["Go to bed at one hour."], "choice": 1}, role="reviewer"),
        signal(111, turns[5], "choice", {"alternatives": ["Read a book in the evening."], "choice": "tie"}),
        *(signal(120 + i, t, "rating", like, user=f"u{i}") for i, t in enumerate(turns[7:])),
    ]  # fmt: skip
    reviews = [
        Review(f"{200:022x}", signals[3].id, "rita", "reject", None, AT),
        Review(f"{201:022x}", signals[3].id, "rita", "approve", f"{GOOD} It comes and goes.", AT),
    ]
    knowledge = [
        Knowledge(
            f"{300 + i:022x}",
            f"What is disease {i}?",
            f"A thing of {i} parts that passes.",
            AT,
            f"Disease {i}",
        )
        for i in range(20)
    ]
    return [*turns, *signals, *reviews, *knowledge]


def exported(store: Store, folder: Path, file_format: str, redact: Any = str) -> dict[str, int]:
    """The events of `store` in `folder`."""
    return export_events(
        folder, store.untold(), store.told(), store.records(Review), store.records(Knowledge), file_format, redact
    )  # fmt: skip


def compiled(store: Store) -> tuple[dict, list[tuple]]:
    """The funnel and the rows, without what depends on when things came in."""
    compilation = compile_events(store.events(), Curation(min_words=1), "Be careful.")
    rows = [
        (r.kind, r.prompt, r.chosen, r.rejected, r.label, r.side, r.rule, r.cluster, r.people)
        for r in compilation.rows
    ]
    return compilation.document(), sorted(rows, key=str)


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_events_compile_to_the_same_in_another_home(tmp_path: Path, file_format: str):
    """Every statement, review and unrated answer is carried over; a second time adds nothing."""
    with (
        Store.open(tmp_path / "a" / "store.duckdb") as there,
        Store.open(tmp_path / "b" / "store.duckdb") as here,
    ):
        there.add(*lived())
        counts = exported(there, tmp_path / "out", file_format)
        assert counts == {"feedback": 31 + 1, "knowledge": 20}
        document = brought(here, tmp_path / "out")
        assert (document["accepted"], document["skipped"]) == (52, {})
        assert compiled(here) == compiled(there)
        assert compiled(here)[0]["signals"]["kept"] > 10
        assert {t.id: (t.conversation, t.answer) for t in here.records(Turn)} == {
            t.id: (t.conversation, t.answer) for t in there.records(Turn)
        }
        assert brought(here, tmp_path / "out")["skipped"] == {"imported before": 52}
        names = [*datasets.get_dataset_config_names(str(tmp_path / "out"))]
        assert {
            name: len(datasets.load_dataset(str(tmp_path / "out"), name)["train"]) for name in names
        } == counts


def test_texts_are_redacted_and_people_stay_apart(tmp_path: Path):
    """Personal data is replaced in every text; a name that is personal data itself becomes a number."""

    def redact(text: str) -> str:
        return text.replace("airways", "<PLACE>").replace("bob", "<PERSON>").replace("hour", "<TIME>")

    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(*lived())
        exported(store, tmp_path / "out", "jsonl", redact)
        text = (tmp_path / "out" / "data" / "feedback.jsonl").read_text()
        assert not [word for word in ("airways", "bob", "hour") if word in text]
        raters = {json.loads(line)["rater"] for line in text.splitlines()}
        assert len(raters) == len({signal.user for signal in store.records(Signal)} | {None})
        assert sum(rater.startswith("person-") for rater in raters if rater) == 1


def test_another_homes_turn_never_takes_a_place_that_is_taken(tmp_path: Path):
    """A line that names a turn of this home, but other words, is set aside; its statement reaches nobody's answer."""
    here = turn(1, id="t" + "0" * 21, conversation="t" + "0" * 21)  # as an import left it
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(here)
        lines = [
            {"messages": [ASKED, {"role": "assistant", "content": answer}], "turn": here.id, "conversation": here.id,
             "rating": 1, "user": "eve"}
            for answer in ("Other words.", here.answer)
        ]  # fmt: skip
        (tmp_path / "f.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        document = brought(store, tmp_path / "f.jsonl")
        assert document["skipped"] == {"turn: an answer in other words has this id here": 1}
        assert store.records(Turn) == [here]
        assert [s.turn for s in store.events().signals] == [here.id]


def test_an_empty_home_has_nothing_to_export(tmp_path: Path):
    """One line, and no folder."""
    with (
        Store.open(tmp_path / "store.duckdb") as store,
        pytest.raises(RatchetError, match="nothing to export"),
    ):
        exported(store, tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()
