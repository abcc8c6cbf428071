"""Which side of the wall an item is on: train, validation or held out.

The side follows the topic where one is given, else the near-duplicate cluster of the question; it is
recorded at first sight and never changes. Near-duplicates are found by MinHash (Broder 1997).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from datasketch import MinHash, MinHashLSH

from feedback.text import normalised, shingles, words

Side = Literal["train", "validation", "held_out"]
_PERMUTATIONS = 64
TELLING_WORDS = 20  # shorter answers are alike by form or by chance ("Yes, see a doctor."): they tell nothing


class SideBook:
    """The sides of everything seen in one compilation, together with what was recorded before."""

    def __init__(
        self,
        validation_share: float,
        held_out_share: float,
        near_duplicate: float,
        recorded: Mapping[str, tuple[str, Side]],
    ):
        self._validation_share = validation_share
        self._held_out_share = held_out_share
        self._known: dict[str, tuple[str, Side]] = dict(recorded)
        self.new: dict[str, tuple[str, Side]] = {}  # what this compilation saw first
        self._places: dict[str, tuple[str, Side]] = {}
        self._questions = _Likeness(near_duplicate)
        self._answers = _Likeness(near_duplicate)  # of items that are not for training
        self._pairs = _Likeness(near_duplicate)  # question and answer of training rows
        self._golden = 0
        self._experts = 0

    def hold_out(self, question: str, answer: str, topic: str | None) -> None:
        """Hold a golden item out, and its whole topic with it."""
        self._golden += 1
        item = f"golden {self._golden}"
        key = _topic_key(topic) if topic else _question_key(question)
        place = self._known.get(key) or (key, "held_out")
        # A topic that was trained on before it became golden keeps its recorded side; the item
        # itself still blocks its look-alikes below.
        self._record(key, place)
        self._enter(item, question, answer, (place[0], "held_out"))

    def see(self, item: str, question: str, answer: str, topic: str | None, after: str | None = None) -> None:
        """Give `item` its place: by topic, beside `after` (the turn before it), or by what it resembles."""
        key = _topic_key(topic) if topic else _question_key(question)
        place = self._places[after] if after and not topic else self._known.get(key)
        if place is None:
            place = (key, self._side_of(key)) if topic else self._place_by_likeness(key, question)
            self._record(key, place)
        self._enter(item, question, answer, place)

    def answered(self, item: str, answer: str) -> None:
        """Keep look-alikes of an expert's `answer` out of training, where `item` is on a stricter side."""
        place = self._places[item]
        if place[1] != "train":
            self._experts += 1
            self._places[entry := f"expert {self._experts}"] = place
            self._enter_answer(entry, answer)

    def place(self, item: str) -> tuple[str, Side]:
        """The cluster and the side of `item`."""
        return self._places[item]

    def side(self, item: str) -> Side:
        """The side of `item`."""
        return self._places[item][1]

    def bridges(self, item: str, answer: str, questions: Sequence[str] = ()) -> str | None:
        """The rule that sets `item` aside because it resembles something on a stricter side.

        `questions` are those of a conversation: each counts by itself too, not only all of them together.
        """
        side = self.side(item)
        sketches = [self._questions.sketch_of(item), *map(_sketch, questions[1:] and questions)]
        likes = [self.side(other) for sketch in sketches for other in self._questions.like(sketch)]
        if len(words(answer)) >= TELLING_WORDS:
            likes += [self.side(other) for other in self._answers.like(_sketch(answer)) if other != item]
        if "held_out" in likes and side != "held_out":
            return "resembles_held_out"
        if "validation" in likes and side == "train":
            return "resembles_validation"
        return None

    def seen_before(self, text: str, item: str) -> bool:
        """Whether a near-duplicate of `text` was asked about before; remembers it when not."""
        sketch = _sketch(text)
        if self._pairs.like(sketch):
            return True
        self._pairs.add(item, sketch)
        return False

    def _place_by_likeness(self, key: str, question: str) -> tuple[str, Side]:
        likes = sorted(self._questions.like(_sketch(question)))
        places = [self._places[item] for item in likes]
        held_out = [place for place in places if place[1] == "held_out"]
        return (held_out or places or [(key, self._side_of(key))])[0]

    def _enter(self, item: str, question: str, answer: str, place: tuple[str, Side]) -> None:
        self._places[item] = place
        self._questions.add(item, _sketch(question))
        if place[1] != "train":
            self._enter_answer(item, answer)

    def _enter_answer(self, item: str, answer: str) -> None:
        if len(words(answer)) >= TELLING_WORDS:
            self._answers.add(item, _sketch(answer))

    def _record(self, key: str, place: tuple[str, Side]) -> None:
        if key not in self._known:
            self._known[key] = self.new[key] = place

    def _side_of(self, key: str) -> Side:
        """A share of the keys by their hash: the same on every machine and in any order."""
        draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        if draw < self._held_out_share:
            return "held_out"
        return "validation" if draw < self._held_out_share + self._validation_share else "train"


def _topic_key(topic: str) -> str:
    return "topic:" + normalised(topic)


def _question_key(question: str) -> str:
    return "question:" + hashlib.sha256(normalised(question).encode()).hexdigest()[:32]


class _Likeness:
    """An index that finds what resembles a text; hashing proposes, the estimated similarity decides."""

    def __init__(self, threshold: float):
        self._threshold = threshold
        self._index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._sketches: dict[str, MinHash] = {}

    def add(self, item: str, sketch: MinHash) -> None:
        self._index.insert(item, sketch)
        self._sketches[item] = sketch

    def sketch_of(self, item: str) -> MinHash:
        return self._sketches[item]

    def like(self, sketch: MinHash) -> list[str]:
        found = self._index.query(sketch)
        return [item for item in found if self._sketches[item].jaccard(sketch) >= self._threshold]


def _sketch(text: str) -> MinHash:
    sketch = MinHash(num_perm=_PERMUTATIONS)
    sketch.update_batch(sorted(shingles(text)))
    return sketch
