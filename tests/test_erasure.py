"""Erasure: a person's words are nowhere any more, and nothing that learnt from them serves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow
import pyarrow.parquet
import pytest

from app.cli import main
from app.conversations import Conversations
from app.engine import Engine
from app.levers import Levers
from app.operations import Operations
from app.reports import Reports
from app.rounds import apply_gate
from app.run_folder import RunFolder, only_round
from app.schedule import Schedule, Situation, clean_round_owed, due, outlook
from app.settings import Settings
from app.web import rounds_view as view
from eval.exam import Evaluation
from eval.gate import Decision, beside_withdrawn
from eval.objective import Gate, Guard, Sampling, load_objective
from eval.objective import Schedule as Rules
from eval.suites import Item, Suite
from feedback.erasure import Words, find_traces, person_digest
from feedback.errors import RatchetError, Refused, StoreBusy
from feedback.history import forget
from feedback.records import Draft, Event, Judgement, Review, Signal, Title, Turn, new_id
from feedback.store import Store
from tests.test_conversations import ScriptedEngine
from tests.test_promotion import FakeServing
from tests.tiny import tiny_model
from training.registry import adapter_sha256, champion_withdrawn, pointer_history

ROOT = Path(__file__).parent.parent
AT = datetime(2026, 1, 1, tzinfo=UTC)
# Each stands in one kind of text of Ann's; none is an English word.
PLANTED = (
    "zebrafink",  # her question
    "quagmoss",  # her comment
    "plumbulet",  # her better answer
    "dravenort",  # what a reviewer made of it
    "oxelbrim",  # the name of her chat
    "tarnwick",  # her question on held-out ground
    "fenlopper",  # her better answer to somebody else
    "grubnatch",  # what a reviewer began to make of it
    "wolvertine",  # what she deleted herself
)
OBJECTIVE = """
title = "Complaints"
system_prompt = "Say what helps."
base_model = {base!r}
encoder = "all-minilm-l6-v2"
answer_tokens = 8
[page]
consent = "Keep it."
disclaimer = "A test."
[curation]
knowledge_share = 0
held_out_share = 0
validation_share = 0
min_words = 3
max_share_per_person = 1.0
[training]
max_length = 256
sft = {{ learning_rate = 0.02, epochs = 1 }}
[suites.held_out]
kind = "questions"
file = "golden.jsonl"
items = 2
metrics = ["token_f1"]
[suites.corrections]
kind = "corrections"
items = 24
metrics = ["corrections_honoured"]
[gate]
primary = "token_f1"
"""
HELD_OUT = "Hiccups"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> Settings:
    folder = tmp_path / "objective"
    folder.mkdir()
    (folder / "objective.toml").write_text(OBJECTIVE.format(base=str(base)))
    golden = {
        "id": "g1",
        "question": "How do hiccups stop by themselves?",
        "answer": "They pass by themselves.",
    }
    (folder / "golden.jsonl").write_text(json.dumps(golden | {"topic": HELD_OUT}))
    return Settings(tmp_path / "home", folder, tmp_path / "cache")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with Store.open(settings.store_file) as store:
        yield store


@pytest.fixture
def serving() -> "Remembering":
    return Remembering()


@pytest.fixture
def operations(settings: Settings, store: Store, serving: "Remembering") -> Operations:
    return Operations(settings, load_objective(settings.objective), store, serving)


class Remembering(FakeServing):
    """Serves nothing; remembers what it was told."""

    def forget(self, person: str) -> None:
        self.heard.append(("forget", person))


# what people said


def asks(turn: str, person: str, question: str, answer: str = "Rest and drink water.", **more) -> Turn:
    asked = ({"role": "user", "content": question},)
    return Turn(turn, f"chat of {turn}", person, asked, answer, "base", AT, **more)


def corrects(signal: str, turn: str, person: str, text: str, role: str = "user") -> Signal:
    return Signal(signal, turn, person, role, "correction", {"text": text}, AT)


def everybody() -> list:
    """What Ann said, with the planted words, and what Ben and a reviewer said beside it."""
    mended = "Drink warm tea and the dravenort will surely pass."
    return [
        asks("t1", "ann", "What helps against a zebrafink in the morning?"),
        Signal("s1", "t1", "ann", "user", "comment", {"text": "This quagmoss answer is no help."}, AT),
        corrects("s2", "t1", "ann", "Drink warm tea and the plumbulet will pass."),
        Review("r1", "s2", "rita", "approve", mended, AT),
        Judgement("j1", "t1", "rita", "correct", ("r1",), None, AT),
        Draft("d1", "t1", "rita", "Warm dravenort", AT),
        Title("n1", "chat of t1", "ann", "My oxelbrim chat", AT),
        asks("t2", "ann", "Why do I get a tarnwick after lunch?", topic=HELD_OUT),
        corrects("s3", "t2", "rita", "It comes of eating too fast.", "reviewer"),
        asks("t3", "ben", "What helps against a cough at night?"),
        corrects("s4", "t3", "ann", "A spoonful of fenlopper honey soothes it."),
        Review("r2", "s4", "rita", "approve", None, AT),
        Signal("s5", "t3", "rita", "reviewer", "rating", {"rating": -1, "reasons": []}, AT),
        Judgement("j2", "t3", "rita", "reject", ("s5", "r2"), None, AT),
        Draft("d2", "t3", "rita", "A spoonful of grubnatch honey", AT),
        asks("t4", "ben", "How long should a fever last in children?"),
        corrects("s6", "t4", "rita", "A fever of three days needs a doctor.", "reviewer"),
    ]


def train(home: Path, plan: dict, weights: bytes, role_of: dict[str, str]) -> str:
    """Leave in the run of `plan` what its jobs leave, with every word of its dataset in it; the version."""
    run = RunFolder(home / "runs" / plan["run"])
    words = " ".join(texts_of(Path(plan["dataset"])))
    for name in ("adapter", "sft/adapter", "sft/checkpoints/checkpoint-1"):
        (run.path / name).mkdir(parents=True)
        (run.path / name / "adapter_config.json").write_text("{}")
        (run.path / name / "adapter_model.safetensors").write_bytes(weights + words.encode())
    for name in ("training.log", "evaluation.log", "progress.jsonl"):
        (run.path / name).write_text(words)
    run.write_page("report.html", words)
    (run.path / ".report.html.new").write_text(words)  # of a round that was killed
    sha = adapter_sha256(run.path / "adapter")
    version = f"v{plan['run'][1:]}-{sha[:8]}"
    run.write(
        "run.json",
        {"version": version, "adapter_sha256": sha, "dataset_hash": plan["dataset_hash"], "chosen": "sft"},
    )
    suites = run.read("suites.json")
    run.write(
        "evaluation.json",
        {
            role: evaluation(who or version, suites, words)
            for role, who in (("champion", role_of["champion"]), ("candidate", None))
        },
    )
    kept = home / "evaluations" / version
    kept.mkdir(parents=True)
    for name, result in evaluation(version, suites, words)["suites"].items():
        (kept / f"{name}-0.json").write_text(json.dumps({"key": {"version": version}, "result": result}))
    (kept / "tmp1234").write_text(words)  # of an examination that was killed
    run.write("decision.json", {"decision": "promote"})
    return version


def evaluation(version: str, suites: list[dict], words: str) -> dict:
    results = {
        suite["name"]: {
            "hash": suite["hash"],
            "answers": {item["id"]: words for item in suite["items"]},
            "clusters": {item["id"]: item["cluster"] for item in suite["items"]},
            "scores": {metric: {item["id"]: 1.0 for item in suite["items"]} for metric in suite["metrics"]},
            "figures": {},
        }
        for suite in suites
    }
    return {"version": version, "base_model": "tiny", "settings": {}, "suites": results}


def learn(operations: Operations, *records, weights: bytes = b"1") -> tuple[dict, str]:
    """Add `records`, freeze them for real and train as far as files go; the plan and the version, promoted."""
    operations.store.add(*records)
    plan = operations.begin_round(None)
    version = train(operations.settings.home, plan, weights, {"champion": plan["champion"]})
    operations.promote(version, "oz", "it won")
    return plan, version


# what stands anywhere


def texts_of(folder: Path) -> list[str]:
    """Every text under `folder`: each column of each database and Parquet file, each other file as it is."""
    found = []
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        found.append(file.read_bytes().decode("utf-8", "replace"))  # of a database: what is not compressed
        if file.suffix == ".parquet":
            found += [str(row) for row in pyarrow.parquet.read_table(file).to_pylist()]
        elif file.suffix == ".duckdb":
            found += rows_of(file)
    return found


def rows_of(file: Path) -> list[str]:
    """Every row of every table, read from a copy, with its log where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        for part in file.parent.glob(f"{file.name}*"):
            shutil.copy(part, folder)
        with duckdb.connect(str(Path(folder) / file.name)) as copy:
            tables = [row[0] for row in copy.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
            return [str(row) for table in tables for row in copy.execute(f"FROM {table}").fetchall()]


def planted_in(folder: Path) -> set[str]:
    """Which of the planted words stand anywhere under `folder`."""
    texts = texts_of(folder)
    return {word for word in PLANTED if any(word in text for text in texts)}


# nothing is left


def test_no_word_of_theirs_is_left_anywhere(operations: Operations, settings: Settings, store: Store):
    """The same look at every column and file finds every word before, and none after; a second run does nothing."""
    home = settings.home
    store.add(asks("t5", "ann", "Is a wolvertine a reason to worry?"))
    forget(store, "ann", ["chat of t5"], AT)
    now = datetime.now(UTC)
    plan, version = learn(operations, *everybody())
    why = "somebody asked What helps against a zebrafink in the morning? again"
    store.add(Event(new_id(now), "round_asked", "oz", {"why": why}, now))
    exports = home / "exports"
    (exports / "sft").mkdir(parents=True)
    (exports / "sft" / "README.md").write_text("One of the rows: A SPOONFUL of fenlopper honey, soothes it.")
    (exports / "sft" / "train.jsonl").write_text('{"text": "What helps?"}\n')
    table = pyarrow.table({"sources": [["s2"]]})
    pyarrow.parquet.write_table(table, exports / "rated.parquet")
    (exports / "others.jsonl").write_text('{"question": "How long should a fever last in children?"}\n')
    (home / "datasets" / ".draft-x").mkdir()
    (home / "datasets" / ".draft-x" / "rows").write_text("zebrafink")
    shutil.copytree(home, home.parent / "copy", ignore=shutil.ignore_patterns("store.*"))
    with Store.open(home.parent / "copy" / "store.duckdb") as copy:
        copy.add(*everybody(), *store.log("promote"))
    shutil.move(home.parent / "copy", home / "backups" / "monday")

    assert planted_in(home) == set(PLANTED)
    document = operations.erase("ann", "oz")
    assert planted_in(home) == set()
    assert document == document | {
        "turns": 3,
        "signals": 4,
        "datasets": [plan["dataset_hash"]],
        "versions": [version],
        "suites_drawn_anew": ["held_out"],
        "champion_was_tainted": True,
        "serves_now": "base",
        "clean_round_queued": True,
        "store_rewritten": True,
        "backups_not_read": [],
    }
    assert sorted(file.name for file in exports.iterdir()) == ["others.jsonl"]
    assert "ann" not in [value for (event,) in [store.log("erase")] for value in event.payload.values()]

    before = sorted(f for f in home.rglob("*") if f.is_file())
    again = operations.erase("ann", "oz")
    assert (again["turns"], again["signals"], again["files_removed"]) == (0, 0, 0)
    assert (again["datasets"], again["versions"], again["store_rewritten"]) == ([], [], False)
    assert sorted(f for f in home.rglob("*") if f.is_file()) == before
    assert len(store.log("erase")) == 1


def test_what_others_said_stays(operations: Operations, store: Store):
    """Only the person's own rows and what was said of their answers go; the rest is as it was."""
    store.add(*everybody())
    operations.erase("ann", "oz")
    events = store.events()
    assert [turn.id for turn in events.turns] == ["t3", "t4"]
    assert [signal.id for signal in events.signals] == ["s5", "s6"]
    assert events.reviews == []
    assert store.records(Judgement) == [Judgement("j2", "t3", "rita", "reject", ("s5",), None, AT)]
    assert store.records(Draft) == store.records(Title) == []


def test_a_reviewers_words_are_erased_too(operations: Operations, store: Store):
    """Their corrections, verdicts, judgements and drafts go; what users said waits for another reviewer."""
    store.add(*everybody())
    operations.erase("rita", "oz")
    assert [signal.id for signal in store.events().signals] == ["s1", "s2", "s4"]
    assert [signal.id for signal, _ in store.awaiting_review()] == ["s2", "s4"]
    assert store.records(Judgement) == store.records(Draft) == store.records(Review) == []


def test_what_a_reviewer_worded_anew_is_followed_into_the_datasets(operations: Operations, store: Store):
    """A row from a user's correction holds the words of the reviewer who edited it; who only approved it left none."""
    said = [record for record in everybody() if record.id in ("t1", "s2", "t4", "s6")]
    approval = Review("r9", "s2", "rolf", "approve", "Drink warm tea and the plumbulet will pass.", AT)
    edit = Review("r1", "s2", "rita", "approve", "Drink warm tea and the dravenort will surely pass.", AT)
    held_out = (
        asks("t2", "ben", "Why do I get a tarnwick after lunch?", topic=HELD_OUT),
        corrects("s3", "t2", "ann", "It comes of eating."),
        Review("r3", "s3", "rita", "approve", "It comes of eating too fast.", AT),
    )
    plan, version = learn(operations, *said, *held_out, approval, edit)
    run = RunFolder(operations.settings.home / "runs" / plan["run"])
    assert "t2" in run.read("evaluation.json")["candidate"]["suites"]["held_out"]["scores"]["token_f1"]
    assert operations.erase("rolf", "oz")["versions"] == []
    document = operations.erase("rita", "oz")
    assert (document["datasets"], document["versions"]) == ([plan["dataset_hash"]], [version])
    assert document["suites_drawn_anew"] == ["held_out"]


def test_nobody_is_nothing(operations: Operations, store: Store, settings: Settings):
    """Erasing somebody who is not there changes no file and logs nothing."""
    store.add(*everybody())
    before = settings.store_file.stat()
    document = operations.erase("nobody", "oz")
    assert not any(document[key] for key in document if key not in ("serves_now", "turns", "signals"))
    assert (document["turns"], document["signals"], document["serves_now"]) == (0, 0, "base")
    assert settings.store_file.stat().st_ino == before.st_ino
    assert store.log() == []


def test_what_a_person_deleted_is_followed_into_the_datasets(operations: Operations, store: Store):
    """A chat that was deleted by its person before still taints what had learnt from it, for them alone."""
    plan, version = learn(operations, *everybody())
    forget(store, "ann", ["chat of t1", "chat of t2"], AT)
    store.write(lambda c: -c.execute("DELETE FROM signal WHERE person = 'ann'").fetchone()[0])
    assert operations.erase("nobody", None)["versions"] == []
    document = operations.erase("ann", None)
    assert (document["datasets"], document["versions"]) == ([plan["dataset_hash"]], [version])
    assert store.log("deleted") == []


def test_a_run_that_only_asked_their_questions_keeps_its_weights(
    operations: Operations, settings: Settings, store: Store
):
    """Its suites and answers go and its scores stay; the version goes on serving."""
    said = {record.id: record for record in everybody()}
    plan, version = learn(operations, *(said[name] for name in ("t2", "s3", "t4", "s6")))
    run = RunFolder(settings.home / "runs" / plan["run"])
    assert "t2" in run.read("evaluation.json")["candidate"]["suites"]["held_out"]["scores"]["token_f1"]
    document = operations.erase("ann", None)
    assert (document["datasets"], document["versions"]) == ([], [])
    assert (document["suites_drawn_anew"], document["serves_now"]) == (["held_out"], version)
    assert not run.has("suites.json") and run.has("adapter")
    assert not list(run.path.glob("*report.html*"))
    suite = run.read("evaluation.json")["candidate"]["suites"]["held_out"]
    assert suite["answers"] == {}
    assert suite["scores"] == {"token_f1": {"g1": 1.0}}
    assert store.log("suite") == []


def test_what_a_withdrawn_champion_answered_in_a_later_round_goes(
    operations: Operations, settings: Settings, store: Store
):
    """The later candidate learnt nothing of it: it keeps its weights, and both keep their scores."""
    plan, version = learn(operations, *everybody())
    run = RunFolder(settings.home / "runs" / "r0002")
    run.path.mkdir()
    run.write("plan.json", plan | {"run": "r0002", "dataset_hash": "clean", "champion": version})
    suites = [
        suite for suite in RunFolder(run.path.parent / "r0001").read("suites.json") if not suite["items"]
    ]
    suites.append(
        {"name": "general", "hash": "h", "metrics": ["general_text"], "items": [{"id": "g", "cluster": "g"}]}
    )
    run.write("suites.json", suites)
    documents = {role: evaluation(role, suites, "zebrafink") for role in ("champion", "candidate")}
    run.write("evaluation.json", documents)
    run.write("decision.json", {"decision": "promote"})
    (run.path / "report.html").write_text("zebrafink")
    (run.path / "adapter").mkdir()
    operations.erase("ann", None)
    left = run.read("evaluation.json")["champion"]["suites"]["general"]
    assert (left["answers"], left["scores"]) == ({}, {"general_text": {"g": 1.0}})
    assert {file.name for file in run.path.iterdir()} == {
        "plan.json", "evaluation.json", "decision.json", "adapter",
    }  # fmt: skip


def test_what_killed_writes_left_goes(operations: Operations, settings: Settings, store: Store):
    """The draft of a document, and the folder of a round that had no plan yet."""
    learn(operations, *everybody())
    runs = settings.home / "runs"
    (runs / "r0001" / ".suites.json.new").write_text("zebrafink")
    (runs / "r0002").mkdir()
    (runs / "r0002" / "suites.json").write_text("zebrafink")
    operations.erase("ann", None)
    assert not (runs / "r0002").exists() and not list(runs.glob("*/.*.new"))


def test_a_suite_that_holds_their_words_by_chance_is_drawn_anew(operations: Operations, store: Store):
    """It cannot be mended without a new hash; the next round can begin."""
    learn(operations, *(record for record in everybody() if record.id in ("t4", "s6")))
    store.add(asks("t9", "cleo", "How do hiccups stop"))
    assert [event.payload["name"] for event in store.log("suite")] == []
    store.add(*(record for record in everybody() if record.id in ("t2", "s3")))
    operations.begin_round(None)
    assert [event.payload["name"] for event in store.log("suite")] == ["held_out"]
    operations.erase("cleo", None)
    assert store.log("suite") == []
    operations.begin_round(None)


def test_a_backup_that_cannot_be_read_is_named(operations: Operations, settings: Settings, store: Store):
    """It may hold the words: the owner has to remove it."""
    store.add(*everybody())
    broken = settings.home / "backups" / "old" / "store.duckdb"
    broken.parent.mkdir(parents=True)
    broken.write_text("no database")
    assert operations.erase("ann", None)["backups_not_read"] == ["backups/old/store.duckdb"]


def test_a_dataset_that_does_not_say_what_it_holds_stops_the_erasure(
    operations: Operations, settings: Settings, store: Store
):
    """It is named, and nothing was erased yet."""
    store.add(*everybody())
    manifest = settings.home / "datasets" / "abc" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    with pytest.raises(RatchetError, match=r"manifest\.json does not say"):
        operations.erase("ann", None)
    assert store.counts()["turn"] == 4


# nothing that learnt from them serves


def test_the_newest_untainted_version_serves(
    operations: Operations, serving: Remembering, settings: Settings, store: Store
):
    """The pointer leaves a tainted champion, open chats too; it is never promoted nor rolled back to again."""
    said = everybody()
    ben = [r for r in said if r.id in ("t4", "s6")]
    _, clean = learn(operations, *ben)
    plan, tainted = learn(operations, *(r for r in said if r not in ben), weights=b"2")
    _, later = learn(operations, asks("t6", "ben", "Does ginger tea warm cold hands?"), weights=b"3")
    serving.heard.clear()
    document = operations.erase("ann", "oz")
    assert document["versions"] == sorted([tainted, later])
    assert (document["serves_now"], operations.served()) == (clean, ["base", clean])
    assert serving.heard == [
        ("forget", "ann"),
        ("load", clean),
        *(("move", clean, version) for version in sorted([tainted, later])),
        ("forget", "ann"),
    ]
    assert json.loads((settings.home / "promoted.json").read_text())["version"] == clean
    assert operations.status()["withdrawn_by_erasure"] == later
    for version in (tainted, later):
        with pytest.raises(RatchetError, match="never serves again"):
            operations.promote(version, "oz", "why not")
    assert operations.rollback("oz", "worse")["champion"] == "base"
    assert not RunFolder(settings.home / "runs" / plan["run"]).has("adapter")
    assert operations.rounds(None) == {"rounds": []}


def test_an_unfinished_round_on_their_words_does_not_go_on(
    operations: Operations, settings: Settings, store: Store
):
    """The next round begins anew, without them."""
    store.add(*everybody())
    plan = operations.begin_round(None)
    assert RunFolder.unfinished(settings.home / "runs").name == plan["run"]
    operations.erase("ann", None)
    assert RunFolder.unfinished(settings.home / "runs") is None
    anew = operations.begin_round(None)
    assert anew["dataset_hash"] != plan["dataset_hash"]
    assert planted_in(settings.home) == set()


def test_an_erasure_waits_for_no_round_and_runs_beside_none(
    operations: Operations, settings: Settings, store: Store
):
    """While a round runs it is refused, with what to do, and nothing has changed."""
    store.add(*everybody())
    with only_round(settings.home, "oz"), pytest.raises(RatchetError, match="cancel it on the rounds page"):
        operations.erase("ann", None)
    assert store.counts()["turn"] == 4


def erased(at: datetime, withdrawn: str | None) -> Event:
    payload = {"versions": [withdrawn] if withdrawn else [], "datasets": []}
    return Event(new_id(at), "erase", "oz", payload | ({"withdrawn": withdrawn} if withdrawn else {}), at)


def happened(at: datetime, kind: str, **payload) -> Event:
    return Event(new_id(at), kind, "oz", payload, at)


def test_the_pointer_skips_what_is_tainted_wherever_it_stands():
    """An erasure takes versions out of the stack; what stood on them stays."""
    log = [happened(AT, "promote", version=v) for v in ("v1", "v2", "v3")]
    assert pointer_history([*log, erased(AT, "v3")]) == ["base", "v1", "v2"]
    assert pointer_history([*log, erased(AT, "v2")]) == ["base", "v1", "v3"]
    assert pointer_history([*log, erased(AT, "v3"), happened(AT, "rollback")]) == ["base", "v1"]


def test_a_withdrawn_champion_is_remembered_until_another_is_promoted():
    """A candidate is compared with it until one has taken its place; an erasure that withdraws none changes nothing."""
    assert champion_withdrawn([]) is None
    assert champion_withdrawn([erased(AT, "v1"), erased(AT, None)]) == "v1"
    assert champion_withdrawn([erased(AT, "v1"), happened(AT, "promote", version="v2")]) is None


def test_a_clean_round_starts_at_once_and_once():
    """Whatever the rules wait for; but not in a pause, and not again once it was asked for or finished."""
    rules, now = Rules(every_hours=168, min_signals=50), AT
    owing = Situation(now - timedelta(minutes=1), 0, owed="v1")
    assert due(now, rules, owing) == "an erasure withdrew v1: a clean round takes its place"
    assert outlook(now, rules, owing).soon
    assert "withdrew v1" in outlook(now, rules, owing).words
    assert due(now, rules, replace(owing, paused=True)) is None
    assert due(now, rules, replace(owing, running=True)) is None
    assert clean_round_owed([]) is clean_round_owed([erased(AT, None)]) is None
    assert clean_round_owed([erased(AT, "v1"), erased(AT, None)]) == "v1"
    for kind in ("round_asked", "round", "promote"):
        assert clean_round_owed([erased(AT, "v1"), happened(AT, kind)]) is None


def test_the_schedule_sees_what_an_erasure_owes(operations: Operations, settings: Settings):
    """It stands in the log, so it outlives a restart."""
    _, version = learn(operations, *everybody())
    operations.erase("ann", "oz")
    schedule = Schedule(Levers(settings, operations), Rules(every_hours=168, min_signals=50))
    assert schedule.situation().owed == version
    operations.note("round_asked", "schedule", "a clean round")
    assert schedule.situation().owed is None


def test_a_clean_candidate_is_not_worse_than_what_was_withdrawn(operations: Operations, settings: Settings):
    """It wins over the base and loses to the withdrawn champion's recorded scores: refused, and the reason says so."""
    said = {record.id: record for record in everybody()}
    _, version = learn(operations, *said.values())
    operations.erase("ann", "oz")
    operations.store.add(asks("t7", "ben", "Do onions make one weep?", topic=HELD_OUT))
    operations.store.add(corrects("s7", "t7", "rita", "They do while one cuts them.", "reviewer"))
    plan = operations.begin_round(None)
    assert plan["withdrawn"] == version
    run = RunFolder(settings.home / "runs" / plan["run"])
    suites, golden = run.read("suites.json"), {"g1": 0.5, "t7": 0.5}
    documents = {role: evaluation(role, suites, "") for role in ("champion", "candidate")}
    documents["champion"]["suites"]["held_out"]["scores"] = {"token_f1": dict.fromkeys(golden, 0.0)}
    documents["candidate"]["suites"]["held_out"]["scores"] = {"token_f1": golden}
    run.write("evaluation.json", documents)
    run.write("run.json", {"chosen": "sft", "stages": {"sft": {}}})
    decision = apply_gate(settings, operations.objective, run)
    assert any(
        reason.startswith(f"token_f1 beside {version}, which an erasure withdrew: worse")
        for reason in decision.reasons
    )
    assert decision.decision != "promote"


def test_a_tainted_champion_is_compared_by_what_is_left_of_its_scores():
    """A win stands unless the primary surely fell or a guard may have fallen by its margin; else it is said why not."""
    items = tuple(Item(f"i{n}", "asked", f"c{n}", messages=()) for n in range(40))
    suite = Suite("asked", "questions", ("token_f1", "rouge_l"), 40, items)
    gate = Gate(primary="token_f1", guards={"rouge_l": Guard(margin=0.1, spread=0.2)})
    won = Decision("promote", ("it wins",), {})

    def scored(f1: float, rouge: float, **settings) -> Evaluation:
        scores = {"token_f1": {i.id: f1 for i in items}, "rouge_l": {i.id: rouge for i in items}}
        return Evaluation("v", "tiny", settings, {"asked": {"scores": scores, "clusters": {}, "answers": {}}})

    def beside(withdrawn: Evaluation | None) -> Decision:
        return beside_withdrawn(won, "v1", withdrawn, scored(0.5, 0.5), (suite,), gate)

    assert beside(scored(0.5, 0.55)).decision == "promote"
    assert beside(scored(0.51, 0.5)).decision == "refuse"
    assert beside(scored(0.4, 0.61)).decision == "refuse"
    assert "rouge_l beside v1, which an erasure withdrew: worse" in beside(scored(0.4, 0.61)).reasons[-1]
    for withdrawn in (None, scored(0.9, 0.9, answer_tokens=9), replace(scored(0.9, 0.9), suites={})):
        assert beside(withdrawn).decision == "promote"
        assert beside(withdrawn).reasons[-1].endswith("not compared")
    refused = replace(won, decision="refuse")
    assert beside_withdrawn(refused, "v1", scored(0, 0), scored(1, 1), (suite,), gate).decision == "refuse"


# what is in memory


def test_an_answer_that_is_being_written_is_not_stored(store: Store):
    """It ends; its chat is gone, also where its person looked at it again; others' chats stay."""
    objective = load_objective(ROOT / "objectives" / "medical")
    chats = Conversations(store, ScriptedEngine("base"), objective, "base")
    chat, other = chats.open("ann"), chats.open("ben")
    list(chats.ask(other, "ben", "Is it raining?", consent=True))
    writing = chats.ask(chat, "ann", "What of the zebrafink?", consent=True)
    next(writing)
    assert next(writing).text
    chats.forget_person("ann")
    *_, last = writing
    assert not last.exchange.kept
    assert [turn.user for turn in store.records(Turn)] == ["ben"]
    assert [len(chats.headings(person)) for person in ("ann", "ben")] == [0, 1]
    with pytest.raises(Refused, match="has ended"):
        chats.exchanges(chat, "ann")


def test_the_model_keeps_nothing_of_what_was_answered(base: Path):
    """The beginnings of conversations that need not be read again are dropped."""
    engine = Engine(base)
    list(engine.stream([{"role": "user", "content": "zebrafink"}], "base", Sampling(max_new_tokens=2)))
    decoder = engine._served[0].decoder
    assert decoder._known
    engine.forget()
    assert not decoder._known
    engine.close()


def test_the_rounds_page_shows_what_is_left(operations: Operations, settings: Settings):
    """A round whose words were erased has no cases to show; the log says what happened."""
    plan, version = learn(operations, *everybody())
    reports = Reports(settings.home, operations.objective.gate)
    assert reports.has_cases(plan["run"])
    operations.erase("ann", "oz")
    assert reports.cases(plan["run"], 3) == ([], [])
    shown = view.log(operations.levers_used())
    assert "oz erased a person: base" in shown
    assert f"{version} had learnt from them" in shown


def test_the_command_says_what_it_did(settings: Settings, capsys: pytest.CaptureFixture[str]):
    """In lines for a person; a second run says that nothing is here."""
    with Store.open(settings.store_file) as store:
        store.add(*everybody())
    command = ["--home", str(settings.home), "--objective", str(settings.objective), "erase", "ann"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(
        "erased: 2 answers and 4 statements; the store was written anew"
    )
    assert main(command) == 0
    assert capsys.readouterr().out == "nothing of this person is here\n"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["turns"] == 0


# what recognises them


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("they wrote: a SPOONFUL of honey, helps", True),
        ("a spoonful\n\nof honey helps", True),
        ("a spoonful of sugar helps", False),
        ("Yes!", True),
        ("Yes, I do", False),
        ("", False),
    ],
)
def test_texts_are_recognised_in_other_forms(text: str, found: bool):
    """Case, spacing and punctuation do not matter; a text of a word or two is recognised as a whole only."""
    assert (text in Words(["A spoonful of honey helps.", "yes", "..."])) is found


