"""Twice around the circle with a tiny model: chat, feedback, round, better chat."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet
import pytest

from app.conversations import Conversations
from app.engine import Engine
from app.operations import Operations, operate
from app.rounds import run_round
from app.serve import Live
from app.settings import Settings, read_settings
from eval.objective import load_objective
from feedback.records import Signal, new_id
from feedback.store import Store
from tests.tiny import tiny_model
from training.base_model import load_tokenizer
from training.registry import BASE
from training.rendering import render

# What the domain wants: one fixed form of answer, whatever is asked. The form is first half known to the
# reviewers, then whole; the golden answers always want the whole.
HALF = "Drink enough water and sleep well."
WHOLE = "Drink enough water and sleep well. See a doctor when the pain is strong."
COMPLAINTS = [
    "cough",
    "sneeze",
    "fever",
    "headache",
    "backache",
    "rash",
    "itch",
    "cramp",
    "sprain",
    "bruise",
    "blister",
    "sunburn",
    "heartburn",
    "hiccups",
    "nausea",
    "dizziness",
    "fatigue",
    "earache",
    "toothache",
    "stiffness",
    "sore-throat",
    "runny-nose",
    "dry-eyes",
    "cold-hands",
    "swollen-feet",
    "short-sleep",
    "bad-breath",
    "chapped-lips",
    "split-nail",
    "bee-sting",
    "leg-ache",
    "knee-pain",
]
ASKED = COMPLAINTS[:24]
GOLDEN = [f"What helps with {a} and {b}?" for a, b in zip(COMPLAINTS[24:], COMPLAINTS[:8], strict=True)]
GOLDEN += [f"Please tell me what to do about {name} today" for name in COMPLAINTS[24:]]

OBJECTIVE = """
title = "Complaints"
system_prompt = "Say what helps."
base_model = {base!r}
encoder = "all-minilm-l6-v2"
answer_tokens = 32

[page]
consent = "Keep it."
disclaimer = "A test."

[sampling]
temperature = 0
max_new_tokens = 32
repetition_penalty = 1.0

[curation]
knowledge_share = 0
held_out_share = 0
validation_share = 0.1
preference_share = 0.3
token_budget = 20000
min_words = 3

[training]
max_length = 256
lora = {{ rank = 16, alpha = 32 }}
sft = {{ learning_rate = 0.02, epochs = 12 }}
dpo = {{ learning_rate = 1e-4, min_pairs = 4 }}

[suites.held_out]
kind = "questions"
file = "golden.jsonl"
items = 16
metrics = ["token_f1", "rouge_l"]

[suites.corrections]
kind = "corrections"
items = 24
metrics = ["corrections_honoured", "corrections_lean"]

[gate]
primary = "token_f1"

[gate.guards.rouge_l]
margin = 0.1
spread = 0.2

[gate.guards.corrections_kept]
margin = 0.2
spread = 0.3
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "objective"
    folder.mkdir()
    base = tiny_model(tmp_path / "model")
    (folder / "objective.toml").write_text(OBJECTIVE.format(base=str(base)))
    golden = [{"id": f"g{i}", "question": q, "answer": WHOLE, "topic": q} for i, q in enumerate(GOLDEN)]
    (folder / "golden.jsonl").write_text("\n".join(map(json.dumps, golden)))
    return Settings(tmp_path / "home", folder, read_settings().cache)


def chat(conversations: Conversations, question: str):
    """Ask in a new conversation, with consent; the finished turn."""
    conversation = conversations.open("ann")
    *_, last = conversations.ask(conversation, "ann", question, consent=True)
    return last.exchange.turn


def correct(store: Store, turns: list, text: str) -> None:
    """A reviewer corrects every one of `turns` with the same text."""
    for turn in turns:
        now = datetime.now(UTC)
        store.add_signal(Signal(new_id(now), turn.id, "rita", "reviewer", "correction", {"text": text}, now))


def test_twice_around_the_circle(settings: Settings):
    """What reviewers correct is what the chat answers after a round, and again after the next; what was trained on
    shuffled answers is refused."""
    objective = load_objective(settings.objective)
    engine = Engine(Path(objective.base_model))
    with Store.open(settings.store_file) as store:
        conversations = Conversations(store, engine, objective, BASE)
        desk = Operations(settings, objective, store, Live(engine, conversations))

        def ask(operation: str, **arguments):
            return operate(desk, operation, json.loads(json.dumps(arguments)))

        turns = [chat(conversations, f"What helps with {name}?") for name in ASKED]
        assert {turn.version for turn in turns} == {BASE}
        assert WHOLE not in {turn.answer for turn in turns}

        correct(store, turns, HALF)
        first = run_round(settings, objective, ask)
        assert (first["decision"], first["promoted"]) == ("promote", True), first["reasons"]
        assert first["metrics"]["token_f1"]["low"] > 0
        answer = chat(conversations, GOLDEN[0])
        assert answer.version == first["version"]
        assert "water" in answer.answer
        assert "doctor" not in answer.answer

        correct(store, turns, WHOLE)
        second = run_round(settings, objective, ask)
        assert (second["decision"], second["promoted"]) == ("promote", True), second["reasons"]
        assert second["champion"] == first["version"]
        answer = chat(conversations, GOLDEN[0])
        assert answer.version == second["version"]
        assert "See a doctor" in answer.answer

        for number, turn in enumerate(turns):
            correct(store, [turn], " ".join(random.Random(number).sample(WHOLE.split(), 14)))
        third = run_round(settings, objective, ask)
        assert (third["decision"], third["promoted"]) == ("refuse", False), third["reasons"]
        assert third["metrics"]["rouge_l"]["high"] < 0

        assert ask("rollback", who="oz", why="a test")["champion"] == first["version"]
        assert chat(conversations, GOLDEN[0]).version == first["version"]
        assert ask("status")["signals_waiting"] == 0
        assert [entry["round"] for entry in ask("rounds", run=None)["rounds"]] == ["r0001", "r0002", "r0003"]

        walk_back(settings, store, second["version"], {turn.id for turn in turns})
    engine.close()


def walk_back(settings: Settings, store: Store, version: str, turns: set[str]) -> None:
    """From a version to its dataset, its signals and the turns, of which each was asked as it is trained on."""
    run = next(
        f for f in settings.home.glob("runs/*/run.json") if json.loads(f.read_text())["version"] == version
    )
    dataset = json.loads(run.read_text())["dataset_hash"]
    folder = settings.home / "datasets" / dataset
    sources = json.loads((folder / "manifest.json").read_text())["sources"]
    assert {store.signal(source).turn for source in sources["feedback"]} <= turns
    tokenizer = load_tokenizer(Path(load_objective(settings.objective).base_model))
    for file in folder.glob("*/train.parquet"):
        for row in pyarrow.parquet.read_table(file).to_pylist():
            served = {store.turn(store.signal(source).turn).prompt_tokens for source in row["sources"]}
            assert served == {len(render(tokenizer, row["prompt"]))}, file
