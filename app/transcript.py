"""What a conversation consists of, and how it is put together again from what the store keeps."""

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from feedback.records import Message, Turn


class Stream(Protocol):
    """An answer on its way: iterate for its pieces, close to cancel; see app.engine.Stream."""

    finish: str | None
    completion_tokens: int

    @property
    def prompt_tokens(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Exchange:
    """One answer and what belongs to it."""

    turn: Turn
    kept: bool  # stored, with the person's consent; only then can anything be said about it
    alternative: Turn | None = None  # a second answer to the same question, until the person has chosen

    @property
    def question(self) -> str:
        return self.turn.messages[-1]["content"]


@dataclass(frozen=True)
class Progress:
    """How far an answer is; the last of a series has its `exchange`, or none if nothing came of it."""

    text: str
    version: str
    moved: bool = False  # another version than before answers in this conversation
    done: bool = False
    exchange: Exchange | None = None


@dataclass
class Conversation:
    """One person's chat. `lock` guards its exchanges; `answering` is held while an answer is written."""

    id: str
    person: str
    active: datetime  # UTC
    version: str | None = None  # whoever answered last; None before the first answer
    exchanges: list[Exchange] = field(default_factory=list)
    stream: Stream | None = None
    erased: bool = False  # with all that its person said: nothing of it is stored any more
    lock: threading.RLock = field(default_factory=threading.RLock)
    answering: threading.Lock = field(default_factory=threading.Lock)


def messages_of(exchanges: Iterable[Exchange]) -> list[Message]:
    """The questions and answers in turn, without system prompt."""
    return [
        message
        for exchange in exchanges
        for message in (
            {"role": "user", "content": exchange.question},
            {"role": "assistant", "content": exchange.turn.answer},
        )
    ]


def standing(turns: Sequence[Turn]) -> list[Turn]:
    """Those of a conversation's kept turns that it consists of now, oldest first.

    The last one says what it builds on: a question that was edited, and all that followed it, is no part of it.
    """
    if not turns:
        return []
    last = turns[-1]
    kept = {_place(turn.messages, turn.answer): turn for turn in turns}
    earlier = [
        _place(last.messages[:i], last.messages[i]["content"]) for i in range(1, len(last.messages), 2)
    ]
    return [*(kept[place] for place in earlier if place in kept), last]


def _place(messages: Sequence[Message], answer: str) -> str:
    return json.dumps([*messages, answer], sort_keys=True)
