"""Frozen sets of items to examine a model on: the objective's golden items, then held-out ones.

A line of a suite's file is one JSON object; `id` and `topic` may be left out, unknown fields are ignored:
questions         question (or messages), answer; claims, which the answer must cover
multiple_choice   question (or messages), choices, answer_index
taught            the same; asks in other words what may be trained on
text              text
corrections       question (or messages), reference, rejected; known_to_champion
prompts           question (or prompt, or messages); flag, the red flag that it shows
disputes          question, answer, wrong (a claim), pushback (the user insists on it)
pairs             question (or messages), chosen, rejected; sources, the statements that it comes from
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from eval.objective import Kind, Objective, in_words
from feedback.errors import RatchetError, Refused, UsageError
from feedback.records import Message, digest
from feedback.text import acceptable


def _acceptable(text: str) -> str:
    try:
        return acceptable(text)
    except Refused as refused:
        raise ValueError(str(refused)) from None


def _acceptable_or_empty(text: str) -> str:
    return _acceptable(text) if text.strip() else text


Text = Annotated[str, AfterValidator(_acceptable)]
Content = Annotated[str, AfterValidator(_acceptable_or_empty)]  # a system prompt may be empty


@dataclass(frozen=True)
class Item:
    """One thing to ask; what its kind of suite does not use is None."""

    id: str
    suite: str
    cluster: str  # items of one cluster are resampled together
    messages: tuple[Message, ...] | None = None  # the system prompt first, a user's message last
    text: str | None = None
    choices: tuple[str, ...] | None = None
    answer_index: int | None = None  # of the right choice
    reference: str | None = None  # the expert's answer, the correction, or the answer that people prefer
    rejected: str | None = None  # what was corrected, the other answer, or the claim that the user insists on
    known_to_champion: bool = False  # the champion's own training data held this correction
    trained_before: int | None = None  # in how many earlier rounds this correction was trained on
    claims: tuple[str, ...] | None = None  # what the answer must say
    flag: str | None = None  # the red flag that the prompt shows
    sources: tuple[str, ...] | None = None  # ids of all statements behind it: by them an erasure finds it

    @property
    def question(self) -> str:
        """The last thing asked; empty for a text."""
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def first_question(self) -> str:
        """What the conversation began with; empty for a text."""
        return next((m["content"] for m in self.messages or () if m["role"] == "user"), "")


@dataclass(frozen=True)
class Suite:
    """A frozen set of items, in the order of their ids, and the metrics that are taken on it."""

    name: str
    kind: Kind
    metrics: tuple[str, ...]
    wanted: int  # how many items the objective froze
    items: tuple[Item, ...]

    @functools.cached_property
    def hash(self) -> str:
        """The sha256 of what is asked and measured."""
        return digest([self.name, self.kind, self.metrics, [_as_hashed(item) for item in self.items]])

    def to_json(self) -> dict[str, Any]:
        """As suites.json keeps it."""
        return asdict(self) | {"hash": self.hash}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Suite":
        """The suite that `to_json` wrote; RatchetError when it was changed since."""
        items = tuple(_item_from_json(row) for row in document["items"])
        suite = cls(document["name"], document["kind"], tuple(document["metrics"]), document["wanted"], items)
        if suite.hash != document["hash"]:
            raise RatchetError(f"suite {suite.name} was changed after it was frozen; start a new round")
        return suite


def _item_from_json(row: Mapping[str, Any]) -> Item:
    sequences = {
        key: tuple(row[key])
        for key in ("messages", "choices", "claims", "sources")
        if row.get(key) is not None
    }
    return Item(**{**row, **sequences})


def _as_hashed(item: Item) -> dict[str, Any]:
    """What is asked of `item`, without what it leaves empty of the fields that suites frozen earlier did not have."""
    later = ("claims", "flag", "sources")
    return {
        key: value
        for key, value in asdict(item).items()
        if key != "trained_before" and (value or key not in later)
    }


class _Row(BaseModel):
    """What every line may say."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Text | None = None
    topic: str | None = None
    cluster: str | None = None


class _Asked(_Row):
    question: Text | None = None
    messages: tuple[dict[str, Content], ...] | None = None

    @model_validator(mode="after")
    def _asks_one_thing(self) -> "_Asked":
        if (self.question is None) == (self.messages is None):
            raise ValueError("needs either question or messages")
        for message in self.messages or ():
            if set(message) != {"role", "content"} or message["role"] not in ("system", "user", "assistant"):
                raise ValueError("a message needs a role (system, user or assistant) and content")
        if self.messages is not None and (not self.messages or self.messages[-1]["role"] != "user"):
            raise ValueError("messages must end with what the user asked")
        return self


class _Question(_Asked):
    answer: Text
    claims: tuple[Text, ...] | None = None


class _MultipleChoice(_Asked):
    choices: tuple[Text, ...]
    answer_index: int

    @model_validator(mode="after")
    def _one_is_right(self) -> "_MultipleChoice":
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise ValueError("choices must be at least two different texts")
        if not 0 <= self.answer_index < len(self.choices):
            raise ValueError(f"answer_index must lie from 0 to {len(self.choices) - 1}")
        return self


class _Passage(_Row):
    text: Text


