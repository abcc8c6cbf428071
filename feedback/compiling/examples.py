"""The rows of one compilation: united where they are equal, opposed where they contradict, each with its grounds."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from feedback.compiling.cleaning import mend
from feedback.compiling.curation import Curation
from feedback.likeness.sides import Side
from feedback.records import Example, Message, Turn, digest
from feedback.text import normalised


@dataclass(frozen=True)
class Grounds:
    """Why a row exists."""

    rule: str
    sources: tuple[str, ...]  # ids of signals or knowledge rows
    cluster: str
    side: Side
    people: tuple[str, ...] = ()  # end users on whose word alone it stands
    confidence: float = 1.0  # that what they say is right
    mended: tuple[str, ...] = ()  # the cleaning rules that changed its text


@dataclass(frozen=True)
class _Judged:
    """One answer that people liked, or disliked."""

    messages: Sequence[Message]
    answer: str
    version: str
    grounds: Grounds


class RowBook:
    """Collects rows; `versions` are all that were made, oldest first: a rejected answer of an old one weighs less."""

    def __init__(self, system: Message, curation: Curation, versions: Sequence[str]):
        self._system, self._curation = system, curation
        self._age = {version: age for age, version in enumerate(reversed(versions))}
        self._rows: dict[str, Example] = {}
        self._by_person: Counter[str] = Counter()
        self._by_cluster: Counter[str] = Counter()
        self._prompts: Counter[str] = Counter()  # how many rated answers each prompt has
        self._judged: dict[str, tuple[list[_Judged], list[_Judged]]] = defaultdict(lambda: ([], []))

    # adding

    def learn(self, messages: Sequence[Message], completion: str, grounds: Grounds) -> None:
        """A supervised row."""
        self._add("sft", messages, completion, None, None, grounds)

    def prefer(
        self, messages: Sequence[Message], chosen: str, rejected: str, version: str, grounds: Grounds
    ) -> None:
        """A pair; `version` wrote the rejected answer, which is mended as the chosen one is."""
        self._add("preference", messages, chosen, mend(rejected).text, None, grounds, version)

    def expect(self, turn: Turn) -> None:
        """A rated answer will come: where a prompt has several, a liked one may be paired with a disliked one."""
        self._prompts[_prompt_key(turn)] += 1

    def judge(self, turn: Turn, answer: str, liked: bool, grounds: Grounds) -> None:
        """An unpaired row, and a supervised one of what was liked."""
        self._add("unpaired", turn.messages, answer, None, liked, grounds)
        if liked:
            self._add("sft", turn.messages, answer, None, None, replace(grounds, rule="liked"))
        if self._prompts[key := _prompt_key(turn)] > 1:
            self._judged[key][liked].append(_Judged(turn.messages, answer, turn.version, grounds))
            self._judged[key][liked].sort(key=lambda judged: (-judged.grounds.confidence, judged.answer))

    def over_cap(self, people: Collection[str], cluster: str) -> str | None:
        """Whether end users' likes and choices have had their share; counts them when not."""
        if all(self._by_person[p] >= self._curation.max_rows_per_person for p in people):
            return "person_cap"
        if self._by_cluster[cluster] >= self._curation.max_rows_per_cluster:
            return "cluster_cap"
        self._by_cluster[cluster] += 1
        self._by_person.update(people)
        return None

    def _add(
        self,
        kind: str,
        messages: Sequence[Message],
        chosen: str,
        rejected: str | None,
        label: bool | None,
        grounds: Grounds,
        rejected_version: str | None = None,
    ) -> None:
        """Add a row, or unite its sources with an equal one's."""
        prompt = (self._system, *messages)
        key = digest([kind, prompt, chosen, rejected, label])
        age = self._age.get(rejected_version) if rejected_version else None
        row = Example(
            id=key,
            kind=kind,
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            label=label,
            side=grounds.side,
            rule=grounds.rule,
            origin="knowledge" if grounds.rule == "knowledge" else "feedback",
            sources=grounds.sources,
            cluster=grounds.cluster,
            weight=round(grounds.confidence * 0.5 ** ((age or 0) / self._curation.stale_half_life), 4),
            rejected_version=rejected_version,
            rejected_age=age,
            people=grounds.people,
            mended=tuple(dict.fromkeys(grounds.mended)),
        )
        self._rows[key] = _united(self._rows[key], row) if key in self._rows else row

    # what several rows come to

    def pair_up(self) -> None:
        """One liked over one disliked answer to the same prompt, the surest of each first."""
        for key in sorted(self._judged):
            disliked, liked = self._judged[key]
            for better, worse in zip(liked, disliked, strict=False):
                self._pair(better, worse)

    def _pair(self, better: _Judged, worse: _Judged) -> None:
        grounds = better.grounds
        if normalised(better.answer) == normalised(worse.answer) or grounds.side != worse.grounds.side:
            return
        people = tuple(dict.fromkeys(grounds.people + worse.grounds.people))
        if people and self.over_cap(people, grounds.cluster):
            return
        both = replace(
            grounds,
            rule="liked_over_disliked",
            sources=grounds.sources + worse.grounds.sources,
            people=people,
            confidence=grounds.confidence * worse.grounds.confidence,
            mended=grounds.mended + worse.grounds.mended,
        )
        self._add("preference", better.messages, better.answer, worse.answer, None, both, worse.version)

    def settle_contradictions(self) -> dict[str, str]:
        """Take out pairs that stand the other way round too, and answers both liked and disliked.

        What a reviewer stands behind stays, where nobody but end users says the opposite. Gives the signals
        that have no row left: {signal id: rule}.
        """
        lost: dict[str, str] = {}
        for rule, kind, opposed in (
            ("swapped_pair", "preference", lambda row: frozenset((row.chosen, row.rejected))),
            ("contradicted", "unpaired", lambda row: row.chosen),
        ):
            sides: dict[tuple, list[Example]] = defaultdict(list)
            for row in self._rows.values():
                if row.kind == kind:
                    sides[digest(row.prompt), opposed(row)].append(row)
            for rows in sides.values():
                if len(rows) > 1:
                    backed = [row for row in rows if not row.people]
                    for row in rows:
                        if [row] != backed:
                            lost |= dict.fromkeys(self._take_out(row), rule)
        left = {source for row in self._rows.values() for source in row.sources}
        return {signal: rule for signal, rule in lost.items() if signal not in left}

    def _take_out(self, row: Example) -> tuple[str, ...]:
        del self._rows[row.id]
        if row.label:
            key = digest(["sft", row.prompt, row.chosen, None, None])
            if key in self._rows and self._rows[key].rule == "liked":
                del self._rows[key]
        return row.sources

    def finished(self) -> tuple[Example, ...]:
        """Every row, in an order that depends on the rows alone."""
        return tuple(sorted(self._rows.values(), key=lambda row: (row.kind, row.sources, row.id)))


def _united(known: Example, row: Example) -> Example:
    """One row for two that are equal: it leads to all sources, and is the share of nobody whom it does not need."""
    return replace(
        known,
        sources=_once(known.sources + row.sources),
        people=_once(known.people + row.people) if known.people and row.people else (),
        weight=max(known.weight, row.weight),
        mended=_once(known.mended + row.mended),
    )


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _prompt_key(turn: Turn) -> str:
    return digest(turn.messages)[:32]
