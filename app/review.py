"""The review desk: who has which answer in hand, what a judgement says to training, and what became of it."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from rapidfuzz.distance import Indel

from app.conversations import utc_now
from eval.objective import Objective
from feedback import review_queue
from feedback.compiling.cleaning import clean_answer
from feedback.errors import Lost, Refused
from feedback.records import Draft, Judged, Judgement, Kind, Review, Signal, Turn, new_id
from feedback.review_queue import Filters, Place, Tally
from feedback.store import Store
from feedback.text import MAX_CHARACTERS, acceptable, words
from training.registry import MOVES, lineages, pointer_history

LEASE = timedelta(minutes=3)  # a browser that is silent for so long has lost its item
PAUSE = timedelta(minutes=10)  # without a judgement for so long, a reviewer was not at work
PAGE = 30  # places of the queue that are shown
RECENT = 20  # corrections whose fate is told
DONE = {
    "approve": "Approved.",
    "correct": "Corrected.",
    "reject": "Rejected.",
    "unsafe": "Flagged as unsafe.",
    "skip": "Skipped; it comes back at the end.",
}
UNFIT = {
    "too_short": "it has too few words",
    "too_long": "it has too many words",
    "control_token": "it holds a control token of a chat template",
    "boilerplate": "it is a phrase that says nothing",
    "link_list": "it only lists where to read",
    "repetitive": "it says the same again and again",
    "wrong_language": "it is in another language",
    "empty": "it says nothing",
    "disguised": "it is damaged beyond repair",
}


@dataclass(frozen=True)
class Item:
    """An answer in a reviewer's hand, and the text that the editor holds."""

    place: Place
    text: str
    draft: bool  # whether the reviewer wrote that text


@dataclass(frozen=True)
class Board:
    """What a reviewer has before them: the item in hand, the places after it, and how many there are in all."""

    item: Item | None
    places: tuple[Place, ...]
    waiting: int
    others: dict[str, str]  # {turn: the other reviewer who has it in hand}


@dataclass(frozen=True)
class Fate:
    """What became of one correction, in a line."""

    question: str
    became: str
    serves: bool  # a version that trained on it answers now


@dataclass(frozen=True)
class _Learnt:
    """A frozen dataset, and the versions that were trained on it."""

    name: str
    at: datetime
    signals: frozenset[str]
    versions: tuple[str, ...]


