"""How often the gate errs: its own rule on many rounds that are drawn from the recorded differences of real runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.bootstrap import MIN_CLUSTERS, POWER, bounds
from eval.gate import promotes
from eval.objective import KEPT, LEAN, Gate, Objective, in_words
from feedback.errors import UsageError
from feedback.proportions import wilson

FILE = "differences.json"  # in the objective's folder
RESAMPLES = 1000  # in each interval of a simulated round; a real one has more
LARGEST = 16  # times the objective's items: beyond it nobody is told to collect more

# For each cluster what the candidate scored more than the champion on each item, None where it was not judged.
_Cluster = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)] | None, ...], Field(min_length=1)]
_Clusters = Annotated[tuple[_Cluster, ...], Field(min_length=1)]


class Pair(BaseModel):
    """Two versions on the same items; the metrics of one suite have the same clusters in the same order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: dict[str, _Clusters]
    slices: dict[str, _Clusters] = {}  # the primary on the items of each slice


class Recorded(BaseModel):
    """What real runs showed: two seeds of one recipe, and a candidate that won."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made: str  # from which runs
    null: Pair
    gain: Pair  # a metric that it has no items of is taken from `null`


def load_recorded(folder: Path) -> Recorded:
    """The differences in an objective's `folder`; UsageError when there are none or they are not valid."""
    file = folder / FILE
    try:
        return Recorded.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{file} does not exist; record two seeds and a win with `python -m tests.record_differences`"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{file}: {place + ': ' if place else ''}{in_words(first)}") from None


def simulate(objective: Objective, recorded: Recorded, rounds: int) -> dict[str, Any]:
    """How often the gate of `objective` promotes without a gain, and with the one it declares, in `rounds` each.

    In both the primary's differences are moved so that their mean is 0, or the effect: the difference between
    two seeds on the recorded items is chance, and would count twice. The guards stay as they were recorded.
    """
    gate = objective.gate
    if gate.effect is None:
        raise UsageError(
            f"{objective.folder}/objective.toml: gate.effect: is missing; say the smallest gain worth promoting"
        )
    null = recorded.null
    gain = recorded.gain.model_copy(update={"metrics": null.metrics | recorded.gain.metrics})
    suites = _gated(objective, null)
    for pair in (null, gain):
        _check_shapes(objective, pair, suites)
    items = {
        metric: objective.judged_on(metric, objective.suites[suite])
        for suite, metrics in suites.items()
        for metric in metrics
    }
    false = int(_promoted(gate, null, suites, items, 0.0, rounds).sum())

    def found(size: int) -> int:
        sizes = items | {metric: size for metric in next(m for m in suites.values() if gate.primary in m)}
        return int(_promoted(gate, gain, suites, sizes, gate.effect, rounds).sum())

    right = found(items[gate.primary])
    return {
        "false_promotion": false / rounds,
        "false_promotion_interval": list(wilson(false, rounds)),
        "power": right / rounds,
        "power_interval": list(wilson(right, rounds)),
        "items_needed": _least(lambda size: found(size) >= POWER * rounds, items[gate.primary]),
        "primary": gate.primary,
        "effect": gate.effect,
        "items": items,
        "margins": {metric: guard.margin for metric, guard in gate.guards.items() if metric in items},
        "slice_margin": gate.slice_margin,
        "left_out": [metric for metric in gate.guards if metric not in items],
        "confidence": gate.confidence,
        "rounds": rounds,
        "resamples": RESAMPLES,
        "recorded": recorded.made,
    }


def _gated(objective: Objective, null: Pair) -> dict[str, list[str]]:
    """By suite the metrics that decide and were recorded."""
    gate = objective.gate
    found = {}
    for name, plan in objective.suites.items():
        taken = (*plan.metrics, *([KEPT] if LEAN in plan.metrics else []))
        found[name] = [m for m in taken if m in (gate.primary, *gate.guards) and m in null.metrics]
    if gate.primary not in null.metrics:
        raise UsageError(
            f"{objective.folder / FILE}: null.metrics: {gate.primary} is missing; record it anew"
        )
    return {name: metrics for name, metrics in found.items() if metrics}


