"""Which side of the wall an item is on: train, validation or held out.

The side follows the topic where one is given, else the cluster of the question: what it nearly repeats,
else what means the same. It is recorded at first sight and never changes.
"""

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from feedback.likeness.clusters import Meanings
from feedback.likeness.lookalikes import LookAlikes, Sketch, sketch
from feedback.text import normalised, words

Side = Literal["train", "validation", "held_out"]
Place = tuple[str, Side]  # a cluster and its side
TELLING_WORDS = 20  # shorter answers are alike by form or by chance ("Yes, see a doctor."): they tell nothing


class SideBook:
    """The sides of everything seen in one compilation, together with what was recorded before."""

    def __init__(
        self,
        validation_share: float,
        held_out_share: float,
        near_duplicate: float,
        recorded: Mapping[str, Place],
        meanings: Meanings | None = None,
    ):
        """`meanings`: what an encoder made of the questions of golden items, knowledge and signalled turns."""
        self._validation_share = validation_share
        self._held_out_share = held_out_share
        self._recorded = recorded
        self.new: dict[str, Place] = {}  # what this compilation saw first
        self._entry_of: dict[str, int] = {}  # of each item
        self._entries: dict[str | tuple[str, Place], int] = {}  # of each question, in its place
        self._places: list[Place] = []  # of each entry
        self._rows = array("i")  # of each entry, on its shelf
        self._meant_by = array("i")  # each entry: its number among the meanings, or -1
        self._guarded = _Shelf(near_duplicate)  # questions that are not for training
        self._taught = _Shelf(near_duplicate)  # those that are
        self._answers = _Shelf(near_duplicate)  # of items that are not for training
        self._pairs = LookAlikes(near_duplicate)  # question and answer of training rows
        self._meanings = _PlacedMeanings(meanings) if meanings is not None else None

    def hold_out(self, question: str, answer: str, topic: str | None) -> None:
        """Hold a golden item out, and its whole topic with it."""
        asked = _question_key(question)
        key = _topic_key(topic) if topic else asked
        place = self._known(key) or (key, "held_out")
        # A topic that was trained on before it became golden keeps its recorded side; the item
        # itself still blocks its look-alikes below.
        self._record(key, place)
        self._enter(asked, question, (place[0], "held_out"))
        self._enter_answer(answer, (place[0], "held_out"))

    def see(self, item: str, question: str, answer: str, topic: str | None, after: str | None = None) -> None:
        """Give `item` its place: by topic, beside `after` (the turn before it), or by what it resembles."""
        asked = _question_key(question)
        key = _topic_key(topic) if topic else asked
        place = self.place(after) if after and not topic else self._known(key)
        mark = None
        if place is None:
            if topic:
                place = (key, self._side_of(key))
            else:
                mark = sketch(question)
                place = self._place_by_likeness(key, question, mark)
            self._record(key, place)
        self._entry_of[item] = self._enter(asked, question, place, mark)
        self._enter_answer(answer, place)

    def answered(self, item: str, answer: str) -> None:
        """Keep look-alikes of an expert's `answer` out of training, where `item` is on a stricter side."""
        self._enter_answer(answer, self.place(item))

    def place(self, item: str) -> Place:
        """The cluster and the side of `item`."""
        return self._places[self._entry_of[item]]

    def side(self, item: str) -> Side:
        """The side of `item`."""
        return self.place(item)[1]

    def bridges(self, item: str, answer: str, questions: Sequence[str] = ()) -> str | None:
        """The rule that sets `item` aside because it resembles something on a stricter side.

        `questions` are those of a conversation: each counts by itself too, not only all of them together.
        """
        side = self.side(item)
        likes = self._sides_like(self._entry_of[item], answer, questions[1:] and questions)
        if "held_out" in likes and side != "held_out":
            return "resembles_held_out"
        if "validation" in likes and side == "train":
            return "resembles_validation"
        return None

    def seen_before(self, text: str, item: str) -> bool:
        """Whether a near-duplicate of `text` was asked about before; remembers it when not."""
        mark = sketch(text)
        if self._pairs.like(mark):
            return True
        self._pairs.add(mark)
        return False

    def _known(self, key: str) -> Place | None:
        return self.new.get(key) or self._recorded.get(key)

    def _record(self, key: str, place: Place) -> None:
        if not self._known(key):
            self.new[key] = place

    def _place_by_likeness(self, key: str, question: str, mark: Sketch) -> Place:
        """That of what it nearly repeats, else of what means the same; beside what is held out if it can be."""
        places = self._guarded.like(mark) + self._taught.like(mark)
        if self._meanings:
            places += self._meanings.like(question)
        held_out = [place for place in places if place[1] == "held_out"]
        return (held_out or places or [(key, self._side_of(key))])[0]

    def _enter(self, asked: str, question: str, place: Place, mark: Sketch | None = None) -> int:
        """The entry of a question in its place; a new one when it was not there yet."""
        known = self._entries.get(asked)
        name = asked if known is None or self._places[known] == place else (asked, place)
        if (entry := self._entries.get(name)) is not None:
            return entry
        self._entries[name] = entry = len(self._places)
        self._places.append(place)
        shelf = self._taught if place[1] == "train" else self._guarded
        self._rows.append(shelf.put(sketch(question) if mark is None else mark, place))
        self._meant_by.append(self._meanings.put(question, place) if self._meanings else -1)
        return entry

    def _enter_answer(self, answer: str, place: Place) -> None:
        if place[1] != "train" and len(words(answer)) >= TELLING_WORDS:
            self._answers.put(sketch(answer), place)

    def _sides_like(self, entry: int, answer: str, questions: Sequence[str]) -> set[Side]:
        """The stricter sides on which something resembles an entry's question, the answer or the questions."""
        shelf = self._taught if self._places[entry][1] == "train" else self._guarded
        marks = [shelf.sketch(self._rows[entry]), *map(sketch, questions)]
        likes = [place for mark in marks for place in self._guarded.like(mark)]
        if len(words(answer)) >= TELLING_WORDS:
            likes += self._answers.like(sketch(answer))
        sides = {side for _, side in likes}
        if self._meanings:
            sides |= self._meanings.sides_like(self._meant_by[entry], questions)
        return sides

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


