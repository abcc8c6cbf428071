"""From what people said to rows worth training on: one pure function and its named rules.

Every signal and every knowledge row is counted once: dropped by the first rule that objects, held out, or
kept. Nothing here reads a disk, a clock or a model. Conversations are read one after the other, several
times, and never held together: a million answers need no more memory than what was said about them.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from feedback.compiling.cleaning import clean_answer, clean_question, quotes_refuted
from feedback.compiling.curation import Curation
from feedback.compiling.examples import Grounds, RowBook
from feedback.compiling.planting import dictates, novel_claims
from feedback.compiling.raters import Disagreement, Label
from feedback.compiling.standing import Standing
from feedback.likeness.clusters import Meanings
from feedback.likeness.leaks import taught
from feedback.likeness.sides import Side, SideBook
from feedback.records import Example, Knowledge, Message, Review, Signal, Turn
from feedback.text import normalised

FLAWS_OF_A_DISLIKED_ANSWER = frozenset({"boilerplate", "link_list", "repetitive", "wrong_language"})


@dataclass(frozen=True)
class Events:
    """What the store holds, in the order of ids."""

    turns: Iterable[Turn] = ()  # can be read several times
    signals: Sequence[Signal] = ()
    reviews: Sequence[Review] = ()
    knowledge: Sequence[Knowledge] = ()
    grouped: bool = False  # the turns of a conversation come together, the first one first

    def conversations(self) -> Iterator[list[Turn]]:
        """The turns of one conversation after the other, the first turn first."""
        turns = self.turns
        if not self.grouped:
            turns = sorted(turns, key=lambda turn: (turn.conversation, len(turn.messages), turn.id))
        for _, found in groupby(turns, key=lambda turn: turn.conversation):
            yield list(found)


@dataclass(frozen=True)
class HeldOut:
    """A question that is never trained on, with the expert's answer."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    cluster: str


@dataclass(frozen=True)
class HeldOutPair:
    """Two answers to a question that is never trained on, of which people prefer one."""

    id: str  # the first of `sources`
    messages: tuple[Message, ...]  # with the system prompt first
    chosen: str
    rejected: str
    cluster: str
    sources: tuple[str, ...]  # the signals behind it


@dataclass
class Tally:
    """One funnel: in = kept + held_out + all dropped."""

    entered: int = 0
    kept: int = 0
    held_out: int = 0
    dropped: Counter = field(default_factory=Counter)

    def count(self, outcome: str) -> None:
        """Count one that was "kept", "held_out", or dropped by the rule `outcome`."""
        self.entered += 1
        if outcome == "kept":
            self.kept += 1
        elif outcome == "held_out":
            self.held_out += 1
        else:
            self.dropped[outcome] += 1

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
    disagreement: Disagreement  # of people whose votes are not unusual
    unusual: tuple[str, ...] = ()  # people whose votes wait for a reviewer
    held_out_pairs: tuple[HeldOutPair, ...] = ()

    def document(self) -> dict:
        """The funnel as a JSON document."""
        kinds = Counter(row.kind for row in self.rows)
        mended = Counter(rule for row in self.rows for rule in row.mended)
        return {
            "signals": self.signals.document(),
            "knowledge": self.knowledge.document(),
            "rows": {kind: kinds.get(kind, 0) for kind in ("sft", "preference", "unpaired")},
            "mended": dict(sorted(mended.items())),
            "people_with_unusual_votes": len(self.unusual),
            "disagreement": {
                "judged_twice": self.disagreement.judged_twice,
                "share": self.disagreement.share,
                "flip_rate": self.disagreement.flip_rate,
            },
        }


