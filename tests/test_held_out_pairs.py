"""Held-out answers of which people prefer one: found by the rules that make training pairs, never trained on."""

from feedback.compiling.compiler import Compilation
from tests.said import (
    ANSWER,
    BETTER,
    EXPERT,
    MANY,
    OTHER,
    QUESTION,
    SYSTEM,
    choice,
    compiled,
    correction,
    knowledge,
    rating,
    recorded,
    turn,
)

SIDES = recorded("held_out", "asthma") | recorded("train", "headache")


def asked(turn_id: str = "t1", **more):
    """An answer to a held-out question."""
    return turn(turn_id, topic="Asthma", **more)


def preferred(result: Compilation) -> list[tuple[str, str]]:
    """The held-out pairs as (chosen, rejected)."""
    return [(pair.chosen, pair.rejected) for pair in result.held_out_pairs]


def test_each_way_to_prefer_an_answer_is_a_pair():
    """A correction over what it corrects, a choice over another answer, a liked over a disliked one."""
    corrected = compiled(asked(), correction("s1", BETTER), recorded=SIDES)
    assert preferred(corrected) == [(BETTER, ANSWER)]
    chosen = compiled(asked(), choice("s1", [OTHER, BETTER], 1), recorded=SIDES)
    assert preferred(chosen) == [(OTHER, ANSWER)], "one of several: an item is named after its statement"
    two = asked("t1", answer=OTHER), asked("t2")
    liked = compiled(*two, rating("s1", 1), rating("s2", -1, turn="t2"), recorded=SIDES)
    assert preferred(liked) == [(OTHER, ANSWER)]
    (pair,) = liked.held_out_pairs
    assert (pair.id, pair.sources, pair.cluster) == ("s1", ("s1", "s2"), "topic:asthma")
    assert pair.messages == ({"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION})


def test_what_may_not_be_trained_on_is_no_pair_either():
    """A user's correction that nobody approved, a tie, a draw, and a question of the training side."""
    unclear = choice("s1", [OTHER], 0), choice("s2", [OTHER], 1, user="bob")
    for said in ([correction("s1", BETTER, role="user")], [choice("s1", [OTHER], "tie")], unclear):
        assert compiled(asked(), *said, recorded=SIDES).held_out_pairs == ()
    learnt = compiled(turn(topic="Headache"), correction("s1", BETTER), recorded=SIDES)
    assert learnt.held_out_pairs == ()
    assert [row.kind for row in learnt.rows] == ["preference", "sft"]


def test_a_held_out_pair_is_never_trained_on():
    """Its statements are behind no row, and count as held out."""
    two = asked("t1", answer=OTHER), asked("t2")
    said = [rating("s1", 1), rating("s2", -1, turn="t2"), correction("s3", BETTER, turn="t2")]
    result = compiled(*two, *said, choice("s4", [BETTER], 1), recorded=SIDES)
    assert len(result.held_out_pairs) == 3
    assert (result.rows, result.signals.held_out) == ((), 4)


def test_a_pair_whose_answer_is_taught_elsewhere_is_left_out():
    """What a model was trained to say it ranks high wherever it stands; a short answer tells nothing."""
    told = [
        knowledge("k1", question=MANY[0], answer=EXPERT, topic="Headache"),
        knowledge("k2", question=MANY[1], answer=OTHER, topic="Headache"),
    ]
    for better, left in ((EXPERT, []), (EXPERT.upper(), []), (OTHER, [(OTHER, ANSWER)])):
        said = asked(), choice("s1", [better], 1)
        assert preferred(compiled(*said, recorded=SIDES)) == [(better, ANSWER)]
        assert preferred(compiled(*said, *told, recorded=SIDES)) == left
