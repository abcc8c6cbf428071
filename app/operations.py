"""What can be asked of an installation that needs its store: each operation takes and gives plain JSON.

A command runs an operation in its own process, or, while a server has the store open, in the server's
(see `door`). None of them trains or evaluates.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from app.accounts import Accounts
from app.run_folder import RunFolder
from app.settings import Settings, login
from eval.objective import Objective
from eval.suites import Suite, build_suites, golden_items, read_lines
from feedback.budget import select
from feedback.compiler import Compilation, Events, compile_events
from feedback.dataset import freeze, open_dataset
from feedback.errors import RatchetError
from feedback.importers import read_import
from feedback.records import OWN, Event, Example, Knowledge, Review, StaffRole, Turn, new_id
from feedback.store import Store
from feedback.text import acceptable
from training.recipe import Recipe
from training.registry import BASE, MOVES, adapter_of, pointer_history, project, read_run, versions

OPERATIONS = (
    "import_files",
    "compile",
    "status",
    "rounds",
    "datasets",
    "corrections",
    "review",
    "begin_round",
    "finish_round",
    "suites",
    "promote",
    "rollback",
    "note",
    "accounts",
    "set_account",
)
LEVERS = ("round_asked", "round_cancelled", "schedule_paused", "schedule_resumed")


class Serving(Protocol):
    """What a running server does about a new champion."""

    def load(self, version: str, adapter: Path | None) -> None:
        """Make `version` ready to answer; raises when it cannot."""

    def move(self, version: str, withdrawn: str | None) -> None:
        """Let `version` answer from now on, and `withdrawn` nothing more."""


class Operations:
    """The operations on one open store; `serving` is there while the store's process also serves."""

    def __init__(
        self, settings: Settings, objective: Objective, store: Store, serving: Serving | None = None
    ):
        self.settings, self.objective, self.store, self.serving = settings, objective, store, serving

    # bringing in

    def import_files(self, files: list[str]) -> dict[str, Any]:
        """Import `files` (absolute paths), all or none of them."""
        taken = []
        digests, turns = self.store.imported()
        for file in files:
            result = read_import(Path(file), digests, turns, datetime.now(UTC), log=_no_log)
            digests |= result.lines.keys()
            turns |= {r.id for records in result.lines.values() for r in records if isinstance(r, Turn)}
            taken.append(result)
        for result in taken:
            self.store.add_import(Path(result.file).name, datetime.now(UTC), result.lines)
        documents = [result.document() for result in taken]
        skipped: dict[str, int] = {}
        for document in documents:
            for reason, count in document["skipped"].items():
                skipped[reason] = skipped.get(reason, 0) + count
        totals = {key: sum(document[key] for document in documents) for key in ("read", "accepted")}
        return totals | {"skipped": skipped, "files": documents}

    def corrections(self) -> dict[str, Any]:
        """The users' corrections that wait for a reviewer."""
        waiting = self.store.awaiting_review()
        return {
            "waiting": [
                {
                    "id": signal.id,
                    "user": signal.user,
                    "question": turn.asked,
                    "answer": turn.answer,
                    "correction": signal.value["text"],
                }
                for signal, turn in waiting
            ]
        }

    def review(self, signal: str, verdict: str, text: str | None, who: str | None) -> dict[str, Any]:
        """Record a reviewer's verdict on a user's correction, with the approved text if it was edited."""
        found = self.store.signal(signal)
        if found is None or found.kind != "correction":
            raise RatchetError(f"there is no correction {signal!r}; `ratchet review` lists those that wait")
        if text is not None:
            acceptable(text, "corrected text")
        approved = (text or found.value["text"]) if verdict == "approve" else None
        now = datetime.now(UTC)
        self.store.add(Review(new_id(now), signal, who or login(), verdict, approved, now))
        return {"signal": signal, "verdict": verdict, "text": approved}

    # compiling

    def compile(self) -> dict[str, Any]:
        """The funnel from signals to rows; records the sides that it saw first."""
        return self._compile().document()

    def _compile(self, events: Events | None = None) -> Compilation:
        events = events or self.store.events()
        compilation = compile_events(
            dataclasses.replace(events, knowledge=[*self._own_knowledge(), *events.knowledge]),
            self.objective.curation,
            self.objective.system_prompt,
            golden=[
                (item.question, item.reference or "", None if item.cluster == item.id else item.cluster)
                for name, suite in self.objective.suites.items()
                if suite.kind == "questions"
                for item in golden_items(name, self.objective)
            ],
            recorded=self.store.sides(),
        )
        if compilation.new_sides:
            self.store.record_sides(compilation.new_sides, datetime.now(UTC))
        return compilation

    def _own_knowledge(self) -> list[Knowledge]:
        """The objective's own knowledge: always there, never imported."""
        began = datetime.min.replace(tzinfo=UTC)
        rows = [
            row for name in self.objective.knowledge for _, row in read_lines(self.objective.folder / name)
        ]
        return [
            Knowledge(f"{OWN}{row['id']}", row["question"], row["answer"], began, row.get("topic"))
            for row in rows
        ]

    # rounds

    def begin_round(self, max_steps: int | None) -> dict[str, Any]:
        """Freeze the dataset and the suites of a new round into its folder; returns its plan."""
        from training.base_model import base_model_folder  # imports torch, which only a round needs

        counts = self.store.counts()
        if not counts["signal"] and not counts["knowledge"]:
            raise RatchetError(
                "nothing to train on yet: nobody has rated or corrected an answer and nothing was imported; "
                "chat and rate at `ratchet serve`, or `ratchet import FILE`"
            )
        events = self.store.events()
        compilation = self._compile(events)
        recipe = Recipe.model_validate(self.objective.training)
        base = base_model_folder(self.objective.base_model, self.settings.cache)
        selection = select(compilation.rows, self.objective.curation, _token_counter(base), recipe.max_length)
        frozen_settings = {
            "system_prompt": self.objective.system_prompt,
            "curation": self.objective.curation.model_dump(mode="json"),
            "base_model": self.objective.base_model,
            "max_length": recipe.max_length,
        }
        manifest = freeze(
            self.settings.home / "datasets",
            selection,
            compilation.document(),
            frozen_settings,
            datetime.now(UTC),
        )
        champion = self.champion()
        run = RunFolder.new(self.settings.home / "runs")
        run.write("suites.json", [s.to_json() for s in self._suites(compilation, selection.rows, champion)])
        plan = {
            "run": run.name,
            "dataset": str(self.settings.home / "datasets" / manifest["hash"]),
            "dataset_hash": manifest["hash"],
            "base_model": str(base),
            "base_model_name": self.objective.base_model,
            "recipe": recipe.model_dump(mode="json"),
            "max_steps": max_steps,
            "champion": champion,
            "last_signal": max([s.id for s in (*events.signals, *events.reviews)], default=""),
            "counts": {kind: sum(sides.values()) for kind, sides in manifest["counts"].items()}
            | {"tokens": manifest["tokens"]["trained_on"]},
        }
        run.write("plan.json", plan)
        return plan

    def suites(self) -> list[dict[str, Any]]:
        """The suites as they would be frozen now, for `ratchet evaluate`."""
        return [s.to_json() for s in self._suites(self._compile(), (), self.champion())]

    def _suites(self, compilation: Compilation, rows: tuple[Example, ...], champion: str) -> list[Suite]:
        """Every suite of the objective; one that has reached its size once stays as it was."""
        extra: dict[str, list[dict[str, Any]]] = {}
        for name, suite in self.objective.suites.items():
            if suite.kind == "questions":
                extra[name] = [
                    {"id": h.id, "messages": list(h.messages), "answer": h.answer, "topic": h.cluster}
                    for h in compilation.held_out
                ]
            elif suite.kind == "corrections":
                extra[name] = self._correction_items(compilation, rows, champion)
        drawn = build_suites(self.objective, extra)
        return [self._frozen(suite) if suite.kind == "questions" else suite for suite in drawn]

    def _frozen(self, suite: Suite) -> Suite:
        """The suite of this name, size and measures that was frozen first; `suite` itself when none was."""
        for event in self.store.log("suite"):
            known = Suite.from_json(event.payload)
            if (known.name, known.metrics, known.wanted) == (suite.name, suite.metrics, suite.wanted):
                return known
        if len(suite.items) >= suite.wanted:
            now = datetime.now(UTC)
            self.store.add(Event(new_id(now), "suite", login(), suite.to_json(), now))
        return suite

    def _correction_items(
        self, compilation: Compilation, rows: tuple[Example, ...], champion: str
    ) -> list[dict[str, Any]]:
        """The corrections that this round trains on; the champion knew those of its own dataset."""
        known = self._signals_behind(champion)
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
            }
            for row in compilation.rows
            if row.kind == "preference" and row.rule == "correction" and trained & set(row.sources)
        ]

    def _signals_behind(self, version: str) -> set[str]:
        """The signals that the training data of `version` came from."""
        if version == BASE:
            return set()
        run = versions(self.settings.home)[version]
        dataset = self.settings.home / "datasets" / read_run(run)["dataset_hash"]
        return set(open_dataset(dataset)["sources"]["feedback"])

    def finish_round(self, run: str, document: dict[str, Any]) -> dict[str, Any]:
        """Record what a round decided; the same round is recorded once."""
        if not any(event.payload["round"] == run for event in self.store.log("round")):
            now = datetime.now(UTC)
            self.store.add(Event(new_id(now), "round", login(), document, now))
        return document

    def rounds(self, run: str | None) -> dict[str, Any]:
        """Past rounds, or one in full."""
        log = [event.payload for event in self.store.log("round")]
        if run is None:
            keys = ("round", "dataset", "decision", "version", "promoted")
            return {"rounds": [{key: entry[key] for key in keys} for entry in log]}
        for entry in log:
            if entry["round"] == run:
                return entry
        raise RatchetError(f"there is no finished round {run!r}; `ratchet rounds` lists them")

    def datasets(self, dataset: str | None) -> dict[str, Any]:
        """The frozen datasets, or the manifest of one."""
        folder = self.settings.home / "datasets"
        if dataset is not None:
            return open_dataset(folder / dataset)
        manifests = [json.loads(f.read_text("utf-8")) for f in folder.glob("*/manifest.json")]
        manifests.sort(key=lambda manifest: manifest["created_at"])
        return {"datasets": [{key: m[key] for key in ("hash", "counts", "created_at")} for m in manifests]}

    # the pointer

    def champion(self) -> str:
        """The version that serves."""
        return self.served()[-1]

    def served(self) -> list[str]:
        """The versions that a rollback would go through, from the base to the champion."""
        return pointer_history(self.store.log(*MOVES))

    def promote(self, version: str, who: str | None, why: str) -> dict[str, Any]:
        """Let `version` serve: its adapter is checked, a running server loads it, then the pointer moves."""
        previous = self.champion()
        if version == previous:
            raise RatchetError(f"{version} is the champion already")
        self._move("promote", {"version": version, "previous": previous, "why": why}, who, version, None)
        return {"champion": version, "previous": previous}

    def rollback(self, who: str | None, why: str) -> dict[str, Any]:
        """Let the version serve that served before."""
        history = self.served()
        if len(history) < 2:
            raise RatchetError(
                "there is nothing to go back to: the base model serves and nothing was promoted"
            )
        withdrawn, version = history[-1], history[-2]
        payload = {"version": version, "withdrawn": withdrawn, "why": why}
        self._move("rollback", payload, who, version, withdrawn)
        return {"champion": version, "withdrawn": withdrawn}

    def _move(
        self, kind: str, payload: dict[str, Any], who: str | None, version: str, withdrawn: str | None
    ) -> None:
        """Check the adapter and load it, log the move, then let it take effect: a crash in between is mended
        at the next start, which goes by the log."""
        adapter = adapter_of(self.settings.home, version)
        if self.serving:
            self.serving.load(version, adapter)
        now = datetime.now(UTC)
        event = Event(new_id(now), kind, who or login(), payload, now)
        self.store.add(event)
        project(self.settings.home, event, version)
        if self.serving:
            self.serving.move(version, withdrawn)

    def levers_used(self) -> list[Event]:
        """What people and the schedule did to the circle, oldest first."""
        return self.store.log(*MOVES, *LEVERS)

    def note(self, kind: str, who: str | None, why: str) -> dict[str, Any]:
        """Record that a person or the schedule used one of LEVERS."""
        if kind not in LEVERS:
            raise RatchetError(f"{kind!r} is no lever; there are: {', '.join(LEVERS)}")
        now = datetime.now(UTC)
        self.store.add(Event(new_id(now), kind, who or login(), {"why": why}, now))
        return {"noted": kind}

    # what is going on

    def status(self) -> dict[str, Any]:
        """Champion, signals that wait, the last decision, what runs now."""
        finished = [event.payload for event in self.store.log("round")]
        last = finished[-1] if finished else None
        keys = ("round", "decision", "version", "promoted")
        return {
            "champion": self.champion(),
            "signals_waiting": self.signals_waiting(),
            "corrections_awaiting_review": len(self.store.awaiting_review()),
            "last_round": {key: last[key] for key in keys} if last else None,
            "running": RunFolder.running(self.settings.home),
        }

    def signals_waiting(self) -> int:
        """How many signals and reviews came since the last finished round."""
        finished = self.store.log("round")
        return self.store.signals_since(finished[-1].payload["last_signal"] if finished else "")

    # who may enter the desk and the rounds page

    @cached_property
    def staff(self) -> Accounts:
        """The accounts; the sign-in of a running server asks the same ones."""
        return Accounts(self.store)

    def accounts(self) -> dict[str, Any]:
        """Everybody who has an account."""
        everybody = self.staff.everybody()
        return {"accounts": [{"name": a.name, "role": a.role, "since": a.at.isoformat()} for a in everybody]}

    def set_account(self, name: str, role: StaffRole, password: str | None) -> dict[str, Any]:
        """Make an account or change it; whoever is signed in with it has to sign in again."""
        account = self.staff.put(name, role, password)
        return {"name": account.name, "role": account.role}


def operate(operations: Operations, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Carry out one of OPERATIONS."""
    if operation not in OPERATIONS:
        raise RatchetError(f"there is no operation {operation!r}; is the server of another release?")
    return getattr(operations, operation)(**arguments)


def _token_counter(base: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _no_log(line: str) -> None:
    """Progress of an import is shown by the command, not by the operations."""
