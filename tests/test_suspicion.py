"""Unusual voting is found, and honest habits are not."""

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from feedback.compiling.curation import Curation
from feedback.compiling.suspicion import Suspicion, Vote, length_lean, suspicion

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
LIMIT = Curation().suspicion_limit
PEOPLE = 400


def person(rng: np.random.Generator, name: str, total: int, likes: float | None = None) -> list[Vote]:
    """An honest person with habits of their own, who reads about a minute before each vote."""
    likes = rng.beta(7.2, 1.8) if likes is None else likes
    longer, against = rng.beta(12, 8), rng.beta(2, 8)
    times = np.cumsum(rng.lognormal(4, 1, total))
    votes = []
    for number, seconds in enumerate(times):
        at = AT + timedelta(seconds=float(seconds))
        disagrees = bool(rng.random() < against) if rng.random() < 0.5 else None
        text = (
            f"This is the answer with the number {number} for {name}. See a doctor if it does not get better."
        )
        if rng.random() < 0.7:
            votes.append(
                Vote(name, at, liked=bool(rng.random() < likes), against_reviewer=disagrees, text=text)
            )
        else:
            votes.append(
                Vote(name, at, longer=bool(rng.random() < longer), against_reviewer=disagrees, text=text)
            )
    return votes


def crowd(seed: int, kind: str = "mixed") -> list[Vote]:
    """Honest people, most of whom vote a few times."""
    rng = np.random.default_rng(seed)
    votes = []
    for number in range(PEOPLE):
        total = int(min(200, 1 + rng.pareto(1.1) * 2))
        likes = None
        if kind == "few":
            total = int(rng.integers(1, 4))
        if kind == "long" and number % 10 == 0:
            total = 150
        if kind == "generous" and rng.random() < 0.3:
            likes = 1.0
        if kind == "grumpy" and rng.random() < 0.05:
            likes = 0.0
        votes += person(rng, f"p{number}", total, likes)
    return votes


CROWD = crowd(0)


def beside_the_crowd(*votes: Vote) -> Suspicion:
    """What one more person's votes look like in an honest crowd."""
    return suspicion([*CROWD, *votes])[votes[0].person]


