"""How people like what each version answers."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from feedback.records import Signal, Turn, new_id
from feedback.satisfaction import Satisfaction, satisfaction, signals_per_day, wilson
from feedback.store import Store

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def answer(version: str, source: str = "chat", red_flag: str | None = None) -> Turn:
    asked = ({"role": "user", "content": "?"},)
    return Turn(new_id(AT), "c", "ann", asked, "No.", version, AT, source=source, red_flag=red_flag)


def thumb(turn: Turn, rating: int, role: str = "user", days: int = 0) -> Signal:
    at = AT + timedelta(days=days)
    return Signal(new_id(at), turn.id, "ann", role, "rating", {"rating": rating, "reasons": []}, at)


def test_the_last_word_of_end_users_counts(tmp_path: Path):
    """A changed rating counts as changed, a withdrawn one not at all; reviewers, rules and imports are left out."""
    first, second, third = (answer("base") for _ in range(3))
    later, reviewed = answer("v1"), answer("v2")
    rule, foreign = answer("rules", red_flag="heart"), answer("gpt", source="file.jsonl")
    said = [thumb(first, 1), thumb(second, -1), thumb(second, 1, days=1)]
    said += [thumb(third, 1), thumb(third, 0, days=1), thumb(later, -1)]
    said += [thumb(reviewed, 1, role="reviewer"), thumb(rule, 1), thumb(foreign, 1)]
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(first, second, third, *said)
        store.add(later, reviewed, rule, foreign)
        found = satisfaction(store)
        assert sorted(found, key=lambda one: one.version) == [
            Satisfaction("base", 2, 2),
            Satisfaction("v1", 0, 1),
        ]
        assert signals_per_day(store, AT + timedelta(hours=1)) == {date(2026, 11, 21): 2}


@pytest.mark.parametrize(
    ("successes", "tries", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (7, 10, 0.3968, 0.8922), (0, 10, 0.0, 0.2775), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval(successes: int, tries: int, low: float, high: float):
    """The textbook's numbers (the first is from Newcombe 1998), also at the ends where others leave the scale."""
    assert wilson(successes, tries) == pytest.approx((low, high), abs=1e-4)
