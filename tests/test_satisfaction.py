"""How people like what each version answers."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from feedback.records import Signal, Turn, new_id
from feedback.satisfaction import Satisfaction, by_week, satisfaction, signals_per_day, speakers
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
        found = satisfaction(store, lambda turns: {})
        assert sorted(found, key=lambda one: one.version) == [
            Satisfaction("base", 2, 2),
            Satisfaction("v1", 0, 1),
        ]
        assert signals_per_day(store, AT + timedelta(hours=1)) == {date(2026, 11, 21): 2}


def test_versions_are_compared_on_the_same_mix_of_topics(tmp_path: Path):
    """Each rated turn counts in the topic that is known of it; where one version alone was rated none is asked for."""
    easy, hard = [answer("base") for _ in range(8)], [answer("base") for _ in range(2)]
    later = [answer("v1") for _ in range(5)], [answer("v1") for _ in range(5)]
    topics = {turn.id: "colds" for turn in (*easy, *later[0])} | {
        turn.id: "migraine" for turn in (*hard, *later[1])
    }
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(*easy, *hard, *(thumb(turn, 1) for turn in easy), *(thumb(turn, -1) for turn in hard))
        (alone,) = satisfaction(store, lambda turns: pytest.fail("nothing is compared"))
        assert (alone.share, alone.adjusted) == (0.8, None)
        store.add(*later[0], *later[1])
        store.add(*(thumb(turn, 1) for turn in later[0]), *(thumb(turn, -1) for turn in later[1]))
        found = satisfaction(store, lambda turns: {turn: topics[turn] for turn in turns})
    base, v1 = sorted(found, key=lambda one: one.version)
    assert (base.share, v1.share) == (0.8, 0.5)
    assert base.adjusted.share == v1.adjusted.share == pytest.approx(0.65)
    document = base.document()
    assert (document["low"], document["high"]) == base.interval
    assert document["adjusted"].keys() == {"share", "low", "high", "covered"}


def test_a_rating_belongs_to_the_week_in_which_it_was_given(tmp_path: Path):
    """By Mondays and versions, the oldest first; the last word counts, where and when it was said."""
    first, second, later = answer("base"), answer("base"), answer("v1")
    reviewed, foreign = answer("v2"), answer("gpt", source="file.jsonl")
    said = [thumb(first, 1), thumb(second, 1), thumb(second, -1, days=4), thumb(later, 1, days=5)]
    said += [thumb(reviewed, 1, role="reviewer"), thumb(foreign, 1)]
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(first, second, later, reviewed, foreign, *said)
        found = by_week(store)
        assert [week for week, _ in found] == [date(2026, 11, 16), date(2026, 11, 23), date(2026, 11, 23)]
        assert sorted(found, key=lambda entry: (entry[0], entry[1].version)) == [
            (date(2026, 11, 16), Satisfaction("base", 1, 1)),
            (date(2026, 11, 23), Satisfaction("base", 0, 1)),
            (date(2026, 11, 23), Satisfaction("v1", 1, 1)),
        ]


def test_people_are_counted_by_what_they_said(tmp_path: Path):
    """One who said several things is one; what is no signal counts for nobody."""
    first, second = answer("base"), answer("base")
    said = [thumb(first, 1), thumb(second, 1), thumb(second, 1, role="reviewer")]
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(first, second, *said)
        assert speakers(store, [signal.id for signal in said]) == {"reviewer": 1, "user": 1}
        assert speakers(store, [said[0].id, "elsewhere"]) == {"user": 1}
        assert speakers(store, []) == {}
