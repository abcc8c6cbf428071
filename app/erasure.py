"""What a person's words reached in a home beside its store, and how it is removed.

A frozen dataset cannot be edited: one that holds their words goes whole, and with it the weights that were
trained on it. Of its runs stay the plan, the decision and the scores, which are numbers. A run that only asked
their questions, or a version that had learnt from them, keeps its weights. The log names what was reached, so
whatever a crash left lying is found again.
"""

import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet

from app.run_folder import RunFolder
from app.searches import WEIGHTS
from feedback.erasure import (
    Traces,
    Words,
    erase,
    find_traces,
    names_any,
    person_digest,
    strings,
)
from feedback.errors import RatchetError
from feedback.records import Event, new_id
from feedback.store import Store
from training.registry import MOVES, lineages, pointer_history, tainted_versions

KEPT = (  # of a run that was trained on what is erased
    "plan.json",
    "attempts.json",
    "run.json",
    "evaluation.json",
    "gate.json",
    "decision.json",
    "failure.json",
)
JUDGE = ("judge.json", "reviewers_pairs.json")  # the one with words goes last: it tells that there is more
WHY = "a person's words were erased"
GONE = "what it was trained or examined on was erased; the next round begins anew"


@dataclass(frozen=True)
class Survey:
    """What one person left in a home, and what it reached."""

    person: str
    traces: Traces
    datasets: tuple[str, ...]  # that hold their words, in every erasure of this person
    versions: tuple[str, ...]  # that were trained on those
    suites: tuple[str, ...]  # that ask their questions, and are drawn anew
    withdrawn: str | None  # the champion, if it is one of those
    serves: str  # from now on

    @property
    def found(self) -> bool:
        """Whether there is anything to erase in the store."""
        return self.traces.rows > 0

    def event(self, who: str, at: datetime) -> Event:
        """The entry in the log, without the person's name; those who read the log take the versions back."""
        payload = {
            "person": person_digest(self.person),
            "turns": len(self.traces.turns),
            "signals": len(self.traces.signals),
            "datasets": list(self.datasets),
            "versions": list(self.versions),
            "suites": list(self.suites),
            "why": WHY,
        }
        if self.withdrawn:
            payload |= {"withdrawn": self.withdrawn, "version": self.serves}
            payload["why"] = f"{WHY}, and {self.withdrawn} had learnt from them"
        return Event(new_id(at), "erase", who, payload, at)


def survey(home: Path, store: Store, person: str) -> Survey:
    """What `person` left in `store` and reached in `home`."""
    log = store.log("suite", *MOVES)
    traces = find_traces(store, person)
    before = [
        event.payload
        for event in log
        if event.kind == "erase" and event.payload["person"] == person_digest(person)
    ]
    datasets = {name for payload in before for name in payload["datasets"]}
    datasets |= {name for name, sources in _sources(home) if (traces.signals | traces.worded) & sources}
    tainted = {version for payload in before for version in payload["versions"]}
    tainted |= {
        name
        for name, made in lineages(home).items()
        if any(run["dataset_hash"] in datasets or run["version"] in tainted for run in made)
    }
    suites = {e.payload["name"] for e in log if e.kind == "suite" and names_any(e.payload, traces.ids)}
    served = pointer_history(log)
    left = [version for version in served if version not in tainted]
    return Survey(
        person,
        traces,
        tuple(sorted(datasets)),
        tuple(sorted(tainted)),
        tuple(sorted(suites)),
        served[-1] if served[-1] in tainted else None,
        left[-1],
    )


def clear(home: Path, store: Store, found: Survey) -> int:
    """Remove what `found` says, and what earlier erasures should have removed; how many files went or changed.

    The store comes last: until then a second try finds everything again.
    """
    log = store.log("erase")
    datasets = {name for event in log for name in event.payload["datasets"]}
    tainted = tainted_versions(log)
    count = sum(_remove(home / "datasets" / name) for name in datasets)
    count += sum(map(_remove, (home / "datasets").glob(".draft-*")))
    for folder in (home / "runs").glob("r*"):  # what a killed process left: no round goes on from there
        begun = (folder / "plan.json").exists()
        count += sum(map(_remove, folder.glob(".*.new") if begun else [folder]))
    for plan in (home / "runs").glob("r*/plan.json"):
        run = RunFolder(plan.parent)
        count += _clear_judge(run, found.traces.ids | found.traces.reviews)
        count += _clear_run(run, datasets, tainted, found.traces.ids)
    for plan in (home / "tuning").glob("t*/plan.json"):
        count += _clear_search(plan.parent, datasets, tainted)
    count += _clear_evaluations(home / "evaluations", tainted, found.traces.ids)
    theirs = Words(found.traces.texts)
    names = found.traces.ids | found.traces.reviews | {found.person}
    for place in (home / "round.log", *sorted((home / "exports").glob("*"))):
        if found.found and any(_holds(file, theirs, names) for file in _files(place)):
            count += _remove(place)
    if found.found:
        erase(store, found.person)
    return count


