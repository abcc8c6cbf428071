"""How sure a mean is: clusters of items are drawn with replacement (Efron and Tibshirani 1993, chapters 6, 13)."""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

MIN_CLUSTERS = 10  # a bootstrap over fewer says less than it seems to
POWER = 0.8  # how often a gain should be found that is there
_DRAWS_AT_ONCE = 2_000_000  # clusters drawn in one piece: bounds the memory to some 50 MB


def interval(
    differences: np.ndarray, clusters: Sequence[str], confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the mean of each column of `differences` (items, columns).

    At least one item is needed.
    """
    sums, sizes = _by_cluster(differences, clusters)
    return bounds(sums, sizes, confidence, resamples, seed)


def bounds(
    sums: np.ndarray, sizes: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of each column's mean: `sums` of items and their number, (clusters, columns).

    A percentile interval from `resamples` draws of whole clusters, the same ones for every column. With fewer
    than `MIN_CLUSTERS` clusters it is the range of the clusters' means, which no draw can leave.
    """
    count = len(sums)
    if count < MIN_CLUSTERS:
        means = sums / sizes
        return means.min(axis=0), means.max(axis=0)
    drawn = [times @ sums / (times @ sizes) for times in draws(count, resamples, seed)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return low, high


def draws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` clusters is drawn, (draws, clusters): `resamples` draws, some at a time."""
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        picks = random.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        yield np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(float)


def detectable(differences: np.ndarray, clusters: Sequence[str], confidence: float) -> float:
    """The smallest gain that the interval of as many items would show to be one, `POWER` of the time.

    By the normal approximation, from the spread of the clusters; at least two are needed.
    """
    sums, sizes = _by_cluster(differences[:, None], clusters)
    count, items = len(sums), sizes.sum()
    left = (sums - sizes * (sums.sum() / items)).ravel()
    error = math.sqrt(count / (count - 1) * float(left @ left)) / float(items)
    quantile = NormalDist().inv_cdf
    return (quantile((1 + confidence) / 2) + quantile(POWER)) * error


def _by_cluster(differences: np.ndarray, clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The sums (clusters, columns) and the sizes (clusters, 1)."""
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), differences.shape[1]))
    np.add.at(sums, place, differences)
    return sums, np.bincount(place).astype(float)[:, None]
