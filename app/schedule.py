"""When a round starts by itself. What is due is decided without a clock; the shell around it looks every minute."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from app.levers import Levers
from app.run_folder import Holder, RunFolder
from eval.objective import Schedule as Rules
from feedback.errors import Refused
from feedback.records import Event

SCHEDULE = "schedule"  # who starts these rounds, for the log
LOOK_EVERY_S = 60
PICK_UPS = 2  # how often a round that was cut off goes on by itself, until a person starts it

Try = tuple[str, datetime]  # who and when


@dataclass(frozen=True)
class Situation:
    """What the schedule decides on."""

    last_began: datetime  # the last round, the last try at one, or before any the store itself
    signals_waiting: int
    paused: bool = False
    running: bool = False
    unfinished: str | None = None  # the round that can go on where it stopped
    cancelled: bool = False  # a person stopped it
    pick_ups: int = 0  # how often the schedule has gone on with it, since a person last did
    owed: str | None = None  # the champion that an erasure withdrew, until a round was started for it


def due(now: datetime, rules: Rules, seen: Situation) -> str | None:
    """Why a round starts now, in words; None while none does."""
    at = _comes_at(now, rules, seen)
    if seen.running or at is None or at > now:
        return None
    if _cut_off(seen):
        return f"{seen.unfinished} was cut off and goes on"
    if seen.owed:
        return f"an erasure withdrew {seen.owed}: a clean round takes its place"
    if seen.signals_waiting < rules.min_signals:
        return None
    return f"{seen.signals_waiting} signals wait, and {rules.every_hours:g} hours have passed"


@dataclass(frozen=True)
class Outlook:
    """When the next round starts by itself."""

    at: datetime | None  # at the earliest; None while only a person starts one
    soon: bool  # the next look starts it
    words: str  # what it waits for


def outlook(now: datetime, rules: Rules, seen: Situation) -> Outlook:
    """When the next round comes and what it waits for."""
    at = _comes_at(now, rules, seen)
    soon = due(now, rules, seen) is not None
    return Outlook(None if at is None else max(at, now), soon, _waits_for(rules, seen))


def _waits_for(rules: Rules, seen: Situation) -> str:
    if seen.paused:
        return "The schedule is paused."
    if _cut_off(seen):
        if seen.pick_ups >= PICK_UPS:
            return f"{seen.unfinished} was cut off again and again. It goes on when a person starts it."
        return f"{seen.unfinished} was cut off and goes on by itself."
    if seen.owed:
        return f"A clean round: an erasure withdrew {seen.owed}."
    enough = f"{seen.signals_waiting} of the {rules.min_signals} new signals it takes."
    if seen.unfinished and not seen.running:
        return f"{seen.unfinished} was cancelled and goes on then. {enough}"
    return f"Every {_in_words(rules.every_hours)}. {enough}"


def _comes_at(now: datetime, rules: Rules, seen: Situation) -> datetime | None:
    if seen.paused:
        return None
    if _cut_off(seen):
        return now if seen.pick_ups < PICK_UPS else None
    if seen.owed:
        return now
    return seen.last_began + timedelta(hours=rules.every_hours)


def _cut_off(seen: Situation) -> bool:
    """Whether a round stopped that nobody wanted to stop."""
    return seen.unfinished is not None and not seen.cancelled and not seen.running


def _in_words(hours: float) -> str:
    days = hours / 24
    if days == 1:
        return "day"
    return f"{days:g} days" if days > 1 and days.is_integer() else f"{hours:g} hours"


def pick_ups(asked: Sequence[Try], attempts: Sequence[Try]) -> int:
    """How often the schedule has asked to go on with a round since it began, and since a person last did.

    `asked` are the starts of any round that were asked for, `attempts` those that came to work on this one.
    """
    people = [at for who, at in (*asked, *attempts) if who != SCHEDULE]
    since = max(people + [at for _, at in attempts[:1]], default=datetime.min.replace(tzinfo=UTC))
    return sum(who == SCHEDULE and at > since for who, at in asked)


def clean_round_owed(log: Sequence[Event]) -> str | None:
    """The champion that an erasure withdrew, if no round was asked for or finished since; `log` in its order."""
    owed = None
    for event in log:
        owed = event.payload.get("withdrawn", owed) if event.kind == "erase" else None
    return owed


class Schedule:
    """Looks every minute whether a round is due, and starts it."""

    def __init__(self, levers: Levers, rules: Rules):
        self._levers, self.rules = levers, rules
        self._clock = BackgroundScheduler(timezone=UTC)

    def start(self) -> None:
        """Look now, and every minute from now on."""
        self._clock.add_job(
            self.look,
            "interval",
            seconds=LOOK_EVERY_S,
            next_run_time=datetime.now(UTC),
            coalesce=True,
            misfire_grace_time=None,
        )
        self._clock.start()

    def stop(self) -> None:
        """Look no more; a round that runs goes on."""
        self._clock.shutdown()

    def look(self) -> str | None:
        """Start a round if one is due; returns why."""
        reason = due(datetime.now(UTC), self.rules, self.situation())
        if reason is None:
            return None
        with suppress(Refused):  # somebody started one in between
            self._levers.start(SCHEDULE, reason)
        return reason

    def outlook(self, now: datetime) -> Outlook:
        """When the next round comes and what it waits for."""
        return outlook(now, self.rules, self.situation())

    def next_at(self) -> datetime | None:
        """The earliest time at which the next round starts by itself."""
        return self.outlook(datetime.now(UTC)).at

    def situation(self) -> Situation:
        """What there is to decide on at this moment."""
        store, home = self._levers.operations.store, self._levers.settings.home
        holder, stopped = Holder.read(home), RunFolder.unfinished(home / "runs")
        asked = [(event.who, event.at) for event in store.log("round_asked")]
        held = [(holder.who, holder.started_at)] if holder else []
        worked = [
            (attempt["who"], datetime.fromisoformat(attempt["at"]))
            for attempt in (stopped.attempts() if stopped else [])
        ]
        began = [event.at for event in store.log("round")] + [at for _, at in (*asked, *held)]
        return Situation(
            last_began=max(began, default=store.made_at()),
            signals_waiting=self._levers.operations.signals_waiting(),
            paused=self._levers.paused(),
            running=self._levers.busy(),
            unfinished=stopped.name if stopped else None,
            cancelled=holder is not None and self._levers.cancelled_since(holder.started_at),
            pick_ups=pick_ups(asked, worked or held) if stopped else 0,
            owed=clean_round_owed(store.log("erase", "promote", "round", "round_asked")),
        )