class _Shelf:
    """Sketches and the place of each."""

    def __init__(self, near_duplicate: float):
        self._index = LookAlikes(near_duplicate)
        self._places: list[Place] = []

    def put(self, mark: Sketch, place: Place) -> int:
        """Add one; returns its number."""
        self._places.append(place)
        return self._index.add(mark)

    def sketch(self, number: int) -> Sketch:
        return self._index[number]

    def like(self, mark: Sketch) -> list[Place]:
        """The places of what resembles `mark`, the first seen first."""
        return [self._places[number] for number in self._index.like(mark)]


class _PlacedMeanings:
    """What means the same, and on which sides it was seen."""

    def __init__(self, meanings: Meanings):
        self._meanings = meanings
        self._places: dict[int, Place] = {}  # of each cluster: the first seen, or the first held out
        self._seen: dict[Side, set[int]] = {"validation": set(), "held_out": set()}  # numbers of questions
        self._like: dict[Side, np.ndarray] = {}  # by side: which questions mean the same as one seen there

    def put(self, question: str, place: Place) -> int:
        """Note where `question` was seen; returns its number, or -1 when no encoder has read it."""
        number = self._meanings.number(question)
        if number is None:
            return -1
        cluster = self._meanings.cluster(number)
        first = self._places.setdefault(cluster, place)
        if place[1] == "held_out" != first[1]:
            self._places[cluster] = place
        if place[1] != "train":
            self._seen[place[1]].add(number)
            self._like.pop(place[1], None)
        return number

    def like(self, question: str) -> list[Place]:
        """The place of what means the same as `question`, if anything does."""
        number = self._meanings.number(question)
        place = None if number is None else self._places.get(self._meanings.cluster(number))
        return [place] if place else []

    def sides_like(self, number: int, questions: Sequence[str]) -> set[Side]:
        """The stricter sides on which something means the same as a question or one of several."""
        numbers = {number, *(self._meanings.number(question) for question in questions)} - {-1, None}
        return {side for side in self._seen if any(self._all_like(side)[n] for n in numbers)}

    def _all_like(self, side: Side) -> np.ndarray:
        if side not in self._like:
            self._like[side] = self._meanings.like(sorted(self._seen[side]))
        return self._like[side]