def _check_shapes(objective: Objective, pair: Pair, suites: Mapping[str, list[str]]) -> None:
    for metrics in suites.values():
        parts = pair.slices if objective.gate.primary in metrics else {}
        tables = {metric: pair.metrics[metric] for metric in metrics} | parts
        shape = [len(cluster) for cluster in tables[metrics[0]]]
        for name, table in tables.items():
            if [len(cluster) for cluster in table] != shape:
                raise UsageError(
                    f"{objective.folder / FILE}: {name} has other clusters than {metrics[0]}, which is taken on "
                    "the same items; record it anew"
                )


def _promoted(
    gate: Gate,
    pair: Pair,
    suites: Mapping[str, list[str]],
    items: Mapping[str, int],
    mean: float,
    rounds: int,
) -> np.ndarray:
    """Whether each of `rounds` simulated rounds is promoted, when the primary's mean is `mean`."""
    lows: dict[str, np.ndarray] = {}
    highs: list[np.ndarray] = []
    corrected = gate.corrected(len(pair.slices))
    for number, metrics in enumerate(suites.values()):
        sizes = np.array([len(cluster) for cluster in pair.metrics[metrics[0]]])
        drawn = _draw(sizes, items[metrics[0]], rounds, np.random.default_rng([gate.seed, number]))
        for metric in metrics:
            sums, judged = _totals(pair.metrics[metric])
            if metric == gate.primary:
                move = mean - sums.sum() / judged.sum()
                sums += move * judged
                for part in pair.slices.values():
                    of_part, judged_of_part = _totals(part)
                    of_part += move * judged_of_part
                    _, high, clusters = _bounds(of_part[drawn], judged_of_part[drawn], corrected)
                    highs.append(np.where(clusters < MIN_CLUSTERS, np.inf, high))  # no slice then
            low, _, clusters = _bounds(sums[drawn], judged[drawn], gate)
            if metric == gate.primary:
                low[clusters < MIN_CLUSTERS] = -np.inf  # not enough data
            lows[metric] = low
    return promotes(gate, lows, highs)


def _totals(clusters: _Clusters) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each cluster and how many of its items were judged, then a cluster of nothing."""
    known = [[value for value in cluster if value is not None] for cluster in (*clusters, ())]
    return np.array([float(sum(values)) for values in known]), np.array([float(len(v)) for v in known])


def _draw(sizes: np.ndarray, items: int, rounds: int, random: np.random.Generator) -> np.ndarray:
    """For each round the clusters that make up `items` items or the first number above, then -1."""
    picks = random.integers(len(sizes), size=(rounds, items))
    before = np.cumsum(sizes[picks], axis=1) - sizes[picks]
    picks[before >= items] = -1
    return picks


def _bounds(sums: np.ndarray, judged: np.ndarray, gate: Gate) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper bound and number of clusters of each round (rounds, clusters); infinite without items.

    Rounds of equally many clusters share their draws, as two metrics of a real round do.
    """
    there = judged > 0
    counts = there.sum(axis=1)
    first = np.argsort(~there, axis=1, kind="stable")
    low, high = np.full(len(sums), np.inf), np.full(len(sums), np.inf)
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        places = rows[:, None], first[rows, :count]
        low[rows], high[rows] = bounds(
            sums[places].T, judged[places].T, gate.confidence, RESAMPLES, gate.seed
        )
    return low, high, counts


def _least(enough: Any, items: int) -> int | None:
    """The fewest items that are `enough`, to within a hundredth; None when even `LARGEST` times `items` are not."""
    low, high = MIN_CLUSTERS, items
    while not enough(high):
        if high >= LARGEST * items:
            return None
        low, high = high, 2 * high
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
