"""What an objective may say, and what is refused with the file and the key in one line."""

import math

import pytest

from eval.objective import Gate, Guard, RedFlag, load_objective
from feedback.errors import UsageError

MINIMAL = """
title = "Plants"
system_prompt = "You know plants."
base_model = "smollm2-135m-instruct"
encoder = "all-minilm-l6-v2"
{top}

[page]
consent = "May we?"
disclaimer = "A sample."
{page}

[suites.asked]
kind = "questions"
file = "golden.jsonl"
items = 240
metrics = ["similarity", "token_f1"]

[suites.corrected]
kind = "corrections"
items = 60
metrics = ["corrections_honoured", "corrections_lean"]
{suites}

[gate]
primary = "similarity"
{gate}
"""


def write(tmp_path, top="", page="", suites="", gate=""):
    (tmp_path / "golden.jsonl").write_text("")
    (tmp_path / "objective.toml").write_text(
        MINIMAL.format(top=top, page=page, suites=suites, gate=gate), "utf-8"
    )
    return tmp_path


def refusal(folder):
    with pytest.raises(UsageError) as caught:
        load_objective(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_objective_loads_with_its_defaults(tmp_path):
    """What is not said has a stated default; nothing can be changed afterwards."""
    objective = load_objective(write(tmp_path))
    assert objective.folder == tmp_path
    assert objective.suites["asked"].items == 240
    assert objective.gate.confidence == 0.95
    with pytest.raises(ValueError, match="frozen"):
        objective.title = "Animals"


def test_an_unknown_key_is_refused_with_file_and_key(tmp_path):
    """At the top and inside a table alike."""
    assert refusal(write(tmp_path, top="colour = 3")) == f"{tmp_path}/objective.toml: colour: unknown key"
    assert refusal(write(tmp_path, page="font = 3")) == f"{tmp_path}/objective.toml: page.font: unknown key"
    assert "objective.toml: folder: unknown key" in refusal(write(tmp_path, top='folder = "/"'))
    assert "gate.guards.token_f1.slack: unknown key" in refusal(
        write(tmp_path, gate="guards.token_f1 = {margin = 0.1, spread = 0.1, slack = 1}")
    )


def test_a_missing_folder_and_bad_toml_are_refused(tmp_path):
    """One line, with the file."""
    assert "--objective" in refusal(tmp_path / "nowhere")
    assert "objective.toml: " in refusal(write(tmp_path, top="= 3"))


def test_a_missing_key_is_named(tmp_path):
    """`gate.primary` has no default."""
    folder = write(tmp_path)
    text = (folder / "objective.toml").read_text().replace('primary = "similarity"', "")
    (folder / "objective.toml").write_text(text)
    assert refusal(folder) == f"{folder}/objective.toml: gate.primary: is missing"


def test_files_that_are_named_must_exist(tmp_path):
    """Knowledge and suites alike."""
    assert "'facts.jsonl'" in refusal(write(tmp_path, top='knowledge = ["facts.jsonl"]'))
    folder = write(tmp_path)
    (folder / "golden.jsonl").unlink()
    assert "'golden.jsonl'" in refusal(folder)


def test_metrics_must_exist_and_fit_and_be_taken_once(tmp_path):
    """A metric belongs to one suite, of a kind that it can be taken on."""
    suite = '[suites.more]\nkind = "text"\nitems = 3\nmetrics = ["{}"]'
    assert "'bleu'" in refusal(write(tmp_path, suites=suite.format("bleu")))
    assert "general_text" in refusal(write(tmp_path, suites=suite.format("retention")))
    again = suite.replace("text", "questions").format("token_f1")
    assert "'token_f1' again" in refusal(write(tmp_path, suites=again))


def test_suite_names_are_fit_for_file_names(tmp_path):
    """A name with a slash is refused."""
    suite = '[suites."../up"]\nkind = "text"\nitems = 3\nmetrics = ["general_text"]'
    assert "suites" in refusal(write(tmp_path, suites=suite))


def test_the_gate_names_only_metrics_that_are_taken(tmp_path):
    """Kept corrections come with honoured ones, as a guard only."""
    assert "'retention'" in refusal(write(tmp_path, gate="guards.retention = {margin = 1, spread = 0.1}"))
    guarded = write(tmp_path, gate="guards.corrections_kept = {margin = 0.2, spread = 0.3}")
    assert load_objective(guarded).gate.guards["corrections_kept"].margin == 0.2
    (tmp_path / "objective.toml").write_text(
        (tmp_path / "objective.toml").read_text().replace('"similarity"\n', '"corrections_kept"\n')
    )
    assert "'corrections_kept'" in refusal(tmp_path)


def test_a_metric_that_agrees_too_little_with_people_decides_nothing(tmp_path):
    """It can be taken and reported, but not guard."""
    suite = '[suites.more]\nkind = "questions"\nitems = 240\nmetrics = ["claims_covered"]'
    assert load_objective(write(tmp_path, suites=suite))
    message = refusal(
        write(tmp_path, suites=suite, gate="guards.claims_covered = {margin = 0.1, spread = 0.1}")
    )
    assert "'claims_covered', which may decide nothing" in message


def test_a_margin_that_the_items_cannot_resolve_is_refused(tmp_path):
    """At spread 0.17 and 240 items the interval reaches 0.0215: 0.022 can be told, 0.021 cannot."""
    guard = "guards.token_f1 = {{margin = {}, spread = 0.17}}"
    assert load_objective(write(tmp_path, gate=guard.format(0.022)))
    message = refusal(write(tmp_path, gate=guard.format(0.021)))
    assert "gate.guards.token_f1: 240 items cannot resolve a margin of 0.021" in message
    assert "give it 252 items" in message


def test_the_items_needed_are_the_fewest_that_do():
    """One item less does not resolve the margin, at any confidence."""
    for confidence in (0.9, 0.95, 0.99):
        gate = Gate(primary="similarity", confidence=confidence)
        guard = Guard(margin=0.02, spread=0.17)
        needed = gate.items_needed(guard)
        assert gate.reach(guard, needed) < guard.margin <= gate.reach(guard, needed - 1)
    assert math.isclose(Gate(primary="x").reach(Guard(margin=1, spread=1), 1), 1.959964, rel_tol=1e-6)


def test_red_flags_stand_in_a_file_of_their_own(tmp_path):
    """The first rule that is tripped is the one shown; an error names that file."""
    folder = write(tmp_path)
    flags = folder / "red_flags.toml"
    flags.write_text(
        '[[red_flag]]\nname = "poison"\npatterns = ["\\\\bate\\\\b.*berries"]\nmessage = "Call."\n'
        '[[red_flag]]\nname = "any"\npatterns = ["berries"]\nunless = ["recipe"]\nmessage = "Careful."\n'
    )
    objective = load_objective(folder)
    assert objective.first_red_flag("He ate red berries").name == "poison"
    assert objective.first_red_flag("What are berries?").name == "any"
    assert objective.first_red_flag("A recipe with berries") is None
    flags.write_text('[[red_flag]]\nname = "x"\npatterns = ["("]\nmessage = "m"\n')
    assert "red_flags.toml: red_flag.0: the pattern '(' is no regular expression" in refusal(folder)
    flags.write_text('title = "Mine"\n')
    assert refusal(folder) == f"{flags}: title: unknown key"


def test_a_red_flag_sees_through_the_form_of_the_text():
    """Case, typographic apostrophes, full-width letters, line breaks and invisible characters hide nothing."""
    flag = RedFlag(name="breath", patterns=("can't breathe",), message="Call.")
    for text in (
        "I CAN\u2019T BREATHE",
        "can't\n  breathe",
        "\uff43an't breathe",
        "can't bre\u00adathe\u200b",
    ):
        assert flag.matches(text)
    assert not flag.matches("I can breathe")
