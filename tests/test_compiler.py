"""What becomes of every signal and every knowledge row."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from feedback.compiling.compiler import Events, compile_events
from feedback.compiling.curation import Curation
from feedback.likeness.sides import TELLING_WORDS
from feedback.records import Knowledge, Review, Signal, Turn
from feedback.text import words
from tests.said import (
    ALL_TRAIN,
    ANSWER,
    AT,
    BETTER,
    EXPERT,
    MANY,
    OTHER,
    QUESTION,
    SYSTEM,
    adds_up,
    choice,
    compiled,
    correction,
    dropped,
    knowledge,
    rating,
    recorded,
    supervised,
    turn,
)

# what is kept


def test_what_was_said_of_a_deleted_answer_is_counted():
    """A person may delete a chat while it is compiled: what others said of it is named, and trains nothing."""
    result = compiled(rating("s1", 1, turn="gone"))
    assert dropped(result) == {"answer_deleted": 1}
    assert adds_up(result)


def test_a_like_is_a_supervised_row_and_an_unpaired_one():
    """A liked answer is something to learn to give, with the serving prompt before it."""
    result = compiled(turn(), rating("s1", 1))
    assert result.document() == {
        "signals": {"in": 1, "dropped": {}, "held_out": 0, "kept": 1},
        "knowledge": {"in": 0, "dropped": {}, "held_out": 0, "kept": 0},
        "rows": {"sft": 1, "preference": 0, "unpaired": 1},
        "mended": {},
        "people_with_unusual_votes": 0,
        "disagreement": {"judged_twice": 0, "share": None, "flip_rate": None},
    }
    (row,) = [row for row in result.rows if row.kind == "sft"]
    assert row.prompt == ({"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION})
    assert (row.chosen, row.rule, row.origin) == (ANSWER, "liked", "feedback")
    assert (row.sources, row.people) == (("s1",), ("ann",))


def test_a_dislike_is_an_unpaired_row_only():
    """A disliked answer is never something to learn to give."""
    result = compiled(turn(), rating("s1", -1))
    assert [(row.kind, row.label) for row in result.rows] == [("unpaired", False)]


def test_a_reviewers_correction_is_learnt_and_preferred():
    """A correction gives a supervised row and a pair whose rejected side is the wrong answer."""
    result = compiled(turn(), correction("s1", BETTER))
    assert supervised(result) == [BETTER]
    (pair,) = [row for row in result.rows if row.kind == "preference"]
    assert (pair.chosen, pair.rejected, pair.rejected_version) == (BETTER, ANSWER, "v0001")
    assert pair.people == ()


def test_a_correction_of_an_empty_answer_has_no_pair():
    """Nothing was said, so nothing can be rejected."""
    result = compiled(turn(answer=""), correction("s1", BETTER))
    assert [row.kind for row in result.rows] == ["sft"]


def test_a_choice_prefers_the_chosen_answer_to_every_other():
    """One vote between three answers makes two pairs."""
    result = compiled(turn(), choice("s1", [BETTER, OTHER], 1))
    assert {(row.chosen, row.rejected) for row in result.rows} == {(BETTER, ANSWER), (BETTER, OTHER)}
    assert {row.rule for row in result.rows} == {"choice"}


def test_an_approved_correction_counts_as_the_reviewer_edited_it():
    """What the reviewer approved is trained on, not what the user wrote."""
    said = correction("s1", "Asthma is a thing of the airways.", role="user")
    result = compiled(turn(), said, Review("r1", "s1", "dr", "approve", BETTER, AT))
    assert supervised(result) == [BETTER]


def test_an_approved_correction_without_an_edit_counts_as_it_was_said():
    """Approving without a text approves the user's words."""
    result = compiled(
        turn(),
        correction("s1", BETTER, role="user"),
        Review("r1", "s1", "dr", "approve", None, AT),
    )
    assert supervised(result) == [BETTER]


def test_equal_rows_unite_their_sources():
    """Two people who write the same correction make one row that leads to both."""
    result = compiled(turn(), correction("s1", BETTER, "dr a"), correction("s2", BETTER, "dr b"))
    assert [(row.kind, row.sources) for row in result.rows] == [
        ("preference", ("s1", "s2")),
        ("sft", ("s1", "s2")),
    ]


