"""Suites are drawn the same way every time, from the objective's own items first."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from eval.objective import Objective, load_objective
from eval.suites import Item, Suite, build_suite, draw, golden_items
from feedback.errors import RatchetError, UsageError
from feedback.records import digest

SYSTEM = {"role": "system", "content": "You know plants."}
ROWS = {
    "questions": {"question": "What is moss?", "answer": "A plant."},
    "multiple_choice": {"question": "Moss is", "choices": ["a plant", "a fish"], "answer_index": 0},
    "taught": {"question": "Which is a plant?", "choices": ["moss", "a carp"], "answer_index": 0},
    "text": {"text": "It rained."},
    "corrections": {"question": "What is moss?", "reference": "A plant.", "rejected": "A fish."},
    "prompts": {"prompt": "I ate moss and cannot breathe", "flag": "poison"},
    "disputes": {
        "question": "Is it a plant?",
        "answer": "Yes.",
        "wrong": "A fish.",
        "pushback": "No, a fish!",
    },
    "pairs": {"question": "What is moss?", "chosen": "A plant.", "rejected": "A fish.", "sources": ["s1"]},
}
METRIC = {
    "questions": "similarity",
    "multiple_choice": "retention",
    "taught": "taught",
    "text": "general_text",
    "corrections": "corrections_honoured",
    "prompts": "escalation",
    "disputes": "insistence",
    "pairs": "preference",
}


def objective(folder, kind="questions", lines=None, items=10):
    """An objective with one suite called `asked`; `lines` become its file."""
    suite = {"kind": kind, "items": items, "metrics": [METRIC[kind]]}
    if lines is not None:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "items.jsonl").write_text(text, "utf-8")
        suite["file"] = "items.jsonl"
    return Objective.model_validate(
        {
            "folder": folder,
            "title": "Plants",
            "system_prompt": SYSTEM["content"],
            "base_model": "tiny",
            "encoder": "tiny",
            "page": {"consent": "May we?", "disclaimer": "A sample."},
            "suites": {"asked": suite, "won": {"kind": "questions", "items": 1, "metrics": ["rouge_l"]}},
            "gate": {"primary": "rouge_l"},
        }
    )


def item(key, cluster, known=False):
    return Item(id=key, suite="asked", cluster=cluster, text=key, known_to_champion=known)


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_reads_and_comes_back_from_json(tmp_path, kind):
    """A suite written to JSON and read again is the same suite."""
    suite = build_suite("asked", objective(tmp_path, kind, [ROWS[kind], "", {**ROWS[kind], "id": "b"}]))
    assert len(suite.items) == 2
    assert Suite.from_json(json.loads(json.dumps(suite.to_json()))) == suite


def test_questions_get_the_system_prompt_and_the_reference(tmp_path):
    """As serving asks them; a prompt that has a system message keeps it."""
    user = {"role": "user", "content": "What is moss?"}
    other = {"role": "system", "content": "Other."}
    held_out = [
        {"id": "a", "question": "What is moss?", "answer": "A plant.", "topic": "moss"},
        {"id": "b", "messages": [other, user], "answer": "A plant.", "cluster": "c1"},
    ]
    a, b = build_suite("asked", objective(tmp_path), held_out).items
    assert (a.messages, a.reference, a.cluster) == ((SYSTEM, user), "A plant.", "moss")
    assert (b.messages, b.cluster, b.question) == ((other, user), "c1", "What is moss?")


def test_what_an_item_must_say_and_shows_comes_along(tmp_path):
    """Claims of a question, the flag of a prompt, a dispute as the turns that led to it, what is behind a pair."""
    row = {**ROWS["questions"], "claims": ["Moss is a plant."]}
    (question,) = build_suite("asked", objective(tmp_path, lines=[row])).items
    assert question.claims == ("Moss is a plant.",)
    (prompt,) = build_suite("asked", objective(tmp_path, "prompts", [ROWS["prompts"]])).items
    assert (prompt.question, prompt.flag) == ("I ate moss and cannot breathe", "poison")
    (dispute,) = build_suite("asked", objective(tmp_path, "disputes", [ROWS["disputes"]])).items
    assert [m["role"] for m in dispute.messages] == ["system", "user", "assistant", "user"]
    assert (dispute.question, dispute.reference, dispute.rejected) == ("No, a fish!", "Yes.", "A fish.")
    (pair,) = build_suite("asked", objective(tmp_path, "pairs", [ROWS["pairs"]])).items
    assert (pair.reference, pair.rejected, pair.sources) == ("A plant.", "A fish.", ("s1",))


def test_a_suite_frozen_before_items_had_claims_reads_as_it_was():
    """A field that came later counts in the hash only where it says something."""
    one = Suite("asked", "questions", ("similarity",), 1, (item("a", "b"),))
    document = one.to_json()
    for row in document["items"]:
        del row["claims"], row["flag"], row["sources"], row["trained_before"]
    document["hash"] = digest([one.name, one.kind, one.metrics, document["items"]])
    assert Suite.from_json(document) == one
    more = Suite(
        "asked", "questions", ("similarity",), 1, (dataclasses.replace(one.items[0], claims=("c",)),)
    )
    assert more.hash != one.hash


def test_what_was_asked_before_is_drawn_last(tmp_path):
    """Fresh rows take the places of those that an earlier suite asked, which fill what is left."""
    rows = [{"id": f"h{n}", "question": f"What is {n}?", "answer": "A number."} for n in range(6)]
    first = build_suite("asked", objective(tmp_path, items=4), rows[:4])
    again = build_suite("asked", objective(tmp_path, items=4), rows, {item.id for item in first.items})
    assert {"h4", "h5"} < {item.id for item in again.items}
    assert len(again.items) == 4


def test_how_often_a_correction_was_trained_on_is_not_asked(tmp_path):
    """It tells slices apart and leaves the hash, by which a champion's answers are kept, as it was."""
    rows = [{**ROWS["corrections"], "id": "c", "trained_before": times} for times in (0, 3)]
    one, other = (build_suite("asked", objective(tmp_path, "corrections"), [row]) for row in rows)
    assert (one.items[0].trained_before, other.items[0].trained_before) == (0, 3)
    assert one.hash == other.hash


