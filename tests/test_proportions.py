"""How sure a share is, and what it would be on another mix of topics."""

import numpy as np
import pytest

from feedback.proportions import adjusted, wilson


@pytest.mark.parametrize(
    ("successes", "tries", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (7, 10, 0.3968, 0.8922), (0, 10, 0.0, 0.2775), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval(successes: int, tries: int, low: float, high: float):
    """The textbook's numbers (the first is from Newcombe 1998), also at the ends where others leave the scale."""
    assert wilson(successes, tries) == pytest.approx((low, high), abs=1e-4)


def test_easy_questions_do_not_make_a_version_look_better():
    """Simpson's paradox (Charig et al. 1986): better on both topics, worse in all, as it was asked the hard ones."""
    found = adjusted(
        {
            "v1": {"colds": (81, 87), "migraine": (192, 263)},
            "base": {"colds": (234, 270), "migraine": (55, 80)},
        }
    )
    assert 273 / 350 < 289 / 350
    assert found["v1"].share == pytest.approx((357 * 81 / 87 + 343 * 192 / 263) / 700)
    assert found["base"].share == pytest.approx((357 * 234 / 270 + 343 * 55 / 80) / 700)
    assert found["v1"].share > found["base"].share
    assert found["v1"].covered == found["base"].covered == 1


def test_one_topic_changes_nothing():
    """Share and interval are the plain ones."""
    found = adjusted({"v1": {"colds": (7, 10)}, "base": {"colds": (1, 20)}})["v1"]
    assert found.share == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx(wilson(7, 10))


def test_what_a_version_was_not_asked_is_not_guessed():
    """Its share is that of the topics it has, and says how much of the mix they are; on less than half it has none."""
    found = adjusted(
        {
            "v1": {"colds": (4, 8)},
            "base": {"colds": (9, 12), "migraine": (10, 10)},
            "v2": {"migraine": (1, 2)},
        }
    )
    assert (found["v1"].share, found["v1"].covered) == (0.5, 0.625)
    assert found["base"].covered == 1
    assert found["v2"] is None


def test_an_answer_without_a_topic_is_covered_by_nobody():
    """It is part of what was rated; a version whose answers nobody has sorted yet is not adjusted."""
    found = adjusted({"v1": {"colds": (4, 8), None: (1, 2)}, "base": {None: (5, 5), "colds": (0, 5)}})
    assert (found["v1"].share, found["v1"].covered) == (0.5, 0.65)
    assert adjusted({"v1": {None: (4, 8)}}) == {"v1": None}


def test_rare_topics_are_one():
    """Topics with fewer than five rated answers of all versions together are a fifth of the mix here, together."""
    found = adjusted(
        {
            "v1": {"warts": (1, 1), "colds": (5, 10)},
            "base": {"mumps": (0, 3), "colds": (5, 6)},
        }
    )
    assert found["v1"].share == pytest.approx(0.8 * 5 / 10 + 0.2 * 1)
    assert found["base"].share == pytest.approx(0.8 * 5 / 6 + 0.2 * 0)
    assert found["v1"].covered == found["base"].covered == 1


@pytest.mark.parametrize(("topics", "asked"), [(3, (60, 60)), (20, (100, 60)), (60, (600, 150))])
def test_the_interval_holds_what_it_says(topics: int, asked: tuple[int, int]):
    """Two versions with other mixes of topics, 1,000 times: 93 to 99 % of the intervals hold the truth.

    It is a little wide by design: it takes the spread within topics for that of the whole.
    """
    random = np.random.default_rng(1)
    mixes = random.dirichlet(np.ones(topics), 2)
    liking = random.uniform(0.4, 0.95, (2, topics))
    held = []
    for _ in range(1000):
        tries = np.array([random.multinomial(n, mix) for n, mix in zip(asked, mixes, strict=True)])
        tries *= tries.sum(axis=0) >= 5  # no rare topics: what they come to has no truth of its own
        ups = random.binomial(tries, liking)
        found = adjusted(
            {
                f"v{v}": {str(t): (int(ups[v, t]), int(tries[v, t])) for t in range(topics) if tries[v, t]}
                for v in (0, 1)
            }
        )
        for v in (0, 1):
            weights = tries.sum(axis=0) * (tries[v] > 0)
            held.append(found[f"v{v}"].low <= weights @ liking[v] / weights.sum() <= found[f"v{v}"].high)
    assert 0.93 <= np.mean(held) <= 0.99
