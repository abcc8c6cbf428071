"""The decision rule: a candidate serves only when it surely wins and surely loses nothing that counts.

Each metric is judged by a paired bootstrap over clusters (Efron and Tibshirani 1993, chapters 6 and 13):
clusters of items are drawn with replacement, the same ones for champion and candidate. Pure functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from eval.exam import Evaluation
from eval.objective import KEPT, Gate
from eval.suites import Item, Suite
from feedback.errors import RatchetError

MIN_CLUSTERS = 10  # a bootstrap over fewer says less than it seems to
ARITHMETIC = 1e-5  # smaller differences of one item come from the order of float32 sums, not from the model
_DRAWS_AT_ONCE = 2_000_000  # clusters drawn in one piece: bounds the memory to some 50 MB

_NOUNS = {
    "questions": "questions",
    "multiple_choice": "questions",
    "text": "texts",
    "corrections": "corrections",
}


@dataclass(frozen=True)
class Comparison:
    """One metric of both versions on the same items."""

    champion: float  # mean over the items
    candidate: float
    difference: float  # candidate - champion
    low: float  # bounds of the difference
    high: float
    n: int  # items
    clusters: int


@dataclass(frozen=True)
class Decision:
    """What the gate says, and why in words."""

    decision: Literal["promote", "refuse", "not_enough_data"]
    reasons: tuple[str, ...]
    metrics: Mapping[str, Comparison]

    def to_json(self) -> dict[str, Any]:
        """As decision.json keeps it; every number is finite."""
        return asdict(self) | {"reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Decision":
        """The decision that `to_json` wrote."""
        metrics = {name: Comparison(**numbers) for name, numbers in document["metrics"].items()}
        return cls(document["decision"], tuple(document["reasons"]), metrics)


def decide(champion: Evaluation, candidate: Evaluation, suites: Iterable[Suite], gate: Gate) -> Decision:
    """Whether `candidate` may take the place of `champion`.

    Promote when the primary's lower bound lies above 0 and every guard's above minus its margin; not enough
    data when the primary suite lacks items that the objective froze. RatchetError when the two evaluations
    were not made on these suites at equal settings.
    """
    suites = tuple(suites)
    _check_comparable(champion, candidate, suites)
    items_of: dict[str, list[Item]] = {}
    noun_of: dict[str, str] = {}
    for suite in suites:
        for metric, items in _items_by_metric(suite, champion).items():
            items_of[metric] = items
            noun_of[metric] = _NOUNS[suite.kind]
    if gate.primary not in items_of:
        raise RatchetError(f"no suite takes the primary metric {gate.primary}; freeze the suites anew")
    metrics = {
        metric: _compare(metric, items, champion, candidate, gate)
        for metric, items in items_of.items()
        if items
    }
    missing = _missing(gate, suites, metrics)
    broken = [
        name for name, guard in gate.guards.items() if name in metrics and metrics[name].low <= -guard.margin
    ]
    wins = gate.primary in metrics and metrics[gate.primary].low > 0
    reasons = [
        *missing,
        *_words_on_primary(gate, metrics, noun_of),
        *_words_on_guards(gate, metrics, noun_of),
        *(
            f"{metric} is left out: it has no items"
            for metric in (*items_of, *gate.guards)
            if metric not in metrics
        ),
    ]
    decision = "not_enough_data" if missing else "promote" if wins and not broken else "refuse"
    return Decision(decision, tuple(dict.fromkeys(reasons)), metrics)


def beside_withdrawn(
    decision: Decision,
    name: str,
    withdrawn: Evaluation | None,
    candidate: Evaluation,
    suites: Iterable[Suite],
    gate: Gate,
) -> Decision:
    """`decision`, but refused where `candidate` is worse than the champion `name` that an erasure withdrew.

    The primary may not surely lose, and each guard's lower bound lies above minus its margin, on the items that
    both were scored on. What cannot be compared is said and changes nothing.
    """
    if withdrawn is None or withdrawn.settings != candidate.settings:
        left = "nothing is left of" if withdrawn is None else "other settings hold for"
        return _with_reason(
            decision, f"{name} was withdrawn by an erasure, and {left} its scores: not compared"
        )
    reasons, worse = [], False
    for suite in suites:
        scores = withdrawn.suites.get(suite.name, {}).get("scores", {})
        for metric in (*suite.metrics, KEPT):
            known = scores.get("corrections_honoured" if metric == KEPT else metric, {})
            items = [i for i in suite.items if i.id in known and (metric != KEPT or known[i.id] == 1.0)]
            if not items or metric not in (gate.primary, *gate.guards):
                continue
            found = _compare(metric, items, withdrawn, candidate, gate)
            lost = found.high < 0 if metric == gate.primary else found.low <= -gate.guards[metric].margin
            worse = worse or lost
            reasons.append(
                f"{metric} beside {name}, which an erasure withdrew: {'worse' if lost else 'not worse'} "
                f"({_interval_in_words(found, gate, _NOUNS[suite.kind])})"
            )
    if not reasons:
        reasons = [f"{name} was withdrawn by an erasure, and was scored on no item of today: not compared"]
    for reason in reasons:
        decision = _with_reason(decision, reason)
    return replace(decision, decision="refuse") if worse and decision.decision == "promote" else decision


def _with_reason(decision: Decision, reason: str) -> Decision:
    return replace(decision, reasons=(*decision.reasons, reason))


def interval(
    differences: np.ndarray, clusters: Sequence[str], confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the mean of each column of `differences` (items, columns).

    A percentile interval from `resamples` draws of whole clusters. With fewer than `MIN_CLUSTERS` clusters it
    is the range of the clusters' means, which no draw can leave. At least one item is needed.
    """
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    sums = np.zeros((count, differences.shape[1]))
    np.add.at(sums, place, differences)
    sizes = np.bincount(place).astype(float)
    if count < MIN_CLUSTERS:
        means = sums / sizes[:, None]
        return means.min(axis=0), means.max(axis=0)
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // count)
    drawn = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        picks = random.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
        drawn.append(times @ sums / (times @ sizes)[:, None])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return low, high


