"""Several people's statements about one thing become one label with a confidence.

The one-coin model of Dawid and Skene (1979; Zhang et al. 2016, arXiv 1406.3824): an end user is right with a
probability of their own, and else says any of the other labels. These probabilities and the labels are found
together by expectation maximisation, with a prior on the probabilities (Raykar et al. 2010, JMLR 11), because
most people judge once. Reviewers are taken at their word, and the estimate is anchored in what they say.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

import numpy as np

from feedback.records import Role

RELIABILITY = 0.75  # of an end user of whom nothing is known
WORTH = 8  # statements that this prior counts for
REVIEWER = 0.95  # the reliability of every reviewer
TWICE_JUDGED = 30  # fewer things that two people judged do not tell how often people err
MOST_FLIPS = 0.4  # people who differ more often than that would make do not choose much better than by chance
_CLOSE = 1e-6  # a smaller step ends the estimate, a smaller lead is a tie
_MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class Statement:
    """How one person judged one thing."""

    item: str  # what was judged
    person: str
    role: Role
    label: str  # "liked", or which answer was chosen; compared within the item only


@dataclass(frozen=True, slots=True)
class Label:
    """What the statements about one item come to."""

    label: str | None  # None: a tie
    confidence: float  # the probability of the best label, or of each of the tied ones
    agreeing: tuple[str, ...]  # who said that label; nobody at a tie


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How often two people who judged the same thing said different things."""

    judged_twice: int  # things that two people or more judged
    share: float | None  # of the twos on one thing that differ, the mean over these things; None without any

    @property
    def flip_rate(self) -> float | None:
        """How often one person says the opposite of what is right, at most `MOST_FLIPS`; None: too few to tell.

        Two people who err independently, each with the same probability e, differ with d = 2e(1 - e).
        """
        if self.judged_twice < TWICE_JUDGED:
            return None
        return round(min((1 - sqrt(max(0.0, 1 - 2 * self.share))) / 2, MOST_FLIPS), 6)


def disagreement(statements: Iterable[Statement]) -> Disagreement:
    """How far people differ on what several of them judged; reviewers are people like others here."""
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for statement in statements:
        said[statement.item][statement.person] = statement.label
    shares = [_differing(Counter(labels.values())) for labels in said.values() if len(labels) > 1]
    return Disagreement(len(shares), round(fmean(shares), 6) if shares else None)


def _differing(votes: Counter[str]) -> float:
    """The share of twos, of those who cast `votes` ({label: how many}), that said different things."""
    total = votes.total()
    return 1 - sum(n * (n - 1) for n in votes.values()) / (total * (total - 1))


def settle(statements: Iterable[Statement]) -> dict[str, Label]:
    """The label of every item, whatever the order of `statements`.

    Where a reviewer spoke, reviewers alone decide, each with one voice; else the end users do, weighed by
    their reliability. Equal evidence is a tie. Of what one person says twice about an item the last stands.
    """
    ballot = _count(statements)
    evidence = _evidence(ballot, _estimate(ballot))
    best = _best(ballot, evidence)
    leads = evidence >= best[ballot.item] - _CLOSE
    alone = (np.bincount(ballot.item, leads, len(ballot.items)) == 1) & (best > _CLOSE)
    confidence = _probability(ballot, evidence).round(6).tolist()
    agreeing: list[list[str]] = [[] for _ in ballot.labels]
    for slot, person in zip(ballot.slot.tolist(), ballot.persons, strict=True):
        agreeing[slot].append(person)
    labels = {}
    for slot, item, wins in zip(
        np.flatnonzero(leads).tolist(),
        ballot.item[leads].tolist(),
        alone[ballot.item[leads]].tolist(),
        strict=True,
    ):
        labels[ballot.items[item]] = Label(
            label=ballot.labels[slot] if wins else None,
            confidence=confidence[slot],
            agreeing=tuple(dict.fromkeys(agreeing[slot])) if wins else (),
        )
    return labels


def reliability(statements: Iterable[Statement]) -> dict[str, float]:
    """How often each end user is right, estimated from reviewers and from each other.

    Whoever said little stays near `RELIABILITY`. As a voice nobody counts less than one half: being often
    wrong is no evidence for the opposite.
    """
    ballot = _count(statements)
    estimate = _estimate(ballot).tolist()
    return {user: round(share, 6) for user, share in zip(ballot.users, estimate, strict=True)}


