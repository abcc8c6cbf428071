"""A model that is asked which of two answers is better, in both orders; what it says of reviewers' pairs decides
whether it counts."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from eval.agreement import Agreement, agree, agree_by_slice, license_judge
from eval.exam import Evaluation
from eval.objective import Gate, JudgePlan
from eval.suites import Suite
from feedback.errors import RatchetError
from feedback.pairs import Pair, Preference
from feedback.records import Message

Verdict = Literal["first", "second", "tie", "unclear"]
Progress = Callable[[int, int], None]  # pairs asked about so far, pairs to ask about

_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System"}
_TURNED: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie", "unclear": "unclear"}
_SCORES = {"first": -1.0, "second": 1.0, "tie": 0.0}  # of the second answer, which is the candidate's


class Judge(Protocol):
    """A model that is asked which of two answers is better."""

    def verdicts(self, pairs: Sequence[Pair], progress: Progress) -> Sequence[Verdict]:
        """What it says of each of `pairs` as it stands; RatchetError when it cannot be asked."""


@dataclass(frozen=True)
class Opinion:
    """What a judge says of one pair, asked in both orders."""

    forward: Verdict
    backward: Verdict  # with each answer in the other's place, and said of the places as they are

    @property
    def verdict(self) -> Preference:
        """The answer that wins in both orders; else neither."""
        return self.forward if self.forward == self.backward and self.forward != "unclear" else "tie"


@dataclass(frozen=True)
class Judged:
    """What a judge said in one round, and whether it counts; without any text."""

    judge: str  # the model's name
    endpoint: str | None  # where it was asked; None: here
    margin: float  # what the candidate may lose by its verdicts
    licensed: bool
    why: str  # in words
    agreement: Agreement | None = None  # with reviewers; None where there was nothing to agree on
    slices: Mapping[str, Agreement] = field(default_factory=dict)
    preferred: Mapping[str, Preference] = field(default_factory=dict)  # by reviewers: {pair: place}
    verdicts: Mapping[str, Preference] = field(default_factory=dict)  # of the judge on the same pairs
    scores: Mapping[str, float] = field(
        default_factory=dict
    )  # {item: 1 the candidate wins, -1 the champion, or 0}
    clusters: Mapping[str, str] = field(default_factory=dict)  # {item: cluster}
    contradicted: int = 0  # pairs of both kinds on which its two orders differ
    unclear: int = 0  # pairs on which it could not be understood

    def to_json(self) -> dict[str, Any]:
        """As judge.json keeps it; every number is finite."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Judged":
        """The record that `to_json` wrote."""
        whole = document["agreement"]
        parts = {name: Agreement(**part) for name, part in document["slices"].items()}
        return cls(**{**document, "agreement": whole and Agreement(**whole), "slices": parts})

    @classmethod
    def unheard(cls, plan: JudgePlan, why: str) -> "Judged":
        """A judge that could not be asked."""
        return cls(plan.model, plan.endpoint, plan.margin, False, why)


def hear(
    judge: Judge,
    plan: JudgePlan,
    reviewed: Sequence[Pair],
    rivals: Sequence[Pair],
    gate: Gate,
    progress: Callable[[str, int, int], None],
) -> Judged:
    """Ask `judge` about what reviewers decided, then about the champion's and the candidate's answers.

    At most `plan.items` of each are drawn, by their ids. RatchetError when it cannot be asked.
    """
    reviewed, rivals = (_drawn(pairs, plan.items) for pairs in (reviewed, rivals))
    if not reviewed:  # without a licence nobody needs to know what it would say
        return Judged.unheard(plan, license_judge(plan.floor, None, {}, gate)[1])
    known = compare(judge, reviewed, lambda *done: progress("reviewers' pairs, by the judge", *done))
    found = compare(judge, rivals, lambda *done: progress("both answers, by the judge", *done))
    verdicts = [opinion.verdict for opinion in known]
    preferred = [pair.preferred for pair in reviewed]
    whole = agree(preferred, verdicts, [pair.cluster for pair in reviewed], gate)
    parts = agree_by_slice(reviewed, verdicts, gate)
    licensed, why = license_judge(plan.floor, whole, parts, gate)
    both = [*known, *found]
    unclear = sum("unclear" in (opinion.forward, opinion.backward) for opinion in both)
    if unclear:
        why += f"; it could not be understood on {unclear} of {len(both)} pairs"
    return Judged(
        judge=plan.model,
        endpoint=plan.endpoint,
        margin=plan.margin,
        licensed=licensed,
        why=why,
        agreement=whole,
        slices=parts,
        preferred={pair.id: pair.preferred for pair in reviewed},
        verdicts={pair.id: verdict for pair, verdict in zip(reviewed, verdicts, strict=True)},
        scores={pair.id: _SCORES[opinion.verdict] for pair, opinion in zip(rivals, found, strict=True)},
        clusters={pair.id: pair.cluster for pair in rivals},
        contradicted=sum(opinion.forward != opinion.backward for opinion in both),
        unclear=unclear,
    )


def compare(judge: Judge, pairs: Sequence[Pair], progress: Progress) -> list[Opinion]:
    """What `judge` says of each pair in both orders; of two equal answers it is not asked."""
    open_ones = [pair for pair in pairs if pair.first != pair.second]
    asked = [*open_ones, *(pair.turned() for pair in open_ones)]
    said = judge.verdicts(asked, progress) if asked else ()
    if len(said) != len(asked):
        raise RatchetError(f"the judge answered {len(said)} of {len(asked)} questions; ask another one")
    opinions = {
        pair.id: Opinion(forward, _TURNED[backward])
        for pair, forward, backward in zip(
            open_ones, said[: len(open_ones)], said[len(open_ones) :], strict=True
        )
    }
    return [opinions.get(pair.id, Opinion("tie", "tie")) for pair in pairs]


def rival_answers(
    suites: Iterable[Suite], champion: Evaluation, candidate: Evaluation, gate: Gate
) -> list[Pair]:
    """The champion's answer and the candidate's to each item of the primary suite."""
    suite = next(suite for suite in suites if gate.primary in suite.metrics)
    first, second = (evaluation.suites[suite.name]["answers"] for evaluation in (champion, candidate))
    return [
        Pair(
            item.id,
            item.cluster,
            tuple(message for message in item.messages or () if message["role"] != "system"),
            first[item.id],
            second[item.id],
        )
        for item in suite.items
        if item.id in first and item.id in second
    ]


def prompt(question: str, pair: Pair) -> tuple[Message, ...]:
    """What a judge is asked of `pair`, the `question` last."""
    said = "\n\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in pair.messages)
    answers = f"Answer A:\n{pair.first}\n\nAnswer B:\n{pair.second}"
    return ({"role": "user", "content": f"{said}\n\n{answers}\n\n{question}"},)


def read_reply(text: str) -> Verdict:
    """The first of A, B and tie that `text` names."""
    found = re.search(r"\b(A|B|(?i:tie))\b", text)
    return {"A": "first", "B": "second"}.get(found[0], "tie") if found else "unclear"


def _drawn(pairs: Sequence[Pair], count: int) -> list[Pair]:
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair.id.encode()).hexdigest())[:count]