class ReviewDesk:
    """The desk of one installation; every method may be called from any thread."""

    def __init__(self, store: Store, objective: Objective, home: Path, now: Callable[[], datetime] = utc_now):
        self._store, self._objective, self._home, self._now = store, objective, home, now
        self._leases = _Leases()
        self._judging, self._drafting = threading.Lock(), threading.Lock()
        self._datasets: dict[Path, tuple[str, datetime, frozenset[str]]] = {}  # they never change

    # what there is to do

    def board(self, reviewer: str, filters: Filters = Filters()) -> Board:  # noqa: B008 - it is frozen
        """The item that `reviewer` has in hand, or else the first that nobody has; and the queue.

        No two reviewers are ever given the same item.
        """
        others = self._leases.others(reviewer, self._now())
        places, count = review_queue.waiting(self._store, reviewer, filters, PAGE + len(others))
        held = self._leases.held(reviewer, self._now())
        item = self._take(reviewer, held) if held else None
        for place in places:
            if item is not None:
                break
            item = self._take(reviewer, place.turn.id)
        return Board(item, tuple(places[:PAGE]), count, self._leases.others(reviewer, self._now()))

    def open(self, reviewer: str, turn: str) -> None:
        """Take `turn` in hand instead of what is there; Lost when it is judged, gone, or another's."""
        if self._take(reviewer, turn) is None:
            raise Lost(self._why_not(reviewer, turn))

    def narrow(self, reviewer: str, filters: Filters) -> None:
        """Put the item in hand down, unless it fits `filters`."""
        held = self._leases.held(reviewer, self._now())
        if held and review_queue.place_of(self._store, reviewer, held, filters) is None:
            self.put_down(reviewer)

    def put_down(self, reviewer: str) -> None:
        """Let others have the item that `reviewer` has in hand."""
        self._leases.release(reviewer)

    def heartbeat(self, reviewer: str, turn: str) -> None:
        """Keep `turn` in hand for another LEASE; Lost when that came too late."""
        if self._leases.held(reviewer, self._now()) not in (None, turn):
            raise Lost("you have another answer in hand by now, in another window")
        if not self._leases.take(turn, reviewer, self._now()):
            raise Lost(self._why_not(reviewer, turn))

    def waiting(self) -> int:
        """How many answers wait for a reviewer."""
        return review_queue.waiting(self._store, "", Filters(), 1)[1]

    def versions(self) -> list[str]:
        """The versions that have answered, to choose from."""
        return review_queue.versions_answered(self._store)

    def _take(self, reviewer: str, turn: str) -> Item | None:
        """`turn` in hand, if nobody else has it and it still waits."""
        if not self._leases.take(turn, reviewer, self._now()):
            return None
        # Looked up only now: another may have judged it since the queue was read.
        place = review_queue.place_of(self._store, reviewer, turn)
        if place is None:
            self._leases.release(reviewer)
            return None
        start = _start_of(place)
        draft = review_queue.draft_of(self._store, reviewer, turn)
        newest = max((s.id for s in place.corrections), default="")
        if draft is None or not draft.text or draft.id < newest:
            return Item(place, start, draft=False)
        return Item(place, draft.text, draft=draft.text != start)

    def _why_not(self, reviewer: str, turn: str) -> str:
        other = self._leases.others(reviewer, self._now()).get(turn)
        if other:
            return f"{other} has this answer in hand now; what you wrote is kept as your draft"
        if self._store.turn(turn) is None:
            return "the person deleted this answer; nothing was stored"
        return "this answer was judged already"

    # drafts

    def save_draft(self, reviewer: str, turn: str, text: str) -> bool:
        """Keep an unfinished text, whoever has the item in hand; False where there is nothing new to keep."""
        if len(text) > MAX_CHARACTERS:
            raise Refused(f"the draft has {len(text):,} characters; at most {MAX_CHARACTERS:,} are kept")
        place = review_queue.place_of(self._store, reviewer, turn)
        if place is None:
            return False
        text = text if text.strip() else ""
        with self._drafting:  # the page keeps a draft by itself, maybe while its text is sent
            last = review_queue.draft_of(self._store, reviewer, turn)
            if text == (last.text if last else _start_of(place)) or not (text or last):
                return False
            if text:
                acceptable(text, "draft")
            at = self._now()
            review_queue.record_about(self._store, turn, Draft(new_id(at), turn, reviewer, text, at))
            return True

    # judging

    def judge(self, reviewer: str, turn: str, verdict: Judged, text: str) -> str:
        """Record a verdict about `turn`, with the editor's `text`; returns what was done, in a line.

        Refused, and only the draft kept, when the verdict makes no sense; Lost when the item is another's.
        """
        if verdict not in DONE:
            raise Refused(f"{verdict!r} is no verdict; use one of {', '.join(DONE)}")
        self.save_draft(reviewer, turn, text)
        with self._judging:
            item = self._take(reviewer, turn)
            if item is None:
                raise Lost(self._why_not(reviewer, turn))
            at = self._now()
            given = _Statements(item.place, reviewer, at).of(verdict, text)
            judgement = Judgement(new_id(at), turn, reviewer, verdict, tuple(g.id for g in given), None, at)
            review_queue.record_about(self._store, turn, judgement, *given)
            self._leases.release(reviewer)
        return DONE[verdict] + (self._objection(text) if verdict == "correct" else "")

    def _objection(self, text: str) -> str:
        rule = clean_answer(text, self._objective.curation).dropped_by
        return f" Training will leave it out: {UNFIT[rule]}." if rule else ""

    def undo(self, reviewer: str) -> str:
        """Take back the last judgement of `reviewer` that stands, and give them its item again."""
        with self._judging:
            last = review_queue.last_judgement(self._store, reviewer)
            if last is None:
                raise Refused("there is nothing to take back: no judgement of yours stands")
            at = self._now()
            opposite = self._opposites(last, at)
            undo = Judgement(
                new_id(at), last.turn, reviewer, "undo", tuple(o.id for o in opposite), last.id, at
            )
            review_queue.record_about(self._store, last.turn, undo, *opposite)
        if self._take(reviewer, last.turn) is None:
            return f"Taken back: {last.verdict}. Another reviewer has the answer in hand now."
        return f"Taken back: {last.verdict}."

    def _opposites(self, judgement: Judgement, at: datetime) -> list[Signal | Review]:
        """The rows that take back what `judgement` gave: changed minds are new rows."""
        given = [list(judgement.given)]
        unsaid = {"rating": {"rating": 0, "reasons": []}, "correction": {"text": ""}}
        signals = self._store.records(Signal, "WHERE id IN (SELECT unnest(?))", given)
        reviews = self._store.records(Review, "WHERE id IN (SELECT unnest(?))", given)
        return [
            *(replace(s, id=new_id(at), value=unsaid[s.kind], at=at) for s in signals),
            *(replace(r, id=new_id(at), verdict="withdraw", text=None, at=at) for r in reviews),
        ]

    # what came of it

    def progress(self, reviewer: str) -> Tally:
        """How much `reviewer` judged, today by the clock of this machine and in all."""
        midnight = self._now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        return review_queue.tally(self._store, reviewer, midnight, PAUSE)

    def fates(self, reviewer: str) -> list[Fate]:
        """What became of the last corrections of `reviewer`, newest first."""
        corrections = review_queue.corrections_by(self._store, reviewer, RECENT)
        champion = pointer_history(self._store.log(*MOVES))[-1]
        learnt = self._learnt() if corrections else []
        ids = [judgement.turn for judgement, _ in corrections]
        turns = {t.id: t for t in self._store.records(Turn, "WHERE id IN (SELECT unnest(?))", [ids])}
        return [
            Fate(turns[j.turn].messages[-1]["content"], *_became(signal, j.at, learnt, champion))
            for j, signal in corrections
            if j.turn in turns
        ]

    def _learnt(self) -> list[_Learnt]:
        """Every frozen dataset with the versions that came of it, the oldest first."""
        for file in (self._home / "datasets").glob("*/manifest.json"):
            if file not in self._datasets:
                manifest = json.loads(file.read_text("utf-8"))
                at = datetime.fromisoformat(manifest["created_at"])
                self._datasets[file] = (manifest["hash"], at, frozenset(manifest["sources"]["feedback"]))
        trained = {
            version: {run["dataset_hash"] for run in made} for version, made in lineages(self._home).items()
        }
        return sorted(
            (
                _Learnt(name, at, signals, tuple(v for v, datasets in trained.items() if name in datasets))
                for name, at, signals in self._datasets.values()
            ),
            key=lambda learnt: learnt.at,
        )