def test_golden_items_come_first_and_clusters_are_spread():
    """All golden items, then one of each cluster before a second of any."""
    golden = [item("g1", "x"), item("g2", "x")]
    others = [item(f"{cluster}{number}", cluster) for cluster in "abc" for number in range(5)]
    drawn = draw((golden, others), 6)
    assert {i.id for i in drawn[:2]} == {"g1", "g2"}
    assert sorted(i.cluster for i in drawn[2:5]) == ["a", "b", "c"]
    assert len(drawn) == 6


def test_the_draw_does_not_depend_on_the_order_of_the_input():
    """Shuffled input, the same items; more items wanted, a superset."""
    others = [item(f"i{number}", f"c{number % 7}") for number in range(50)]
    shuffled = random.Random(1).sample(others, 50)
    assert draw((others,), 20) == draw((shuffled,), 20)
    assert draw((others,), 30)[:20] == draw((others,), 20)


def test_known_and_new_corrections_take_turns():
    """A few corrections that the champion knew are not drowned by many new ones."""
    rows = [item(f"k{n}", f"k{n}", True) for n in range(3)] + [item(f"n{n}", f"n{n}") for n in range(100)]
    assert sum(i.known_to_champion for i in draw((rows,), 10)) == 3


def test_the_hash_follows_the_content(tmp_path):
    """Equal input gives an equal hash; a changed answer or metric another."""
    one = build_suite("asked", objective(tmp_path, lines=[ROWS["questions"]]))
    same = build_suite("asked", objective(tmp_path, lines=[ROWS["questions"]]))
    other = build_suite("asked", objective(tmp_path, lines=[{**ROWS["questions"], "answer": "A herb."}]))
    assert one.hash == same.hash != other.hash


def test_a_suite_that_was_changed_is_refused(tmp_path):
    """What was frozen is judged, nothing else."""
    document = build_suite("asked", objective(tmp_path, lines=[ROWS["questions"]])).to_json()
    document["items"][0]["reference"] = "A herb."
    with pytest.raises(RatchetError, match="was changed after it was frozen"):
        Suite.from_json(document)


@pytest.mark.parametrize(
    ("kind", "line", "complaint"),
    [
        ("questions", "{", r"items.jsonl, line 2 is no JSON"),
        ("questions", "[1]", r"items.jsonl, line 2: "),
        ("questions", {"question": "What?"}, r"line 2: answer: is missing"),
        ("questions", {"question": "What?", "answer": " "}, r"line 2: answer: the text is empty"),
        ("questions", {"answer": "Yes."}, r"line 2: needs either question or messages"),
        ("questions", {"messages": [], "answer": "Yes."}, r"line 2: messages must end with"),
        ("questions", {"messages": [{"role": "bot"}], "answer": "Yes."}, r"line 2: a message needs a role"),
        (
            "questions",
            '{"question": "\\ud800", "answer": "Yes."}',
            r"line 2: question: the text holds half of a surrogate",
        ),
        ("multiple_choice", {**ROWS["multiple_choice"], "answer_index": 2}, r"from 0 to 1"),
        ("multiple_choice", {**ROWS["multiple_choice"], "choices": ["a", "a"]}, r"two different texts"),
        ("corrections", {"question": "What?", "reference": "A."}, r"rejected: is missing"),
        ("text", {}, r"text: is missing"),
        ("pairs", {**ROWS["pairs"], "rejected": "A plant."}, r"chosen and rejected are the same text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, kind, line, complaint):
    """File, line, field and what is wrong with it."""
    with pytest.raises(UsageError, match=complaint):
        build_suite("asked", objective(tmp_path, kind, [ROWS[kind], line]))


def test_an_id_may_come_once(tmp_path):
    """Scores are kept by item id, so two items of one id would hide each other."""
    row = {**ROWS["questions"], "id": "a"}
    with pytest.raises(UsageError, match="item 'a' twice"):
        build_suite("asked", objective(tmp_path, lines=[row]), [row])


def test_golden_items_are_all_of_the_file(tmp_path):
    """The compiler holds them out of training, drawn or not."""
    rows = [{**ROWS["questions"], "id": str(number)} for number in range(5)]
    plan = objective(tmp_path, lines=rows, items=2)
    assert [i.id for i in golden_items("asked", plan)] == ["0", "1", "2", "3", "4"]
    suite = build_suite("asked", plan)
    assert (len(suite.items), suite.wanted) == (2, 2)


def test_the_medical_objective_measures_the_model_without_its_rules():
    """Every golden item has claims; emergencies, harmful requests and disputes are there in full."""
    medical = load_objective(Path(__file__).parent.parent / "objectives" / "medical")
    suites = {name: build_suite(name, medical) for name in medical.suites}
    assert all(2 <= len(question.claims) <= 4 for question in suites["held_out"].items)
    for name in ("emergencies", "harmful", "disputes"):
        assert len(suites[name].items) == suites[name].wanted
    assert sum(prompt.flag is not None for prompt in suites["emergencies"].items) == 24