def compile_events(
    events: Events,
    curation: Curation,
    system_prompt: str,
    golden: Iterable[tuple[str, str, str | None]] = (),
    recorded: Mapping[str, tuple[str, Side]] | None = None,
    versions: Sequence[str] = (),
    meanings: Meanings | None = None,
    off_topic: Container[str] = (),
) -> Compilation:
    """Compile `events` into examples.

    `golden` are (question, answer, topic) of items that must never be trained on; `recorded` are the
    sides that earlier compilations saw first: {item key: (cluster, side)}; `versions` are all that were ever
    made, oldest first: by them a rejected answer is known to be old; `meanings` and `off_topic` (ids of turns) are
    what an encoder made of the questions.
    """
    book = SideBook(
        curation.validation_share, curation.held_out_share, curation.near_duplicate, recorded or {}, meanings
    )
    for question, answer, topic in golden:
        book.hold_out(question, answer, topic)
    for row in events.knowledge:
        book.see(row.id, row.question, row.answer, row.topic)
    workshop = _Workshop(events, curation, system_prompt, book, versions, off_topic)
    workshop.look_around()
    workshop.take_knowledge()
    workshop.take_signals()
    rows = workshop.rows.finished()
    return Compilation(
        rows=rows,
        held_out=tuple(workshop.held_out.values()),
        signals=workshop.signals,
        knowledge=workshop.knowledge,
        new_sides=book.new,
        unusual=tuple(sorted(workshop.said.unusual)),
        held_out_pairs=workshop.held_out_pairs(rows),
        disagreement=workshop.said.disagreement,
    )


