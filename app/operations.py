"""What can be asked of an installation that needs its store: each operation takes and gives plain JSON.

A command runs an operation in its own process, or, while a server has the store open, in the server's
(see `door`). None of them trains or evaluates.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from app import searches
from app.accounts import Accounts
from app.erasure import Survey, clear, clear_backups, survey
from app.material import Material
from app.run_folder import RunFolder, no_round
from app.settings import Settings, login
from app.suite_book import EXAMINED, SuiteBook
from eval.objective import Objective
from eval.suites import read_lines
from feedback.compiling.compiler import Compilation, Events, compile_events
from feedback.compiling.dataset import manifests, open_dataset
from feedback.compiling.difference import difference
from feedback.errors import RatchetError
from feedback.exchange.exporters import FileFormat, export_events, export_rows
from feedback.exchange.formats import FORMATS
from feedback.exchange.importers import import_part
from feedback.likeness.reading import read_questions
from feedback.likeness.topics import TopicBook
from feedback.likeness.vectors import Vectors
from feedback.pairs import reviewers_pairs
from feedback.privacy import Redactor
from feedback.records import (
    OWN,
    Event,
    Knowledge,
    Review,
    StaffRole,
    new_id,
)
from feedback.satisfaction import Satisfaction, by_week, satisfaction, speakers
from feedback.store import Store
from feedback.text import acceptable
from training.encoder import Encoder, encoder_folder
from training.registry import (
    BASE,
    MOVES,
    adapter_of,
    champion_withdrawn,
    pointer_history,
    project,
    tainted_versions,
    versions,
)
from training.search import mixes

OPERATIONS = (
    "import_part",
    "compile",
    "export",
    "status",
    "rounds",
    "datasets",
    "datasets_diff",
    "corrections",
    "review",
    "begin_round",
    "begin_search",
    "finish_round",
    "voices",
    "suites",
    "promote",
    "rollback",
    "erase",
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

    def forget(self, person: str) -> None:
        """Keep nothing of what `person` asked and was answered in memory."""


class Operations:
    """The operations on one open store; `serving` is there while the store's process also serves."""

    def __init__(
        self, settings: Settings, objective: Objective, store: Store, serving: Serving | None = None
    ):
        self.settings, self.objective, self.store, self.serving = settings, objective, store, serving
        self._people: tuple[int, list[Satisfaction]] | None = None  # and how many rows the store had then

    @cached_property
    def redactor(self) -> Redactor:
        """What replaces personal data here; the objective's help lines stay."""
        return Redactor(self.objective.curation.language, self.objective.curation.help_lines)

    # bringing in

    def import_part(self, file: str, format: str, begin: list[int]) -> dict[str, Any]:
        """Store the next rows of `file` (an absolute path), which was found to have this format."""
        offset, lines = begin
        return import_part(self.store, Path(file), FORMATS[format], (offset, lines), datetime.now(UTC))

    def corrections(self) -> dict[str, Any]:
        """The users' corrections that wait for a reviewer, without personal data."""
        redact = self.redactor.redact
        waiting = self.store.awaiting_review()
        return {
            "waiting": [
                {
                    "id": signal.id,
                    "user": signal.user,
                    "question": redact(turn.asked),
                    "answer": redact(turn.answer),
                    "correction": redact(signal.value["text"]),
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
        events = replace(events, knowledge=[*self._own_knowledge(), *events.knowledge])
        curation, examined = self.objective.curation, self._book.own_items(*EXAMINED)
        golden = [item.question for item in self._book.own_items("questions")]
        asked = [item.first_question for item in examined]
        reading = read_questions(events, golden, asked, curation, self._vectors)
        compilation = compile_events(
            events,
            curation,
            self.objective.system_prompt,
            golden=[
                (i.first_question, i.reference or "", None if i.cluster == i.id else i.cluster)
                for i in examined
            ],
            recorded=self.store.sides(),
            versions=[BASE, *versions(self.settings.home)],
            meanings=reading.meanings,
            off_topic=reading.off_topic,
        )
        self._people = None
        if compilation.new_sides:
            self.store.record_sides(compilation.new_sides, datetime.now(UTC))
        return compilation

    @cached_property
    def _book(self) -> SuiteBook:
        return SuiteBook(self.settings.home, self.objective, self.store)

    @cached_property
    def _vectors(self) -> Vectors:
        return Vectors(self.store, Encoder(encoder_folder(self.objective.encoder, self.settings.cache)))

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

    def export(self, kind: str, folder: str, file_format: FileFormat) -> dict[str, Any]:
        """Write the compiled rows of one kind, or the events, to `folder` (an absolute path)."""
        if kind == "events":
            counts = export_events(
                Path(folder),
                self.store.untold(),
                self.store.told(),
                self.store.records(Review),
                self.store.records(Knowledge),
                file_format,
                redact=self.redactor.redact,
            )
        else:
            rows = (row.redacted(self.redactor.redact) for row in self._compile().rows if row.kind == kind)
            counts = export_rows(Path(folder), kind, rows, file_format)
        return {"kind": kind, "rows": counts, "folder_path": folder}

    # rounds

    def begin_round(self, max_steps: int | None) -> dict[str, Any]:
        """Freeze the dataset and the suites of a new round into its folder; returns its plan."""
        material = self._material()
        selection = material.select(material.curation).redacted(self.redactor.redact)
        manifest = material.freeze(selection, material.curation)
        champion = self.champion()
        suites = self._book.draw(material.compilation, selection.rows, champion)
        material.check_start(item.id for suite in suites for item in suite.items)
        run = RunFolder.new(self.settings.home / "runs")
        run.write("suites.json", [suite.to_json() for suite in suites])
        if self.objective.judge:
            run.write("reviewers_pairs.json", self._reviewers_pairs(material.events, material.compilation))
        plan = {
            "run": run.name,
            **material.place(manifest),
            **material.plan(),
            "max_steps": max_steps,
            "champion": champion,
            "withdrawn": champion_withdrawn(self.store.log(*MOVES)),
            "decisions_before": {suite.name: self._book.decisions_of(suite) for suite in suites},
            "last_signal": max(
                [s.id for s in (*material.events.signals, *material.events.reviews)], default=""
            ),
            "counts": {kind: sum(sides.values()) for kind, sides in manifest["counts"].items()}
            | {"tokens": manifest["tokens"]["trained_on"]},
            "pairs": _of_pairs(manifest),
        }
        run.write("plan.json", plan)
        return plan

    def begin_search(self, max_steps: int | None) -> dict[str, Any]:
        """Freeze the datasets of a new search for settings into its folder; returns its plan. No suite is drawn."""
        material = self._material()
        curation = material.curation
        tried: dict[frozenset[str], dict[str, Any]] = {}
        for shares in mixes(curation.knowledge_share, curation.preference_share):
            mix = curation.model_copy(update=shares)
            selection = material.select(mix)
            rows = frozenset(row.id for row in selection.rows)
            if rows not in tried:  # a share that is no limit here changes nothing
                manifest = material.freeze(selection.redacted(self.redactor.redact), mix)
                tried[rows] = material.place(manifest) | {"curation": shares, "counts": manifest["counts"]}
        first = next(iter(tried.values()))["counts"]
        if not first["sft"]["validation"]:
            raise RatchetError(
                "nothing to search by: no supervised row is on the validation side; import knowledge, or give "
                "curation.validation_share a greater value"
            )
        folder = RunFolder.new(self.settings.home / "tuning", "t")
        plan = {
            "search": folder.name,
            "mixes": list(tried.values()),
            **material.plan(),
            "max_steps": max_steps,
        }
        folder.write("plan.json", plan)
        return plan

    def _material(self) -> Material:
        """What the store and the objective give to train on now."""
        counts = self.store.counts()
        if not counts["signal"] and not counts["knowledge"]:
            raise RatchetError(
                "nothing to train on yet: nobody has rated or corrected an answer and nothing was imported; "
                "chat and rate at `ratchet serve`, or `ratchet import FILE`"
            )
        events = self.store.events()
        compilation = self._compile(events)
        evaluated = self._book.evaluated(compilation)
        return Material.of(self.settings, self.objective, events, compilation, evaluated, self.champion())

    def _reviewers_pairs(self, events: Events, compilation: Compilation) -> list[dict[str, Any]]:
        """What reviewers preferred since the last promotion, for a judge to be measured by.

        A round that promoted nothing uses none of it up: the same judge says the same in the next one.
        """
        clusters = {source: row.cluster for row in compilation.rows for source in row.sources}
        clusters |= {held_out.id: held_out.cluster for held_out in compilation.held_out}
        promoted = [event.payload for event in self.store.log("round") if event.payload.get("promoted")]
        since = promoted[-1]["last_signal"] if promoted else ""
        pairs = reviewers_pairs(events.signals, events.reviews, self.store.turns_among, since, clusters)
        return [pair.redacted(self.redactor.redact).to_json() for pair in pairs]

    def suites(self) -> list[dict[str, Any]]:
        """The suites as they would be frozen now, for `ratchet evaluate`."""
        return [s.to_json() for s in self._book.draw(self._compile(), (), self.champion())]

    def finish_round(self, run: str, document: dict[str, Any]) -> dict[str, Any]:
        """Record what a round decided; the same round is recorded once."""
        if not any(event.payload["round"] == run for event in self.store.log("round")):
            now = datetime.now(UTC)
            self.store.add(Event(new_id(now), "round", login(), document, now))
        return document

    def voices(self, run: str) -> dict[str, Any]:
        """What the report of the round `run` says of people: how they liked each version, who is behind its data."""
        plan = RunFolder(self.settings.home / "runs" / run).read("plan.json")
        manifest = self.settings.home / "datasets" / plan["dataset_hash"] / "manifest.json"
        signals = json.loads(manifest.read_text("utf-8"))["sources"]["feedback"] if manifest.exists() else []
        return {
            "liked": [asdict(one) for one in self.people()],
            "weeks": [(week.isoformat(), asdict(one)) for week, one in by_week(self.store)],
            "behind": speakers(self.store, signals),
        }

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
        if dataset is not None:
            return open_dataset(self.settings.home / "datasets" / dataset)
        keys = ("hash", "counts", "created_at")
        return {
            "datasets": [
                {key: manifest[key] for key in keys}
                for manifest in manifests(self.settings.home / "datasets")
            ]
        }

    def datasets_diff(self, before: str, after: str) -> dict[str, Any]:
        """What changed between two frozen datasets."""
        folder = self.settings.home / "datasets"
        return difference(folder / before, folder / after)

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
        if version in tainted_versions(self.store.log("erase")):
            raise RatchetError(
                f"{version} was trained on words that were erased since; it never serves again, promote another one"
            )
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

    # erasing

    def erase(self, user: str, who: str | None) -> dict[str, Any]:
        """Remove a person's words everywhere, and withdraw what had learnt from them."""
        home, who, now = self.settings.home, who or login(), datetime.now(UTC)
        with no_round(home):
            self._forget(user)
            found = survey(home, self.store, user)
            if found.found:
                self._withdraw(found, found.event(who, now))
            files = clear(home, self.store, found)
            self._forget(user)  # they may have looked at their chats meanwhile
            more, unread = clear_backups(home, user, who, now)
        return {
            "turns": len(found.traces.turns),
            "signals": len(found.traces.signals),
            "datasets": list(found.datasets) if found.found else [],
            "versions": list(found.versions) if found.found else [],
            "suites_drawn_anew": list(found.suites),
            "champion_was_tainted": found.withdrawn is not None,
            "serves_now": found.serves,
            "clean_round_queued": found.withdrawn is not None,
            "files_removed": files + more,
            "store_rewritten": found.found,
            "backups_not_read": unread,
        }

    def _forget(self, user: str) -> None:
        if self.serving:
            self.serving.forget(user)

    def _withdraw(self, found: Survey, event: Event) -> None:
        """Log what the words had reached; the pointer leaves a champion that was trained on them at once."""
        if self.serving and found.withdrawn:
            self.serving.load(found.serves, adapter_of(self.settings.home, found.serves))
        self.store.add(event)
        if found.withdrawn:
            project(self.settings.home, event, found.serves)
        for version in found.versions if self.serving else ():
            self.serving.move(found.serves, version)

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
        """Champion, signals that wait, how people like each version, the last decision, what runs now."""
        finished = [event.payload for event in self.store.log("round")]
        last = finished[-1] if finished else None
        keys = ("round", "decision", "version", "promoted")
        return {
            "champion": self.champion(),
            "withdrawn_by_erasure": champion_withdrawn(self.store.log(*MOVES)),
            "signals_waiting": self.signals_waiting(),
            "corrections_awaiting_review": len(self.store.awaiting_review()),
            "satisfaction": [one.document() for one in self.people()],
            "last_round": {key: last[key] for key in keys} if last else None,
            "running": searches.running(self.settings.home) or RunFolder.running(self.settings.home),
        }

    def people(self) -> list[Satisfaction]:
        """How end users like each version's answers, also on the same mix of topics; asked of the store anew only
        after something was said, or a compilation has read more questions."""
        rows = self.store.rows
        if self._people is None or self._people[0] != rows:
            self._people = rows, satisfaction(self.store, self._topics.of)
        return self._people[1]

    @cached_property
    def _topics(self) -> TopicBook:
        own = {
            item.question: item.cluster
            for item in self._book.own_items("questions")
            if item.cluster != item.id
        }
        own |= {row.question: row.topic for row in self._own_knowledge() if row.topic}
        return TopicBook(self.store, self._vectors, own)

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


def _of_pairs(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a manifest says of the pairs that are trained on; None without any, and where it is from before it did."""
    if not manifest.get("rejected_by"):
        return None
    return {key: manifest[key] for key in ("rejected_by", "length_lean")}
