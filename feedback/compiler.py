"""From what people said to rows worth training on: one pure function and its named rules.

Every signal and every knowledge row is counted once: dropped by the first rule that objects,
held out, or kept. Nothing here reads a disk, a clock or a model.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from feedback.curation import Curation
from feedback.records import Example, Knowledge, Message, Review, Signal, Turn, digest
from feedback.sides import Side, SideBook
from feedback.text import has_control_token, normalised, words


@dataclass(frozen=True)
class Events:
    """What the store holds, in the order of ids."""

    turns: Sequence[Turn] = ()
    signals: Sequence[Signal] = ()
    reviews: Sequence[Review] = ()
    knowledge: Sequence[Knowledge] = ()


@dataclass(frozen=True)
class HeldOut:
    """A question that is never trained on, with the expert's answer."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    cluster: str


@dataclass
class Tally:
    """One funnel: in = kept + held_out + all dropped."""

    entered: int = 0
    kept: int = 0
    held_out: int = 0
    dropped: Counter = field(default_factory=Counter)

    def document(self) -> dict:
        """As `ratchet compile --json` prints it."""
        return {
            "in": self.entered,
            "dropped": dict(sorted(self.dropped.items())),
            "held_out": self.held_out,
            "kept": self.kept,
        }


@dataclass(frozen=True)
class Compilation:
    """The rows before the budget, what became of everything, and the sides that were seen first now."""

    rows: tuple[Example, ...]
    held_out: tuple[HeldOut, ...]
    signals: Tally
    knowledge: Tally
    new_sides: Mapping[str, tuple[str, Side]]

    def document(self) -> dict:
        """The funnel as a JSON document."""
        kinds = Counter(row.kind for row in self.rows)
        return {
            "signals": self.signals.document(),
            "knowledge": self.knowledge.document(),
            "rows": {kind: kinds.get(kind, 0) for kind in ("sft", "preference", "unpaired")},
        }


def unfit(answer: str, curation: Curation) -> str | None:
    """The first rule that keeps `answer` out of training, or None."""
    length = len(words(answer))
    if length < curation.min_words:
        return "too_short"
    if length > curation.max_words:
        return "too_long"
    if has_control_token(answer):
        return "control_token"
    if any(re.search(pattern, answer) for pattern in curation.boilerplate):
        return "boilerplate"
    return None


def compile_events(
    events: Events,
    curation: Curation,
    system_prompt: str,
    golden: Iterable[tuple[str, str, str | None]] = (),
    recorded: Mapping[str, tuple[str, Side]] | None = None,
) -> Compilation:
    """Compile `events` into examples.

    `golden` are (question, answer, topic) of items that must never be trained on; `recorded` are the
    sides that earlier compilations saw first: {item key: (cluster, side)}.
    """
    book = SideBook(
        curation.validation_share, curation.held_out_share, curation.near_duplicate, recorded or {}
    )
    for question, answer, topic in golden:
        book.hold_out(question, answer, topic)
    for row in events.knowledge:
        book.see(row.id, row.question, row.answer, row.topic)
    last_turn: dict[str, str] = {}  # of each conversation: what follows a question belongs to it
    for turn in sorted(events.turns, key=lambda turn: len(turn.messages)):
        book.see(turn.id, turn.asked, "", turn.topic, after=last_turn.get(turn.conversation))
        last_turn[turn.conversation] = turn.id
    workshop = _Workshop(events, curation, system_prompt, book)
    workshop.take_knowledge()
    workshop.take_signals()
    return Compilation(
        rows=tuple(sorted(workshop.rows.values(), key=lambda row: (row.kind, row.sources, row.id))),
        held_out=tuple(workshop.held_out.values()),
        signals=workshop.signals,
        knowledge=workshop.knowledge,
        new_sides=book.new,
    )


