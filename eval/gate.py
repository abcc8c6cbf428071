"""The decision rule: a candidate serves only when it surely wins and surely loses nothing that counts.

Each metric is judged by a paired bootstrap over clusters: the same ones are drawn for champion and candidate.
Pure functions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from eval.bootstrap import MIN_CLUSTERS, POWER, detectable, interval
from eval.exam import Evaluation
from eval.judge import Judged
from eval.objective import HONOURED, KEPT, LEAN, Gate, Guard
from eval.slices import slices
from eval.suites import Item, Suite
from feedback.errors import RatchetError

NOTABLE_LENGTH = 0.1  # of the champion's answers; smaller changes of their length are not spoken of
ARITHMETIC = 1e-5  # smaller differences of one item come from the order of float32 sums, not from the model

_NOUNS = {
    "questions": "questions",
    "multiple_choice": "questions",
    "taught": "questions",
    "text": "texts",
    "corrections": "corrections",
    "prompts": "prompts",
    "disputes": "disputes",
    "pairs": "pairs",
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
    # {metric: {slice: Comparison}}; the intervals of one metric's slices hold together
    slices: Mapping[str, Mapping[str, Comparison]] = field(default_factory=dict)
    detectable: float | None = None  # the gain of the primary that as many items would show 80 % of the time
    items_needed: int | None = None  # that would show the gain that was seen; None where it is sure, or none

    def to_json(self) -> dict[str, Any]:
        """As decision.json keeps it; every number is finite."""
        return asdict(self) | {"reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Decision":
        """The decision that `to_json` wrote, today or before there were slices."""
        return cls(
            document["decision"],
            tuple(document["reasons"]),
            _comparisons(document["metrics"]),
            {metric: _comparisons(parts) for metric, parts in document.get("slices", {}).items()},
            document.get("detectable"),
            document.get("items_needed"),
        )


def _comparisons(document: Mapping[str, Any]) -> dict[str, Comparison]:
    return {name: Comparison(**numbers) for name, numbers in document.items()}


def promotes(gate: Gate, lows: Mapping[str, Any], slice_highs: Iterable[Any]) -> Any:
    """The rule: the primary surely wins, no guard may have lost its margin, no slice of the primary surely has.

    From the lower bound of each metric that has items and the upper bounds of the primary's slices: numbers of
    one decision, or arrays of many.
    """
    lost = [_may_have_lost(guard, lows[metric]) for metric, guard in gate.guards.items() if metric in lows]
    lost += [_surely_lost(gate, high) for high in slice_highs]
    return np.all([lows[gate.primary] > 0, *np.logical_not(lost)], axis=0)


def _may_have_lost(guard: Guard, low: Any) -> Any:
    return low <= -guard.margin


def _surely_lost(gate: Gate, high: Any) -> Any:
    """Whether a slice of the primary has, and the objective minds."""
    return high < -(gate.slice_margin or math.inf)


def decide(
    champion: Evaluation,
    candidate: Evaluation,
    suites: Iterable[Suite],
    gate: Gate,
    decisions_before: Mapping[str, float] | None = None,
) -> Decision:
    """Whether `candidate` may take the place of `champion`; `decisions_before` says how often a suite has decided.

    Promote when the rule of `promotes` holds; not enough data when the primary suite lacks items that the
    objective froze. RatchetError when the two evaluations were not made on these suites at equal settings, or
    the champion answers a guard's suite no better than by chance.
    """
    suites = tuple(suites)
    _check_comparable(champion, candidate, suites)
    _check_above_chance(champion, suites, gate)
    items_of: dict[str, list[Item]] = {}
    noun_of: dict[str, str] = {}
    for suite in suites:
        for metric, items in items_by_metric(suite, champion).items():
            if metric != KEPT or metric in gate.guards:
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
    parts = {
        metric: found
        for metric in metrics
        if (found := _compare_slices(metric, items_of[metric], champion, candidate, gate))
    }
    smallest = _detectable(gate, items_of[gate.primary], champion, candidate)
    needed = _items_needed(metrics[gate.primary], smallest) if smallest is not None else None
    reasons = [
        *missing,
        *_words_on_primary(gate, metrics, noun_of),
        *_words_on_guards(gate, metrics, noun_of),
        *_words_on_slices(gate, parts.get(gate.primary, {}), noun_of[gate.primary]),
        *_words_on_corrections(suites, champion, candidate),
        *_words_on_power(smallest, needed, noun_of[gate.primary]),
        *_words_on_wear(gate, suites, decisions_before or {}),
        *(
            f"{metric} is left out: it has no items"
            for metric in (*items_of, *gate.guards)
            if metric not in metrics
        ),
    ]
    verdict: Literal["promote", "refuse", "not_enough_data"] = "not_enough_data"
    if not missing:
        lows = {metric: compared.low for metric, compared in metrics.items()}
        highs = [compared.high for compared in parts.get(gate.primary, {}).values()]
        verdict = "promote" if promotes(gate, lows, highs) else "refuse"
    return Decision(verdict, tuple(dict.fromkeys(reasons)), metrics, parts, smallest, needed)


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
    if withdrawn is None or not candidate.compares_with(withdrawn):
        left = "nothing is left of" if withdrawn is None else "other settings hold for"
        return _with_reason(
            decision, f"{name} was withdrawn by an erasure, and {left} its scores: not compared"
        )
    reasons, worse = [], False
    for suite in suites:
        scores = withdrawn.suites.get(suite.name, {}).get("scores", {})
        for metric in suite.metrics:  # not KEPT: which corrections it was trained on went with its dataset
            items = [item for item in suite.items if item.id in scores.get(metric, {})]
            if not items or metric not in (gate.primary, *gate.guards):
                continue
            found = _compare(metric, items, withdrawn, candidate, gate)
            guard = gate.guards.get(metric)
            lost = _may_have_lost(guard, found.low) if guard else found.high < 0
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


def beside_judge(decision: Decision, judged: Judged, gate: Gate) -> Decision:
    """`decision` with what a judge said; refused where one that has its licence finds the candidate worse.

    Then the lower bound of its verdicts must lie above minus their margin. Without a licence they change nothing.
    """
    if not judged.scores:
        return _with_reason(decision, f"the judge {judged.judge} was not heard: {judged.why}")
    names = sorted(judged.scores)
    scores = np.array([judged.scores[name] for name in names])
    clusters = [judged.clusters[name] for name in names]
    low, high = interval(scores[:, None], clusters, gate.confidence, gate.resamples, gate.seed)
    mean = float(scores.mean())
    found = Comparison(0.0, mean, mean, float(low[0]), float(high[0]), len(names), len(set(clusters)))
    lost = found.low <= -judged.margin
    margin = f"its margin of {judged.margin:.3f}"
    counted = f"more than {margin} may be lost" if lost else f"within {margin}"
    reason = (
        f"the judge {judged.judge} prefers the candidate {int((scores > 0).sum())} times and the champion "
        f"{int((scores < 0).sum())} times, {mean:+.3f} ({_interval_in_words(found, gate, 'questions')}): "
        + (f"{counted}; {judged.why}" if judged.licensed else f"reported only, for {judged.why}")
    )
    decision = replace(decision, metrics={**decision.metrics, "judge": found})
    decision = _with_reason(decision, reason)
    refused = judged.licensed and lost and decision.decision == "promote"
    return replace(decision, decision="refuse") if refused else decision


def beside_lean(
    decision: Decision,
    lean: Mapping[str, float],
    champion: Evaluation,
    candidate: Evaluation,
    gate: Gate,
) -> Decision:
    """`decision`, with a reason that says so where the answers' length went the way the preference pairs surely lean.

    `lean` is what `length_lean` found in the pairs that the candidate learnt from. It changes no verdict.
    """
    suite = next(name for name, found in champion.suites.items() if gate.primary in found["scores"])
    before, after = (one.suites[suite]["figures"].get("answer_tokens") for one in (champion, candidate))
    if not before or "share" not in lean:  # nothing was answered, or all pairs are of equal lengths
        return decision
    change = after / before - 1
    prefer = "longer" if lean["low"] > 0.5 else "shorter" if lean["high"] < 0.5 else None
    if abs(change) < NOTABLE_LENGTH or prefer != ("longer" if change > 0 else "shorter"):
        return decision
    share = lean["share"] if prefer == "longer" else 1 - lean["share"]
    return _with_reason(
        decision,
        f"the answers are {abs(change):.0%} {prefer} than the champion's ({before:.0f} to {after:.0f} tokens), and "
        f"{share:.0%} of the pairs prefer the {prefer} answer: a gain may be one of length",
    )


def _with_reason(decision: Decision, reason: str) -> Decision:
    return replace(decision, reasons=(*decision.reasons, reason))


def _check_comparable(champion: Evaluation, candidate: Evaluation, suites: Sequence[Suite]) -> None:
    if not champion.compares_with(candidate):
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


def _check_above_chance(champion: Evaluation, suites: Sequence[Suite], gate: Gate) -> None:
    """What the champion does not know it cannot lose: such a suite guards nothing."""
    for suite in suites:
        figures = champion.suites[suite.name]["figures"]
        guarding = [metric for metric in suite.metrics if metric in gate.guards]
        if guarding and figures.get("accuracy", 1.0) <= figures.get("constant_answer", 0.0):
            raise RatchetError(
                f"{guarding[0]} cannot guard: {champion.version} is right on {figures['accuracy']:.0%} of suite "
                f"{suite.name}, and always the same choice would be on {figures['constant_answer']:.0%}; give it "
                "easier items or take the guard out of objective.toml"
            )


def items_by_metric(suite: Suite, champion: Evaluation) -> dict[str, list[Item]]:
    """The items that each metric of `suite` is judged on, by id."""
    items = sorted(suite.items, key=lambda item: item.id)
    scores = champion.suites[suite.name]["scores"]
    chosen = {metric: [item for item in items if item.id in scores[metric]] for metric in suite.metrics}
    if LEAN in suite.metrics:
        chosen[KEPT] = [item for item in items if item.known_to_champion]
    return chosen


def differences(
    metric: str, items: Sequence[Item], champion: Evaluation, candidate: Evaluation
) -> np.ndarray:
    """What the candidate scored more than the champion on each item."""
    found = _scores(metric, items, candidate) - _scores(metric, items, champion)
    found[np.abs(found) < ARITHMETIC] = 0.0
    return found


def _scores(metric: str, items: Sequence[Item], evaluation: Evaluation) -> np.ndarray:
    return np.array([evaluation.suites[item.suite]["scores"][_measured(metric)][item.id] for item in items])


def _measured(metric: str) -> str:
    return LEAN if metric == KEPT else metric


def _compare(
    metric: str, items: Sequence[Item], champion: Evaluation, candidate: Evaluation, gate: Gate
) -> Comparison:
    changes = differences(metric, items, champion, candidate)
    clusters = [item.cluster for item in items]
    low, high = interval(changes[:, None], clusters, gate.confidence, gate.resamples, gate.seed)
    return Comparison(
        champion=float(_scores(metric, items, champion).mean()),
        candidate=float(_scores(metric, items, candidate).mean()),
        difference=float(changes.mean()),
        low=float(low[0]),
        high=float(high[0]),
        n=len(items),
        clusters=len(set(clusters)),
    )


def _compare_slices(
    metric: str, items: Sequence[Item], champion: Evaluation, candidate: Evaluation, gate: Gate
) -> dict[str, Comparison]:
    parts = slices(items)
    corrected = gate.corrected(len(parts))
    return {name: _compare(metric, part, champion, candidate, corrected) for name, part in parts.items()}


def _detectable(
    gate: Gate, items: Sequence[Item], champion: Evaluation, candidate: Evaluation
) -> float | None:
    """The smallest gain of the primary that `items` would mostly show; None when they are too few to say."""
    clusters = [item.cluster for item in items]
    if len(set(clusters)) < MIN_CLUSTERS:
        return None
    return detectable(differences(gate.primary, items, champion, candidate), clusters, gate.confidence)


def _items_needed(found: Comparison, smallest: float) -> int | None:
    """How many would mostly show the gain that was seen; None where it is sure already, or none."""
    if found.low > 0 or found.difference <= 0:
        return None
    return math.ceil(found.n * (smallest / found.difference) ** 2)


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
        verdict = f"more than its {margin}" if _may_have_lost(guard, found.low) else f"within its {margin}"
        reasons.append(f"{metric} {lost}, {verdict} ({_interval_in_words(found, gate, noun_of[metric])})")
    return reasons


def _words_on_slices(gate: Gate, parts: Mapping[str, Comparison], noun: str) -> list[str]:
    """The worst slice of the primary, and whichever surely lost more than the margin of slices."""
    reasons, corrected = [], gate.corrected(len(parts))
    worst = min(parts, key=lambda name: parts[name].difference, default=None)
    for name, found in parts.items():
        lost = _surely_lost(gate, found.high)
        if name == worst or lost:
            reasons.append(
                f"{gate.primary} by slice, the {'worst' if name == worst else 'also bad'} of {len(parts)}: {name} "
                f"{found.difference:+.3f} ({_interval_in_words(found, corrected, noun)})"
                + (f": it surely lost more than {gate.slice_margin:.3f}" if lost else "")
            )
    return reasons


def _words_on_corrections(suites: Sequence[Suite], champion: Evaluation, candidate: Evaluation) -> list[str]:
    """What became of the corrections that the champion honoured, and of the others."""
    reasons = []
    for suite in suites:
        if HONOURED in suite.metrics and suite.items:
            was, now = (e.suites[suite.name]["scores"][HONOURED] for e in (champion, candidate))
            kept = [now[item] for item in was if was[item]]
            won = [now[item] for item in was if not was[item]]
            reasons.append(
                f"of {len(kept)} corrections that {champion.version} honours {candidate.version} honours "
                f"{sum(kept):.0f}, and of the {len(won)} others {sum(won):.0f}"
            )
    return reasons


def _words_on_wear(gate: Gate, suites: Sequence[Suite], decisions_before: Mapping[str, float]) -> list[str]:
    name = next(suite.name for suite in suites if gate.primary in suite.metrics)
    before = decisions_before.get(name, 0)
    if before < gate.reuse:
        return []
    return [
        f"suite {name} has decided {before:.0f} times before, and gate.reuse allows {gate.reuse}: the more often it "
        "decides, the likelier one win is luck; with enough new held-out questions it is drawn anew, so import some"
    ]


def _words_on_power(smallest: float | None, needed: int | None, noun: str) -> list[str]:
    if smallest is None:
        return []
    found = f"{POWER * 100:g} % of the time so many {noun} would show a gain of {smallest:.3f}"
    return [f"{found}; the one that was seen takes {needed:,}" if needed else found]


def _interval_in_words(found: Comparison, gate: Gate, noun: str) -> str:
    kind = f"{gate.confidence * 100:.3g} % interval"
    if found.clusters < MIN_CLUSTERS:
        kind = f"range, as {found.clusters} clusters are too few for an interval,"
    return f"{kind} {found.low:.3f} to {found.high:.3f}, {found.n} {noun}"
