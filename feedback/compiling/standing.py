"""What stands of all that was said: the last word of each person, and what several people's words come to."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from feedback.compiling.raters import Label, Statement, disagreement, settle
from feedback.compiling.suspicion import Vote, suspicion
from feedback.records import Review, Signal, Turn, digest
from feedback.text import words


class Standing:
    """The signals and reviews of one compilation; `meet` every turn, then `settle`, then ask."""

    def __init__(self, signals: Sequence[Signal], reviews: Iterable[Review], suspicion_limit: float):
        self._limit = suspicion_limit
        self._reviews = {review.signal: review for review in reviews}  # the last one stands
        last = {(s.turn, s.user, s.kind, _question_of_choice(s)): s.id for s in signals}
        self._standing = set(last.values())
        self._about: dict[str, list[Signal]] = defaultdict(list)
        for signal in signals:
            if signal.id in self._standing:
                self._about[signal.turn].append(signal)
        self._met: set[str] = set()
        self._votes: list[Vote] = []
        self._labels: dict[str, Label] = {}
        self.unusual: set[str] = set()  # people whose votes wait for a reviewer
        self.disagreement = disagreement(())  # of the others

    def about(self, turn: str) -> list[Signal]:
        """What stands about a turn, in the order of ids."""
        return self._about.get(turn, [])

    def rated(self, turn: str) -> bool:
        """Whether a thumb stands about a turn."""
        return any(signal.kind == "rating" for signal in self.about(turn))

    def meet(self, turn: Turn) -> None:
        """Take note of how people voted on `turn`."""
        self._met.add(turn.id)
        votes = [s for s in self.about(turn.id) if self.statement(s)]
        decided = {_item(s): self.statement(s) for s in votes if s.role == "reviewer"}
        for signal in votes:
            if signal.role == "user":
                verdict = decided.get(_item(signal))
                self._votes.append(
                    Vote(
                        person=signal.user,
                        at=signal.at if signal.source == "chat" else None,  # a file need not say when
                        liked=signal.value["rating"] == 1 if signal.kind == "rating" else None,
                        longer=_prefers_the_longest(turn, signal) if signal.kind == "choice" else None,
                        against_reviewer=None if verdict is None else verdict != self.statement(signal),
                        text=_spoken_for(turn, signal),
                    )
                )

    def settle(self) -> None:
        """Find out whose votes are unusual, what the others' come to, and how far those differ."""
        suspected = suspicion(self._votes)
        self.unusual = {person for person, found in suspected.items() if found.score > self._limit}
        statements = [
            Statement(_item(s), s.user, s.role, said)
            for turn in sorted(self._met)
            for s in self.about(turn)
            if (said := self.statement(s)) and not (s.role == "user" and s.user in self.unusual)
        ]
        self._labels, self.disagreement = settle(statements), disagreement(statements)
        self._votes.clear()

    def statement(self, signal: Signal) -> str | None:
        """The label that a thumb or a choice gives; None where it gives none."""
        if signal.kind == "rating" and signal.value["rating"]:
            return "liked" if signal.value["rating"] == 1 else "disliked"
        if signal.kind == "choice" and signal.value["choice"] != "tie":
            return str(signal.value["choice"])
        return None

    def label_of(self, turn: str, alternatives: Sequence[str] | None = None) -> Label | None:
        """What the thumbs about a turn come to, or the choices between it and `alternatives`; None: nothing."""
        label = self._labels.get(_key(turn, alternatives))
        return label if label and label.label is not None else None

    def approved_text(self, signal: Signal) -> tuple[str | None, str]:
        """The correction that may be trained on, or None and the rule that says why not."""
        if not signal.value["text"]:
            return None, "withdrawn"
        if signal.role == "reviewer":
            return signal.value["text"], ""
        review = self._reviews.get(signal.id)
        if review is None or review.verdict == "withdraw":
            return None, "awaiting_review"
        if review.verdict == "reject":
            return None, "rejected_by_reviewer"
        return review.text or signal.value["text"], ""

    def fate(self, signal: Signal) -> str:
        """Why a signal was never asked about."""
        met = signal.turn in self._met
        return "superseded" if met and signal.id not in self._standing else "answer_deleted"


def _key(turn: str, alternatives: Sequence[str] | None) -> str:
    return turn if alternatives is None else f"{turn}#{digest(alternatives)[:16]}"


def _item(signal: Signal) -> str:
    return _key(signal.turn, signal.value["alternatives"] if signal.kind == "choice" else None)


def _question_of_choice(signal: Signal) -> tuple[str, ...]:
    """Choices between other answers stand beside each other; everything else replaces its forerunner."""
    return tuple(signal.value["alternatives"]) if signal.kind == "choice" else ()


def _prefers_the_longest(turn: Turn, signal: Signal) -> bool | None:
    """Whether the longest answer was chosen; None where two are the longest."""
    lengths = [len(words(answer)) for answer in (turn.answer, *signal.value["alternatives"])]
    longest = [place for place, length in enumerate(lengths) if length == max(lengths)]
    return signal.value["choice"] in longest if len(longest) == 1 else None


def _spoken_for(turn: Turn, signal: Signal) -> str | None:
    """The answer that a vote speaks for."""
    if signal.kind == "choice":
        return (turn.answer, *signal.value["alternatives"])[signal.value["choice"]]
    return turn.answer if signal.value["rating"] == 1 else None