class _Workshop:
    """The state of one compilation, alive for one call of `compile_events`."""

    def __init__(self, events: Events, curation: Curation, system_prompt: str, book: SideBook):
        self.events = events
        self.curation = curation
        self.system: Message = {"role": "system", "content": system_prompt}
        self.book = book
        self.rows: dict[str, Example] = {}
        self.held_out: dict[str, HeldOut] = {}
        self.signals = Tally()
        self.knowledge = Tally()
        self.turns = {turn.id: turn for turn in events.turns}
        self.reviews = {review.signal: review for review in events.reviews}  # the last one stands
        self.by_person: Counter = Counter()
        self.by_cluster: Counter = Counter()
        self.touched = self._conversations_that_touch_held_out()
        self.refuted: set[tuple[str, str]] = set()  # (question, wrong answer), wherever it was shown
        self._take_note_of_corrections()

    def _take_note_of_corrections(self) -> None:
        """What a reviewer stands behind counts beyond its turn: what was wrong, and what is held out."""
        for signal in self.events.signals:
            turn = self.turns.get(signal.turn)
            if turn and signal.kind == "correction" and (text := self._approved_text(signal)[0]):
                if normalised(text) != normalised(turn.answer):
                    self.refuted.add((normalised(turn.asked), normalised(turn.answer)))
                self.book.answered(turn.id, text)

    def _conversations_that_touch_held_out(self) -> set[str]:
        sides = defaultdict(set)
        for turn in self.events.turns:
            sides[turn.conversation].add(self.book.side(turn.id))
        return {name for name, found in sides.items() if "held_out" in found and len(found) > 1}

    # knowledge

    def take_knowledge(self) -> None:
        """One supervised row for each knowledge row that no rule objects to."""
        for row in self.events.knowledge:
            self.knowledge.entered += 1
            outcome = self._take_knowledge_row(row)
            if outcome == "kept":
                self.knowledge.kept += 1
            elif outcome == "held_out":
                self.knowledge.held_out += 1
            else:
                self.knowledge.dropped[outcome] += 1

    def _take_knowledge_row(self, row: Knowledge) -> str:
        if reason := unfit(row.answer, self.curation):
            return reason
        cluster, side = self.book.place(row.id)
        question: Message = {"role": "user", "content": row.question}
        if side == "held_out":
            self.held_out.setdefault(row.id, HeldOut(row.id, (question,), row.answer, cluster))
            return "held_out"
        if reason := self.book.bridges(row.id, row.answer):
            return reason
        if self.book.seen_before(row.question + "\n" + row.answer, row.id):
            return "near_duplicate"
        self._add("sft", (question,), row.answer, None, None, "knowledge", (row.id,), cluster, side, ())
        return "kept"

    # signals

    def take_signals(self) -> None:
        """Rows from ratings, corrections and choices, turn by turn."""
        current = {(s.turn, s.user, s.kind, _question_of_choice(s)): s.id for s in self.events.signals}
        standing = set(current.values())
        grouped: dict[str, list[Signal]] = defaultdict(list)
        for signal in self.events.signals:
            self.signals.entered += 1
            if signal.turn not in self.turns:
                self.signals.dropped["answer_deleted"] += 1
            elif signal.id not in standing:
                self.signals.dropped["superseded"] += 1
            else:
                grouped[signal.turn].append(signal)
        for turn_id, signals in grouped.items():
            outcomes = self._take_turn(self.turns[turn_id], signals)
            for signal in signals:
                self._count(outcomes[signal.id])

    def _count(self, outcome: str) -> None:
        if outcome == "kept":
            self.signals.kept += 1
        elif outcome == "held_out":
            self.signals.held_out += 1
        else:
            self.signals.dropped[outcome] += 1

    def _take_turn(self, turn: Turn, signals: list[Signal]) -> dict[str, str]:
        """What becomes of each signal about one answer: {signal id: "kept", "held_out" or a rule}."""
        if turn.red_flag:
            return {s.id: "red_flag" for s in signals}
        _, side = self.book.place(turn.id)
        if side == "held_out":
            for signal in signals:
                self._hold_out(turn, signal)
            return {s.id: "held_out" for s in signals}
        if turn.conversation in self.touched:
            return {s.id: "conversation_touches_held_out" for s in signals}
        if reason := self.book.bridges(turn.id, "", turn.questions):
            return {s.id: reason for s in signals}
        outcomes = {s.id: "comment" for s in signals if s.kind == "comment"}
        for signal in signals:
            if signal.kind == "correction":
                outcomes[signal.id] = self._take_correction(turn, signal)
        outcomes |= self._take_ratings(turn, [s for s in signals if s.kind == "rating"])
        outcomes |= self._take_choices(turn, [s for s in signals if s.kind == "choice"])
        return outcomes

    def _approved_text(self, signal: Signal) -> tuple[str | None, str]:
        """The correction that may be trained on, or None and the rule that says why not."""
        if not signal.value["text"]:
            return None, "withdrawn"
        if signal.role == "reviewer":
            return signal.value["text"], ""
        review = self.reviews.get(signal.id)
        if review is None or review.verdict == "withdraw":
            return None, "awaiting_review"
        if review.verdict == "reject":
            return None, "rejected_by_reviewer"
        return review.text or signal.value["text"], ""

    def _hold_out(self, turn: Turn, signal: Signal) -> None:
        if signal.kind != "correction":
            return
        text, _ = self._approved_text(signal)
        if text and not unfit(text, self.curation):
            cluster, _ = self.book.place(turn.id)
            self.held_out[turn.id] = HeldOut(turn.id, turn.messages, text, cluster)

    def _take_correction(self, turn: Turn, signal: Signal) -> str:
        text, reason = self._approved_text(signal)
        if text is None:
            return reason
        if reason := unfit(text, self.curation):
            return reason
        if normalised(text) == normalised(turn.answer):
            return "unchanged_correction"
        if reason := self.book.bridges(turn.id, text):
            return reason
        cluster, side = self.book.place(turn.id)
        shared = ((signal.id,), cluster, side, ())  # a reviewer stands behind it: no person's share
        self._add("sft", turn.messages, text, None, None, "correction", *shared)
        if turn.answer.strip():
            self._add(
                "preference", turn.messages, text, turn.answer, None, "correction", *shared, turn.version
            )
        return "kept"

    def _is_refuted(self, turn: Turn, answer: str) -> bool:
        """Whether a reviewer stands behind a correction of `answer` to the same question."""
        return (normalised(turn.asked), normalised(answer)) in self.refuted

    def _take_ratings(self, turn: Turn, ratings: list[Signal]) -> dict[str, str]:
        outcomes = {s.id: "withdrawn" for s in ratings if s.value["rating"] == 0}
        votes = [s for s in ratings if s.value["rating"] != 0]
        judges = [s for s in votes if s.role == "reviewer"] or votes
        balance = sum(s.value["rating"] for s in judges)
        agreeing = [s for s in votes if s.value["rating"] * balance > 0]
        outcomes |= {s.id: "disagreement" for s in votes if s not in agreeing}
        if not agreeing:
            return outcomes
        liked = balance > 0
        reason = (
            ("corrected" if liked and self._is_refuted(turn, turn.answer) else None)
            or (turn.finish not in ("stop", "length") and "unfinished_answer")
            or unfit(turn.answer, self.curation)
            or (self.book.bridges(turn.id, turn.answer) if liked else None)
            or self._over_cap(agreeing, turn)
        )
        if reason:
            return outcomes | {s.id: reason for s in agreeing}
        cluster, side = self.book.place(turn.id)
        shared = (tuple(s.id for s in agreeing), cluster, side, _end_users(agreeing))
        self._add("unpaired", turn.messages, turn.answer, None, liked, "thumb", *shared)
        if liked:
            self._add("sft", turn.messages, turn.answer, None, None, "liked", *shared)
        return outcomes | {s.id: "kept" for s in agreeing}

    def _take_choices(self, turn: Turn, choices: list[Signal]) -> dict[str, str]:
        outcomes: dict[str, str] = {}
        ballots: dict[tuple[str, ...], list[Signal]] = defaultdict(list)
        for signal in choices:
            if signal.value["choice"] == "tie":
                outcomes[signal.id] = "tie"
            else:
                ballots[tuple(signal.value["alternatives"])].append(signal)
        for alternatives, votes in ballots.items():
            outcomes |= self._take_ballot(turn, (turn.answer, *alternatives), votes)
        return outcomes

    def _take_ballot(self, turn: Turn, answers: tuple[str, ...], votes: list[Signal]) -> dict[str, str]:
        judges = [s for s in votes if s.role == "reviewer"] or votes
        counted = Counter(s.value["choice"] for s in judges).most_common()
        if len(counted) > 1 and counted[0][1] == counted[1][1]:
            return {s.id: "disagreement" for s in votes}
        winner = counted[0][0]
        outcomes = {s.id: "disagreement" for s in votes if s.value["choice"] != winner}
        agreeing = [s for s in votes if s.value["choice"] == winner]
        chosen = answers[winner]
        losers = [a for a in answers if normalised(a) != normalised(chosen)]
        reason = (
            (None if losers else "identical_answers")
            or ("corrected" if self._is_refuted(turn, chosen) else None)
            or unfit(chosen, self.curation)
            or self.book.bridges(turn.id, chosen)
            or self._over_cap(agreeing, turn)
        )
        if reason:
            return outcomes | {s.id: reason for s in agreeing}
        cluster, side = self.book.place(turn.id)
        shared = (tuple(s.id for s in agreeing), cluster, side, _end_users(agreeing), turn.version)
        for rejected in losers:
            self._add("preference", turn.messages, chosen, rejected, None, "choice", *shared)
        return outcomes | {s.id: "kept" for s in agreeing}

    def _over_cap(self, signals: list[Signal], turn: Turn) -> str | None:
        """Whether end users' likes and choices have had their share; counts them when not."""
        if any(s.role == "reviewer" for s in signals):
            return None
        people = {s.user for s in signals}
        if all(self.by_person[p] >= self.curation.max_rows_per_person for p in people):
            return "person_cap"
        cluster, _ = self.book.place(turn.id)
        if self.by_cluster[cluster] >= self.curation.max_rows_per_cluster:
            return "cluster_cap"
        self.by_cluster[cluster] += 1
        self.by_person.update(people)
        return None

    def _add(
        self,
        kind,
        messages,
        chosen,
        rejected,
        label,
        rule,
        sources,
        cluster,
        side,
        people,
        rejected_version=None,
    ) -> None:
        """Add a row, or unite its sources with an equal one's."""
        prompt = (self.system, *messages)
        key = digest([kind, prompt, chosen, rejected, label])
        if key in self.rows:
            known = self.rows[key]
            sources, rule = tuple(dict.fromkeys(known.sources + sources)), known.rule
            # Nobody's share, where one of the two stands without end users.
            people = tuple(dict.fromkeys(known.people + people)) if known.people and people else ()
        self.rows[key] = Example(
            id=key,
            kind=kind,
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            label=label,
            side=side,
            rule=rule,
            origin="knowledge" if rule == "knowledge" else "feedback",
            sources=sources,
            cluster=cluster,
            rejected_version=rejected_version,
            people=people,
        )


def _end_users(signals: list[Signal]) -> tuple[str, ...]:
    """The people whose share a row counts towards: nobody, once a reviewer agrees."""
    return () if any(s.role == "reviewer" for s in signals) else tuple(s.user for s in signals)


def _question_of_choice(signal: Signal) -> tuple[str, ...]:
    """Choices between other answers stand beside each other; everything else replaces its forerunner."""
    return tuple(signal.value["alternatives"]) if signal.kind == "choice" else ()
