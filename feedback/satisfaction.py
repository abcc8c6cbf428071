"""How people like what each version answers, and how much they say at all."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from feedback.proportions import Adjusted, adjusted, wilson
from feedback.schema import naive
from feedback.store import Store

TopicsOf = Callable[[Sequence[str]], Mapping[str, str]]  # ids of turns -> {turn: topic}, where one is known


@dataclass(frozen=True)
class Satisfaction:
    """What end users say now of one version's answers in the chat."""

    version: str
    up: int  # turns with a thumb up
    rated: int  # turns with a thumb
    adjusted: Adjusted | None = (
        None  # on the mix of topics of all versions; None where too little is known of it
    )

    @property
    def share(self) -> float:
        """Of thumbs up among the rated turns."""
        return self.up / self.rated

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `share`."""
        return wilson(self.up, self.rated)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Satisfaction":
        """The record whose fields `row` has."""
        found = row["adjusted"]
        return cls(**{**row, "adjusted": found and Adjusted(**found)})

    def document(self) -> dict[str, Any]:
        """As `ratchet status --json` prints it."""
        low, high = self.interval
        return asdict(self) | {"share": self.share, "low": low, "high": high}


def satisfaction(store: Store, topics_of: TopicsOf) -> list[Satisfaction]:
    """By version, in the order in which they first answered; a version that nobody rated is left out.

    One version alone is not adjusted: there is nothing to compare it with, and no topic is asked for.
    """
    query = """
        WITH said AS (
            SELECT turn, json_extract_string(value, '$.rating') AS rating FROM current_signal
            WHERE kind = 'rating' AND role = 'user')
        SELECT turn.version, turn.id, said.rating = '1'
        FROM said JOIN turn ON turn.id = said.turn
        WHERE said.rating <> '0' AND turn.source = 'chat' AND turn.red_flag IS NULL
        ORDER BY turn.id"""
    with store.reader() as cursor:
        rows = cursor.execute(query).fetchall()
    versions = dict.fromkeys(version for version, _, _ in rows)
    topics = topics_of([turn for _, turn, _ in rows]) if len(versions) > 1 else {}
    ups: dict[str, Counter] = defaultdict(Counter)
    tries: dict[str, Counter] = defaultdict(Counter)
    for version, turn, up in rows:
        ups[version][topics.get(turn)] += up
        tries[version][topics.get(turn)] += 1
    rated = {
        version: {topic: (ups[version][topic], count) for topic, count in tries[version].items()}
        for version in versions
    }
    found = adjusted(rated)
    return [
        Satisfaction(version, ups[version].total(), tries[version].total(), found[version])
        for version in versions
    ]


def signals_per_day(store: Store, since: datetime) -> dict[date, int]:
    """How many signals came on each day (UTC) from `since` on; days without any are left out."""
    query = "SELECT happened::DATE, count(*) FROM signal WHERE happened >= ? GROUP BY 1 ORDER BY 1"
    with store.reader() as cursor:
        return dict(cursor.execute(query, [naive(since)]).fetchall())


def by_week(store: Store) -> list[tuple[date, Satisfaction]]:
    """As `satisfaction`, by the week (its Monday) in which people rated; the oldest first."""
    query = """
        SELECT date_trunc('week', said.happened)::DATE AS week, turn.version,
               count(*) FILTER (json_extract_string(said.value, '$.rating') = '1'), count(*)
        FROM current_signal said JOIN turn ON turn.id = said.turn
        WHERE said.kind = 'rating' AND said.role = 'user' AND json_extract_string(said.value, '$.rating') <> '0'
          AND turn.source = 'chat' AND turn.red_flag IS NULL
        GROUP BY week, turn.version ORDER BY week, min(turn.id)"""
    with store.reader() as cursor:
        return [(week, Satisfaction(*row)) for week, *row in cursor.execute(query).fetchall()]


def speakers(store: Store, signals: Sequence[str]) -> dict[str, int]:
    """How many people said `signals`, by role; of ids that are no signals nothing is counted."""
    query = """
        SELECT role, count(DISTINCT person) FROM signal WHERE id IN (SELECT unnest(?))
        GROUP BY role ORDER BY role"""
    with store.reader() as cursor:
        return dict(cursor.execute(query, [list(signals)]).fetchall())
