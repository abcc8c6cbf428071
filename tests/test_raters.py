"""Several people's statements about one thing become one label with a confidence."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.compiling.raters import (
    MOST_FLIPS,
    RELIABILITY,
    REVIEWER,
    TWICE_JUDGED,
    Disagreement,
    Label,
    Statement,
    disagreement,
    reliability,
    settle,
)


def users(item: str, *labels: str) -> list[Statement]:
    """One statement each by people who said nothing else."""
    return [Statement(item, f"{item} {n}", "user", label) for n, label in enumerate(labels)]


def reviewers(item: str, *labels: str) -> list[Statement]:
    return [Statement(item, f"reviewer {n}", "reviewer", label) for n, label in enumerate(labels)]


def settled(*statements: Statement) -> Label:
    """What statements about one item come to."""
    (label,) = settle(statements).values()
    return label


def test_nothing_said_is_nothing_settled():
    """No statements, no labels."""
    assert settle([]) == reliability([]) == {}


def test_one_lone_vote_is_as_good_as_anybody():
    """A single end user has the confidence of the prior, a single reviewer a higher one, nobody certainty."""
    assert settled(*users("a", "liked")) == Label("liked", RELIABILITY, ("a 0",))
    assert settled(*reviewers("a", "liked")) == Label("liked", REVIEWER, ("reviewer 0",))


def test_agreement_adds_up_and_never_to_certainty_from_few():
    """Each voice that agrees raises the confidence."""
    one, two, three = (settled(*users("a", *["liked"] * n)).confidence for n in (1, 2, 3))
    assert one < two < three < 1


@pytest.mark.parametrize("said", [users, reviewers])
def test_equal_evidence_is_a_tie(said):
    """Ties have no label and nobody who agrees."""
    assert settled(*said("a", "liked", "disliked")) == Label(None, 0.5, ())
    assert settled(*said("a", "0", "1", "2")) == Label(None, pytest.approx(1 / 3, abs=1e-6), ())
    assert settled(*said("a", "0", "1", "1")).label == "1"


def test_a_reviewer_outranks_any_number_of_end_users():
    """Where a reviewer spoke, end users decide nothing, a tie of reviewers included; they are named as agreeing."""
    crowd = users("a", *["liked"] * 50)
    assert settled(*crowd, *reviewers("a", "disliked")) == Label("disliked", REVIEWER, ("reviewer 0",))
    assert settled(*crowd, *reviewers("a", "disliked", "liked")).label is None
    both = settled(*users("a", "liked", "disliked"), *reviewers("a", "liked"))
    assert both == Label("liked", REVIEWER, ("a 0", "reviewer 0"))


def test_most_reviewers_decide_with_one_voice_each():
    """However often a reviewer was in the minority before, two are more than one."""
    lonely = [s for n in range(30) for s in reviewers(f"i{n}", "0", "1", "1")]
    assert settle([*lonely, *reviewers("a", "0", "0", "1")])["a"].label == "0"


def test_agreement_with_reviewers_makes_reliable():
    """Of two who disagree, the one who mostly agreed with reviewers is believed."""
    said = []
    for n in range(20):
        said += reviewers(f"i{n}", "liked")
        said += [Statement(f"i{n}", "good", "user", "liked"), Statement(f"i{n}", "bad", "user", "disliked")]
    found = reliability(said)
    assert found["good"] > 0.85 > RELIABILITY > 0.5 > found["bad"]
    contested = [Statement("a", "good", "user", "1"), Statement("a", "bad", "user", "0")]
    assert settle([*said, *contested])["a"].label == "1"


def test_agreement_with_each_other_makes_reliable():
    """Without any reviewer, whoever is alone against the others again and again weighs less."""
    said = [
        Statement(f"i{n}", person, "user", "1" if person == "odd" else "0")
        for n in range(20)
        for person in ("ann", "bob", "cid", "odd")
    ]
    found = reliability(said)
    assert min(found["ann"], found["bob"], found["cid"]) > 0.9 > 0.5 > found["odd"]


def test_being_wrong_is_no_evidence_for_the_opposite():
    """Somebody who contradicts every reviewer counts for nothing alone, not for the other label."""
    said = [s for n in range(50) for s in reviewers(f"i{n}", "liked")]
    said += [Statement(f"i{n}", "bad", "user", "disliked") for n in range(50)]
    assert settle([*said, Statement("a", "bad", "user", "0")])["a"] == Label(None, 0.5, ())


def test_what_nobody_else_judged_says_nothing_about_a_person():
    """A thousand votes on one's own answers leave one as reliable as a stranger; so does a tie of reviewers."""
    alone = [Statement(f"i{n}", "busy", "user", "liked") for n in range(1000)]
    assert reliability(alone) == {"busy": RELIABILITY}
    even = [*reviewers("a", "liked", "disliked"), Statement("a", "ann", "user", "liked")]
    assert reliability(even) == {"ann": RELIABILITY}


