"""What means the same in other words: clusters of questions by the cosine of their sentence vectors.

Every pair that matters is compared, none is guessed: matrix products, a block at a time. The vectors of
`feedback.likeness.vectors` lie on a grid on which float32 products are exact, so that every machine agrees.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from feedback.text import normalised

NEAREST = 5  # known questions that tell the domain: one stray neighbour makes nothing relevant
_ROWS, _COLUMNS = 1024, 8192  # of one product: 32 MiB


class Meanings:
    """Questions that an encoder has read, and which of them mean the same."""

    def __init__(self, questions: Sequence[str], vectors: np.ndarray, threshold: float):
        """`vectors`: float32 (len(questions), dim), unit rows; of equal questions the first counts."""
        first: dict[str, int] = {}
        for row, question in enumerate(questions):
            first.setdefault(normalised(question), row)
        self._numbers = {question: number for number, question in enumerate(first)}
        self._vectors = vectors[list(first.values())]
        self._threshold = threshold
        self._clusters = _clusters(self._vectors, threshold)

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, question: str) -> int | None:
        """The number of `question`, however it is written; None when no encoder has read it."""
        return self._numbers.get(normalised(question))

    def cluster(self, number: int) -> int:
        """The cluster of a question: the number of the one around which it formed."""
        return int(self._clusters[number])

    def like(self, numbers: Sequence[int]) -> np.ndarray:
        """bool (len(self),): which questions mean the same as any of `numbers`."""
        found = np.zeros(len(self), bool)
        for rows, _, cosines in _products(self._vectors, self._vectors[np.asarray(numbers, np.int64)]):
            found[rows] |= (cosines >= self._threshold).any(axis=1)
        return found


def relevance(questions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float64 (len(questions),): the mean cosine of each question to the `NEAREST` of the `known` ones.

    Both float32 (n, dim) with unit rows. Where nothing is known, everything is relevant: 1.
    """
    if not len(known):
        return np.ones(len(questions))
    nearest = np.full((len(questions), NEAREST), -np.inf, np.float32)
    for rows, _, cosines in _products(questions, known):
        seen = np.concatenate([nearest[rows], cosines], axis=1)
        nearest[rows] = np.partition(seen, -NEAREST, axis=1)[:, -NEAREST:]
    nearest.sort(axis=1)
    return nearest[:, -len(known) :].mean(axis=1, dtype=np.float64)


def _clusters(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """int32 (len(vectors),): each joins the first that founded a cluster near enough, or founds its own."""
    clusters = np.full(len(vectors), -1, np.int32)
    founders = np.empty(0, np.int32)
    for start in range(0, len(vectors), _ROWS):
        block = np.arange(start, min(start + _ROWS, len(vectors)))
        for _, columns, cosines in _products(vectors[block], vectors[founders]):
            near = cosines >= threshold
            joins = near.any(axis=1) & (clusters[block] < 0)
            clusters[block[joins]] = founders[columns][near[joins].argmax(axis=1)]
        within = vectors[block] @ vectors[block].T >= threshold
        for row in np.flatnonzero(clusters[block] < 0):
            if clusters[block[row]] < 0:  # not yet taken by one before it: it founds a cluster
                founded = within[row] & (clusters[block] < 0)
                founded[:row] = False
                clusters[block[founded]] = block[row]
                clusters[block[row]] = block[row]
        founders = np.concatenate([founders, block[clusters[block] == block]])
    return clusters


_Product = tuple[slice, slice, np.ndarray]


def _products(left: np.ndarray, right: np.ndarray) -> Iterator[_Product]:
    """The rows, the columns and the values of `left @ right.T`, block by block."""
    for row in range(0, len(left), _ROWS):
        for column in range(0, len(right), _COLUMNS):
            rows, columns = slice(row, row + _ROWS), slice(column, column + _COLUMNS)
            yield rows, columns, left[rows] @ right[columns].T
