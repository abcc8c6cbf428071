"""Rows as other programs write them, and the lines of our own formats that they hold.

Where the shapes were taken from, in the public repositories:

- Open WebUI: open-webui/open-webui, `backend/open_webui/models/feedbacks.py` (FeedbackModel, RatingData,
  MetaData), `src/lib/components/chat/Messages/ResponseMessage.svelte` (feedbackItem: siblings, snapshot) and
  `src/lib/components/admin/Evaluations/Feedbacks.svelte` (the export: a JSON array of them).
- Label Studio: HumanSignal/label-studio, `docs/source/templates/generative-pairwise-human-preference.md`,
  `llm_side_by_side.md` and `generative-llm-ranker.md` (the tasks; exported as JSON with `annotations`).
- Argilla 2: argilla-io/argilla, `argilla/src/argilla/records/_resource.py` (Record.to_dict),
  `records/_io/_generic.py` (the same as a table) and `settings/_templates.py` (for_ranking).
- TRL: huggingface/trl, `docs/source/dataset_formats.md` and `trl/data_utils.py` (extract_prompt).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict

from feedback.records import Message

PROMPTS = (
    "prompt",
    "instruction",
    "question",
    "input",
    "messages",
    "conversation",
)  # names of what was asked

Row = dict[str, Any]


class Peer(BaseModel):
    """One row of another program; fields that are not needed are passed over."""

    def lines(self) -> list[Row]:
        """The lines of our own format in it; ValueError with the reason when there is none."""
        raise NotImplementedError


def _asked(value: Any) -> Any:
    """A prompt as messages, whether it was text or messages."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _answered(value: Any) -> Any:
    """An answer as text, whether it was text or one message of the assistant."""
    match value:
        case [{"role": "assistant", "content": content}]:
            return content
    return value


# TRL


class Supervised(Peer):
    """Prompt and completion, each as text or as messages: a question with its answer."""

    model_config = ConfigDict(extra="allow")

    prompt: str | list[Message]
    completion: str | list[Message]
    label: None = None  # of a table that has unpaired rows beside these

    def lines(self) -> list[Row]:
        """One line of knowledge."""
        return [_knowledge([*_asked(self.prompt), *_reply(self.completion)], self.model_extra or {})]


class Demonstration(Peer):
    """A conversation that is to be imitated; one question with its answer is knowledge."""

    model_config = ConfigDict(extra="allow")

    messages: list[Message]

    def lines(self) -> list[Row]:
        """One line of knowledge."""
        return [_knowledge(self.messages, self.model_extra or {})]


class Unpaired(Peer):
    """A prompt, a completion, and whether it is wanted; the operator vouches for the file."""

    model_config = ConfigDict(extra="allow")

    prompt: str | list[Message]
    completion: str | list[Message]
    label: bool

    def lines(self) -> list[Row]:
        """One line of feedback: a thumb."""
        messages = [*_asked(self.prompt), *_reply(self.completion)]
        said = {"role": "reviewer", **(self.model_extra or {})}
        return [said | {"messages": messages, "rating": 1 if self.label else -1}]


def _reply(completion: str | list[Message]) -> list[Message]:
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion


def _knowledge(messages: Sequence[Message], rest: Mapping[str, Any]) -> Row:
    spoken = [m for m in messages if m.get("role") != "system"]
    match spoken:
        case [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]:
            return {**rest, "question": question, "answer": answer}
    raise ValueError("no single question with its answer")


