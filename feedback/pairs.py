"""Two answers to one question, and which of them a reviewer prefers: what a judge is measured by."""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from feedback.compiling.standing import Standing
from feedback.records import Message, Review, Signal, Turn
from feedback.text import normalised

Preference = Literal["first", "second", "tie"]


@dataclass(frozen=True)
class Pair:
    """Two answers to one question; the places say nothing about which is better."""

    id: str
    cluster: str
    messages: tuple[Message, ...]  # what was asked, without system prompt
    first: str
    second: str
    preferred: Preference | None = None  # by a reviewer; None: none was asked
    kind: str = ""  # "choices" or "corrections": how the reviewer said it
    sources: tuple[str, ...] = ()  # ids of the turn, the signal and the review that it comes from

    def turned(self) -> "Pair":
        """The same answers, each in the other's place; nobody's preference."""
        return replace(self, first=self.second, second=self.first, preferred=None)

    def redacted(self, redact: Callable[[str], str]) -> "Pair":
        """The same pair without personal data in its texts."""
        asked = tuple({**message, "content": redact(message["content"])} for message in self.messages)
        return replace(self, messages=asked, first=redact(self.first), second=redact(self.second))

    def to_json(self) -> dict[str, Any]:
        """As reviewers_pairs.json keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Pair":
        """The pair that `to_json` wrote."""
        sequences = {name: tuple(document[name]) for name in ("messages", "sources")}
        return cls(**{**document, **sequences})


def reviewers_pairs(
    signals: Sequence[Signal],
    reviews: Sequence[Review],
    find: Callable[[Collection[str]], Iterable[Turn]],
    since: str,
    clusters: Mapping[str, str],
) -> list[Pair]:
    """What reviewers preferred in words of theirs that came after the id `since`, in the order of turns.

    Each choice between answers, and each correction that a reviewer wrote or approved against the answer that it
    corrects. `find` gives the turns with these ids; `clusters` those of signals and turns, where they are known.
    """
    said = Standing(signals, reviews, math.inf)
    verdicts = {review.signal: review.id for review in reviews}  # the last one stands

    def is_new(signal: Signal) -> bool:
        return (signal.id if signal.role == "reviewer" else verdicts.get(signal.id, "")) > since

    turns = sorted(find({signal.turn for signal in signals if is_new(signal)}), key=lambda turn: turn.id)
    return [
        pair
        for turn in turns
        if turn.answer.strip() and not turn.red_flag
        for signal in said.about(turn.id)
        if is_new(signal)
        for pair in _pairs(turn, signal, said, verdicts.get(signal.id), clusters)
    ]


def _pairs(
    turn: Turn, signal: Signal, said: Standing, review: str | None, clusters: Mapping[str, str]
) -> Iterator[Pair]:
    for key, kind, better, worse, tie in _preferences(turn, signal, said):
        if normalised(better) == normalised(worse):
            continue
        # A reviewer's place of the better answer would tell; the id's does not.
        turned = hashlib.sha256(key.encode()).digest()[0] % 2 == 1
        yield Pair(
            id=key,
            cluster=clusters.get(signal.id) or clusters.get(turn.id) or turn.topic or turn.conversation,
            messages=turn.messages,
            first=worse if turned else better,
            second=better if turned else worse,
            preferred="tie" if tie else "second" if turned else "first",
            kind=kind,
            sources=tuple(filter(None, (turn.id, signal.id, review))),
        )


def _preferences(turn: Turn, signal: Signal, said: Standing) -> Iterator[tuple[str, str, str, str, bool]]:
    """(id, kind, better answer, worse answer, whether they are as good) of each pair that `signal` is about."""
    if signal.kind == "correction" and (text := said.approved_text(signal)[0]):
        yield signal.id, "corrections", text, turn.answer, False
    if signal.kind == "choice" and signal.role == "reviewer":
        answers, choice = (turn.answer, *signal.value["alternatives"]), signal.value["choice"]
        if choice == "tie":
            if len(answers) == 2:  # of more it does not say which are as good
                yield signal.id, "choices", *answers, True
        else:
            for place, answer in enumerate(answers):
                if place != choice:
                    yield f"{signal.id}:{place}", "choices", answers[choice], answer, False
