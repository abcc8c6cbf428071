"""Signs that somebody steers the training instead of saying what helped them.

A sign throws nothing away: what it points at waits for a reviewer.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import exp, log, log1p
from statistics import fmean

import numpy as np

from feedback.text import words

MIN_VOTES = 5  # fewer say nothing about a person
MIN_OTHERS = 10  # fewer people are no crowd to compare somebody with
MINUTE_S = 60.0
READERS_PACE = 6.0  # votes a minute of the fastest reader: ten seconds an answer
REPEATS = 2.0  # votes for the same sentence that an honest person casts on average, at least
TELLING_WORDS = 5  # shorter sentences are alike by chance
OWN_TO = 3  # a sentence that more people speak for is nobody's own

_TESTS = 5
_SPREAD = 0.1  # assumed correlation of two votes of one person
_SPREAD_WORTH = 100  # pairs of votes that this assumption counts for
_LEAST_SPREAD = 0.02  # no crowd is of one mind
_MOST_WEIGHT = 5  # votes of one person that count towards what the crowd is like

_Chance = tuple[str, float, str]  # a person, how likely an honest one looks like this, what was seen


@dataclass(frozen=True, slots=True)
class Vote:
    """One rating or choice of an end user; None where a field does not apply or is not known."""

    person: str
    at: datetime | None  # when it was cast; an import without timestamps does not tell
    liked: bool | None = None  # of a rating
    longer: bool | None = None  # of a choice: whether the preferred answer is the longer one
    against_reviewer: bool | None = None  # whether a reviewer judged otherwise
    text: str | None = None  # the answer it speaks for


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What speaks against one person's votes."""

    score: float  # 0 to 1: one minus the chance that anybody of an honest crowd stands out this far
    reasons: tuple[str, ...]  # what was seen, the most telling first


def suspicion(votes: Iterable[Vote]) -> dict[str, Suspicion]:
    """How far each person's votes stand out, for everybody who voted.

    Five tests, each with its idea of honest people: they vote no faster than one can read; they like, choose
    the longer answer, and disagree with reviewers as often as the others do, allowing for how much those
    differ among themselves; and they do not speak again and again for one sentence that is theirs alone.
    The chances are corrected for the number of tests and of people tested (Bonferroni).
    """
    unsorted: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        unsorted[vote.person].append(vote)
    ballots = dict(sorted(unsorted.items()))  # sums come out the same in whatever order they voted
    chances = [
        *_bursts(ballots),
        *_habits(_counts(ballots, "liked"), "{count} likes in {total} ratings", both_ways=True),
        *_habits(_counts(ballots, "longer"), "the longer answer in {count} of {total} choices"),
        *_habits(_counts(ballots, "against_reviewer"), "against the reviewers in {count} of {total} votes"),
        *_refrains(ballots),
    ]
    tested = sum(len(own) >= MIN_VOTES for own in ballots.values())
    seen: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for person, chance, what in chances:
        if (corrected := round(chance * tested * _TESTS, 6)) < 1:
            seen[person].append((corrected, what))
    return {
        person: Suspicion(
            score=round(1 - min((chance for chance, _ in seen[person]), default=1.0), 6),
            reasons=tuple(what for _, what in sorted(seen[person])),
        )
        for person in ballots
    }


def _bursts(ballots: Mapping[str, Sequence[Vote]]) -> Iterator[_Chance]:
    """The busiest minute against a Poisson count at the pace of the fastest reader."""
    from scipy.special import pdtrc

    for person, own in ballots.items():
        times = sorted(vote.at.timestamp() for vote in own if vote.at)
        first = most = 0
        for last, time in enumerate(times):
            while time - times[first] > MINUTE_S:
                first += 1
            most = max(most, last - first + 1)
        if most >= MIN_VOTES:
            # The busiest minute was looked for: it might have begun with any of the votes.
            yield person, len(times) * float(pdtrc(most - 1, READERS_PACE)), f"{most} votes in a minute"


def _counts(ballots: Mapping[str, Sequence[Vote]], answer: str) -> dict[str, tuple[int, int]]:
    """Of each person to whom `answer` applies: how often it is true, and of how many."""
    said = {
        person: [is_so for vote in own if (is_so := getattr(vote, answer)) is not None]
        for person, own in ballots.items()
    }
    return {person: (sum(answers), len(answers)) for person, answers in said.items() if answers}


def _habits(counts: Mapping[str, tuple[int, int]], what: str, both_ways: bool = False) -> Iterator[_Chance]:
    """Each count against a beta-binomial one (Skellam 1948) with the mean and the spread of the others.

    A plain binomial would accuse whoever is a little more generous than most, once they voted often.
    """
    if len(counts) <= MIN_OTHERS:
        return
    alphas, betas = _crowds(np.array(list(counts.values()), dtype=float).T)
    for (person, (count, total)), alpha, beta in zip(counts.items(), alphas, betas, strict=True):
        if total < MIN_VOTES:
            continue
        chance = _tail(count, total, alpha, beta)
        if both_ways:
            chance = min(1.0, 2 * min(chance, _tail(total - count, total, beta, alpha)))
        yield person, chance, what.format(count=count, total=total)