def _check_comparable(champion: Evaluation, candidate: Evaluation, suites: Sequence[Suite]) -> None:
    if champion.settings != candidate.settings:
        raise RatchetError(
            f"{champion.version} and {candidate.version} were evaluated at different settings; "
            "evaluate both again"
        )
    for evaluation in (champion, candidate):
        for suite in suites:
            if evaluation.suites.get(suite.name, {}).get("hash") != suite.hash:
                raise RatchetError(
                    f"{evaluation.version} was not evaluated on this suite of {suite.name}; evaluate it again"
                )


def _items_by_metric(suite: Suite, champion: Evaluation) -> dict[str, list[Item]]:
    """The items that each metric of `suite` is judged on, by id."""
    items = sorted(suite.items, key=lambda item: item.id)
    chosen = {metric: items for metric in suite.metrics}
    if "corrections_honoured" in suite.metrics:
        honoured = champion.suites[suite.name]["scores"]["corrections_honoured"]
        chosen[KEPT] = [item for item in items if item.known_to_champion and honoured[item.id] == 1.0]
    return chosen


def _compare(
    metric: str, items: Sequence[Item], champion: Evaluation, candidate: Evaluation, gate: Gate
) -> Comparison:
    measured = "corrections_honoured" if metric == KEPT else metric
    before, after = (
        np.array([evaluation.suites[item.suite]["scores"][measured][item.id] for item in items])
        for evaluation in (champion, candidate)
    )
    differences = after - before
    differences[np.abs(differences) < ARITHMETIC] = 0.0
    clusters = [item.cluster for item in items]
    low, high = interval(differences[:, None], clusters, gate.confidence, gate.resamples, gate.seed)
    return Comparison(
        champion=float(before.mean()),
        candidate=float(after.mean()),
        difference=float(differences.mean()),
        low=float(low[0]),
        high=float(high[0]),
        n=len(items),
        clusters=len(set(clusters)),
    )


def _missing(gate: Gate, suites: Sequence[Suite], metrics: Mapping[str, Comparison]) -> list[str]:
    """What the primary metric lacks to be decided on."""
    suite = next(suite for suite in suites if gate.primary in suite.metrics)
    noun = _NOUNS[suite.kind]
    if len(suite.items) < suite.wanted:
        return [
            f"not enough data: suite {suite.name} has {len(suite.items)} of the {suite.wanted} {noun} that the "
            f"objective froze; {suite.wanted - len(suite.items)} are missing"
        ]
    if metrics[gate.primary].clusters < MIN_CLUSTERS:
        return [
            f"not enough data: the {noun} of suite {suite.name} cover {metrics[gate.primary].clusters} topics or "
            f"clusters; at least {MIN_CLUSTERS} are needed"
        ]
    return []


def _words_on_primary(gate: Gate, metrics: Mapping[str, Comparison], noun_of: Mapping[str, str]) -> list[str]:
    if gate.primary not in metrics:
        return []
    found = metrics[gate.primary]
    moved = "rose" if found.difference > 0 else "fell" if found.difference < 0 else "changed"
    verdict = "it wins" if found.low > 0 else "it loses" if found.high < 0 else "no sure win"
    return [
        f"{gate.primary} {moved} by {abs(found.difference):.3f} "
        f"({_interval_in_words(found, gate, noun_of[gate.primary])}): {verdict}"
    ]


def _words_on_guards(gate: Gate, metrics: Mapping[str, Comparison], noun_of: Mapping[str, str]) -> list[str]:
    reasons = []
    for metric, guard in gate.guards.items():
        if metric not in metrics:
            continue
        found = metrics[metric]
        lost = f"may have lost up to {-found.low:.3f}" if found.low < 0 else "lost nothing"
        margin = f"margin of {guard.margin:.3f}"
        verdict = f"more than its {margin}" if found.low <= -guard.margin else f"within its {margin}"
        reasons.append(f"{metric} {lost}, {verdict} ({_interval_in_words(found, gate, noun_of[metric])})")
    return reasons


def _interval_in_words(found: Comparison, gate: Gate, noun: str) -> str:
    kind = f"{gate.confidence * 100:g} % interval"
    if found.clusters < MIN_CLUSTERS:
        kind = f"range, as {found.clusters} clusters are too few for an interval,"
    return f"{kind} {found.low:.3f} to {found.high:.3f}, {found.n} {noun}"
