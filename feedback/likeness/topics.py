"""What an answer in the chat was about: the topic of the objective's own question that is nearest to what was asked.

It depends on the questions alone, never on the answer or its version, so that versions can be compared within a
topic. The vectors are those that compilations have kept; nothing here asks a model.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from feedback.likeness.vectors import Vectors
from feedback.records import Turn
from feedback.store import Store

_AT_ONCE = 1000  # turns read together


class TopicBook:
    """The topics of turns; what was found once is remembered, without any words."""

    def __init__(self, store: Store, vectors: Vectors, own: Mapping[str, str]):
        """`own`: the objective's own questions, {question: topic}."""
        self._store, self._vectors, self._own = store, vectors, own
        self._topics: dict[str, str] = {}  # by turn

    def of(self, turns: Sequence[str]) -> dict[str, str]:
        """{turn: topic} of those `turns` whose questions a compilation has read, with all of the objective's own."""
        if new := [turn for turn in turns if turn not in self._topics]:
            known = self._vectors.kept(list(self._own))
            if known and len(known) == len(self._own):
                for start in range(0, len(new), _AT_ONCE):
                    self._find(self._store.turns_among(new[start : start + _AT_ONCE]), known)
        return {turn: self._topics[turn] for turn in turns if turn in self._topics}

    def _find(self, turns: Sequence[Turn], known: Mapping[str, np.ndarray]) -> None:
        read = self._vectors.kept([question for turn in turns for question in turn.questions])
        topics, own = [self._own[question] for question in known], np.stack(list(known.values()))
        for turn in turns:
            if turn.questions and all(question in read for question in turn.questions):
                asked = np.stack([read[question] for question in turn.questions])
                self._topics[turn.id] = topics[nearest(asked, own)]


def nearest(asked: np.ndarray, known: np.ndarray) -> int:
    """Which row of `known` has the largest cosine to any of `asked`: a follow-up alone ("And for children?") tells
    no topic.

    float32 (questions, dim) each, rows of unit length, at least one.
    """
    return int((asked @ known.T).max(axis=0).argmax())