def test_few_statements_stay_near_the_prior():
    """One contradiction by a reviewer is no proof."""
    once = [*reviewers("a", "liked"), Statement("a", "ann", "user", "disliked")]
    assert 0.65 < reliability(once)["ann"] < RELIABILITY


def test_somebody_who_is_both_has_two_voices_kept_apart():
    """Who judges as a reviewer is not weighed as an end user there."""
    said = [Statement("a", "ann", "reviewer", "1"), Statement("a", "ann", "user", "0")]
    assert settled(*said) == Label("1", REVIEWER, ("ann",))
    same = [Statement("a", "ann", "reviewer", "1"), Statement("a", "ann", "user", "1")]
    assert settled(*same).agreeing == ("ann",)


def test_the_last_word_of_a_person_stands():
    """Saying it twice does not count twice, and a changed mind counts as changed."""
    twice = [Statement("a", "ann", "user", "0"), Statement("a", "ann", "user", "0")]
    assert settled(*twice).confidence == RELIABILITY
    assert settled(*twice, Statement("a", "ann", "user", "1")) == Label("1", RELIABILITY, ("ann",))


SAID = st.lists(
    st.builds(
        Statement,
        item=st.sampled_from("abcd"),
        person=st.sampled_from("uvwxyz"),
        role=st.sampled_from(("user", "user", "user", "reviewer")),
        label=st.sampled_from("012"),
    ),
    max_size=30,
    unique_by=lambda s: (s.item, s.person, s.role),
)


@given(SAID, st.randoms(use_true_random=False))
def test_order_changes_nothing_and_every_item_is_settled(said, rng):
    """Same statements in another order: the same bytes; agreeing are exactly those who said the label."""
    shuffled = list(said)
    rng.shuffle(shuffled)
    labels = settle(said)
    assert repr(sorted(labels.items())) == repr(sorted(settle(shuffled).items()))
    assert repr(reliability(said)) == repr(reliability(shuffled))
    assert labels.keys() == {s.item for s in said}
    for item, label in labels.items():
        assert 0 < label.confidence < 1
        said_it = {s.person for s in said if s.item == item and s.label == label.label}
        assert set(label.agreeing) == said_it
        assert bool(said_it) == (label.label is not None)


@given(SAID)
def test_other_names_for_the_labels_change_nothing(said):
    """The first answer and the second are judged alike."""
    renamed = [Statement(s.item, s.person, s.role, str(2 - int(s.label))) for s in said]
    for item, label in settle(said).items():
        other = settle(renamed)[item]
        assert (other.label and str(2 - int(other.label))) == label.label
        assert other.confidence == pytest.approx(label.confidence, abs=1e-5)


