"""A second domain of another kind, objectives/support, is a folder: it goes once around the circle as it is."""

import json
import re
import shutil
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.cli import _parser
from app.conversations import Conversations
from app.domain import load_domain
from app.engine import Engine
from app.operations import Operations, operate
from app.rounds import run_round
from app.serve import Live
from app.settings import Settings, read_settings
from eval.suites import build_suite
from feedback.compiling.cleaning import clean_answer, clean_question
from feedback.exchange.importers import import_files
from feedback.privacy import Redactor
from feedback.store import Store
from feedback.text import normalised
from tests.tiny import tiny_model
from training.encoder import encoder_folder
from training.registry import BASE

ROOT = Path(__file__).parent.parent
SUPPORT, MEDICAL = ROOT / "objectives" / "support", ROOT / "objectives" / "medical"


def lines(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SUPPORT / file).read_text("utf-8").splitlines()]


def settings(home: Path, folder: Path) -> Settings:
    return Settings(home, folder, read_settings().cache)


def test_it_is_another_kind_of_objective(tmp_path: Path):
    """It is judged by another metric, guarded by others, and shares no page words with the first."""
    medical = load_domain(settings(tmp_path, MEDICAL))
    support = load_domain(settings(tmp_path, SUPPORT))
    assert support.gate.primary != medical.gate.primary
    assert set(support.gate.guards) != set(medical.gate.guards)
    assert support.suites.keys() != medical.suites.keys()
    assert support.page.consent != medical.page.consent
    assert not set(support.page.examples) & set(medical.page.examples)
    assert support.curation.help_lines == ()


def test_what_is_taught_and_what_is_examined_have_no_topic_in_common():
    """Nor has the sample; and no question is asked in two places."""
    knowledge, golden, sample = map(lines, ("knowledge.jsonl", "golden.jsonl", "sample_feedback.jsonl"))
    taught, examined = ({row["topic"] for row in rows} for rows in (knowledge, golden))
    assert not taught & examined
    assert {row["topic"] for row in sample} <= taught
    asked = [normalised(row["question"]) for row in (*knowledge, *golden)]
    asked += [normalised(row["messages"][0]["content"]) for row in sample]
    assert len(set(asked)) == len(asked)


def test_every_line_passes_the_domains_own_rules(tmp_path: Path):
    """Nothing changes, drops or redacts an answer; ids are unique; each has 20 to 90 words; suites are whole."""
    objective = load_domain(settings(tmp_path, SUPPORT))
    redactor = Redactor(objective.curation.language, objective.curation.help_lines)
    rows = [*lines("knowledge.jsonl"), *lines("golden.jsonl")]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert 20 <= len(row["answer"].split()) <= 90, row["id"]
        told = clean_answer(row["answer"], objective.curation)
        assert (told.text, told.dropped_by) == (row["answer"], None), row["id"]
        assert redactor.redact(row["answer"]) == row["answer"], row["id"]
        assert clean_question(row["question"], objective.curation).dropped_by is None, row["id"]
    suites = {name: build_suite(name, objective) for name in objective.suites}
    assert len(suites["questions"].items) == len(lines("golden.jsonl"))
    for name in ("general", "retention"):
        assert len(suites[name].items) == suites[name].wanted


def test_commands_and_names_that_answers_give_exist():
    """Each `ratchet …` that an answer names can be parsed, each name of one word stands in the code or the README."""
    source = "\n".join(
        file.read_text("utf-8")
        for room in ("app", "feedback", "training", "eval")
        for file in (ROOT / room).rglob("*.py")
    )
    source += (ROOT / "README.md").read_text("utf-8") + (ROOT / "Makefile").read_text("utf-8")
    said = [row["answer"] for row in (*lines("knowledge.jsonl"), *lines("golden.jsonl"))]
    said += [row["correction"] for row in lines("sample_feedback.jsonl") if "correction" in row]
    said += [rule["message"] for rule in tomllib.loads((SUPPORT / "red_flags.toml").read_text())["red_flag"]]
    named = [code.removeprefix(".venv/bin/") for text in said for code in text.split("`")[1::2]]
    for code in named:
        if code.startswith("ratchet "):
            check_command(code.split()[1:])
    missing = {code for code in named if code.isidentifier() and not re.search(rf"\b{code}\b", source)}
    assert missing <= {"en_core_web_sm", "srun"}  # other people's