@dataclass(frozen=True, slots=True)
class _Ballot:
    """The statements as arrays; a slot is one label of one item, and an item's slots are neighbours."""

    items: list[str]
    users: list[str]  # end users
    labels: list[str]  # of each slot
    item: np.ndarray  # of each slot: its place in `items`
    first: np.ndarray  # of each item: its first slot
    options: np.ndarray  # of each item: how many labels it might have
    persons: list[str]  # of each statement
    slot: np.ndarray  # of each statement
    voice: np.ndarray  # of each statement: the place in `users`, or -1 for a reviewer
    decides: np.ndarray  # of each statement: whether it counts towards the label
    tells: np.ndarray  # of each statement: whether the label tells how reliable its person is


def _count(statements: Iterable[Statement]) -> _Ballot:
    standing = {(s.item, s.person, s.role): s.label for s in statements}
    said = sorted((item, label, person, role) for (item, person, role), label in standing.items())
    users = sorted({person for _, _, person, role in said if role == "user"})
    place = {user: at for at, user in enumerate(users)}
    slots: dict[tuple[str, str], int] = {}
    items: dict[str, int] = {}
    for item, label, _, _ in said:
        slots.setdefault((item, label), len(slots))
        items.setdefault(item, len(items))
    slot = np.array([slots[item, label] for item, label, _, _ in said], dtype=np.intp)
    voice = np.array([place[p] if role == "user" else -1 for _, _, p, role in said], dtype=np.intp)
    item = np.array([items[name] for name, _ in slots], dtype=np.intp)
    labels_seen = np.bincount(item, minlength=len(items))
    of_statement = item[slot]
    # Reviewers' voices for and against: where they are even, the item tells nothing about anybody.
    by_reviewer = np.bincount(slot[voice < 0], minlength=len(slots))
    reviewed = np.bincount(item, by_reviewer, len(items)) > 0
    first = np.cumsum(labels_seen) - labels_seen
    most = np.maximum.reduceat(by_reviewer, first) if items else by_reviewer
    even = np.bincount(item, by_reviewer == most[item], len(items)) > 1
    several = np.bincount(of_statement, minlength=len(items)) > 1
    return _Ballot(
        items=list(items),
        users=users,
        labels=[label for _, label in slots],
        item=item,
        first=first,
        options=np.maximum(labels_seen, 2),  # whoever said the only label had another to choose
        persons=[person for _, _, person, _ in said],
        slot=slot,
        voice=voice,
        decides=(voice < 0) | ~reviewed[of_statement],
        # Somebody's only statement about an item would be judged by itself.
        tells=(voice >= 0) & several[of_statement] & ~(reviewed & even)[of_statement],
    )


def _estimate(ballot: _Ballot) -> np.ndarray:
    """The reliability of every end user."""
    voice, slot = ballot.voice[ballot.tells], ballot.slot[ballot.tells]
    judged = np.bincount(voice, minlength=len(ballot.users))
    reliable = np.full(len(ballot.users), RELIABILITY)
    for _ in range(_MAX_STEPS):
        probability = _probability(ballot, _evidence(ballot, reliable))
        right = np.bincount(voice, probability[slot], len(ballot.users))
        before, reliable = reliable, (RELIABILITY * WORTH + right) / (WORTH + judged)
        if np.abs(reliable - before).max(initial=0) < _CLOSE:
            break
    return reliable


def _evidence(ballot: _Ballot, reliable: np.ndarray) -> np.ndarray:
    """Of each slot, by how much its log likelihood exceeds that of a label which nobody said."""
    right = np.append(np.maximum(reliable, 0.5), REVIEWER)[ballot.voice]  # -1: the last, a reviewer
    others = ballot.options[ballot.item[ballot.slot]] - 1
    weight = np.log(right * others / (1 - right))
    return np.bincount(ballot.slot, weight * ballot.decides, len(ballot.labels))


def _probability(ballot: _Ballot, evidence: np.ndarray) -> np.ndarray:
    """The probability of each slot's label, where all were equally likely before anybody spoke."""
    best = _best(ballot, evidence)
    odds = np.exp(evidence - best[ballot.item])  # against the best one, so that nothing overflows
    unsaid = (ballot.options - np.bincount(ballot.item, minlength=len(ballot.items))) * np.exp(-best)
    return odds / (np.bincount(ballot.item, odds, len(ballot.items)) + unsaid)[ballot.item]


def _best(ballot: _Ballot, value: np.ndarray) -> np.ndarray:
    """Of each item, the largest value of its slots."""
    return np.maximum.reduceat(value, ballot.first) if ballot.items else value
