"""Which answers wait for a reviewer, in what order and why, and what a reviewer has done.

First what people objected to, corrected or asked in an emergency, then what they rated otherwise, then the
rest. Within a rank the newest comes first: the version that wrote it serves, so a word about it mends what
people are told today. What a reviewer skipped comes to that reviewer last. All of it is ranked and cut to a
page in SQL, so that a store of 100,000 answers costs no more than one screen of them.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from feedback.errors import Lost, Refused
from feedback.records import Draft, Judgement, Review, Signal, Turn
from feedback.schema import insert_all
from feedback.store import Store

REASONS = {
    "corrected": "Corrected by a user",
    "down": "Rated down",
    "flagged": "Red flag",
    "commented": "Commented",
    "rated": "Rated otherwise",
    "unrated": "Nothing said of it",
}
_AMONG = {
    "id": "id = $id",
    "version": "version = $version",
    "imported": "(source <> 'chat') = $imported",
    # A question stands in JSON: cheap to look through as a whole, and then in the last one itself.
    "search": """(contains(lower(answer), lower($search)) OR contains(lower(messages), lower($quoted))
                  AND contains(lower(json_extract_string(messages, '$[#-1].content')), lower($search)))""",
}
_STANDING = "NOT EXISTS (SELECT 1 FROM judgement u WHERE u.undoes = j.id)"  # not taken back
# Nothing is counted OVER a window: in DuckDB 1.5 that can bring the whole store down (duckdb/duckdb#22846).
_WAITING = """
    WITH current AS (
        SELECT turn, kind, max(id) AS id, arg_max(role, id) AS role, arg_max(value, id) AS value
        FROM signal WHERE {about} GROUP BY turn, person, kind),
    spoken AS (
        SELECT turn, kind, id, role, json_extract_string(value, '$.rating') AS rating
        FROM current WHERE coalesce(json_extract_string(value, '$.rating'), '1') <> '0'
                       AND coalesce(json_extract_string(value, '$.text'), 'some') <> ''),
    verdict AS (SELECT signal AS id, arg_max(verdict, id) AS verdict, max(id) AS review FROM review GROUP BY signal),
    said AS (
        SELECT turn, bool_or(kind = 'comment') AS commented, bool_or(rating = '-1') AS down,
               bool_or(rating = '1' OR kind = 'choice') AS other
        FROM spoken WHERE role = 'user' GROUP BY turn),
    correction AS (
        SELECT turn, max(id) AS newest, list(id) AS ids
        FROM spoken LEFT JOIN verdict USING (id)
        WHERE kind = 'correction' AND role = 'user' AND coalesce(verdict, 'withdraw') = 'withdraw' GROUP BY turn),
    judged AS (
        SELECT j.turn, j.id, j.verdict, j.reviewer FROM judgement j WHERE {about} AND {standing}),
    reviewed AS (
        SELECT turn, max(id) AS newest FROM (
            SELECT turn, id FROM judged WHERE verdict NOT IN ('skip', 'undo')
            UNION ALL SELECT turn, id FROM spoken WHERE role = 'reviewer'
            UNION ALL SELECT turn, review FROM spoken JOIN verdict USING (id) WHERE verdict = 'approve')
        GROUP BY turn),
    skip AS (
        SELECT turn, max(id) AS newest FROM judged WHERE verdict = 'skip' AND reviewer = $reviewer GROUP BY turn),
    answered AS (
        SELECT id AS turn, happened, source = 'chat' AS chatted, red_flag IS NOT NULL AS flagged
        FROM turn WHERE {among}),
    place AS (
        SELECT turn, happened, c.ids, k.newest AS skipped, c.ids IS NOT NULL AS corrected,
               coalesce(s.down, false) AS down, flagged, coalesce(s.commented, false) AS commented,
               coalesce(s.other, false) AS other
        FROM answered LEFT JOIN said s USING (turn) LEFT JOIN correction c USING (turn)
             LEFT JOIN reviewed r USING (turn) LEFT JOIN skip k USING (turn)
        WHERE (r.newest IS NULL OR c.newest > r.newest) AND (chatted OR s.turn IS NOT NULL)),
    ranked AS (
        SELECT *, corrected OR down OR flagged OR commented AS urgent,
               other AND NOT urgent AS rated, NOT other AND NOT urgent AS unrated
        FROM place),
    fitting AS MATERIALIZED (SELECT * FROM ranked WHERE {reason})
    SELECT turn, coalesce(ids, []), skipped IS NOT NULL, (SELECT count(*) FROM fitting) FROM fitting
    ORDER BY skipped NULLS FIRST, urgent DESC, other DESC, happened DESC, turn DESC LIMIT $limit"""


@dataclass(frozen=True)
class Filters:
    """What a reviewer wants to see of the queue; None is all."""

    reason: str | None = None  # a key of REASONS
    version: str | None = None
    imported: bool | None = None  # from a file, or from the chat
    search: str = ""  # in the question or the answer


@dataclass(frozen=True)
class Place:
    """One answer that waits, and why."""

    turn: Turn
    said: tuple[Signal, ...]  # what users say of it now
    corrections: tuple[Signal, ...]  # those of them that no reviewer has judged
    skipped: bool  # by the reviewer who looks

    @property
    def reasons(self) -> list[str]:
        """Why it stands where it stands, in plain words, the weightiest first."""
        down = [s.value["reasons"] for s in self.said if s.kind == "rating" and s.value["rating"] == -1]
        named = ", ".join(dict.fromkeys(reason for reasons in down for reason in reasons))
        found = []
        if self.corrections:
            several = len(self.corrections) > 1
            found.append(f"{len(self.corrections)} users corrected it" if several else "a user corrected it")
        if down:
            found.append(f"rated down: {named}" if named else "rated down")
        if self.turn.red_flag:
            found.append(f"red flag: {self.turn.red_flag}")
        if any(s.kind == "comment" for s in self.said):
            found.append("commented")
        if not found:
            found = ["rated up"] if any(s.value.get("rating") == 1 for s in self.said) else []
            found += ["compared"] if any(s.kind == "choice" for s in self.said) else []
        return [*(found or ["nothing said of it"]), *(["you skipped it"] if self.skipped else [])]


@dataclass(frozen=True)
class Tally:
    """How much a reviewer has judged; what was skipped or taken back does not count."""

    today: int
    in_all: int
    per_hour: float | None  # today, over the time without pauses; None before there is any


def waiting(store: Store, reviewer: str, filters: Filters, limit: int) -> tuple[list[Place], int]:
    """The first `limit` places of the queue as `reviewer` has it, and how many there are in all."""
    return _places(store, reviewer, filters, limit, None)


def place_of(store: Store, reviewer: str, turn: str, filters: Filters | None = None) -> Place | None:
    """The place of one turn, or None where it is not in the queue, or not within `filters`."""
    found, _ = _places(store, reviewer, filters or Filters(), 1, turn)
    return found[0] if found else None


def _places(
    store: Store, reviewer: str, filters: Filters, limit: int, turn: str | None
) -> tuple[list[Place], int]:
    if filters.reason not in (None, *REASONS):
        raise Refused(f"{filters.reason!r} is no reason to be in the queue; choose one of the list")
    wanted = {"id": turn, "version": filters.version, "imported": filters.imported, "search": filters.search}
    wanted = {name: value for name, value in wanted.items() if value not in (None, "")}
    if filters.search:
        wanted["quoted"] = json.dumps(filters.search, ensure_ascii=False)[1:-1]
    query = _WAITING.format(
        about="turn = $id" if turn else "true",
        standing=_STANDING,
        among=" AND ".join(_AMONG[name] for name in wanted if name in _AMONG) or "true",
        reason=filters.reason or "true",
    )
    with store.reader() as cursor:
        rows = cursor.execute(query, wanted | {"reviewer": reviewer, "limit": limit}).fetchall()
    ids = [row[0] for row in rows]
    turns = {found.id: found for found in store.records(Turn, "WHERE id IN (SELECT unnest(?))", [ids])}
    said = _said(store, ids)
    places = [
        Place(turns[id_], said[id_], tuple(s for s in said[id_] if s.id in awaiting), skipped)
        for id_, awaiting, skipped, _ in rows
        if id_ in turns  # its person may have deleted it in between
    ]
    return places, rows[0][3] if rows else 0


def _said(store: Store, turns: Sequence[str]) -> dict[str, tuple[Signal, ...]]:
    """What users say now of each turn, in the order of ids; what they took back is nothing said."""
    condition = "WHERE role = 'user' AND turn IN (SELECT unnest(?))"
    now = {(s.turn, s.user, s.kind): s for s in store.records(Signal, condition, [list(turns)])}
    found = defaultdict(list)
    for signal in sorted(now.values(), key=lambda signal: signal.id):
        if signal.value.get("rating") != 0 and signal.value.get("text") != "":
            found[signal.turn].append(signal)
    return defaultdict(tuple, {turn: tuple(signals) for turn, signals in found.items()})


def versions_answered(store: Store) -> list[str]:
    """Every version that has written an answer."""
    with store.reader() as cursor:
        return [row[0] for row in cursor.execute("SELECT DISTINCT version FROM turn ORDER BY 1").fetchall()]


def record_about(store: Store, turn: str, *records: Any) -> None:
    """Add records about `turn` in one transaction; Lost, and nothing added, when the turn is gone."""

    def write(connection: Any) -> int:
        if not connection.execute("SELECT 1 FROM turn WHERE id = ?", [turn]).fetchone():
            raise Lost("the person deleted this answer; nothing was stored")
        return insert_all(connection, records)

    store.write(write)


# what a reviewer has done


def draft_of(store: Store, reviewer: str, turn: str) -> Draft | None:
    """The last draft of `reviewer` for `turn`, be it empty."""
    condition = "WHERE id = (SELECT max(id) FROM draft WHERE turn = ? AND reviewer = ?)"
    found = store.records(Draft, condition, [turn, reviewer])
    return found[0] if found else None


def last_judgement(store: Store, reviewer: str) -> Judgement | None:
    """The last one that was not taken back."""
    condition = f"""WHERE id = (SELECT max(j.id) FROM judgement j
                                WHERE j.reviewer = ? AND j.verdict <> 'undo' AND {_STANDING})"""
    found = store.records(Judgement, condition, [reviewer])
    return found[0] if found else None


def tally(store: Store, reviewer: str, since: datetime, pause: timedelta) -> Tally:
    """What `reviewer` judged in all and `since` then; a gap longer than `pause` is no work."""
    standing = store.records(
        Judgement, f"j WHERE reviewer = ? AND verdict <> 'undo' AND {_STANDING}", [reviewer]
    )
    today = [judgement for judgement in standing if judgement.at >= since]
    gaps = [(later.at - earlier.at, later) for earlier, later in pairwise(today)]
    active = [gap for gap, _ in gaps if gap <= pause]
    done = sum(gap <= pause and later.verdict != "skip" for gap, later in gaps)
    worked = sum(active, timedelta())
    return Tally(
        today=sum(judgement.verdict != "skip" for judgement in today),
        in_all=sum(judgement.verdict != "skip" for judgement in standing),
        per_hour=done / (worked / timedelta(hours=1)) if worked else None,
    )


def corrections_by(store: Store, reviewer: str, limit: int) -> list[tuple[Judgement, str]]:
    """The last corrections of `reviewer` that stand, newest first, each with the id of the signal it came to."""
    condition = f"""WHERE id IN (SELECT j.id FROM judgement j
                                 WHERE j.reviewer = ? AND j.verdict = 'correct' AND {_STANDING}
                                 ORDER BY j.id DESC LIMIT ?)"""
    judgements = store.records(Judgement, condition, [reviewer, limit])
    given = [[id_ for judgement in judgements for id_ in judgement.given]]
    own = {s.id: s.id for s in store.records(Signal, "WHERE id IN (SELECT unnest(?))", given)}
    approved = "WHERE verdict = 'approve' AND id IN (SELECT unnest(?))"
    own |= {review.id: review.signal for review in store.records(Review, approved, given)}
    return [(j, own[id_]) for j in reversed(judgements) for id_ in j.given if id_ in own]
