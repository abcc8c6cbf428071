"""How people like what each version answers, and how much they say at all."""

import math
from dataclasses import dataclass
from datetime import date, datetime

from feedback.schema import naive
from feedback.store import Store

NORMAL_QUANTILE = 1.959964  # of 97.5 %: a two-sided interval of 95 %


@dataclass(frozen=True)
class Satisfaction:
    """What end users say now of one version's answers in the chat."""

    version: str
    up: int  # turns with a thumb up
    rated: int  # turns with a thumb

    @property
    def share(self) -> float:
        """Of thumbs up among the rated turns."""
        return self.up / self.rated

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `share`."""
        return wilson(self.up, self.rated)


def satisfaction(store: Store) -> list[Satisfaction]:
    """By version, in the order in which they first answered; a version that nobody rated is left out."""
    query = """
        WITH said AS (
            SELECT turn, json_extract_string(value, '$.rating') AS rating FROM current_signal
            WHERE kind = 'rating' AND role = 'user')
        SELECT turn.version, count(*) FILTER (said.rating = '1'), count(*)
        FROM said JOIN turn ON turn.id = said.turn
        WHERE said.rating <> '0' AND turn.source = 'chat' AND turn.red_flag IS NULL
        GROUP BY turn.version ORDER BY min(turn.id)"""
    with store.reader() as cursor:
        return [Satisfaction(*row) for row in cursor.execute(query).fetchall()]


def signals_per_day(store: Store, since: datetime) -> dict[date, int]:
    """How many signals came on each day (UTC) from `since` on; days without any are left out."""
    query = "SELECT happened::DATE, count(*) FROM signal WHERE happened >= ? GROUP BY 1 ORDER BY 1"
    with store.reader() as cursor:
        return dict(cursor.execute(query, [naive(since)]).fetchall())


def wilson(successes: int, tries: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927); `tries` is at least 1."""
    z2 = NORMAL_QUANTILE**2
    share = successes / tries
    middle = (share + z2 / (2 * tries)) / (1 + z2 / tries)
    reach = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / tries + z2 / (4 * tries**2)) / (1 + z2 / tries)
    return max(0.0, middle - reach), min(1.0, middle + reach)
