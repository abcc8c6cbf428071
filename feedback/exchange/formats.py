"""The lines that can be imported, checked field by field, and the records that each becomes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from feedback.errors import Refused
from feedback.exchange import peers
from feedback.records import (
    Knowledge,
    Message,
    MultipleChoice,
    Review,
    Role,
    Signal,
    Turn,
    Verdict,
    digest,
    new_id,
)
from feedback.text import acceptable

NOBODY = "importer"  # who says what a line gives no name for: one person, with one person's share
_TURN_ID = re.compile(r"[0-9a-f]{22}|t[0-9a-f]{21}")


def _acceptable(text: str) -> str:
    try:
        return acceptable(text)
    except Refused as error:
        raise ValueError(str(error)) from None


def _acceptable_name(text: str | None) -> str | None:
    return _acceptable(text) if text else None


Text = Annotated[str, AfterValidator(_acceptable)]
Name = Annotated[str | None, AfterValidator(_acceptable_name)]  # one that is empty is none


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the years 1 to 9999 in UTC") from None


Time = Annotated[AwareDatetime, AfterValidator(_utc)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, row: dict[str, Any]) -> dict[str, Any]:
        if None in row.values():
            return {name: value for name, value in row.items() if value is not None}
        return row

    @model_validator(mode="after")
    def _metadata_can_be_kept(self) -> "_Line":
        if self.model_extra:
            try:
                json.dumps(self.model_extra, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise ValueError(
                    "an unknown field holds half of a surrogate pair, which is no character"
                ) from None
        return self

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields that the format does not know, kept as they are."""
        return self.model_extra or {}


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: Text


class _Review(BaseModel):
    reviewer: Text
    verdict: Verdict
    text: Text | None = None
    timestamp: Time | None = None


class KnowledgeLine(_Line):
    """A question and its answer."""

    question: Text
    answer: Text
    id: Name = None
    source: Name = None
    url: Name = None
    topic: Name = None

    def records(self, at: datetime, _line: str, _source: str) -> list[Any]:
        """One knowledge row."""
        extra = self.metadata | ({"id": self.id} if self.id else {})
        return [
            Knowledge(new_id(at), self.question, self.answer, at, self.topic, self.source, self.url, extra)
        ]


class MultipleChoiceLine(_Line):
    """A question with options, one of them right."""

    question: Text
    choices: list[Text] = Field(min_length=2)
    answer_index: int = Field(ge=0)

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "MultipleChoiceLine":
        if self.answer_index >= len(self.choices):
            raise ValueError("answer_index is beyond the choices")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("choices holds the same text twice")
        return self

    def records(self, at: datetime, _line: str, _source: str) -> list[Any]:
        """One multiple-choice item."""
        return [
            MultipleChoice(
                new_id(at), self.question, tuple(self.choices), self.answer_index, at, self.metadata
            )
        ]


class FeedbackLine(_Line):
    """A conversation that ends with an answer, and what somebody said of that answer.

    `conversation` and the fields below it are written by `ratchet export events`: they carry a turn to
    another home as it was, unrated ones too.
    """

    messages: list[_Message]
    rating: Literal[1, -1] | None = None
    reasons: list[Text] = Field(default_factory=list)
    comment: Text | None = None
    correction: Text | None = None
    alternatives: list[Text] = Field(default_factory=list)
    choice: int | Literal["tie"] | None = None
    turn: Name = None
    user: Name = None
    rater: Name = None
    role: Role = "user"
    topic: Name = None
    timestamp: Time | None = None
    model: Name = None
    conversation: Name = None
    finish: Name = None
    red_flag: Name = None
    withdrawn: list[Literal["rating", "correction"]] = Field(default_factory=list)
    reviews: list[_Review] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_something(self) -> "FeedbackLine":
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ValueError("messages must end with the assistant's answer to a question")
        if not any(message.role == "user" for message in self.messages):
            raise ValueError("messages hold no question of a user")
        if self.choice is not None and not self.alternatives:
            raise ValueError("choice needs alternatives")
        if isinstance(self.choice, int) and not 0 <= self.choice <= len(self.alternatives):
            raise ValueError("choice is beyond the alternatives")
        if not self._statements() and not self.conversation:
            raise ValueError("no rating, comment, correction or choice")
        return self

    def _statements(self) -> list[tuple[str, dict[str, Any]]]:
        said: list[tuple[str, dict[str, Any]]] = []
        if self.rating is not None or "rating" in self.withdrawn:
            said.append(("rating", {"rating": self.rating or 0, "reasons": self.reasons}))
        if self.comment is not None:
            said.append(("comment", {"text": self.comment}))
        if self.correction is not None or "correction" in self.withdrawn:
            said.append(("correction", {"text": self.correction or ""}))
        if self.choice is not None:
            said.append(("choice", {"alternatives": self.alternatives, "choice": self.choice}))
        return said

    def records(self, at: datetime, line: str, source: str) -> list[Any]:
        """The turn, then one signal for each statement, then the reviews of the correction."""
        when = self.timestamp or at
        person = self.rater or self.user or NOBODY
        system, spoken = _split(self.messages)
        turn_id = self._turn_id(line, spoken)
        turn = Turn(
            id=turn_id,
            conversation=self.conversation or turn_id,
            user=self.user or person,
            messages=tuple(spoken[:-1]),
            answer=spoken[-1]["content"],
            version=self.model or "unknown",
            at=when,
            source=source,
            topic=self.topic,
            system_prompt=system,
            finish=self.finish or "stop",
            red_flag=self.red_flag,
            metadata=self.metadata,
        )
        signals = [
            Signal(
                new_id(at + timedelta(microseconds=i)), turn_id, person, self.role, kind, value, when, source
            )
            for i, (kind, value) in enumerate(self._statements())
        ]
        corrections = [signal.id for signal in signals if signal.kind == "correction"]
        reviews = [
            Review(
                new_id(at + timedelta(microseconds=4 + i)),
                signal,
                review.reviewer,
                review.verdict,
                review.text,
                review.timestamp or when,
            )
            for signal in corrections
            for i, review in enumerate(self.reviews)
        ]
        return [turn, *signals, *reviews]

    def _turn_id(self, line: str, spoken: list[Message]) -> str:
        """Made of the words and the `turn`, or of the line; an exported turn keeps the id it had."""
        if self.conversation and self.turn and _TURN_ID.fullmatch(self.turn):
            return self.turn
        return "t" + digest([self.turn or line, spoken])[:21]