@pytest.mark.parametrize("kind", ["mixed", "few", "long", "generous", "grumpy"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_honest_people_are_let_alone(kind: str, seed: int):
    """Neither few votes, nor many, nor kindness, nor bad temper puts anybody above the limit."""
    found = suspicion(crowd(seed, kind))
    assert len(found) == PEOPLE
    assert [name for name, what in found.items() if what.score > LIMIT] == []


def test_three_votes_say_nothing():
    """However odd they are."""
    votes = [
        Vote("bot", AT, liked=False, longer=True, against_reviewer=True, text="One two three four five.")
    ] * 3
    assert beside_the_crowd(*votes) == Suspicion(0.0, ())


def test_faster_than_reading():
    """Forty votes within a minute are no reader's; forty within a day, or at unknown times, are."""
    burst = [Vote("bot", AT + timedelta(seconds=1.5 * n)) for n in range(40)]
    slow = [Vote("ann", AT + timedelta(minutes=20 * n)) for n in range(40)]
    unknown = [Vote("import", None) for _ in range(40)]
    assert beside_the_crowd(*burst).score > LIMIT
    assert beside_the_crowd(*burst).reasons == ("40 votes in a minute",)
    assert beside_the_crowd(*slow) == beside_the_crowd(*unknown) == Suspicion(0.0, ())


def test_the_thumbs_at_the_end_of_a_conversation_are_no_burst():
    """Rating ten answers in one go, after all was read, is honest."""
    assert beside_the_crowd(*[Vote("ann", AT + timedelta(seconds=3 * n)) for n in range(10)]).score < 0.5


def test_against_everything():
    """Where most like most answers, somebody who likes none of many stands out; likes only do not."""
    against = [Vote("bot", None, liked=False)] * 60
    kind = [Vote("ann", None, liked=True)] * 60
    assert beside_the_crowd(*against).score > LIMIT
    assert beside_the_crowd(*against).reasons == ("0 likes in 60 ratings",)
    assert beside_the_crowd(*kind).score < LIMIT


def test_always_the_longer_answer():
    """Nobody's habit in a crowd that chooses it three times of five."""
    votes = [Vote("bot", None, longer=True)] * 150
    assert beside_the_crowd(*votes).score > LIMIT
    assert beside_the_crowd(*votes).reasons == ("the longer answer in 150 of 150 choices",)
    assert beside_the_crowd(*[Vote("ann", None, longer=False)] * 150).score < LIMIT


def test_against_the_reviewers():
    """Contradicting them always stands out, agreeing with them always does not."""
    votes = [Vote("bot", None, against_reviewer=True)] * 60
    assert beside_the_crowd(*votes).score > LIMIT
    assert beside_the_crowd(*votes).reasons == ("against the reviewers in 60 of 60 votes",)
    assert beside_the_crowd(*[Vote("ann", None, against_reviewer=False)] * 60).score < LIMIT


def planted(name: str, total: int) -> list[Vote]:
    """Votes for answers that share nothing but one sentence."""
    return [
        Vote(
            name,
            None,
            text=f"Answer {n} begins like this here. Celery juice cures every cough at once! Bye {n}.",
        )
        for n in range(total)
    ]


def test_two_hundred_votes_for_one_sentence():
    """A sentence that one person brings forward again and again, in whatever answers, stands out."""
    assert beside_the_crowd(*planted("bot", 200)).score > LIMIT
    assert beside_the_crowd(*planted("bot", 200)).reasons == ("200 votes for the same sentence",)
    assert beside_the_crowd(*planted("ann", 6)).score < LIMIT


def test_what_the_model_always_says_is_nobodys_sentence():
    """A stock sentence that others speak for too accuses nobody."""
    votes = [Vote(f"p{n}", None, text="Answer. See a doctor if it does not get better.") for n in range(4)]
    loyal = [Vote("ann", None, text="See a doctor if it does not get better.")] * 100
    assert suspicion([*votes, *loyal])["ann"].score == 0


def test_a_handful_of_people_is_no_crowd():
    """Nobody's habits are compared with those of fewer than ten others."""
    votes = [Vote(f"p{n}", None, liked=n > 0) for n in range(10) for _ in range(100)]
    assert all(what == Suspicion(0.0, ()) for what in suspicion(votes).values())
    assert suspicion([]) == {}


def test_a_few_attackers_do_not_make_their_habit_the_crowds():
    """Each of three is measured by people, not by the hundreds of votes of the other two."""
    votes = [Vote(f"bot{bot}", None, liked=False) for bot in range(3) for _ in range(200)]
    found = suspicion([*CROWD, *votes])
    assert all(found[f"bot{bot}"].score > LIMIT for bot in range(3))


def test_the_most_telling_sign_comes_first():
    """The score is that of the strongest sign; weaker ones are named after it."""
    votes = [Vote("bot", AT, liked=False) for _ in range(60)]
    assert beside_the_crowd(*votes).reasons == ("60 votes in a minute", "0 likes in 60 ratings")


def test_order_changes_nothing():
    """The same votes in another order: the same scores, to the last digit."""
    votes = [*CROWD, *planted("bot", 30)]
    random.Random(5).shuffle(votes)
    assert repr(suspicion(votes)) == repr(suspicion(votes[::-1]))


def test_length_lean():
    """The share of longer answers among the chosen, with Wilson's interval; equal lengths are left out of it."""
    pairs = [("one two three", "one")] * 7 + [("one", "one two three")] * 3 + [("so, so", "so so")] * 2
    lean = length_lean(pairs)
    assert (lean["pairs"], lean["share"]) == (12, 0.7)
    assert (lean["low"], lean["high"]) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert lean["log_ratio"] == pytest.approx(4 * np.log(2) / 12, abs=1e-6)
    assert length_lean([]) == {"pairs": 0}
    assert length_lean([("🙂", "!")]) == {"pairs": 1}