def preference(row: Row) -> Row:
    """A preference in any of TRL's shapes as ours: the prompt as messages, both answers as text."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list) and len(chosen) > 1:
        if chosen[:-1] != rejected[:-1]:
            raise ValueError("chosen and rejected do not begin alike: they answer different conversations")
        row = row | {"prompt": chosen[:-1]}
        chosen, rejected = chosen[-1:], rejected[-1:]
    if "prompt" in row:
        row = row | {"prompt": _asked(row["prompt"])}
    return row | {
        name: _answered(v) for name, v in (("chosen", chosen), ("rejected", rejected)) if v is not None
    }


# Open WebUI


class _Rating(BaseModel):
    rating: int | None = None
    model_id: str | None = None
    reason: str | None = None
    comment: str | None = None


class _Place(BaseModel):
    message_id: str
    chat_id: str | None = None


class _Said(BaseModel):
    id: str | None = None
    role: str
    content: str | None = None
    parentId: str | None = None
    childrenIds: list[str] = []
    annotation: dict[str, Any] | None = None


class _History(BaseModel):
    messages: dict[str, _Said]


class _Conversation(BaseModel):
    history: _History


class _Chat(BaseModel):
    chat: _Conversation


class _Snapshot(BaseModel):
    chat: _Chat


class OpenWebUI(Peer):
    """A person's rating of one message, with a picture of the chat as it was."""

    id: str
    user_id: str
    data: _Rating
    meta: _Place
    snapshot: _Snapshot
    updated_at: int  # seconds since 1970

    def lines(self) -> list[Row]:
        """One line of feedback; a liked answer that had siblings is chosen before those nobody liked."""
        said = self.snapshot.chat.chat.history.messages
        if self.meta.message_id not in said:
            raise ValueError("snapshot: the rated message is not in the chat")
        rated = said[self.meta.message_id]
        line = {
            "messages": [{"role": m.role, "content": m.content} for m in _path(said, self.meta.message_id)],
            "rating": self.data.rating or None,
            "reasons": [self.data.reason] if self.data.reason else [],
            "comment": self.data.comment or None,
            "model": self.data.model_id,
            "user": self.user_id,
            "turn": self.meta.message_id,
            "timestamp": datetime.fromtimestamp(self.updated_at, UTC).isoformat(),
            "open_webui": {"id": self.id, "chat_id": self.meta.chat_id},
        }
        others = _siblings(said, self.meta.message_id, rated)
        return [line | ({"alternatives": others, "choice": 0} if others and self.data.rating == 1 else {})]


def _path(said: Mapping[str, _Said], message: str | None) -> list[_Said]:
    """From the first message to this one."""
    path: list[_Said] = []
    seen: set[str] = set()
    while message in said and message not in seen:
        seen.add(message)
        path.append(said[message])
        message = said[message].parentId
    return [m for m in reversed(path) if m.content]


def _siblings(said: Mapping[str, _Said], message: str, rated: _Said) -> list[str]:
    """The other answers to the same question that were not liked too."""
    parent = said.get(rated.parentId or "")
    beside = [said[i] for i in (parent.childrenIds if parent else []) if i != message and i in said]
    unloved = [m for m in beside if (m.annotation or {}).get("rating") != 1]
    return [m.content for m in unloved if m.content and m.content != rated.content]


# Label Studio


class _Annotation(BaseModel):
    completed_by: int | dict[str, Any] | None = None
    was_cancelled: bool = False
    result: list[dict[str, Any]] = []
    updated_at: AwareDatetime | None = None

    @property
    def rater(self) -> str | None:
        """The annotator's e-mail address, where it was exported, else the number of the account."""
        who = self.completed_by
        if isinstance(who, dict):
            who = who.get("email") or who.get("id")
        return who if isinstance(who, str) else f"label-studio:{who}" if who is not None else None