def test_a_signal_is_a_source_once():
    """Two alternatives that are the same text make one pair with one source."""
    result = compiled(turn(), choice("s1", [BETTER, OTHER, OTHER], 1))
    assert sorted(row.sources for row in result.rows) == [("s1",), ("s1",)]


def test_a_row_that_a_reviewer_stands_behind_is_nobodys_share():
    """A user who chooses what a reviewer wrote does not make the reviewer's row the user's."""
    result = compiled(turn(), correction("s1", BETTER), choice("s2", [BETTER], 1))
    assert {row.people for row in result.rows} == {()}


# what is dropped, rule by rule


def test_a_comment_is_read_by_people_only():
    """A comment makes no row."""
    result = compiled(turn(), Signal("s1", "t1", "ann", "user", "comment", {"text": "hm"}, AT))
    assert dropped(result) == {"comment": 1}
    assert result.rows == ()


def test_a_changed_mind_supersedes():
    """Only the latest thumb of a person counts."""
    result = compiled(turn(), rating("s1", -1), rating("s2", 1))
    assert dropped(result) == {"superseded": 1}
    assert supervised(result) == [ANSWER]


def test_another_person_does_not_supersede():
    """Two people's thumbs stand side by side."""
    assert dropped(compiled(turn(), rating("s1", 1, "ann"), rating("s2", 1, "bob"))) == {}


def test_a_withdrawn_rating_counts_for_nothing():
    """A thumb taken back leaves no row, and the thumb before it is superseded."""
    result = compiled(turn(), rating("s1", 1), rating("s2", 0))
    assert dropped(result) == {"superseded": 1, "withdrawn": 1}
    assert result.rows == ()


def test_a_draw_of_thumbs_is_disagreement():
    """One up, one down: neither is learnt from."""
    result = compiled(turn(), rating("s1", 1, "ann"), rating("s2", -1, "bob"))
    assert dropped(result) == {"disagreement": 2}
    assert result.rows == ()


def test_a_minority_is_disagreement():
    """Two up, one down: the answer counts as liked, the one as disagreement."""
    result = compiled(turn(), rating("s1", 1, "ann"), rating("s2", -1, "bob"), rating("s3", 1, "cem"))
    assert dropped(result) == {"disagreement": 1}
    assert supervised(result) == [ANSWER]


def test_a_reviewer_outvotes_any_number_of_users():
    """Users' likes of an answer that a reviewer dislikes are disagreement."""
    likes = [rating(f"s{i}", 1, f"user {i}") for i in range(5)]
    result = compiled(turn(), *likes, rating("s9", -1, "dr", role="reviewer"))
    assert dropped(result) == {"disagreement": 5}
    assert [row.label for row in result.rows] == [False]


def test_a_users_correction_waits_for_a_reviewer():
    """No user's text is trained on unseen."""
    result = compiled(turn(), correction("s1", BETTER, role="user"))
    assert dropped(result) == {"awaiting_review": 1}
    assert result.rows == ()


def test_a_rejected_correction_is_dropped():
    """What a reviewer turned down is not trained on."""
    said = correction("s1", BETTER, role="user")
    result = compiled(turn(), said, Review("r1", "s1", "dr", "reject", None, AT))
    assert dropped(result) == {"rejected_by_reviewer": 1}


def test_the_last_review_stands():
    """A reviewer may change their mind too."""
    said = correction("s1", BETTER, role="user")
    reviews = (
        Review("r1", "s1", "dr", "approve", None, AT),
        Review("r2", "s1", "dr", "reject", None, AT),
    )
    assert dropped(compiled(turn(), said, *reviews)) == {"rejected_by_reviewer": 1}


def test_a_correction_that_is_taken_back_trains_nothing():
    """An empty text takes a correction back, a reviewer's too; a withdrawn verdict lets it wait again."""
    taken_back = (correction("s1", BETTER, "dr"), correction("s2", "", "dr"))
    assert dropped(compiled(turn(), *taken_back)) == {"superseded": 1, "withdrawn": 1}
    at = AT
    verdicts = (Review("r1", "s1", "dr", "approve", None, at), Review("r2", "s1", "dr", "withdraw", None, at))
    assert dropped(compiled(turn(), correction("s1", BETTER, role="user"), *verdicts)) == {
        "awaiting_review": 1
    }


