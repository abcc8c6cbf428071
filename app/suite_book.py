"""What a round is examined on: the objective's suites, filled with what must not be trained on."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.settings import login
from eval.objective import Objective
from eval.suites import Item, Suite, build_suite, golden_items
from feedback.compiling.compiler import Compilation
from feedback.compiling.dataset import manifests, open_dataset
from feedback.likeness.leaks import Evaluated
from feedback.records import Event, Example, Message, MultipleChoice, new_id
from feedback.store import Store
from training.registry import lineages

EXAMINED = ("questions", "multiple_choice", "prompts", "disputes", "pairs")  # whose like is not trained on

Row = Mapping[str, Any]  # a line of a suite's file; see eval.suites


class SuiteBook:
    """The suites of one installation; those of questions stay as they were first drawn, until they are worn."""

    def __init__(self, home: Path, objective: Objective, store: Store):
        self._home, self._objective, self._store = home, objective, store

    def own_items(self, *kinds: str) -> list[Item]:
        """The items in the objective's files, of all its suites of these kinds."""
        suites = self._objective.suites.items()
        return [
            item
            for name, suite in suites
            if suite.kind in kinds
            for item in golden_items(name, self._objective)
        ]

    def evaluated(self, compilation: Compilation) -> list[Evaluated]:
        """What must never be trained on: the objective's own items and what was held out."""
        return [
            *((i.id, i.first_question, i.reference or "") for i in self.own_items(*EXAMINED)),
            *((h.id, _asked(h.messages), h.answer) for h in compilation.held_out),
            *((p.id, _asked(p.messages), p.chosen) for p in compilation.held_out_pairs),
        ]

    def draw(self, compilation: Compilation, rows: Sequence[Example], champion: str) -> list[Suite]:
        """Every suite of the objective, for a round that trains on `rows`."""
        drawn = []
        for name, suite in self._objective.suites.items():
            found = self._found(suite.kind, compilation, rows, champion)
            if suite.kind == "questions":
                drawn.append(self._lasting(name, found))
            else:
                drawn.append(build_suite(name, self._objective, found))
        return drawn

    def decisions_of(self, suite: Suite) -> float:
        """How many rounds have decided on `suite`; one that asked a part of it counts by that part."""
        ids = {item.id for item in suite.items}
        part_of = {
            other.hash: len(ids & {item.id for item in other.items}) / max(len(ids), 1)
            for other in self._frozen(suite.name)
        } | {suite.hash: 1.0}
        hashes = [event.payload.get("suites", {}).get(suite.name) for event in self._store.log("round")]
        return sum(part_of.get(known, 0.0) for known in hashes)

    def _frozen(self, name: str) -> list[Suite]:
        """Every suite that was kept under this name, the first first."""
        kept = [event.payload for event in self._store.log("suite") if event.payload["name"] == name]
        return [Suite.from_json(document) for document in kept]

    def _found(
        self, kind: str, compilation: Compilation, rows: Sequence[Example], champion: str
    ) -> Sequence[Row]:
        """What people gave a suite of `kind` to ask."""
        if kind == "questions":
            return [
                {"id": h.id, "messages": list(h.messages), "answer": h.answer, "topic": h.cluster}
                for h in compilation.held_out
            ]
        if kind == "corrections":
            return self._corrections(compilation, rows, champion)
        if kind == "taught":
            return [
                {"id": i.id, "question": i.question, "choices": i.choices, "answer_index": i.answer_index}
                for i in self._store.records(MultipleChoice)
            ]
        if kind == "pairs":
            return [
                {
                    "id": p.id,
                    "messages": list(p.messages),
                    "chosen": p.chosen,
                    "rejected": p.rejected,
                    "topic": p.cluster,
                    "sources": p.sources,
                }
                for p in compilation.held_out_pairs
            ]
        return ()

    def _lasting(self, name: str, found: Sequence[Row]) -> Suite:
        """The suite that was frozen last under this name, with this size and these measures.

        A new one where none was, and where it is worn and enough is new to ask to make that half as bad.
        """
        drawn = build_suite(name, self._objective, found)
        known = [suite for suite in self._frozen(name) if _shape(suite) == _shape(drawn)]
        if known:
            worn = self.decisions_of(known[-1])
            asked = {item.id for suite in known for item in suite.items}
            drawn = build_suite(name, self._objective, found, asked)
            if worn < self._objective.gate.reuse or self.decisions_of(drawn) > worn / 2:
                return known[-1]
        if len(drawn.items) >= drawn.wanted:
            now = datetime.now(UTC)
            self._store.add(Event(new_id(now), "suite", login(), drawn.to_json(), now))
        return drawn

    def _corrections(self, compilation: Compilation, rows: Sequence[Example], champion: str) -> list[Row]:
        """The corrections that this round trains on, and those that the champion was trained on."""
        known = self._signals_behind(champion)
        decided = {event.payload.get("dataset") for event in self._store.log("round")}
        datasets = [one for one in manifests(self._home / "datasets") if one["hash"] in decided]
        earlier = [set(one["sources"]["feedback"]) for one in datasets]
        trained = {
            source
            for row in rows
            if row.rule == "correction" and row.side == "train"
            for source in row.sources
        }
        return [
            {
                "id": row.sources[0],
                "messages": list(row.prompt),
                "reference": row.chosen,
                "rejected": row.rejected,
                "topic": row.cluster,
                "known_to_champion": bool(known & set(row.sources)),
                "trained_before": sum(bool(signals & set(row.sources)) for signals in earlier),
            }
            for row in compilation.rows
            if row.kind == "preference"
            and row.rule == "correction"
            and row.side == "train"
            and (trained | known) & set(row.sources)
        ]

    def _signals_behind(self, version: str) -> set[str]:
        """The signals that the training data of `version` came from, and of those that it went on from."""
        return {
            signal
            for run in lineages(self._home).get(version, ())
            for signal in open_dataset(self._home / "datasets" / run["dataset_hash"])["sources"]["feedback"]
        }


def _shape(suite: Suite) -> tuple[Any, ...]:
    return suite.name, suite.metrics, suite.wanted


def _asked(messages: Sequence[Message]) -> str:
    """The questions as one text, one a line."""
    return "\n".join(m["content"] for m in messages if m["role"] == "user")