class LabelStudio(Peer):
    """A task with two answers side by side, or several to be ranked, and what annotators chose."""

    id: int | str | None = None
    data: dict[str, Any]
    annotations: list[_Annotation]

    def lines(self) -> list[Row]:
        """One line of feedback for each comparison that was finished."""
        lines = [
            {
                **choice,
                "turn": f"label-studio:{self.id}",
                "rater": annotation.rater,
                "role": "reviewer",
                "timestamp": annotation.updated_at.isoformat() if annotation.updated_at else None,
            }
            for annotation in self.annotations
            if not annotation.was_cancelled
            for result in annotation.result
            if (choice := self._choice(result))
        ]
        if not lines:
            raise ValueError("no finished comparison of answers")
        return lines

    def _choice(self, result: Mapping[str, Any]) -> Row | None:
        match result:
            case {"type": "pairwise", "value": {"selected": str(side)}, "to_name": str(names)}:
                answers = [(name, self.data.get(name)) for name in names.split(",")]
                best = {"left": answers[0][0], "right": answers[-1][0]}.get(side, "tie")
                return _compared(self.data, answers, best)
            case {"type": "ranker", "value": {"ranker": ranked}}:
                groups = [*ranked.values()] if isinstance(ranked, dict) else [ranked]
                orders = [order for order in groups if isinstance(order, list) and order]
                items = [i for i in self.data.get("items") or [] if isinstance(i, dict)]
                if len(orders) != 1 or len(orders[0]) != len(items):
                    raise ValueError("a ranking by groups does not say which answer is best")
                return _compared(self.data, [(i.get("id"), i.get("body")) for i in items], orders[0][0])
        return None


# Argilla


class _Response(BaseModel):
    value: Any
    user_id: str | None = None


class Argilla(Peer):
    """A record of which a question ranks some of the fields."""

    id: str | None = None
    fields: dict[str, Any]
    responses: dict[str, list[_Response] | None] | None = None

    def lines(self) -> list[Row]:
        """One line of feedback for each response that compares answers."""
        lines = [
            {**choice, "turn": f"argilla:{self.id}", "rater": response.user_id, "role": "reviewer"}
            for responses in (self.responses or {}).values()
            for response in responses or []
            if (choice := self._choice(response.value))
        ]
        if not lines:
            raise ValueError("no response that compares answers")
        return lines

    def _choice(self, value: Any) -> Row | None:
        match value:
            case [str(best), str(), *_]:
                ranks = dict.fromkeys(value)
            case [{"value": str(), "rank": int()}, {"value": str(), "rank": int()}, *_]:
                ranks = {entry["value"]: entry["rank"] for entry in value}
                best = min(ranks, key=ranks.get)
                best = "tie" if list(ranks.values()).count(ranks[best]) > 1 else best
            case _:
                return None
        return _compared(self.fields, [(n, v) for n, v in self.fields.items() if n in ranks], best)


class ArgillaTable(Peer):
    """The same as a table: fields are columns, responses `QUESTION.responses` with `.users` and `.status`."""

    model_config = ConfigDict(extra="allow")

    id: str | None = None

    def lines(self) -> list[Row]:
        """As `Argilla`, of the responses that were submitted."""
        columns = self.model_extra or {}
        questions = [n.removesuffix(".users") for n in columns if n.endswith(".responses.users")]
        responses = {}
        for name in questions:
            values, users = columns.get(name) or [], columns[f"{name}.users"] or []
            states = columns.get(f"{name}.status") or ["submitted"] * len(values)
            said = zip(values, users, states, strict=False)
            responses[name] = [{"value": v, "user_id": u} for v, u, s in said if s in ("submitted", None)]
        fields = {n: v for n, v in columns.items() if "." not in n and n not in ("status", "_server_id")}
        return Argilla.model_validate({"id": self.id, "fields": fields, "responses": responses}).lines()


def _compared(asked: Mapping[str, Any], answers: Sequence[tuple[Any, Any]], best: Any) -> Row:
    """A choice between `answers` (name, text): the first counts as the one given."""
    names = [name for name, _ in answers]
    if best not in (*names, "tie"):
        raise ValueError(f"{best!r} is none of the answers")
    prompt = next((asked[name] for name in PROMPTS if isinstance(asked.get(name), str | list)), None)
    if prompt is None:
        raise ValueError(f"no prompt: it is looked for under {', '.join(PROMPTS)}")
    (_, given), *others = answers
    return {
        "messages": [*_asked(prompt), {"role": "assistant", "content": given}],
        "alternatives": [text for _, text in others],
        "choice": best if best == "tie" else names.index(best),
    }