def test_a_new_correction_is_not_covered_by_an_old_approval():
    """What a user writes after the review waits again."""
    first, second = correction("s1", BETTER, role="user"), correction("s2", OTHER, role="user")
    result = compiled(turn(), first, second, Review("r1", "s1", "dr", "approve", None, AT))
    assert dropped(result) == {"awaiting_review": 1, "superseded": 1}


def test_a_correction_that_changes_form_only_is_unchanged():
    """Other capitals and punctuation are no correction."""
    result = compiled(turn(), correction("s1", ANSWER.upper() + "!"))
    assert dropped(result) == {"unchanged_correction": 1}


def test_a_liked_answer_that_was_corrected_is_not_learnt():
    """A reviewer's correction wins over a like of the same answer."""
    result = compiled(turn(), rating("s1", 1), correction("s2", BETTER, "dr"))
    assert dropped(result) == {"corrected": 1}
    assert supervised(result) == [BETTER]


def test_a_correction_that_is_unfit_itself_still_refutes():
    """The wrong answer is not learnt because the better one is too long to learn."""
    result = compiled(turn(), rating("s1", 1), correction("s2", "better " * 40, "dr"))
    assert dropped(result) == {"corrected": 1, "too_long": 1}
    assert result.rows == ()


def test_a_refuted_answer_is_not_learnt_where_it_was_shown_again():
    """A wrong answer corrected in one turn and liked or chosen in another stays wrong."""
    events = (
        turn("t1"),
        turn("t2"),
        turn("t3"),
        correction("s1", BETTER, "dr"),
        rating("s2", 1, "bob", turn="t2"),
        choice("s3", [OTHER], 0, "cem", turn="t3"),
    )
    result = compiled(*events)
    assert dropped(result) == {"corrected": 2}
    assert ANSWER not in [row.chosen for row in result.rows]


def test_a_users_correction_that_waits_refutes_nothing():
    """Only what a reviewer stands behind takes a like away."""
    result = compiled(turn(), rating("s1", 1), correction("s2", BETTER, "bob", role="user"))
    assert dropped(result) == {"awaiting_review": 1}
    assert supervised(result) == [ANSWER]


def test_a_tie_teaches_nothing():
    """Neither answer is better."""
    assert dropped(compiled(turn(), choice("s1", [BETTER], "tie"))) == {"tie": 1}


def test_a_choice_between_equal_answers_teaches_nothing():
    """Answers that differ in form only cannot be preferred to each other."""
    assert dropped(compiled(turn(), choice("s1", [ANSWER.lower()], 0))) == {"identical_answers": 1}


def test_a_draw_of_choices_is_disagreement():
    """One vote each: no pair."""
    result = compiled(turn(), choice("s1", [BETTER], 1, "ann"), choice("s2", [BETTER], 0, "bob"))
    assert dropped(result) == {"disagreement": 2}
    assert result.rows == ()


def test_a_minority_of_choices_is_disagreement():
    """Two against one make one pair."""
    votes = [choice(f"s{i}", [BETTER], vote, f"user {i}") for i, vote in enumerate((1, 0, 1))]
    result = compiled(turn(), *votes)
    assert dropped(result) == {"disagreement": 1}
    assert [(row.chosen, row.sources) for row in result.rows] == [(BETTER, ("s0", "s2"))]


def test_choices_between_other_answers_stand_beside_each_other():
    """A person may compare the answer with several alternatives in turn."""
    result = compiled(turn(), choice("s1", [BETTER], 1), choice("s2", [OTHER], 1), choice("s3", [BETTER], 0))
    assert dropped(result) == {"superseded": 1}
    assert {(row.chosen, row.rejected) for row in result.rows} == {(ANSWER, BETTER), (OTHER, ANSWER)}