class _Correction(_Asked):
    reference: Text
    rejected: Text
    known_to_champion: bool = False
    trained_before: int | None = None


class _Pair(_Asked):
    chosen: Text
    rejected: Text
    sources: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _they_differ(self) -> "_Pair":
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same text")
        return self


class _Prompt(_Asked):
    question: Text | None = Field(None, validation_alias=AliasChoices("question", "prompt"))
    flag: str | None = None


class _Dispute(_Row):
    question: Text
    answer: Text
    wrong: Text
    pushback: Text

    @property
    def messages(self) -> tuple[Message, ...]:
        """The right answer was given; the user does not take it."""
        said = (("user", self.question), ("assistant", self.answer), ("user", self.pushback))
        return tuple({"role": role, "content": content} for role, content in said)


_ROWS: dict[Kind, type[_Row]] = {
    "questions": _Question,
    "multiple_choice": _MultipleChoice,
    "taught": _MultipleChoice,
    "text": _Passage,
    "corrections": _Correction,
    "prompts": _Prompt,
    "disputes": _Dispute,
    "pairs": _Pair,
}


def build_suite(
    name: str, objective: Objective, held_out: Iterable[Mapping[str, Any]] = (), asked: Container[str] = ()
) -> Suite:
    """The suite called `name`, drawn from its file and `held_out` rows; the same input gives the same items.

    Held-out rows whose ids were `asked` before come after all others. Raises UsageError for a bad line, a bad row, or
    an id that the suite has twice.
    """
    plan = objective.suites[name]
    golden = golden_items(name, objective)
    others = [
        _item(row, name, plan.kind, objective.system_prompt, f"held-out row {number} of suite {name}")
        for number, row in enumerate(held_out, 1)
    ]
    twice = [key for key, count in Counter(item.id for item in (*golden, *others)).items() if count > 1]
    if twice:
        raise UsageError(f"suite {name} has the item {twice[0]!r} twice; give every item an id of its own")
    fresh = [item for item in others if item.id not in asked]
    items = draw((golden, fresh, [item for item in others if item.id in asked]), plan.items)
    return Suite(name, plan.kind, plan.metrics, plan.items, tuple(sorted(items, key=lambda item: item.id)))


def golden_items(name: str, objective: Objective) -> list[Item]:
    """All items in the file of the suite `name`, none where it has no file; UsageError names a bad line."""
    plan = objective.suites[name]
    if plan.file is None:
        return []
    return [
        _item(row, name, plan.kind, objective.system_prompt, where)
        for where, row in read_lines(objective.folder / plan.file)
    ]


def read_lines(file: Path) -> list[tuple[str, Any]]:
    """("FILE, line N", value) for each line of JSON in `file` that is not blank; UsageError says which is bad."""
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append((f"{file}, line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise UsageError(f"{file}, line {number} is no JSON: {error}") from None
    return rows


def _item(raw: Any, suite: str, kind: Kind, system_prompt: str, where: str) -> Item:
    try:
        row = _ROWS[kind].model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{where}: {field + ': ' if field else ''}{in_words(first)}") from None
    asked = row.model_dump(include=_ITEM_FIELDS - {"id", "cluster", "messages", "claims"})
    if isinstance(row, _Asked | _Dispute):
        asked["messages"] = _with_system_prompt(row, system_prompt)
    if isinstance(row, _Question | _Dispute):
        asked["reference"] = row.answer
    if isinstance(row, _Dispute):
        asked["rejected"] = row.wrong
    if isinstance(row, _Pair):
        asked["reference"] = row.chosen
    key = row.id or digest(asked)[:16]
    claims = row.claims if isinstance(row, _Question) else None
    return Item(id=key, suite=suite, cluster=row.cluster or row.topic or key, claims=claims, **asked)


_ITEM_FIELDS = {field.name for field in fields(Item)}


def _with_system_prompt(row: _Asked | _Dispute, system_prompt: str) -> tuple[Message, ...]:
    messages = row.messages or ({"role": "user", "content": row.question},)
    if messages[0]["role"] == "system":
        return messages
    return ({"role": "system", "content": system_prompt}, *messages)


def draw(groups: Sequence[Sequence[Item]], count: int) -> list[Item]:
    """At most `count` items, those of an earlier group first; in it one of each cluster before a second of any.

    Among equals the order is that of a hash of the id, so it depends neither on the order of the input nor
    on what else there is. Corrections that the champion knew and new ones take turns: both are reported.
    """
    seen: Counter[str] = Counter()
    ranked = []
    for number, group in enumerate(groups):
        for item in sorted(group, key=_lot):
            ranked.append(((number, seen[item.cluster], _lot(item)), item))
            seen[item.cluster] += 1
    ranked.sort(key=lambda pair: pair[0])
    turns: Counter[tuple[int, bool]] = Counter()
    taking_turns = []
    for (number, _, _), item in ranked:
        taking_turns.append(((number, turns[number, item.known_to_champion]), item))
        turns[number, item.known_to_champion] += 1
    return [item for _, item in sorted(taking_turns, key=lambda pair: pair[0])[:count]]


def _lot(item: Item) -> str:
    return hashlib.sha256(item.id.encode()).hexdigest()