def clear_backups(home: Path, person: str, who: str, at: datetime) -> tuple[int, list[str]]:
    """Erase `person` from every copy of a home under backups/: how many files went, and which could not be read."""
    count, unread = 0, []
    for file in sorted((home / "backups").rglob("*.duckdb")):
        try:
            with Store.open(file) as store:
                found = survey(file.parent, store, person)
                if found.found:
                    store.add(found.event(who, at))
                count += clear(file.parent, store, found) + found.found
        except RatchetError:
            unread.append(str(file.relative_to(home)))
    return count, unread


def _sources(home: Path) -> Iterator[tuple[str, set[str]]]:
    """Each dataset with the signals that its rows come from."""
    for file in sorted((home / "datasets").glob("*/manifest.json")):
        try:
            yield file.parent.name, set(json.loads(file.read_text("utf-8"))["sources"]["feedback"])
        except (ValueError, KeyError, TypeError):
            raise RatchetError(
                f"{file} does not say what its dataset holds; restore it, or remove the folder, then erase again"
            ) from None


def _clear_run(
    run: RunFolder, datasets: Collection[str], tainted: Collection[str], ids: Collection[str]
) -> int:
    """Take the words out of a run, and what was trained on them; one that was under way does not go on."""
    plan = run.read("plan.json")
    trained = plan["dataset_hash"] in datasets or _starts_from(plan, tainted)
    learnt = plan["champion"] in tainted  # what it answered here may be their words
    asked = learnt or (run.has("suites.json") and names_any(run.read("suites.json"), ids))
    if (trained or asked) and not run.has("decision.json"):
        run.write("failure.json", {"reason": GONE, "resumable": False})
    count = 0
    if (trained or asked) and run.has("evaluation.json"):
        before = run.read("evaluation.json")
        after = {role: _scores_alone(evaluation, ids) for role, evaluation in before.items()}
        if after != before:
            run.write("evaluation.json", after)
            count += 1
    if trained:
        return count + sum(_remove(file) for file in run.path.iterdir() if file.name not in KEPT)
    if asked:
        count += _remove(run.path / "report.html")
        count += _remove(run.path / "suites.json")  # last: it tells that there is more
    return count


def _starts_from(plan: dict[str, Any], versions: Collection[str]) -> bool:
    """Whether a round or a search goes on with one of `versions`."""
    return bool(plan.get("start")) and plan["start"]["version"] in versions


def _clear_search(folder: Path, datasets: Collection[str], tainted: Collection[str]) -> int:
    """Remove what was trained on what is erased: the trial that was under way, and weights that others left."""
    plan = RunFolder(folder).read("plan.json")
    trained = any(mix["dataset_hash"] in datasets for mix in plan["mixes"])
    if not trained and not _starts_from(plan, tainted):
        return 0
    count = 0
    for trial in folder.glob(f"{folder.name}-*"):
        ended = (trial / "trial.json").exists()
        count += sum(_remove(trial / name) for name in WEIGHTS) if ended else _remove(trial)
    return count


def _clear_judge(run: RunFolder, ids: Collection[str]) -> int:
    """Remove what a judge was or would be asked, where it holds their words; its verdicts are in the decision."""
    documents = [name for name in JUDGE if run.has(name)]
    if not any(names_any(run.read(name), ids) for name in documents):
        return 0
    if not run.has("decision.json"):
        run.write("failure.json", {"reason": GONE, "resumable": False})
    return sum(_remove(run.path / name) for name in documents)


def _scores_alone(evaluation: dict[str, Any], ids: Collection[str]) -> dict[str, Any]:
    """An evaluation without answers, and without the items in `ids`."""

    def left(values: dict[str, Any]) -> dict[str, Any]:
        return {item: value for item, value in values.items() if item not in ids}

    suites = {
        name: suite
        | {"answers": {}, "clusters": left(suite["clusters"])}
        | {"scores": {metric: left(values) for metric, values in suite["scores"].items()}}
        for name, suite in evaluation["suites"].items()
    }
    return evaluation | {"suites": suites}


def _clear_evaluations(folder: Path, tainted: Collection[str], ids: Collection[str]) -> int:
    """Remove what withdrawn versions answered, and what others answered to questions in `ids`."""
    count = sum(_remove(folder / version) for version in tainted)
    for file in folder.glob("*/*"):
        if file.suffix != ".json" or names_any(json.loads(file.read_text("utf-8")), ids):
            count += _remove(file)  # what has no suffix was never written to its end
    return count


def _holds(file: Path, theirs: Words, names: Collection[str]) -> bool:
    return any(text in names or text in theirs for text in _texts(file))


def _texts(file: Path) -> Iterable[str]:
    """The texts in `file`: those of each column or of its JSON, else each line and its words."""
    if file.suffix == ".parquet":
        batches = pyarrow.parquet.ParquetFile(file).iter_batches()
        yield from (text for batch in batches for row in batch.to_pylist() for text in strings(row))
    elif file.suffix == ".json":
        yield from strings(json.loads(file.read_text("utf-8")))
    else:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    yield from strings(json.loads(line))
                except ValueError:
                    yield from (line, *re.findall(r"[\w-]+", line))


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        return [file for file in place.rglob("*") if file.is_file()]
    return [place] if place.exists() else []


def _remove(place: Path) -> int:
    """Remove a file or a folder with all in it; how many files that were."""
    count = len(_files(place))
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    return count