def test_one_persons_likes_are_capped():
    """Past the cap a person's likes teach nothing; another person's still do."""
    curation = ALL_TRAIN.model_copy(update={"max_rows_per_person": 2})
    turns = [turn(f"t{i}", question) for i, question in enumerate(MANY)]
    likes = [rating(f"s{i}", 1, turn=f"t{i}") for i in range(3)] + [rating("s9", 1, "bob", "t3")]
    result = compiled(*turns, *likes, curation=curation)
    assert dropped(result) == {"person_cap": 1}
    assert len(supervised(result)) == 3


def test_the_likes_of_one_cluster_are_capped():
    """Many people who like answers to one question do not make it the only one learnt."""
    curation = ALL_TRAIN.model_copy(update={"max_rows_per_cluster": 2})
    turns = [turn(f"t{i}", answer=f"{ANSWER} Part {i}.") for i in range(3)]
    likes = [rating(f"s{i}", 1, f"user {i}", f"t{i}") for i in range(3)]
    assert dropped(compiled(*turns, *likes, curation=curation)) == {"cluster_cap": 1}


def test_reviewers_are_not_capped():
    """The caps are there for people whom nobody knows."""
    curation = ALL_TRAIN.model_copy(update={"max_rows_per_person": 1, "max_rows_per_cluster": 1})
    turns = [turn(f"t{i}", answer=f"{ANSWER} Part {i}.") for i in range(3)]
    likes = [rating(f"s{i}", 1, "dr", f"t{i}", "reviewer") for i in range(3)]
    assert dropped(compiled(*turns, *likes, curation=curation)) == {}


def test_an_answer_by_a_rule_is_never_learnt():
    """A red flag's fixed text is not the model's to learn."""
    result = compiled(turn(red_flag="emergency", version="rules"), rating("s1", 1), correction("s2", BETTER))
    assert dropped(result) == {"red_flag": 2}
    assert result.rows == ()


@pytest.mark.parametrize("finish", ["cancelled", "error"])
def test_an_unfinished_answer_is_not_judged_by_a_thumb(finish):
    """Half an answer is neither liked nor disliked."""
    assert dropped(compiled(turn(finish=finish), rating("s1", 1))) == {"unfinished_answer": 1}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Drink water.", "too_short"),
        ("water " * 31, "too_long"),
        ("Drink enough water.<|im_end|>", "control_token"),
        ("See the links below for more on asthma.", "boilerplate"),
    ],
)
def test_an_unfit_text_is_learnt_from_nobody(text, rule):
    """A rule on answers holds for likes, corrections, choices and knowledge alike."""
    liked = compiled(turn(answer=text), rating("s1", 1))
    corrected = compiled(turn(), correction("s1", text))
    chosen = compiled(turn(), choice("s1", [text], 1))
    told = compiled(knowledge("k1", answer=text))
    assert dropped(liked) == dropped(corrected) == dropped(chosen) == {rule: 1}
    assert told.document()["knowledge"]["dropped"] == {rule: 1}
    assert liked.rows == corrected.rows == chosen.rows == told.rows == ()


def test_near_duplicate_knowledge_is_learnt_once():
    """The same question and answer in another form add nothing."""
    result = compiled(knowledge("k1"), knowledge("k2", QUESTION.upper(), BETTER.lower()))
    assert result.document()["knowledge"]["dropped"] == {"near_duplicate": 1}
    assert [row.sources for row in result.rows] == [("k1",)]


# the wall


def test_held_out_topics_are_for_measuring():
    """What was said about a held-out topic becomes an item, never a row."""
    result = compiled(
        turn(topic="Asthma"),
        correction("s1", BETTER),
        rating("s2", -1),
        knowledge("k1", "How is asthma treated in children?", OTHER, "asthma"),
        recorded=recorded("held_out", "asthma"),
    )
    assert result.rows == ()
    assert (result.signals.held_out, result.knowledge.held_out) == (2, 1)
    assert [(item.id, item.answer) for item in result.held_out] == [("k1", OTHER), ("t1", BETTER)]


def test_a_conversation_that_touches_both_sides_is_kept_out():
    """A later question's prompt would carry the held-out one."""
    inside = turn("t1", topic="Asthma", conversation="c")
    outside = turn("t2", MANY[0], topic="Headache", conversation="c")
    sides = recorded("held_out", "asthma") | recorded("train", "headache")
    result = compiled(inside, outside, rating("s1", 1, turn="t2"), recorded=sides)
    assert dropped(result) == {"conversation_touches_held_out": 1}