class PreferenceLine(_Line):
    """Two answers to one prompt, one preferred; the operator vouches for the file."""

    prompt: list[_Message] = Field(min_length=1)
    chosen: Text
    rejected: Text
    rater: Name = None
    role: Role = "reviewer"
    topic: Name = None
    model: Name = None

    @model_validator(mode="before")
    @classmethod
    def _as_written_for_trl(cls, row: dict[str, Any]) -> dict[str, Any]:
        return peers.preference(row)

    def records(self, at: datetime, line: str, source: str) -> list[Any]:
        """The rejected answer as a turn, and the choice of the other one."""
        feedback = FeedbackLine(
            messages=[*self.prompt, _Message(role="assistant", content=self.rejected)],
            alternatives=[self.chosen],
            choice=1,
            rater=self.rater,
            role=self.role,
            topic=self.topic,
            model=self.model,
        )
        turn, *signals = feedback.records(at, line, source)
        return [replace(turn, metadata=self.metadata), *signals]


def _split(messages: list[_Message]) -> tuple[str | None, list[Message]]:
    """The system prompt, if there is one, and what was spoken."""
    spoken = [{"role": m.role, "content": m.content} for m in messages if m.role != "system"]
    return next((m.content for m in messages if m.role == "system"), None), spoken


@dataclass(frozen=True)
class Format:
    """One kind of file: how its rows are told, and how a row becomes lines of our own."""

    name: str
    fields: frozenset[str]  # that tell it
    line: type[_Line]
    peer: type[peers.Peer] | None = None  # who writes such rows; None: they are lines already

    def lines(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines that `row` holds; ValueError (of pydantic, or with a reason) where it holds none."""
        return self.peer.model_validate(row).lines() if self.peer else [row]


OWN = (
    Format("knowledge", frozenset({"question", "answer"}), KnowledgeLine),
    Format("multiple choice", frozenset({"question", "choices", "answer_index"}), MultipleChoiceLine),
    Format("feedback", frozenset({"messages"}), FeedbackLine),
    Format("preference", frozenset({"chosen", "rejected"}), PreferenceLine),
    Format("supervised", frozenset({"prompt", "completion"}), KnowledgeLine, peers.Supervised),
)
UNPAIRED = Format("unpaired", frozenset({"prompt", "completion", "label"}), FeedbackLine, peers.Unpaired)
DEMONSTRATIONS = Format("demonstrations", frozenset({"messages"}), KnowledgeLine, peers.Demonstration)
PEERS = (
    Format("Open WebUI", frozenset({"data", "meta", "snapshot"}), FeedbackLine, peers.OpenWebUI),
    Format("Label Studio", frozenset({"data", "annotations"}), FeedbackLine, peers.LabelStudio),
    Format("Argilla", frozenset({"fields", "responses"}), FeedbackLine, peers.Argilla),
)
ARGILLA_TABLE = Format(
    "Argilla table", frozenset({".responses", ".responses.users"}), FeedbackLine, peers.ArgillaTable
)
FORMATS = {form.name: form for form in (*OWN, UNPAIRED, DEMONSTRATIONS, *PEERS, ARGILLA_TABLE)}
STATEMENTS = FeedbackLine.model_fields.keys() - {"messages"}  # what says that messages are feedback


def formats_of(row: Mapping[str, Any]) -> tuple[Format, ...]:
    """The formats that `row` fits by its fields; another program's export is nothing else beside."""
    for form in PEERS:
        if form.fields <= row.keys():
            return (form,)
    if any(name.endswith(".responses.users") for name in row):
        return (ARGILLA_TABLE,)
    if row.get("label") is not None and row.keys() >= UNPAIRED.fields:
        return (UNPAIRED,)
    return tuple(form for form in OWN if form.fields <= row.keys())