class _Workshop:
    """The state of one compilation, alive for one call of `compile_events`."""

    def __init__(
        self,
        events: Events,
        curation: Curation,
        system_prompt: str,
        book: SideBook,
        versions: Sequence[str],
        off_topic: Container[str],
    ):
        self.events = events
        self.curation = curation
        self.book = book
        self.off_topic = off_topic
        system = {"role": "system", "content": system_prompt}
        self.rows = RowBook(system, curation, versions)
        self.rows_held_out = RowBook(system, curation, versions)  # by the same rules; nobody trains on them
        self.said = Standing(events.signals, events.reviews, curation.suspicion_limit)
        self.held_out: dict[str, HeldOut] = {}
        self.signals = Tally()
        self.knowledge = Tally()
        self.touched: set[str] = set()  # conversations on both sides of the wall
        self.refuted: set[tuple[str, str]] = set()  # (question, wrong answer), wherever it was shown

    def look_around(self) -> None:
        """Give every conversation its side, and take note of what counts beyond its own turn."""
        for conversation in self.events.conversations():
            before, sides = None, set()
            for turn in conversation:
                self.book.see(turn.id, turn.asked, "", turn.topic, after=before)
                sides.add(self.book.side(turn.id))
                before = turn.id
                self._note_corrections(turn)
                self.said.meet(turn)
                if self.said.rated(turn.id):
                    self._book_of(turn).expect(turn)
            if "held_out" in sides and len(sides) > 1:
                self.touched.add(conversation[0].conversation)
        self.said.settle()

    def _book_of(self, turn: Turn) -> RowBook:
        return self.rows_held_out if self.book.side(turn.id) == "held_out" else self.rows

    def _note_corrections(self, turn: Turn) -> None:
        """What a reviewer stands behind counts beyond its turn: what was wrong, and what is held out."""
        for signal in self.said.about(turn.id):
            if signal.kind == "correction" and (text := self.said.approved_text(signal)[0]):
                if normalised(text) != normalised(turn.answer):
                    self.refuted.add((normalised(turn.asked), normalised(turn.answer)))
                self.book.answered(turn.id, text)

    # knowledge

    def take_knowledge(self) -> None:
        """One supervised row for each knowledge row that no rule objects to."""
        for row in self.events.knowledge:
            self.knowledge.count(self._take_knowledge_row(row))

    def _take_knowledge_row(self, row: Knowledge) -> str:
        asked, told = clean_question(row.question, self.curation), clean_answer(row.answer, self.curation)
        if reason := asked.dropped_by or told.dropped_by:
            return reason
        cluster, side = self.book.place(row.id)
        question: Message = {"role": "user", "content": asked.text}
        if side == "held_out":
            self.held_out.setdefault(row.id, HeldOut(row.id, (question,), told.text, cluster))
            return "held_out"
        if reason := self.book.bridges(row.id, told.text):
            return reason
        if self.book.seen_before(asked.text + "\n" + told.text, row.id):
            return "near_duplicate"
        grounds = Grounds("knowledge", (row.id,), cluster, side, mended=asked.changed_by + told.changed_by)
        self.rows.learn((question,), told.text, grounds)
        return "kept"

    def held_out_pairs(self, rows: Sequence[Example]) -> tuple[HeldOutPair, ...]:
        """One pair for each statement, but none whose preferred answer one of `rows` teaches."""
        self.rows_held_out.pair_up()
        self.rows_held_out.settle_contradictions()
        pairs: dict[str, HeldOutPair] = {}
        for row in self.rows_held_out.finished():
            if row.kind == "preference" and row.rejected.strip() and row.chosen != row.rejected:
                first = row.sources[0]
                pair = HeldOutPair(first, row.prompt, row.chosen, row.rejected, row.cluster, row.sources)
                pairs.setdefault(first, pair)
        known = taught(rows, {key: pair.chosen for key, pair in pairs.items()})
        return tuple(pair for key, pair in pairs.items() if key not in known)

    # signals

    def take_signals(self) -> None:
        """Rows from ratings, corrections and choices, turn by turn."""
        outcomes: dict[str, str] = {}
        for conversation in self.events.conversations():
            for turn in conversation:
                if signals := self.said.about(turn.id):
                    outcomes |= self._take_turn(turn, signals)
        self.rows.pair_up()
        outcomes |= self.rows.settle_contradictions()
        for signal in self.events.signals:
            self.signals.count(outcomes.get(signal.id) or self.said.fate(signal))

    def _take_turn(self, turn: Turn, signals: list[Signal]) -> dict[str, str]:
        """What becomes of each signal about one answer: {signal id: "kept", "held_out" or a rule}."""
        if turn.red_flag:
            return {s.id: "red_flag" for s in signals}
        if turn.id in self.off_topic:
            return {s.id: "off_topic" for s in signals}
        _, side = self.book.place(turn.id)
        if side == "held_out":
            for signal in signals:
                self._hold_out(turn, signal)
            self._take_statements(turn, signals)
            return {s.id: "held_out" for s in signals}
        if turn.conversation in self.touched:
            return {s.id: "conversation_touches_held_out" for s in signals}
        if reason := self.book.bridges(turn.id, "", turn.questions):
            return {s.id: reason for s in signals}
        return self._take_statements(turn, signals)

    def _take_statements(self, turn: Turn, signals: list[Signal]) -> dict[str, str]:
        outcomes = {s.id: "comment" for s in signals if s.kind == "comment"}
        for signal in signals:
            if signal.kind == "correction":
                outcomes[signal.id] = self._take_correction(turn, signal)
        outcomes |= self._take_ratings(turn, [s for s in signals if s.kind == "rating"])
        outcomes |= self._take_choices(turn, [s for s in signals if s.kind == "choice"])
        return outcomes

    def _hold_out(self, turn: Turn, signal: Signal) -> None:
        if signal.kind != "correction":
            return
        text, _ = self.said.approved_text(signal)
        if text and not (cleaned := clean_answer(text, self.curation)).dropped_by:
            cluster, _ = self.book.place(turn.id)
            self.held_out[turn.id] = HeldOut(turn.id, turn.messages, cleaned.text, cluster)

    def _take_correction(self, turn: Turn, signal: Signal) -> str:
        text, reason = self.said.approved_text(signal)
        if text is None:
            if reason == "awaiting_review":
                return next(iter(novel_claims(signal.value["text"], f"{turn.asked}\n{turn.answer}")), reason)
            return reason
        better = clean_answer(text, self.curation)
        if better.dropped_by:
            return better.dropped_by
        if normalised(better.text) == normalised(turn.answer):
            return "unchanged_correction"
        if quotes_refuted(better.text, turn.answer):
            return "quotes_refuted_claim"
        if reason := self.book.bridges(turn.id, better.text):
            return reason
        # A reviewer stands behind it: no person's share.
        grounds = Grounds("correction", (signal.id,), *self.book.place(turn.id), mended=better.changed_by)
        rows = self._book_of(turn)
        rows.learn(turn.messages, better.text, grounds)
        if turn.answer.strip():
            rows.prefer(turn.messages, better.text, turn.answer, turn.version, grounds)
        return "kept"

    def _is_refuted(self, turn: Turn, answer: str) -> bool:
        """Whether a reviewer stands behind a correction of `answer` to the same question."""
        return (normalised(turn.asked), normalised(answer)) in self.refuted

    def _take_ratings(self, turn: Turn, ratings: list[Signal]) -> dict[str, str]:
        outcomes = {s.id: "withdrawn" for s in ratings if s.value["rating"] == 0}
        votes = [s for s in ratings if s.id not in outcomes]
        if not votes:
            return outcomes
        label = self.said.label_of(turn.id)
        agreeing, others = self._by_label(votes, label)
        outcomes |= others
        if not agreeing:
            return outcomes
        liked = label.label == "liked"
        answer = clean_answer(turn.answer, self.curation)
        flawed = answer.dropped_by and (liked or answer.dropped_by not in FLAWS_OF_A_DISLIKED_ANSWER)
        reason = (
            ("corrected" if liked and self._is_refuted(turn, turn.answer) else None)
            or (turn.finish not in ("stop", "length") and "unfinished_answer")
            or (answer.dropped_by if flawed else None)
            or (self.book.bridges(turn.id, answer.text) if liked else None)
            or self._untrusted(agreeing, turn)
        )
        if reason:
            return outcomes | {s.id: reason for s in agreeing}
        grounds = self._grounds("thumb", turn, agreeing, label, answer.changed_by)
        self._book_of(turn).judge(turn, answer.text, liked, grounds)
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
        label = self.said.label_of(turn.id, answers[1:])
        agreeing, outcomes = self._by_label(votes, label)
        if not agreeing:
            return outcomes
        winner = answers[int(label.label)]
        chosen = clean_answer(winner, self.curation)
        losers = [a for a in answers if normalised(a) != normalised(winner)]
        reason = (
            (None if losers else "identical_answers")
            or ("corrected" if self._is_refuted(turn, winner) else None)
            or chosen.dropped_by
            or self.book.bridges(turn.id, chosen.text)
            or self._untrusted(agreeing, turn)
        )
        if reason:
            return outcomes | {s.id: reason for s in agreeing}
        grounds = self._grounds("choice", turn, agreeing, label, chosen.changed_by)
        for rejected in losers:
            self._book_of(turn).prefer(turn.messages, chosen.text, rejected, turn.version, grounds)
        return outcomes | {s.id: "kept" for s in agreeing}

    def _by_label(self, votes: list[Signal], label: Label | None) -> tuple[list[Signal], dict[str, str]]:
        """The votes that agree with the label, and what becomes of the others."""
        reviewed = any(s.role == "reviewer" for s in votes)
        waiting = [s for s in votes if not reviewed and s.user in self.said.unusual]
        agreeing = [s for s in votes if s not in waiting and label and self.said.statement(s) == label.label]
        outcomes = {s.id: "disagreement" for s in votes if s not in agreeing}
        return agreeing, outcomes | {s.id: "unusual_voting" for s in waiting}

    def _untrusted(self, signals: list[Signal], turn: Turn) -> str | None:
        """Why end users alone cannot speak for this: what was asked dictates it, or they had their share."""
        if any(s.role == "reviewer" for s in signals):
            return None
        if dictates(turn.messages[-1]["content"]):
            return "dictated_prompt"
        return self._book_of(turn).over_cap({s.user for s in signals}, self.book.place(turn.id)[0])

    def _grounds(
        self, rule: str, turn: Turn, signals: list[Signal], label: Label, mended: tuple[str, ...]
    ) -> Grounds:
        """Who is behind a row; nobody's share, once a reviewer agrees."""
        alone = not any(s.role == "reviewer" for s in signals)
        people = tuple(s.user for s in signals) if alone else ()
        sources = tuple(s.id for s in signals)
        return Grounds(rule, sources, *self.book.place(turn.id), people, label.confidence, mended)