def test_a_question_like_a_held_out_one_is_set_aside():
    """Another topic's name does not carry a held-out question over the wall."""
    sides = recorded("held_out", "asthma") | recorded("train", "lungs")
    held_out = knowledge("k1", topic="Asthma")
    result = compiled(held_out, knowledge("k2", answer=OTHER, topic="Lungs"), recorded=sides)
    assert result.document()["knowledge"]["dropped"] == {"resembles_held_out": 1}
    judged = compiled(held_out, turn(topic="Lungs"), rating("s1", 1), recorded=sides)
    assert dropped(judged) == {"resembles_held_out": 1}
    assert result.rows == judged.rows == ()


def test_an_answer_like_a_held_out_one_is_set_aside():
    """The expert's words about a held-out topic are not trained on under another question."""
    sides = recorded("held_out", "asthma") | recorded("train", "headache")
    held_out = knowledge("k1", answer=EXPERT, topic="Asthma")
    told = knowledge("k2", MANY[0], EXPERT, "Headache")
    result = compiled(
        held_out, told, turn(question=MANY[0], topic="Headache"), correction("s1", EXPERT), recorded=sides
    )
    assert result.document()["knowledge"]["dropped"] == {"resembles_held_out": 1}
    assert dropped(result) == {"resembles_held_out": 1}
    assert result.rows == ()


def test_a_short_answer_like_a_held_out_one_tells_nothing():
    """A few words that fit many questions do not drop what happens to use them."""
    sides = recorded("held_out", "asthma") | recorded("train", "headache")
    short = "No; please see a doctor."
    rows = knowledge("k1", answer=short, topic="Asthma"), knowledge("k2", MANY[0], short, "Headache")
    assert supervised(compiled(*rows, recorded=sides)) == [short]


def test_a_held_out_correction_keeps_its_look_alikes_out():
    """An expert's answer that is measured against is not trained on, although it was said as feedback."""
    sides = recorded("held_out", "asthma") | recorded("train", "headache")
    result = compiled(
        turn(topic="Asthma"),
        correction("s1", EXPERT),
        knowledge("k1", MANY[0], EXPERT, "Headache"),
        recorded=sides,
    )
    assert [item.answer for item in result.held_out] == [EXPERT]
    assert result.document()["knowledge"]["dropped"] == {"resembles_held_out": 1}


def test_a_held_out_question_later_in_a_conversation_is_found():
    """Saying hello first does not carry a golden question over the wall."""
    spoken = (
        {"role": "user", "content": "Hello there, I hope that you are well today!"},
        {"role": "assistant", "content": "Hello! What would you like to know?"},
        {"role": "user", "content": QUESTION},
    )
    result = compiled(
        turn(messages=spoken), correction("s1", OTHER), golden=[(QUESTION, BETTER, None)], curation=ALL_TRAIN
    )
    assert dropped(result) == {"resembles_held_out": 1}


def test_a_row_like_a_validation_row_is_not_trained_on():
    """Validation measures what was not trained on; the validation row itself stays."""
    sides = recorded("validation", "asthma") | recorded("train", "lungs")
    result = compiled(
        knowledge("k1", topic="Asthma"),
        knowledge("k2", answer=OTHER, topic="Lungs"),
        turn(topic="Lungs"),
        rating("s1", 1),
        recorded=sides,
    )
    assert result.document()["knowledge"]["dropped"] == {"resembles_validation": 1}
    assert dropped(result) == {"resembles_validation": 1}
    assert [(row.sources, row.side) for row in result.rows] == [(("k1",), "validation")]


GOLDEN = [
    (
        "Which vaccines does an adult need every year?",
        "Adults need a vaccine against flu each autumn, and those who are older or often ill may need others "
        "too, which a doctor knows.",
        "Vaccines",
    )
]


