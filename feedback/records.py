"""The things that flow around the circle, frozen and named. Nothing here touches a disk or a clock."""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

Role = Literal["user", "reviewer"]
Kind = Literal["rating", "comment", "correction", "choice"]
Verdict = Literal["approve", "reject", "withdraw"]
Judged = Literal["approve", "correct", "reject", "unsafe", "skip", "undo"]
StaffRole = Literal["reviewer", "operator", "closed"]
OWN = "objective:"  # how the ids of an objective's own knowledge begin
Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


def new_id(at: datetime) -> str:
    """A fresh id of 22 hex digits whose order as text is the order of `at`, to the microsecond."""
    return f"{int(at.timestamp() * 1_000_000):014x}{secrets.token_hex(4)}"


def digest(value: Any) -> str:
    """The sha256, in hex, of `value` written as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer shown to somebody, as the server knows it."""

    id: str
    conversation: str  # turns of one conversation share it
    user: str  # whom it was shown to
    messages: tuple[Message, ...]  # what was asked, without system prompt and without the answer
    answer: str
    version: str  # which version answered; "base", "rules" (a red flag), or a foreign model's name
    at: datetime  # UTC
    source: str = "chat"  # "chat", or the file an imported turn came from
    topic: str | None = None
    system_prompt: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    latency_s: float | None = None  # from question to last piece
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str = "stop"  # "stop", "length", "cancelled", "error", "red_flag"
    red_flag: str | None = None  # the rule that fired
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def questions(self) -> list[str]:
        """Everything the person had asked by then, the oldest first."""
        return [m["content"] for m in self.messages if m["role"] == "user"]

    @property
    def asked(self) -> str:
        """The questions as one text, one a line."""
        return "\n".join(self.questions)


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing a person said about one turn."""

    id: str
    turn: str
    user: str
    role: Role
    kind: Kind
    value: dict[str, Any]  # rating: {"rating": 1, -1 or 0 (withdrawn), "reasons": [...]}; comment: {"text"};
    # correction: {"text"}, empty when withdrawn; choice: {"alternatives": [answer, ...], "choice": 0, 1, ... or "tie"}
    at: datetime  # UTC
    source: str = "chat"


@dataclass(frozen=True)
class Review:
    """A reviewer's verdict on a user's correction; `text` is what was approved, edited or not.

    The last one stands; "withdraw" lets the correction wait again.
    """

    id: str
    signal: str
    reviewer: str
    verdict: Verdict
    text: str | None
    at: datetime  # UTC


@dataclass(frozen=True)
class Judgement:
    """What a reviewer did with one turn at the desk; what it says to training stands in `given`."""

    id: str
    turn: str
    reviewer: str
    verdict: Judged
    given: tuple[str, ...]  # the ids of the signals and reviews that were stored with it
    undoes: str | None  # "undo" only: the judgement that is taken back
    at: datetime  # UTC


@dataclass(frozen=True)
class Draft:
    """A reviewer's unfinished answer; the last one of a turn and reviewer stands, "" is none."""

    id: str
    turn: str
    reviewer: str
    text: str
    at: datetime  # UTC


@dataclass(frozen=True)
class Title:
    """The name a person gave to a conversation; the last one stands."""

    id: str
    conversation: str
    user: str
    title: str
    at: datetime  # UTC


@dataclass(frozen=True)
class Account:
    """Who may enter the desk or the rounds page; the last one of a name stands."""

    id: str
    name: str
    role: StaffRole  # "closed": may no longer sign in
    password_hash: str  # argon2id, in PHC format
    at: datetime  # UTC


@dataclass(frozen=True)
class Knowledge:
    """A question and its answer: brought in from outside, or the objective's own."""

    id: str
    question: str
    answer: str
    at: datetime  # UTC
    topic: str | None = None
    source: str | None = None
    url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MultipleChoice:
    """A question with options, for suites only; never trained on."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer_index: int
    at: datetime  # UTC
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something an operator or a round did: "round", "promote", "rollback"."""

    id: str
    kind: str
    who: str
    payload: dict[str, Any]
    at: datetime  # UTC


@dataclass(frozen=True, slots=True)
class Example:
    """A training row compiled from signals or knowledge; exactly one of the three kinds."""

    id: str  # digest of kind, prompt and answers
    kind: Literal["sft", "preference", "unpaired"]
    prompt: tuple[Message, ...]  # with the system prompt first, as serving sends it
    chosen: str | None  # sft: the completion; preference: the better answer; unpaired: the answer
    rejected: str | None  # preference only
    label: bool | None  # unpaired only: liked or not
    side: Literal["train", "validation"]
    rule: str  # why it exists: "knowledge", "correction", "liked", "choice", "thumb", "liked_over_disliked"
    origin: Literal["knowledge", "feedback"]
    sources: tuple[str, ...]  # ids of the signals or knowledge rows it comes from
    cluster: str  # topic or near-duplicate cluster
    weight: float = 1.0  # confidence in its label, less for a rejected answer of an old version
    rejected_version: str | None = None  # who wrote the rejected answer
    rejected_age: int | None = None  # versions made since; None where it is not one of ours
    people: tuple[str, ...] = ()  # end users on whose word alone it stands; for the caps
    mended: tuple[str, ...] = ()  # the cleaning rules that changed its text

    def redacted(self, redact: Callable[[str], str]) -> "Example":
        """The same row without personal data in its texts; the system prompt is the domain owner's."""
        own, *asked = self.prompt
        return replace(
            self,
            prompt=(own, *({**message, "content": redact(message["content"])} for message in asked)),
            chosen=self.chosen and redact(self.chosen),
            rejected=self.rejected and redact(self.rejected),
        )

    @property
    def own(self) -> bool:
        """Whether it comes from the objective's own knowledge, which is in no store."""
        return any(source.startswith(OWN) for source in self.sources)