def _crowds(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each person the beta distribution of everybody else's habits, by its moments."""

    def others(of_each: np.ndarray) -> np.ndarray:
        return of_each.sum() - of_each

    count, total = counts
    weight = np.minimum(total, _MOST_WEIGHT)
    mean = (others(weight * count / total) + 0.5) / (others(weight) + 1)
    # The spread is the correlation of two votes of one person, estimated from all such pairs.
    center = ((weight * count / total).sum() + 0.5) / (weight.sum() + 1)
    both = count * (count - 1) / np.maximum(total * (total - 1), 1)
    alike = (both - 2 * center * count / total + center**2) / (center * (1 - center))
    pairs = weight * (weight - 1)
    known = others(pairs) + _SPREAD_WORTH
    spread = (others(pairs * alike) + _SPREAD_WORTH * _SPREAD) / known
    variance = (
        others(pairs**2 * alike**2) - 2 * spread * others(pairs**2 * alike) + spread**2 * others(pairs**2)
    )
    # Two standard errors more: where it is uncertain how people differ, a habit is rather taken for usual.
    spread += 2 * np.sqrt(np.maximum(variance, 0)) / known
    # The fewer they are, the less certain is their mean.
    spread = np.clip(spread, _LEAST_SPREAD, 0.9) + 1 / len(total)
    return mean * (1 - spread) / spread, (1 - mean) * (1 - spread) / spread


def _tail(count: int, total: int, alpha: float, beta: float) -> float:
    """The chance of `count` or more of `total` in a beta-binomial distribution."""
    from scipy.special import betaln

    k = np.arange(count, total + 1)
    ways = -log1p(total) - betaln(total - k + 1, k + 1)
    return min(1.0, float(np.exp(ways + betaln(k + alpha, total - k + beta) - betaln(alpha, beta)).sum()))


def _refrains(ballots: Mapping[str, Sequence[Vote]]) -> Iterator[_Chance]:
    """Votes for one sentence that hardly anybody else speaks for, against a geometric count with the others' mean."""
    repeated: dict[str, list[tuple[int, str]]] = {}
    active = [person for person, own in ballots.items() if len(own) >= MIN_VOTES]
    for person in active:
        spoken = Counter(sentence for vote in ballots[person] for sentence in _sentences(vote.text))
        repeated[person] = [(n, sentence) for sentence, n in spoken.items() if n >= MIN_VOTES]
    speakers: dict[str, set[str]] = {sentence: set() for own in repeated.values() for _, sentence in own}
    if not speakers:
        return
    for person, own in ballots.items():
        for vote in own:
            for sentence in speakers.keys() & _sentences(vote.text):
                speakers[sentence].add(person)
    most = {
        person: max((n for n, s in own if len(speakers[s]) <= OWN_TO), default=1)
        for person, own in repeated.items()
    }
    total = sum(most.values())
    for person, count in most.items():
        mean = max(REPEATS, (total - count) / max(1, len(most) - 1))
        if count >= MIN_VOTES:
            yield person, exp(count * log(mean / (1 + mean))), f"{count} votes for the same sentence"


def _sentences(text: str | None) -> set[str]:
    """The telling sentences of `text`, whatever their capitals and line breaks."""
    parts = re.split(r"[.!?] ", " ".join((text or "").casefold().split()))
    return {part.rstrip(".!?") for part in parts if part.count(" ") >= TELLING_WORDS - 1}


def length_lean(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """How much longer the chosen answers of (chosen, rejected) are, in words, for the dataset card.

    `share` is that of the chosen among the longer ones, with its 95 % interval (Wilson 1927); pairs of equal
    length are left out of it. `log_ratio` is the mean of log(chosen / rejected); 0.69 is twice as long.
    """
    from scipy.stats import binomtest

    lengths = [(len(words(chosen)), len(words(rejected))) for chosen, rejected in pairs]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    if not unequal:
        return {"pairs": len(lengths)}
    interval = binomtest(sum(unequal), len(unequal)).proportion_ci(method="wilson")
    return {
        "pairs": len(lengths),
        "share": round(sum(unequal) / len(unequal), 6),
        "low": round(float(interval.low), 6),
        "high": round(float(interval.high), 6),
        # One word more on both sides: an answer may be a sign or a picture alone.
        "log_ratio": round(fmean(log((chosen + 1) / (rejected + 1)) for chosen, rejected in lengths), 6),
    }