class _Leases:
    """Who has which answer in hand, at most one each: in memory, for as long as their browsers say so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[str, tuple[str, datetime]] = {}  # {turn: (reviewer, until)}

    def take(self, turn: str, reviewer: str, at: datetime) -> bool:
        """Give `turn` to `reviewer`, who lets go of what they had, unless another has it."""
        with self._lock:
            holder, until = self._holders.get(turn, (reviewer, at))
            if holder != reviewer and until > at:
                return False
            self._holders = {t: held for t, held in self._holders.items() if held[0] != reviewer}
            self._holders[turn] = (reviewer, at + LEASE)
            return True

    def release(self, reviewer: str) -> None:
        with self._lock:
            self._holders = {t: held for t, held in self._holders.items() if held[0] != reviewer}

    def held(self, reviewer: str, at: datetime) -> str | None:
        """The turn that `reviewer` has in hand."""
        with self._lock:
            return next(
                (t for t, (who, until) in self._holders.items() if who == reviewer and until > at), None
            )

    def others(self, reviewer: str, at: datetime) -> dict[str, str]:
        """What the other reviewers have in hand: {turn: reviewer}."""
        with self._lock:
            return {t: who for t, (who, until) in self._holders.items() if who != reviewer and until > at}


@dataclass(frozen=True)
class _Statements:
    """What a verdict about one place says to training."""

    place: Place
    reviewer: str
    at: datetime

    def of(self, verdict: Judged, text: str) -> list[Signal | Review]:
        """The signals and reviews to store; Refused where text and verdict do not go together."""
        if verdict == "skip":
            return []
        if verdict == "correct":
            return self._correct(acceptable(text, "corrected answer").strip())
        if verdict == "approve" and text.strip() not in ("", *_texts(self.place)):
            raise Refused(
                "the editor holds a changed answer; save it as a correction, or put the answer back"
            )
        value = {
            "rating": 1 if verdict == "approve" else -1,
            "reasons": ["unsafe"] if verdict == "unsafe" else [],
        }
        return [self._signal("rating", value), *self._rejections(self.place.corrections)]

    def _correct(self, text: str) -> list[Signal | Review]:
        turn, corrections = self.place.turn, self.place.corrections
        if turn.red_flag:
            raise Refused(
                "a fixed safety notice answered here, not a model; approve, reject or flag it instead"
            )
        if text == turn.answer.strip():
            raise Refused("the text is the answer as it is; change it, or approve it")
        # The reviewer's work on somebody's correction, or their own on the answer: whichever is nearer.
        nearest = max(corrections, key=lambda s: _similarity(s.value["text"], text), default=None)
        if nearest is None or _similarity(turn.answer, text) > _similarity(nearest.value["text"], text):
            return [self._signal("correction", {"text": text}), *self._rejections(corrections)]
        edited = text if text != nearest.value["text"].strip() else None
        approval = Review(new_id(self.at), nearest.id, self.reviewer, "approve", edited, self.at)
        return [approval, *self._rejections(s for s in corrections if s != nearest)]

    def _signal(self, kind: Kind, value: dict) -> Signal:
        return Signal(new_id(self.at), self.place.turn.id, self.reviewer, "reviewer", kind, value, self.at)

    def _rejections(self, corrections) -> list[Review]:
        return [
            Review(new_id(self.at), signal.id, self.reviewer, "reject", None, self.at)
            for signal in corrections
        ]


def _texts(place: Place) -> list[str]:
    """What somebody else than the reviewer wrote: the answer, and what users would have it be."""
    return [place.turn.answer.strip(), *(s.value["text"].strip() for s in place.corrections)]


def _start_of(place: Place) -> str:
    """What the editor starts from: the newest correction that waits, or else the answer."""
    return place.corrections[-1].value["text"] if place.corrections else place.turn.answer


def _similarity(one: str, other: str) -> float:
    """How many of the words of two texts stand in both, in order; 1 is all."""
    return Indel.normalized_similarity(words(one), words(other))


def _became(signal: str, at: datetime, learnt: list[_Learnt], champion: str) -> tuple[str, bool]:
    """What became of the correction `signal`, and whether the champion knows it."""
    within = [dataset for dataset in learnt if signal in dataset.signals]
    taught = [version for dataset in within for version in dataset.versions]
    if champion in taught:
        return f"learnt by {champion}, which serves", True
    if taught:
        return f"learnt by {taught[-1]}, which does not serve", False
    if within:
        return f"in dataset {within[-1].name}; no version has finished training on it", False
    if any(dataset.at > at for dataset in learnt):
        return "left out of the last dataset: held out for testing, or dropped by a rule or the budget", False
    return "waits for the next round", False