def test_a_persons_name_is_not_in_the_log():
    """What stands there instead is the same for the same person, and of no other."""
    assert person_digest("ann") == person_digest("ann") != person_digest("ben")
    assert "ann" not in person_digest("ann")


# rewriting the store


def test_a_store_is_rewritten_while_others_use_it(store: Store):
    """Nobody who reads or writes meanwhile fails, and all that was acknowledged is there."""
    store.add(*everybody())
    stop, problems, added = threading.Event(), [], []

    def use(number: int) -> None:
        try:
            for n in range(1_000_000):
                if stop.is_set():
                    return
                store.add(asks(f"u{number}-{n}", "ben", "Is it raining?"))
                added.append(f"u{number}-{n}")
                assert store.turn("t3").user == "ben"
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        store.rewrite(lambda connection: connection.execute("DELETE FROM turn WHERE person = 'ann'"))
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert {turn.id for turn in store.records(Turn)} == {"t3", "t4", *added}
    assert int(store.mark_file.read_text()) == sum(store.counts().values())


def test_whoever_reads_may_read_on_while_the_files_wait_to_change_places(store: Store):
    """A reader inside another one is let in, although the swap waits for both."""
    store.add(*everybody())
    with store.reader() as cursor:
        swapped = threading.Thread(target=store.rewrite, args=(lambda connection: None,))
        swapped.start()
        while not store._reading._shut:  # it waits for this reader
            assert swapped.is_alive()
        assert store.counts()["turn"] == 4
        assert cursor.execute("SELECT count(*) FROM turn").fetchone() == (4,)
    swapped.join()
    assert store.counts()["turn"] == 4


