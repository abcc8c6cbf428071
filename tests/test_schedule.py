"""When rounds start by themselves: decided without a clock, and looked at by one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.levers import Levers
from app.operations import Operations
from app.run_folder import Holder, RunFolder
from app.schedule import PICK_UPS, SCHEDULE, Outlook, Schedule, Situation, due, outlook, pick_ups
from app.settings import Settings
from eval.objective import Schedule as Rules
from feedback.records import Event, new_id
from feedback.store import Store

RULES = Rules(every_hours=168, min_signals=50)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LONG_AGO, JUST_NOW = NOW - timedelta(days=8), NOW - timedelta(minutes=3)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "objective", tmp_path / "cache")


def test_a_round_needs_the_time_and_the_signals():
    """Every so many hours, and only with enough new signals."""
    assert due(NOW, RULES, Situation(LONG_AGO, 50)) == "50 signals wait, and 168 hours have passed"
    assert due(NOW, RULES, Situation(LONG_AGO, 49)) is None
    assert due(NOW, RULES, Situation(JUST_NOW, 500)) is None


def test_the_hour_itself_counts():
    """At the very hour it is due, a second before it is not."""
    began = NOW - timedelta(hours=168)
    assert due(NOW, RULES, Situation(began, 50))
    assert due(NOW - timedelta(seconds=1), RULES, Situation(began, 50)) is None


def test_nothing_starts_beside_a_round_or_in_a_pause():
    """One at a time; a paused schedule starts nothing, not even what was cut off."""
    assert due(NOW, RULES, Situation(LONG_AGO, 99, running=True)) is None
    assert due(NOW, RULES, Situation(LONG_AGO, 99, running=True, unfinished="r0001")) is None
    assert due(NOW, RULES, Situation(LONG_AGO, 99, paused=True)) is None
    assert due(NOW, RULES, Situation(LONG_AGO, 99, paused=True, unfinished="r0001")) is None


def test_what_was_cut_off_goes_on_soon_but_not_for_ever():
    """A killed round goes on without waiting for time or signals, twice; then a person must start it."""
    cut_off = Situation(JUST_NOW, 0, unfinished="r0002")
    assert due(NOW, RULES, cut_off) == "r0002 was cut off and goes on"
    tired = Situation(LONG_AGO, 99, unfinished="r0002", pick_ups=PICK_UPS)
    assert due(NOW, RULES, tired) is None
    assert outlook(NOW, RULES, tired).at is None
    assert "when a person starts it" in outlook(NOW, RULES, tired).words


def test_a_cancelled_round_rests_until_the_next_regular_time():
    """What a person stopped does not go on by itself right away."""
    assert due(NOW, RULES, Situation(JUST_NOW, 99, unfinished="r0002", cancelled=True)) is None
    assert due(NOW, RULES, Situation(LONG_AGO, 99, unfinished="r0002", cancelled=True))
    assert due(NOW, RULES, Situation(LONG_AGO, 3, unfinished="r0002", cancelled=True)) is None


def test_only_the_schedules_own_tries_in_a_row_are_counted():
    """The one who began it is no pick-up; a person who goes on with it starts the count anew."""

    def tries(*who: str) -> list[tuple[str, datetime]]:
        return [(name, NOW + timedelta(minutes=n)) for n, name in enumerate(who)]

    assert pick_ups([], tries("oz")) == 0
    assert pick_ups(tries(SCHEDULE), tries(SCHEDULE)) == 0
    assert pick_ups(tries("oz", SCHEDULE, SCHEDULE), tries("oz", SCHEDULE)) == 2
    assert pick_ups(tries(SCHEDULE, SCHEDULE, "oz"), tries(SCHEDULE)) == 0
    assert pick_ups(tries(SCHEDULE, SCHEDULE, "oz", SCHEDULE), tries(SCHEDULE)) == 1
    in_a_terminal = tries(SCHEDULE, SCHEDULE, "oz")
    assert pick_ups(tries(SCHEDULE, SCHEDULE), in_a_terminal) == 0


def test_the_next_round_is_told():
    """When it comes at the earliest, whether the next look starts it, and what it waits for."""
    later = outlook(NOW, RULES, Situation(JUST_NOW, 12))
    assert later == Outlook(
        JUST_NOW + timedelta(hours=168), False, "Every 7 days. 12 of the 50 new signals it takes."
    )
    waiting = outlook(NOW, RULES, Situation(LONG_AGO, 12))
    assert (waiting.at, waiting.soon) == (NOW, False)
    assert outlook(NOW, RULES, Situation(LONG_AGO, 50)).soon
    assert outlook(NOW, RULES, Situation(LONG_AGO, 50, paused=True)).at is None


def test_the_situation_is_read_from_the_home(settings: Settings):
    """The last beginning, the pause, the cancel and the tries outlive a restart: they stand in files and the log."""
    with Store.open(settings.store_file) as store:
        levers = Levers(settings, Operations(settings, None, store))
        schedule = Schedule(levers, RULES)
        assert schedule.situation() == Situation(store.made_at(), 0)  # a new installation is left in peace

        began = datetime.now(UTC) - timedelta(hours=1)
        run = RunFolder.new(settings.home / "runs")
        run.write("plan.json", {})
        run.attempt("oz", promotes=True)
        Holder("oz", began, None).write(settings.home)
        assert schedule.situation() == Situation(began, 0, unfinished="r0001")
        levers.operations.note("round_asked", SCHEDULE, "r0001 was cut off and goes on")
        (asked,) = store.log("round_asked")
        assert schedule.situation() == Situation(asked.at, 0, unfinished="r0001", pick_ups=1)

        levers.operations.note("round_cancelled", "oz", "too slow")
        levers.pause("oz", "holidays")
        seen = Schedule(Levers(settings, Operations(settings, None, store)), RULES).situation()
        assert (seen.cancelled, seen.paused) == (True, True)
        levers.resume("oz", "back again")
        assert not schedule.situation().paused
        assert [event.kind for event in levers.operations.levers_used()] == [
            "round_asked",
            "round_cancelled",
            "schedule_paused",
            "schedule_resumed",
        ]


def test_a_finished_round_counts_where_no_holder_is_known(settings: Settings):
    """In a home that was restored, the log says when the last round was."""
    at = datetime(2026, 11, 1, tzinfo=UTC)
    with Store.open(settings.store_file) as store:
        store.add(Event(new_id(at), "round", "oz", {"round": "r0001", "last_signal": ""}, at))
        schedule = Schedule(Levers(settings, Operations(settings, None, store)), RULES)
        assert schedule.situation().last_began == at
        assert schedule.next_at() > at
