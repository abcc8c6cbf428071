"""How sure a share is, and what it would be on another mix of topics: numbers in, numbers out."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

NORMAL_QUANTILE = 1.959964  # of 97.5 %: a two-sided interval of 95 %
SMALL = 5  # a topic with fewer rated answers of all versions together is counted as "other"
LEAST_COVERED = 0.5  # of the mix; a share on less of it says little about the whole
OTHER = "other"

Rated = tuple[int, int]  # thumbs up, of so many


@dataclass(frozen=True)
class Adjusted:
    """A version's share on the mix of topics of all versions together, with its 95 % interval."""

    share: float
    low: float
    high: float
    covered: float  # the part of the mix that lies in topics in which the version was rated


def adjusted(rated: Mapping[str, Mapping[str | None, Rated]]) -> dict[str, Adjusted | None]:
    """What each version's share would be, had all been asked the same: {version: {topic: (up, of)}}.

    Direct standardisation: the version's share within each topic, weighted by that topic's part of everything that
    was rated, over the topics in which the version was rated. What has no topic (None) is in the mix and covered by
    nobody. None for a version that covers less than `LEAST_COVERED`. The interval is Wilson's for as many answers as
    the weighted ones are worth (Kish 1965), somewhat wide where topics differ much.
    """
    mix = Counter()
    for topics in rated.values():
        mix.update({topic: tries for topic, (_, tries) in topics.items()})
    total = mix.total()
    name_of = {topic: topic if count >= SMALL else OTHER for topic, count in mix.items() if topic is not None}
    weight = Counter()
    for topic, name in name_of.items():
        weight[name] += mix[topic] / total
    found: dict[str, Adjusted | None] = {}
    for version, topics in rated.items():
        ups, tries = Counter(), Counter()
        for topic, (up, count) in topics.items():
            if topic in name_of:
                ups[name_of[topic]] += up
                tries[name_of[topic]] += count
        strata = [(weight[name], ups[name], count) for name, count in tries.items()]
        covered = sum(part for part, _, _ in strata)
        found[version] = _standardised(strata, covered) if covered >= LEAST_COVERED else None
    return found


def _standardised(strata: list[tuple[float, int, int]], covered: float) -> Adjusted:
    """From (weight, successes, tries) of each stratum, with the sum of the weights."""
    share = sum(weight * up / tries for weight, up, tries in strata) / covered
    effective = covered**2 / sum(weight**2 / tries for weight, _, tries in strata)
    return Adjusted(share, *wilson(share * effective, effective), covered)


def wilson(successes: float, tries: float) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927); `tries` is above 0."""
    z2 = NORMAL_QUANTILE**2
    share = successes / tries
    middle = (share + z2 / (2 * tries)) / (1 + z2 / tries)
    reach = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / tries + z2 / (4 * tries**2)) / (1 + z2 / tries)
    return max(0.0, middle - reach), min(1.0, middle + reach)
