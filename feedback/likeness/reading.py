"""What an encoder makes of the questions of one compilation: which mean the same, and which are of the domain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feedback.compiling.compiler import Events
from feedback.compiling.curation import Curation
from feedback.likeness.clusters import Meanings, relevance
from feedback.likeness.vectors import Vectors
from feedback.records import OWN


@dataclass(frozen=True)
class Reading:
    """What `compile_events` takes of it."""

    meanings: Meanings
    off_topic: frozenset[str]  # ids of turns whose questions are all far from what the domain knows


def read_questions(
    events: Events, golden: Iterable[str], examined: Iterable[str], curation: Curation, vectors: Vectors
) -> Reading:
    """Read the questions of suites, those of knowledge, and those of answers that somebody spoke of.

    The `golden` ones say what the domain is; whatever else is `examined` only keeps its like out of training.
    """
    spoken_of = {signal.turn for signal in events.signals}
    asked = {
        turn.id: turn.questions
        for conversation in events.conversations()
        for turn in conversation
        if turn.id in spoken_of
    }
    domain = list(dict.fromkeys([*golden, *(k.question for k in events.knowledge if k.id.startswith(OWN))]))
    others = [question for questions in asked.values() for question in questions]
    texts = list(dict.fromkeys([*domain, *examined, *(row.question for row in events.knowledge), *others]))
    made = vectors.of(texts)
    meanings = Meanings(texts, made, curation.semantic_duplicate)
    return Reading(
        meanings, _off_topic(asked, dict(zip(texts, made, strict=True)), domain, curation.relevance)
    )


def _off_topic(
    asked: dict[str, list[str]], vector: Mapping[str, np.ndarray], domain: Sequence[str], least: float | None
) -> frozenset[str]:
    """The turns of which no question is near `domain`, the objective's own questions.

    One is enough: what follows it may be "And for children?". What was imported does not count: a file of
    another domain would vouch for its like.
    """
    if least is None:
        return frozenset()
    questions = list({question: None for said in asked.values() for question in said})
    found = relevance(np.array([vector[q] for q in questions]), np.array([vector[q] for q in domain]))
    near = dict(zip(questions, found, strict=True))
    return frozenset(turn for turn, said in asked.items() if max(near[question] for question in said) < least)
