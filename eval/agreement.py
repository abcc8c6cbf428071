"""How far a judge agrees with this period's reviewers, and whether that lets it count.

Cohen's kappa (Cohen 1960) over "first", "second" and "tie", with a percentile interval from whole clusters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.bootstrap import MIN_CLUSTERS, draws
from eval.objective import Gate
from eval.slices import slices
from eval.suites import Item
from feedback.pairs import Pair, Preference

LABELS: tuple[Preference, ...] = ("first", "second", "tie")


@dataclass(frozen=True)
class Agreement:
    """Kappa of a judge and the reviewers on some pairs."""

    kappa: float
    low: float
    high: float
    n: int  # pairs
    clusters: int


def kappas(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa of each table of counts (..., labels, labels); 0 where both always say the same one thing."""
    n = tables.sum(axis=(-2, -1))
    agreed = np.trace(tables, axis1=-2, axis2=-1) / n
    by_chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    undefined = by_chance >= 1
    return np.where(undefined, 0.0, (agreed - by_chance) / np.where(undefined, 1.0, 1 - by_chance))


def agree(
    preferred: Sequence[Preference], verdicts: Sequence[Preference], clusters: Sequence[str], gate: Gate
) -> Agreement:
    """How far `verdicts` agree with what reviewers `preferred`, of at least one pair.

    Of fewer than `MIN_CLUSTERS` clusters nothing is sure: the interval is all that kappa can be.
    """
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    tables = np.zeros((len(names), len(LABELS), len(LABELS)))
    rows, columns = ([LABELS.index(label) for label in said] for said in (preferred, verdicts))
    np.add.at(tables, (place, rows, columns), 1)
    low, high = -1.0, 1.0
    if len(names) >= MIN_CLUSTERS:
        drawn = [
            kappas(np.tensordot(times, tables, axes=1))
            for times in draws(len(names), gate.resamples, gate.seed)
        ]
        tail = (1 - gate.confidence) / 2
        low, high = map(float, np.quantile(np.concatenate(drawn), [tail, 1 - tail]))
    return Agreement(float(kappas(tables.sum(axis=0))), low, high, len(preferred), len(names))


def agree_by_slice(pairs: Sequence[Pair], verdicts: Sequence[Preference], gate: Gate) -> dict[str, Agreement]:
    """The same of choices, of corrections, and of each topic, number of turns and length.

    Parts of fewer than `MIN_CLUSTERS` clusters are left out; the intervals hold together (Bonferroni).
    """
    preferred = {pair.id: pair.preferred for pair in pairs}
    verdict_on = {pair.id: verdict for pair, verdict in zip(pairs, verdicts, strict=True)}
    items = [_item(pair) for pair in pairs]
    parts = slices(items)
    for kind in sorted({pair.kind for pair in pairs}):
        part = [item for item, pair in zip(items, pairs, strict=True) if pair.kind == kind]
        if len(part) < len(items) and len({item.cluster for item in part}) >= MIN_CLUSTERS:
            parts[kind] = part
    corrected = gate.corrected(len(parts))
    return {
        name: agree(
            [preferred[item.id] for item in part],
            [verdict_on[item.id] for item in part],
            [item.cluster for item in part],
            corrected,
        )
        for name, part in parts.items()
    }


def _item(pair: Pair) -> Item:
    """`pair` as slices look at it: as long as the answer that is preferred."""
    better = pair.second if pair.preferred == "second" else pair.first
    return Item(pair.id, "reviewers", pair.cluster, pair.messages, reference=better)


def license_judge(
    floor: float, whole: Agreement | None, parts: Mapping[str, Agreement], gate: Gate
) -> tuple[bool, str]:
    """Whether a judge may count, and why in words.

    The lower bound of its kappa lies above `floor`, from at least `MIN_CLUSTERS` clusters, and no slice surely lies
    below it.
    """
    if whole is None:
        return False, "no reviewer has compared two answers since the last promotion"
    if whole.clusters < MIN_CLUSTERS:
        return False, (
            f"what reviewers compared since the last promotion covers {whole.clusters} topics or clusters; at least "
            f"{MIN_CLUSTERS} are needed"
        )
    if whole.low <= floor:
        return False, f"it does not surely agree with reviewers: {_in_words(whole, floor, gate)}"
    for name, part in parts.items():
        if part.high < floor:
            words = _in_words(part, floor, gate.corrected(len(parts)))
            return False, f"it surely does not agree with reviewers on {name}: {words}"
    return True, f"it agrees with reviewers: {_in_words(whole, floor, gate)}"


def _in_words(found: Agreement, floor: float, gate: Gate) -> str:
    return (
        f"kappa {found.kappa:.2f}, {gate.confidence * 100:.3g} % interval {found.low:.2f} to {found.high:.2f}, "
        f"{found.n} pairs, floor {floor:g}"
    )
