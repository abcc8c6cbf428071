"""What reviewers preferred since the last round: the pairs that a judge is measured by."""

import json
from dataclasses import replace

from feedback.pairs import Pair, reviewers_pairs
from feedback.records import Review
from tests.said import ANSWER, AT, BETTER, OTHER, QUESTION, choice, correction, turn


def found(*said, turns=None, since="", clusters=None):
    """The pairs of signals and reviews about the turn t1, or `turns`."""
    reviews = [one for one in said if isinstance(one, Review)]
    signals = [one for one in said if not isinstance(one, Review)]

    def find(ids):
        return [one for one in turns or [turn()] if one.id in ids]

    return reviewers_pairs(signals, reviews, find, since, clusters or {})


def chosen(signal, alternatives, which, **more):
    return replace(choice(signal, alternatives, which, **more), role="reviewer")


def better_of(pair):
    return {"first": pair.first, "second": pair.second}.get(pair.preferred)


def test_a_correction_is_preferred_to_what_it_corrects():
    """A reviewer's own at once, a user's with the text that a reviewer approved; by no other way."""
    (pair,) = found(correction("s1", BETTER))
    assert pair == Pair(
        "s1",
        "ct1",
        ({"role": "user", "content": QUESTION},),
        pair.first,
        pair.second,
        pair.preferred,
        "corrections",
        ("t1", "s1"),
    )
    assert {pair.first, pair.second} == {BETTER, ANSWER}
    assert better_of(pair) == BETTER
    users = correction("s1", OTHER, role="user")
    assert found(users) == found(users, Review("r1", "s1", "rita", "reject", None, AT)) == []
    (approved,) = found(users, Review("r1", "s1", "rita", "approve", BETTER, AT))
    assert (better_of(approved), approved.sources) == (BETTER, ("t1", "s1", "r1"))


def test_a_choice_is_preferred_to_every_other_answer():
    """Only a reviewer's; a tie between two is one, and between more says too little."""
    assert found(choice("s1", [OTHER], 1)) == []
    pairs = found(chosen("s1", [OTHER, BETTER], 2))
    assert [(pair.id, better_of(pair), pair.kind) for pair in pairs] == [
        ("s1:0", BETTER, "choices"),
        ("s1:1", BETTER, "choices"),
    ]
    (tie,) = found(chosen("s1", [OTHER], "tie"))
    assert tie.preferred == "tie"
    assert found(chosen("s1", [OTHER, BETTER], "tie")) == []


def test_only_this_period_counts():
    """By when the reviewer spoke: a user's correction may be older than its approval."""
    said = [correction("s1", BETTER), correction("s2", OTHER, role="user", turn="t2")]
    approval = Review("s3", "s2", "rita", "approve", None, AT)
    turns = [turn(), turn("t2")]
    assert [pair.id for pair in found(*said, approval, turns=turns)] == ["s1", "s2"]
    assert [pair.id for pair in found(*said, approval, turns=turns, since="s2")] == ["s2"]
    assert found(*said, approval, turns=turns, since="s3") == []


def test_the_last_word_stands():
    """A correction that was written anew or withdrawn; and the text of the rules, or no text, is no answer."""
    (pair,) = found(correction("s1", OTHER), correction("s2", BETTER))
    assert (pair.id, better_of(pair)) == ("s2", BETTER)
    assert found(correction("s1", BETTER), correction("s2", "")) == []
    assert found(correction("s1", ANSWER.upper())) == []
    assert found(correction("s1", BETTER), turns=[turn(red_flag="chest pain")]) == []
    assert found(correction("s1", BETTER), turns=[turn(answer=" ")]) == []


def test_the_places_tell_nothing():
    """They follow a hash of the id: about half are first, and the same ones each time."""
    turns = [turn(f"t{n:03}") for n in range(200)]
    said = [correction(f"s{n:03}", BETTER, turn=f"t{n:03}") for n in range(200)]
    pairs = found(*said, turns=turns)
    assert 80 < sum(pair.preferred == "first" for pair in pairs) < 120
    assert pairs == found(*reversed(said), turns=turns[::-1])
    turned = pairs[0].turned()
    assert (turned.first, turned.second, turned.preferred) == (pairs[0].second, pairs[0].first, None)


def test_a_pair_knows_its_cluster():
    """That of its row or held-out item where there is one, else its topic, else its conversation."""
    said = correction("s1", BETTER)
    assert found(said)[0].cluster == "ct1"
    assert found(said, turns=[turn(topic="asthma")])[0].cluster == "asthma"
    assert found(said, clusters={"t1": "q7"})[0].cluster == "q7"
    assert found(said, clusters={"t1": "q7", "s1": "q8"})[0].cluster == "q8"


def test_a_pair_is_kept_without_personal_data():
    """Every text of it is redacted, and it reads back the same."""
    (pair,) = found(correction("s1", "Call Ann."), turns=[turn(question="I am Ann?", answer="Ann, rest.")])
    bare = pair.redacted(lambda text: text.replace("Ann", "<PERSON>"))
    assert "Ann" not in json.dumps(bare.to_json())
    assert (bare.id, bare.preferred, bare.sources) == (pair.id, pair.preferred, pair.sources)
    assert Pair.from_json(json.loads(json.dumps(bare.to_json()))) == bare