def test_a_crowd_is_weighed_better_than_counted():
    """With one in ten unreliable, weighed labels are right more often than a majority, and as often as they claim."""
    rng = np.random.default_rng(7)
    right = np.where(rng.random(400) < 0.15, 0.3, rng.beta(9, 2, 400))
    said, truth = [], rng.integers(0, 2, 3000).astype(str)
    for item, label in enumerate(truth):
        for person in np.unique((rng.pareto(1.1, rng.integers(1, 5)) * 4).astype(int) % 400):
            wrong = rng.random() > right[person]
            said.append(Statement(str(item), f"p{person}", "user", str(1 - int(label)) if wrong else label))
    labels = settle(said)
    votes = defaultdict(Counter)
    for s in said:
        votes[s.item][s.label] += 1
    counted = np.mean([(c["0"] < c["1"]) == (truth[int(i)] == "1") for i, c in votes.items()])
    correct = [label.label == truth[int(item)] for item, label in labels.items()]
    assert np.mean(correct) > counted + 0.02
    assert np.mean([label.confidence for label in labels.values()]) == pytest.approx(
        np.mean(correct), abs=0.03
    )


def test_disagreement_is_counted_a_thing_at_a_time():
    """Of the twos on each thing that differ; a thing that one person judged says nothing, however often they did."""
    assert disagreement(users("a", "liked")) == Disagreement(0, None)
    twice = [Statement("a", "ann", role, label) for role, label in (("user", "0"), ("reviewer", "1"))]
    assert disagreement(twice) == Disagreement(0, None)
    split = [*users("a", "0", "1"), *users("b", "0", "0", "1"), *users("c", "0"), *reviewers("c", "0")]
    assert disagreement(split) == Disagreement(3, round((1 + 2 / 3 + 0) / 3, 6))


@pytest.mark.parametrize(
    ("twice", "share", "rate"),
    [
        (TWICE_JUDGED, 0.0, 0.0),
        (TWICE_JUDGED, 0.18, 0.1),
        (TWICE_JUDGED, 0.32, 0.2),
        (TWICE_JUDGED, 0.49, MOST_FLIPS),
        (TWICE_JUDGED, 1.0, MOST_FLIPS),
        (TWICE_JUDGED - 1, 0.18, None),
        (0, None, None),
    ],
)
def test_flip_rate_follows_from_disagreement(twice, share, rate):
    """d = 2e(1 - e), solved for e, and bounded below one half; too few things say nothing."""
    assert Disagreement(twice, share).flip_rate == (rate if rate is None else pytest.approx(rate, abs=1e-6))


def test_flip_rate_of_a_crowd_is_found():
    """People who are wrong 15 % of the time differ so often that this is read off them, whoever judged what."""
    rng = np.random.default_rng(3)
    said = []
    for item, label in enumerate(rng.integers(0, 2, 1000)):
        for person in rng.choice(60, rng.integers(2, 5), replace=False):
            said.append(Statement(str(item), str(person), "user", str(label ^ int(rng.random() < 0.15))))
    assert disagreement(said).flip_rate == pytest.approx(0.15, abs=0.02)


def test_three_people_of_the_public_choices(shared_data: Path):
    """Three equally good people per item are settled as their majority, with less confidence where one objects."""
    lines = (shared_data / "pandalm_choices.jsonl").read_text("utf-8").splitlines()
    said = [
        Statement(row["turn"], row["rater"], "user", str(row["choice"])) for row in map(json.loads, lines)
    ]
    random.Random(0).shuffle(said)
    differing = disagreement(said)
    assert differing == Disagreement(650, round(75 / 650 * 2 / 3, 6))
    assert differing.flip_rate == pytest.approx(0.04, abs=0.001)
    labels, votes = settle(said), defaultdict(Counter)
    for s in said:
        votes[s.item][s.label] += 1
    assert all(labels[item].label == count.most_common(1)[0][0] for item, count in votes.items())
    split = [labels[item].confidence for item, count in votes.items() if len(count) > 1]
    whole = [labels[item].confidence for item, count in votes.items() if len(count) == 1]
    assert (len(whole), len(split)) == (575, 75)
    assert max(split) < min(whole)
