"""What one person left in a store: found, recognised elsewhere, and taken away for good.

Gone are their answers with all that anybody said of them, and all that they said of others' answers. What
stays holds no words of theirs: the digests of imported lines, which keep a repeated import from bringing them
back, and the recorded sides, which are hashes of questions and the topics of imported files.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedback.records import Event, Signal, Title, Turn, digest
from feedback.schema import select
from feedback.store import Store
from feedback.text import words

ERASED = "(erased)"
_RUN = 3  # words of a text that are looked up together; shorter texts are recognised as a whole only


@dataclass(frozen=True)
class Traces:
    """What a person left, by the ids that it has in the store."""

    turns: frozenset[str]  # their answers, those that they deleted themselves among them
    signals: frozenset[str]  # what they said, and what anybody said of their answers
    corrected: frozenset[str]  # others' answers for which they wrote or chose a better one
    worded: frozenset[
        str
    ]  # others' corrections that they approved in words of their own, and what those correct
    reviews: frozenset[str]  # verdicts on those signals, and those that they gave themselves
    texts: frozenset[str]  # their own words
    rows: int  # of the store that hold any of it

    @property
    def ids(self) -> frozenset[str]:
        """What a suite may call an item that holds their words, and a dataset the source of a row."""
        return self.turns | self.signals | self.corrected | self.worded


def person_digest(person: str) -> str:
    """How the log names a person whom it must not name."""
    return digest({"person": person})[:32]


def find_traces(store: Store, person: str) -> Traces:
    """What `person` left: an id as turns and signals have it, or a reviewer's name."""
    with store.reader() as cursor:
        return _find(cursor, person)


def erase(store: Store, person: str) -> None:
    """Rewrite the store without what `person` left in it."""
    store.rewrite(lambda connection: _take_away(connection, person))


def is_about(event: Event, person: str) -> bool:
    """Whether `event` is a deletion by `person`, which names what was deleted."""
    return event.kind == "deleted" and event.payload.get("person") == person_digest(person)


def _find(cursor: Any, person: str) -> Traces:
    turns = select(cursor, Turn, "WHERE person = ?", [person])
    mine = [turn.id for turn in turns]
    signals = select(cursor, Signal, "WHERE person = ? OR turn IN (SELECT unnest(?))", [person, mine])
    about = "review.reviewer = ? OR review.signal IN (SELECT unnest(?))"
    query = f"""
        SELECT review.id, signal.id, signal.turn, review.reviewer,
               CASE WHEN review.text <> json_extract_string(signal.value, '$.text') THEN review.text END
        FROM review JOIN signal ON signal.id = review.signal WHERE {about}"""
    reviews = cursor.execute(query, [person, [signal.id for signal in signals]]).fetchall()
    titles = select(cursor, Title, "WHERE person = ?", [person])
    deleted = [event for event in select(cursor, Event, "WHERE kind = 'deleted'") if is_about(event, person)]
    others = "reviewer = ? OR turn IN (SELECT unnest(?))"
    desk = sum(
        cursor.execute(f"SELECT count(*) FROM {table} WHERE {others}", [person, mine]).fetchone()[0]
        for table in ("judgement", "draft")
    )
    said = [signal for signal in signals if signal.user == person]
    texts = [
        *(question for turn in turns for question in turn.questions),
        *(signal.value["text"] for signal in said if "text" in signal.value),
        *(text for *_, text in reviews if text),
        *(title.title for title in titles),
    ]
    return Traces(
        turns=frozenset(mine).union(*(event.payload["turns"] for event in deleted)),
        signals=frozenset(s.id for s in signals).union(*(event.payload["signals"] for event in deleted)),
        corrected=frozenset(s.turn for s in said if s.kind in ("correction", "choice")) - set(mine),
        worded=frozenset(
            name
            for _, signal, turn, who, text in reviews
            if text and who == person
            for name in (signal, turn)
        ),
        reviews=frozenset(review for review, *_ in reviews),
        texts=frozenset(texts) - {""},
        rows=sum(map(len, (turns, signals, reviews, titles, deleted))) + desk,
    )