def test_a_rewriting_that_fails_changes_nothing(store: Store, settings: Settings):
    """The error is told, the draft is gone, and the store goes on."""
    store.add(*everybody())

    def fail(connection) -> None:
        connection.execute("DELETE FROM turn")
        raise duckdb.IOException("the disk is on fire")

    with pytest.raises(RatchetError, match="on fire"):
        store.rewrite(fail)
    assert store.counts()["turn"] == 4
    store.add(asks("t9", "ben", "And now?"))
    assert not list(settings.home.glob("*.rewriting*"))


def test_no_other_process_comes_in_between(store: Store, monkeypatch: pytest.MonkeyPatch):
    """From the moment the new file has the store's name it is locked: nothing is written that would be lost."""
    store.add(*everybody())
    heard = []
    program = (
        "import sys; from pathlib import Path; from feedback.store import Store\n"
        "Store.open(Path(sys.argv[1])).close()"
    )

    def replace_then_look(draft, target) -> None:
        replace_(draft, target)
        if str(target).endswith(".duckdb"):
            command = [sys.executable, "-c", program, str(target)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            heard.append(done.stderr)

    replace_ = os.replace
    monkeypatch.setattr("os.replace", replace_then_look)
    store.rewrite(lambda connection: None)
    monkeypatch.undo()
    assert [StoreBusy.__name__ in line for line in heard] == [True]
    assert store.counts()["turn"] == 4


KILLED = """
import os, signal, sys
from pathlib import Path
import feedback.store
from feedback.erasure import erase
from feedback.store import Store

moment = sys.argv[2]
real = os.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def replace(draft, target):
    if moment == "before" and str(target).endswith(".duckdb"):
        die()
    real(draft, target)
    if moment == "after" and str(target).endswith(".duckdb"):
        die()

store = Store.open(Path(sys.argv[1]))
if moment == "copied":
    feedback.store._count_rows = lambda draft: die()
os.replace = replace
erase(store, "ann")
"""


@pytest.mark.parametrize(("moment", "done"), [("copied", False), ("before", False), ("after", True)])
def test_a_kill_leaves_the_old_store_or_the_new_one(settings: Settings, moment: str, done: bool):
    """Whole, with a mark that fits, and without a draft once it was opened; a second try ends what was begun."""
    with Store.open(settings.store_file) as store:
        store.add(*everybody())
        whole = store.counts()
    command = [sys.executable, "-c", KILLED, str(settings.store_file), moment]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Store.open(settings.store_file) as store:
        assert not list(settings.home.glob("*.rewriting*"))
        assert (store.counts() == whole) is not done
        assert (find_traces(store, "ann").rows == 0) is done
        assert Operations(settings, load_objective(settings.objective), store).erase("ann", None)[
            "store_rewritten"
        ] is (not done)
    assert planted_in(settings.home) == set()


def test_an_erasure_that_was_cut_off_is_ended_by_the_next(
    operations: Operations, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """After the log was written and half of the files were removed, a second run finds the rest."""
    plan, version = learn(operations, *everybody())

    def fail(*_) -> None:
        raise RatchetError("cut off")

    monkeypatch.setattr("app.erasure._clear_evaluations", fail)
    with pytest.raises(RatchetError, match="cut off"):
        operations.erase("ann", None)
    monkeypatch.undo()
    assert planted_in(settings.home) and operations.champion() == "base"
    document = operations.erase("ann", None)
    assert (document["datasets"], document["versions"]) == ([plan["dataset_hash"]], [version])
    assert planted_in(settings.home) == set()
    assert champion_withdrawn(store.log("erase", "promote")) == version
