"""A person's own conversations: listed, named, handed over and taken away."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from feedback.erasure import person_digest
from feedback.likeness.vectors import vector_digest
from feedback.records import Event, Signal, Turn, new_id
from feedback.schema import delete_vectors, insert, select
from feedback.store import Store

_SAID_OF = (
    "turn IN (SELECT id FROM turn WHERE source = 'chat' AND person = ? AND list_contains(?, conversation))"
)


@dataclass(frozen=True)
class Heading:
    """One line in the list of a person's conversations."""

    conversation: str
    title: str  # the person's own, else the first question
    active: datetime  # UTC, of the last answer
    kept: bool = True  # in the store; otherwise only as long as the server runs


def headings_of(store: Store, person: str) -> list[Heading]:
    """The kept conversations of `person`, the last used first."""
    query = """
        SELECT t.conversation,
               coalesce((SELECT arg_max(n.title, n.id) FROM title n
                         WHERE n.conversation = t.conversation AND n.person = $1),
                        json_extract_string(arg_max(t.messages, t.id), '$[0].content')),
               max(t.happened)
        FROM turn t WHERE t.person = $1 AND t.source = 'chat'
        GROUP BY t.conversation ORDER BY max(t.id) DESC"""
    with store.reader() as cursor:
        rows = cursor.execute(query, [person]).fetchall()
    return [Heading(conversation, title, active.replace(tzinfo=UTC)) for conversation, title, active in rows]


def ratings_in(store: Store, conversation: str, person: str) -> dict[str, int]:
    """The thumbs of `person` in a conversation: {turn id: 1, -1 or 0}, the last of each."""
    condition = (
        "WHERE person = ? AND kind = 'rating' AND turn IN (SELECT id FROM turn WHERE conversation = ?)"
    )
    said = store.records(Signal, condition, [person, conversation])
    return {signal.turn: signal.value["rating"] for signal in said}


def everything_of(store: Store, person: str) -> list[dict[str, Any]]:
    """All that is kept of `person`'s chats, as plain JSON: what was asked, answered and said about it."""
    said: dict[str, list[Signal]] = {}
    for signal in store.records(Signal, "WHERE person = ? AND source = 'chat'", [person]):
        said.setdefault(signal.turn, []).append(signal)
    turns = store.records(Turn, "WHERE person = ? AND source = 'chat'", [person])
    return [
        {
            "conversation": heading.conversation,
            "title": heading.title,
            "answers": [
                _plain(turn) | {"said": [_plain(signal) for signal in said.get(turn.id, ())]}
                for turn in turns
                if turn.conversation == heading.conversation
            ],
        }
        for heading in headings_of(store, person)
    ]


def forget(store: Store, person: str, conversations: Sequence[str], at: datetime) -> None:
    """Take these conversations of `person` out of the store, with all that was said about them.

    Only the ids stay in the log: by them an erasure finds out which datasets they had reached.
    """
    whose = [person, list(conversations)]
    mine = "person = ? AND list_contains(?, conversation)"
    with store.reader() as cursor:
        asked = select(cursor, Turn, f"WHERE source = 'chat' AND {mine}", whose)
        signals = _column(cursor, f"SELECT id FROM signal WHERE {_SAID_OF}", whose)

    turns = [turn.id for turn in asked]
    digests = {vector_digest(question) for turn in asked for question in turn.questions}

    def take_away(connection: Any) -> int:
        gone = 0
        for table, condition, arguments in (
            ("review", f"signal IN (SELECT id FROM signal WHERE {_SAID_OF})", whose),
            *((table, _SAID_OF, whose) for table in ("judgement", "draft", "signal")),
            ("title", mine, whose),
            ("turn", f"source = 'chat' AND {mine}", whose),
        ):
            gone += connection.execute(f"DELETE FROM {table} WHERE {condition}", arguments).fetchone()[0]
        delete_vectors(connection, list(digests))
        note = {"person": person_digest(person), "turns": turns, "signals": signals}
        return insert(connection, Event(new_id(at), "deleted", "their person", note, at)) - gone

    store.write(take_away)


def _column(cursor: Any, query: str, arguments: Sequence[Any]) -> list[Any]:
    return [row[0] for row in cursor.execute(query, arguments).fetchall()]


def _plain(record: Any) -> dict[str, Any]:
    row = asdict(record)
    return {name: value for name, value in row.items() if value not in (None, {}, ())} | {
        "at": record.at.isoformat()
    }
