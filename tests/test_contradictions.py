"""What several people's words come to: one label, one pair, or nothing."""

import pytest

from feedback.records import Review, Turn
from tests.said import (
    ALL_TRAIN,
    ANSWER,
    AT,
    BETTER,
    OTHER,
    choice,
    compiled,
    correction,
    dropped,
    rating,
    supervised,
    turn,
)

THIRD = "Asthma swells the airways, so that breathing out takes long and may whistle."


def pairs(result) -> set[tuple[str, str, str]]:
    """(rule, chosen, rejected) of every preference row."""
    return {(row.rule, row.chosen, row.rejected) for row in result.rows if row.kind == "preference"}


def test_a_liked_answer_is_preferred_to_a_disliked_one_of_the_same_prompt():
    """Two people who were asked nothing else, one pleased and one not, make a pair that leads to both."""
    result = compiled(
        turn("t1", answer=OTHER),
        turn("t2", answer=ANSWER),
        rating("s1", 1, "ann", "t1"),
        rating("s2", -1, "bob", "t2"),
    )
    assert pairs(result) == {("liked_over_disliked", OTHER, ANSWER)}
    (pair,) = [row for row in result.rows if row.kind == "preference"]
    assert (pair.sources, pair.people) == (("s1", "s2"), ("ann", "bob"))
    (liked,) = [row for row in result.rows if row.kind == "sft"]
    assert pair.weight < liked.weight <= 1


def test_answers_to_other_prompts_make_no_pair():
    """What came before in the conversation is part of the prompt."""
    before = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"})
    other = turn("t2", answer=ANSWER)
    later = Turn("t2", "ct2", "ann", (*before, *other.messages), ANSWER, "v0001", AT)
    result = compiled(
        turn("t1", answer=OTHER), later, rating("s1", 1, "ann", "t1"), rating("s2", -1, "bob", "t2")
    )
    assert pairs(result) == set()


def test_a_pair_that_stands_the_other_way_round_too_trains_nothing():
    """Two people who choose opposite answers to one question are a draw, in whatever order they saw them."""
    result = compiled(
        turn("t1", answer=ANSWER),
        turn("t2", answer=OTHER),
        choice("s1", [OTHER], 1, "ann", "t1"),
        choice("s2", [ANSWER], 1, "bob", "t2"),
    )
    assert dropped(result) == {"swapped_pair": 2}
    assert result.rows == ()


def test_a_reviewer_settles_a_swapped_pair():
    """A correction stands; the user's choice of what it mended does not."""
    result = compiled(
        turn("t1", answer=ANSWER),
        turn("t2", answer=BETTER),
        correction("s1", BETTER, "dr", "t1"),
        choice("s2", [OTHER], 0, "bob", "t2"),
    )
    assert ("correction", BETTER, ANSWER) in pairs(result)
    against = compiled(
        turn("t1", answer=OTHER),
        turn("t2", answer=BETTER),
        correction("s1", BETTER, "dr", "t1"),
        choice("s2", [OTHER], 1, "bob", "t2"),
    )
    assert pairs(against) == {("correction", BETTER, OTHER)}
    assert dropped(against) == {"corrected": 1}


def test_one_answer_liked_here_and_disliked_there_trains_nothing():
    """The same words to the same prompt cannot be both."""
    result = compiled(turn("t1"), turn("t2"), rating("s1", 1, "ann", "t1"), rating("s2", -1, "bob", "t2"))
    assert dropped(result) == {"contradicted": 2}
    assert result.rows == ()


def test_a_reviewers_thumb_settles_it():
    """Whoever is trusted wins over whoever is not."""
    result = compiled(
        turn("t1"), turn("t2"), rating("s1", 1, "ann", "t1"), rating("s2", -1, "dr", "t2", "reviewer")
    )
    assert dropped(result) == {"contradicted": 1}
    assert [(row.kind, row.label) for row in result.rows] == [("unpaired", False)]


def test_one_vote_is_less_sure_than_three_and_a_reviewer_is_sure():
    """The weight of a row says how much its label can be trusted."""

    def weight(*ratings) -> float:
        (row,) = [row for row in compiled(turn(), *ratings).rows if row.kind == "sft"]
        return row.weight

    one = weight(rating("s1", 1))
    three = weight(*(rating(f"s{i}", 1, f"user {i}") for i in range(3)))
    reviewer = weight(rating("s1", 1, "dr", role="reviewer"))
    assert 0 < one < min(three, reviewer) <= 1


@pytest.mark.parametrize(
    ("version", "age", "weight"), [("v3", 0, 1), ("v2", 1, 0.5), ("v1", 2, 0.25), ("x", None, 1)]
)
def test_a_rejected_answer_of_an_old_version_weighs_less(version, age, weight):
    """Today's model would not say it any more; a foreign model's age nobody knows."""
    curation = ALL_TRAIN.model_copy(update={"stale_half_life": 1})
    result = compiled(
        turn(version=version), correction("s1", BETTER), curation=curation, versions=["v1", "v2", "v3"]
    )
    (pair,) = [row for row in result.rows if row.kind == "preference"]
    assert (pair.rejected_version, pair.rejected_age, pair.weight) == (version, age, weight)
    assert [row.weight for row in result.rows if row.kind == "sft"] == [1]


def test_a_prompt_that_dictates_its_answer_waits_for_a_reviewer():
    """Liking what one told the model to say teaches nothing, unless somebody trusted likes it too."""
    dictated = turn(question="Say that asthma comes from cold water.")
    assert dropped(compiled(dictated, rating("s1", 1))) == {"dictated_prompt": 1}
    assert dropped(compiled(dictated, choice("s1", [OTHER], 0))) == {"dictated_prompt": 1}
    trusted = compiled(dictated, rating("s1", 1), rating("s2", 1, "dr", role="reviewer"))
    assert (dropped(trusted), supervised(trusted)) == ({}, [ANSWER])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (f"{BETTER} Take 500 mg of it.", "new_dose"),
        (f"{BETTER} See www.best-pills.example for more.", "new_url"),
        (f"{BETTER} Call +1 202 555 0143 today.", "new_phone_number"),
    ],
)
def test_what_a_users_correction_brings_in_is_named_while_it_waits(text, rule):
    """A dose, an address or a number that nobody gave before is what a reviewer must look at."""
    said = correction("s1", text, role="user")
    assert dropped(compiled(turn(), said)) == {rule: 1}
    approved = compiled(turn(), said, Review("r1", "s1", "dr", "approve", None, AT))
    assert len(supervised(approved)) == 1


def test_a_correction_that_quotes_what_it_refutes_is_not_learnt():
    """A model that reads the wrong claim learns it, whatever is said around it."""
    text = f'It is wrong that "{ANSWER}" {BETTER}'
    result = compiled(turn(), correction("s1", text))
    assert dropped(result) == {"quotes_refuted_claim": 1}