def test_golden_topics_and_look_alikes_are_never_rows():
    """A golden item blocks its topic, its question and its answer, whatever they are called."""
    result = compiled(
        knowledge("k1", "How are vaccines stored at home?", OTHER, "vaccines"),
        knowledge("k2", "which vaccines does an ADULT need, every year", BETTER, "Autumn"),
        knowledge("k3", "What should I do in autumn?", GOLDEN[0][1].upper(), "Autumn"),
        knowledge("k4", GOLDEN[0][0], OTHER),
        turn("t1", GOLDEN[0][0]),
        correction("s1", BETTER),
        golden=GOLDEN,
    )
    assert result.rows == ()
    assert result.document()["knowledge"] == {
        "in": 4,
        "dropped": {"resembles_held_out": 2},
        "held_out": 2,
        "kept": 0,
    }
    assert result.document()["signals"] == {"in": 1, "dropped": {}, "held_out": 1, "kept": 0}


# the same every time


def story() -> tuple[Turn | Signal | Knowledge, ...]:
    """Some of everything."""
    turns = [
        turn(f"t{i}", question, topic=None if i % 2 else f"Topic {i}") for i, question in enumerate(MANY)
    ]
    said = [
        rating("s1", 1, turn="t0"),
        correction("s2", BETTER, "dr", "t1"),
        choice("s3", [OTHER], 1, turn="t2"),
    ]
    rows = [knowledge(f"k{i}", f"{q} Really?", f"{OTHER} {i}") for i, q in enumerate(MANY)]
    return (*turns, *said, *rows)