def _take_away(connection: Any, person: str) -> None:
    found = _find(connection, person)
    spoken_of = [
        row[0] for row in connection.execute("SELECT turn FROM signal WHERE person = ?", [person]).fetchall()
    ]
    gone = {name: list(getattr(found, name)) for name in ("turns", "signals", "reviews")}
    for table, condition, arguments in (
        ("review", "id IN (SELECT unnest(?))", [gone["reviews"]]),
        ("judgement", "reviewer = ? OR turn IN (SELECT unnest(?))", [person, gone["turns"]]),
        # A draft for an answer that they corrected may have begun as their correction.
        ("draft", "reviewer = ? OR turn IN (SELECT unnest(?))", [person, [*gone["turns"], *spoken_of]]),
        ("title", "person = ?", [person]),
        ("signal", "id IN (SELECT unnest(?))", [gone["signals"]]),
        ("turn", "id IN (SELECT unnest(?))", [gone["turns"]]),
    ):
        connection.execute(f"DELETE FROM {table} WHERE {condition}", arguments)
    _mend_judgements(connection, spoken_of, found.signals | found.reviews)
    _mend_events(connection, person, found)
    connection.execute("DELETE FROM vector")  # kept to save time only; the next compilation makes them anew


def _mend_judgements(connection: Any, turns: Sequence[str], gone: Collection[str]) -> None:
    """Let what reviewers did with others' answers name no statement that is gone."""
    query = "SELECT id, given FROM judgement WHERE turn IN (SELECT unnest(?))"
    for judgement, given in connection.execute(query, [list(turns)]).fetchall():
        left = [name for name in json.loads(given) if name not in gone]
        connection.execute("UPDATE judgement SET given = ? WHERE id = ?", [json.dumps(left), judgement])


def _mend_events(connection: Any, person: str, found: Traces) -> None:
    """Take their deletions and the suites that hold their words out of the log, and their words elsewhere.

    A suite cannot be mended, for its hash tells that it was changed; one that is gone is drawn anew by the next round.
    """
    theirs = Words(text for text in found.texts if len(words(text)) >= _RUN)  # not a version's name
    for event in select(connection, Event):
        holds = any(text in theirs for text in strings(event.payload))
        if is_about(event, person) or (
            event.kind == "suite" and (holds or names_any(event.payload, found.ids))
        ):
            connection.execute("DELETE FROM event WHERE id = ?", [event.id])
        elif holds:
            payload = _without(event.payload, theirs)
            text = json.dumps(payload, ensure_ascii=False, sort_keys=True)
            connection.execute("UPDATE event SET payload = ? WHERE id = ?", [text, event.id])


class Words:
    """Recognises somebody's texts in other texts, whatever their case, spacing and punctuation."""

    def __init__(self, texts: Iterable[str]):
        self._short: set[tuple[str, ...]] = set()
        self._long: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)  # by their first words
        for text in texts:
            said = tuple(words(text))
            if len(said) >= _RUN:
                self._long[said[:_RUN]].append(said)
            elif said:
                self._short.add(said)

    def __contains__(self, text: str) -> bool:
        found = tuple(words(text))
        return found in self._short or any(
            found[i : i + len(said)] == said
            for i in range(len(found) - _RUN + 1)
            for said in self._long.get(found[i : i + _RUN], ())
        )


def names_any(document: Any, ids: Collection[str]) -> bool:
    """Whether any text of a JSON document is one of `ids`."""
    return any(text in ids for text in strings(document))


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON document, the keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield name
            yield from strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings(part)


def _without(value: Any, theirs: Words) -> Any:
    if isinstance(value, str):
        return ERASED if value in theirs else value
    if isinstance(value, dict):
        return {name: _without(part, theirs) for name, part in value.items()}
    return [_without(part, theirs) for part in value] if isinstance(value, list) else value