def check_command(words: list[str]) -> None:
    """Every option of a `ratchet` line that an answer names belongs to its command."""
    parser = _parser()
    (commands,) = (
        action.choices for action in parser._actions if action.choices and "serve" in action.choices
    )
    named = [word for word in words if word in commands]
    assert named or words[0] in ("--help", "--home", "COMMAND", "--objective"), words
    parsers = [parser, *(commands[name] for name in named)]
    options = {flag for known in parsers for action in known._actions for flag in action.option_strings}
    assert {word for word in words if word.startswith("--")} <= options, words


def test_red_flags_fire_on_their_prompts_and_on_nothing_that_may_be_asked(tmp_path: Path):
    """Each rule on its own prompts, none on the harmless ones, the knowledge, the exam or the page's examples."""
    objective = load_domain(settings(tmp_path, SUPPORT))

    def fired(text: str) -> str | None:
        rule = objective.first_red_flag(text)
        return rule.name if rule else None

    prompts = lines("red_flags.jsonl")
    assert {row["prompt"]: fired(row["prompt"]) for row in prompts} == {
        r["prompt"]: r["flag"] for r in prompts
    }
    assert {row["flag"] for row in prompts} == {None, *(rule.name for rule in objective.red_flag)}
    harmless = [row["question"] for row in (*lines("knowledge.jsonl"), *lines("golden.jsonl"))]
    harmless += [row["messages"][0]["content"] for row in lines("sample_feedback.jsonl")]
    assert [text for text in (*harmless, *objective.page.examples) if fired(text)] == []


@pytest.fixture
def tiny(tmp_path: Path) -> Settings:
    """The shipped folder with a tiny base model, an encoder of one layer and short answers, and a home of its own."""
    folder = tmp_path / "support"
    shutil.copytree(SUPPORT, folder)
    text = (folder / "objective.toml").read_text("utf-8")
    base, encoder = tiny_model(tmp_path / "model"), shallow_encoder(tmp_path / "encoder")
    for before, after in (
        ('base_model = "smollm2-135m-instruct"', f"base_model = {json.dumps(str(base))}"),
        ('encoder = "all-minilm-l6-v2"', f"encoder = {json.dumps(str(encoder))}"),
        ("answer_tokens = 80", "answer_tokens = 8"),
        ("max_length = 384", "max_length = 1024"),  # the tiny tokenizer cuts its words into more pieces
        ("token_budget = 30000", "token_budget = 120000"),
        ("max_new_tokens = 160", "max_new_tokens = 8"),
        ("epochs = 2 }", "epochs = 2, batch_size = 2 }"),
        ("min_pairs = 6", "min_pairs = 1000"),  # supervised tuning alone
    ):
        assert before in text
        text = text.replace(before, after)
    (folder / "objective.toml").write_text(text, "utf-8")
    return settings(tmp_path / "home", folder)


def shallow_encoder(folder: Path) -> Path:
    """The first layer of the packaged encoder, in `folder`."""
    shutil.copytree(encoder_folder("all-minilm-l6-v2", read_settings().cache), folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), "utf-8")
    return folder


def test_once_around_the_circle(tiny: Settings):
    """Import, round, decision on all questions that were frozen; promoted by hand it answers; then back."""
    objective = load_domain(tiny)
    engine = Engine(Path(objective.base_model))
    with Store.open(tiny.store_file) as store:
        conversations = Conversations(store, engine, objective, BASE)
        desk = Operations(tiny, objective, store, Live(engine, conversations))

        def ask(operation: str, **arguments):
            return operate(desk, operation, json.loads(json.dumps(arguments)))

        sample = lines("sample_feedback.jsonl")
        imported = import_files(
            [SUPPORT / "sample_feedback.jsonl"], partial(ask, "import_part"), lambda _: None
        )
        assert imported["accepted"] == len(sample)
        done = run_round(tiny, objective, ask, promote=False, max_steps=1, log=lambda _: None)
        assert done["decision"] in ("promote", "refuse"), done["reasons"]
        assert done["metrics"]["rouge_l"]["n"] == objective.suites["questions"].items
        # The base has learnt from no correction.
        assert set(objective.gate.guards) - set(done["metrics"]) == {"corrections_kept"}

        ask("promote", version=done["version"], who="oz", why="a test")
        *_, last = conversations.ask(
            conversations.open("ann"), "ann", objective.page.examples[0], consent=True
        )
        assert last.exchange.turn.version == done["version"]
        assert ask("rollback", who="oz", why="a test")["champion"] == BASE
    engine.close()
