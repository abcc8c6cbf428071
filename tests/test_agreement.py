"""Kappa, its interval and the licence that hangs on it."""

import numpy as np
import pytest

from eval.agreement import Agreement, agree, agree_by_slice, kappas, license_judge
from eval.objective import Gate
from feedback.pairs import Pair

GATE = Gate(primary="similarity", resamples=1000)


def pair(number, preferred="first", kind="choices", cluster=None):
    asked = ({"role": "user", "content": "What is gout?"},)
    return Pair(f"p{number:02}", cluster or f"c{number}", asked, "one", "two", preferred, kind)


def test_kappa_has_the_values_of_the_literature():
    """The worked example of Cohen's kappa, perfect agreement, chance, and its opposite; undefined counts as 0."""
    tables = [
        [[20, 5], [10, 15]],
        [[25, 0], [0, 25]],
        [[10, 10], [10, 10]],
        [[0, 10], [10, 0]],
        [[7, 0], [0, 0]],
    ]
    assert kappas(np.array(tables)) == pytest.approx([0.4, 1.0, 0.0, -1.0, 0.0])


def test_ties_are_a_label_of_their_own():
    """A judge that only dares half of the answers, rightly, agrees by a third more than chance."""
    found = agree(
        ["first", "second"] * 20, ["first", "tie", "tie", "second"] * 10, list(map(str, range(40))), GATE
    )
    assert found.kappa == pytest.approx((0.5 - 0.25) / 0.75)
    assert found.low < found.kappa < found.high


def test_whole_clusters_are_drawn():
    """Ten questions that were asked four times each tell less than forty questions."""
    said = ["first", "second"] * 20
    verdicts = (["first", "second"] * 10) + (["second", "first"] * 2 + ["first", "second"] * 8)
    alone = agree(said, verdicts, [str(n) for n in range(40)], GATE)
    together = agree(said, verdicts, [str(n // 4) for n in range(40)], GATE)
    assert alone.kappa == together.kappa
    assert together.low < alone.low
    assert (alone.clusters, together.clusters, together.n) == (40, 10, 40)


def test_few_clusters_tell_nothing():
    """Below ten the interval is everything that kappa can be."""
    found = agree(["first", "second"] * 9, ["first", "second"] * 9, [str(n // 2) for n in range(18)], GATE)
    assert found == Agreement(1.0, -1.0, 1.0, 18, 9)


def test_choices_and_corrections_are_looked_at_by_themselves():
    """A judge may tell an expert's text from a model's, and not two models' answers."""
    places = ["first", "second"] * 20
    pairs = [
        pair(number, place, "corrections" if number < 20 else "choices")
        for number, place in enumerate(places)
    ]
    verdicts = places[:20] + ["first"] * 20
    found = agree_by_slice(pairs, verdicts, GATE)
    assert (found["corrections"].kappa, found["choices"].kappa) == (1.0, 0.0)
    assert "choices" not in agree_by_slice(pairs[:29], verdicts[:29], GATE)  # nine say nothing


SURE = Agreement(0.7, 0.5, 0.8, 60, 30)


@pytest.mark.parametrize(
    ("whole", "parts", "licensed", "why"),
    [
        (None, {}, False, "no reviewer has compared two answers since the last promotion"),
        (
            Agreement(1.0, -1.0, 1.0, 18, 9),
            {},
            False,
            "what reviewers compared since the last promotion covers 9 topics or clusters; at least 10 are needed",
        ),
        (
            Agreement(0.6, 0.4, 0.8, 60, 30),
            {},
            False,
            "it does not surely agree with reviewers: kappa 0.60, 95 % interval 0.40 to 0.80, 60 pairs, floor 0.4",
        ),
        (
            SURE,
            {"choices": Agreement(0.1, -0.1, 0.39, 20, 20), "1 turn": SURE},
            False,
            "it surely does not agree with reviewers on choices: "
            "kappa 0.10, 97.5 % interval -0.10 to 0.39, 20 pairs, floor 0.4",
        ),
        (
            SURE,
            {"choices": Agreement(0.3, -0.1, 0.5, 20, 20)},
            True,
            "it agrees with reviewers: kappa 0.70, 95 % interval 0.50 to 0.80, 60 pairs, floor 0.4",
        ),
    ],
)
def test_a_licence_is_given_for_sure_agreement_only(whole, parts, licensed, why):
    """Enough clusters, the lower bound above the floor, and no slice surely below it; else the reason in words."""
    assert license_judge(0.4, whole, parts, GATE) == (licensed, why)
