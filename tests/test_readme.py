"""The README keeps its word: its commands run, on the shipped sample and the real small model."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from app.cli import _parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shipped objective at a small budget, and a home of its own."""
    folder = tmp_path_factory.mktemp("objective") / "medical"
    shutil.copytree(ROOT / "objectives" / "medical", folder)
    text = (folder / "objective.toml").read_text("utf-8")
    for before, after in (
        ("token_budget = 90000", "token_budget = 3000"),
        ("answer_tokens = 120", "answer_tokens = 12"),
        ("validation_share = 0.05", "validation_share = 0.02"),
        ('file = "retention.jsonl"\nitems = 60', 'file = "retention.jsonl"\nitems = 30'),
        ('file = "general_text.jsonl"\nitems = 40', 'file = "general_text.jsonl"\nitems = 10'),
    ):
        assert before in text
        text = text.replace(before, after)
    (folder / "objective.toml").write_text(text, "utf-8")
    home = tmp_path_factory.mktemp("home")
    return os.environ | {"RATCHET_OBJECTIVE": str(folder), "RATCHET_HOME": str(home)}


def run(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    words = shlex.split(command)
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1400)


@pytest.mark.timeout(1500)  # a whole round of the real model
def test_the_five_commands_go_once_around(small: dict[str, str]):
    """What the README says to type works as written; the sample alone is honestly called too little."""
    serve, *rest = COMMANDS
    assert serve == "make serve"  # started for real in test_browser_circle.py
    assert len(rest) == 4
    outputs = {command: run(command, small) for command in rest}
    for command, done in outputs.items():
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert "Traceback" not in done.stderr
    assert "not_enough_data" in outputs[".venv/bin/ratchet round"].stdout
    status = json.loads(run(".venv/bin/ratchet status --json", small).stdout)
    assert status["champion"] == "base"
    assert status["signals_waiting"] == 0
    round_ = json.loads(run(".venv/bin/ratchet rounds r0001 --json", small).stdout)
    assert round_["metrics"]["similarity"]["n"] >= 60


def test_every_command_is_in_the_readme_and_has_help():
    """A command that exists is named in the README's table, and the other way round."""
    subparsers = next(
        a for a in _parser()._actions if a.dest == "command" or (a.choices and "serve" in a.choices)
    )
    table = README.split("## Commands")[1].split("## The house")[0]
    named = set(
        re.findall(r"`([a-z]+)(?: [^`]*)?`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    )
    assert named == set(subparsers.choices)
    for name, parser in subparsers.choices.items():
        assert parser.description, name


def test_every_file_of_the_house_has_its_line():
    """The file map names each module, once."""
    mapped = re.findall(r"^\| `((?:app|feedback|training|eval)/[\w/]+\.py)` \|", README, re.MULTILINE)
    modules = [
        str(f.relative_to(ROOT))
        for room in ("app", "feedback", "training", "eval")
        for f in sorted((ROOT / room).rglob("*.py"))
        if f.name != "__init__.py" and f.parent.name != "metrics"
    ]
    assert sorted(mapped) == sorted(modules)