def test_twice_is_byte_identical_even_in_another_process():
    """Neither a run nor a hash seed changes what compiles."""
    program = (
        "import sys; sys.path[:0] = ['.']\n"
        "from tests.test_compiler import Curation, compiled, story\n"
        "result = compiled(*story(), curation=Curation(validation_share=0.3, held_out_share=0.3))\n"
        "print(result)"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert b"Example(" in outputs[0]


def test_the_limits_of_a_domain_are_checked_when_they_are_read():
    """A pattern that is none, or a similarity that cannot be indexed, is refused before any compilation."""
    with pytest.raises(ValidationError, match="no regular expression"):
        Curation(boilerplate=("(",))
    with pytest.raises(ValidationError):
        Curation(near_duplicate=0.99)
    assert compiled(*story(), curation=Curation(near_duplicate=0.95)).rows


# whatever is said

USERS = st.sampled_from(["ann", "bob", "dr"])
ANSWERS = st.sampled_from(
    [ANSWER, EXPERT, OTHER, GOLDEN[0][1], "Too short.", "See the links below, please.", ANSWER.lower()]
)
TOPICS = st.sampled_from([None, "Asthma", "Head", "Cold", "Iron", "Ears"])
QUESTIONS = st.sampled_from([QUESTION, *MANY, QUESTION.upper(), GOLDEN[0][0]])
TURNS = st.builds(
    turn,
    question=QUESTIONS,
    answer=ANSWERS,
    topic=TOPICS,
    conversation=st.sampled_from(["c1", "c2", "c3", "c4"]),
    finish=st.sampled_from(["stop", "stop", "cancelled"]),
    red_flag=st.sampled_from([None, None, None, "emergency"]),
)
VALUES = st.one_of(
    st.tuples(st.just("rating"), st.sampled_from([1, -1, 0]).map(lambda r: {"rating": r, "reasons": []})),
    st.tuples(st.just("comment"), st.just({"text": "hm"})),
    st.tuples(st.just("correction"), ANSWERS.map(lambda text: {"text": text})),
    st.tuples(
        st.just("choice"),
        st.builds(lambda a, c: {"alternatives": [a], "choice": c}, ANSWERS, st.sampled_from([0, 1, "tie"])),
    ),
)
ROWS = st.builds(knowledge, row_id=st.just("k"), question=QUESTIONS, answer=ANSWERS, topic=TOPICS)
WALLS = Curation(
    validation_share=0.2,
    held_out_share=0.3,
    min_words=3,
    boilerplate=("^See the links",),
    max_rows_per_person=3,
)


@st.composite
def whole_stories(draw) -> Events:
    """Up to 8 turns, 12 signals about them, 6 reviews of those and 6 knowledge rows, in the order of ids."""
    turns = [replace(t, id=f"t{i}") for i, t in enumerate(draw(st.lists(TURNS, min_size=1, max_size=8)))]
    signals = []
    for i, (kind, value) in enumerate(draw(st.lists(VALUES, max_size=12))):
        user = draw(USERS)
        role = "reviewer" if user == "dr" else "user"
        about = draw(st.sampled_from(turns)).id
        signals.append(Signal(f"s{i:02}", about, user, role, kind, value, AT))
    corrections = [s.id for s in signals if s.kind == "correction" and s.role == "user"]
    verdicts = st.sampled_from(["approve", "reject"])
    reviews = [
        Review(
            f"r{i}",
            draw(st.sampled_from(corrections)),
            "dr",
            draw(verdicts),
            None,
            AT,
        )
        for i in range(draw(st.integers(0, 6)) if corrections else 0)
    ]
    rows = [replace(row, id=f"k{i}") for i, row in enumerate(draw(st.lists(ROWS, max_size=6)))]
    return Events(turns, signals, reviews, rows)


@given(whole_stories())
def test_whatever_is_said_is_counted_once(events):
    """in = kept + held_out + dropped, and every kept row leads back to what was said."""
    result = compile_events(events, WALLS, SYSTEM, GOLDEN)
    assert adds_up(result)
    assert (result.signals.entered, result.knowledge.entered) == (len(events.signals), len(events.knowledge))
    known = {s.id for s in events.signals} | {row.id for row in events.knowledge}
    assert all(set(row.sources) <= known and row.sources for row in result.rows)
    assert json.dumps(result.document()) == json.dumps(
        compile_events(events, WALLS, SYSTEM, GOLDEN).document()
    )


@given(whole_stories())
def test_whatever_is_said_nothing_crosses_the_wall(events):
    """No row asks or answers what a golden or held-out item does, and no cluster is on two sides."""
    result = compile_events(events, WALLS, SYSTEM, GOLDEN)
    asked = {GOLDEN[0][0].lower()} | {item.messages[-1]["content"].lower() for item in result.held_out}
    answered = {GOLDEN[0][1]} | {i.answer for i in result.held_out if len(words(i.answer)) >= TELLING_WORDS}
    for row in result.rows:
        assert row.prompt[-1]["content"].lower() not in asked
        assert row.kind == "unpaired" or row.chosen not in answered
    validated = {row.prompt[-1]["content"].lower() for row in result.rows if row.side == "validation"}
    trained = {row.prompt[-1]["content"].lower() for row in result.rows if row.side == "train"}
    assert not validated & trained


@given(whole_stories())
def test_whatever_is_said_a_wrong_answer_is_never_supervised(events):
    """What a reviewer corrected, anywhere, is no completion for that question, nor preferred to anything."""
    result = compile_events(events, WALLS.model_copy(update={"held_out_share": 0}), SYSTEM)
    turns = {t.id: t for t in events.turns}
    wrong = {
        (turns[s.turn].asked.lower(), turns[s.turn].answer.lower())
        for s in events.signals
        if s.kind == "correction"
        and s.role == "reviewer"
        and s.value["text"].lower() != turns[s.turn].answer.lower()
    }
    from_words = {
        (row.prompt[-1]["content"].lower(), row.chosen.lower())
        for row in result.rows
        if row.kind != "unpaired" and row.rule in ("liked", "choice")
    }
    assert not wrong & from_words


def test_a_conversation_stays_on_the_side_of_its_first_question():
    """Later turns without a topic draw no side of their own, so long conversations are not lost by chance."""
    questions = [
        f"What about {word} in the third week of the illness?"
        for word in ["rest", "food", "sleep", "work", "travel"]
    ]
    turns, messages = [], []
    for number, question in enumerate(questions):
        messages = [*messages, {"role": "user", "content": question}]
        turns.append(
            Turn(
                f"t{number}",
                "c",
                "ann",
                tuple(messages),
                f"Answer number {number} is this.",
                "base",
                AT,
            )
        )
        messages = [*messages, {"role": "assistant", "content": f"Answer number {number} is this."}]
    for held_out_share in (0.0, 0.5):
        curation = Curation(held_out_share=held_out_share, validation_share=0)
        sides = compile_events(Events(turns=turns), curation, "Help.").new_sides.values()
        assert len({side for _, side in sides}) == 1
