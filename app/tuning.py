"""A search for better settings: freeze a dataset as a round does, train on it with one settings after another,
and keep those that surely do better than the present ones on the validation side. No suite is drawn or asked.

tuning/<name>/ holds plan.json, Optuna's journal, a folder for each trial and, last, search.json. A trial is
trained as a round is, in a child process, and leaves numbers: its weights go when it ends.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from app.domain import search_of
from app.door import Ask
from app.found_settings import FoundSettings, keep_found
from app.jobs import Log, cancellable, run_job
from app.run_folder import SEARCH, RunFolder, only_round
from app.searches import WEIGHTS, searches, setting_words, trials, unfinished
from app.settings import Settings, login
from eval.bootstrap import interval
from eval.objective import Gate, Objective
from feedback.errors import RatchetError
from training.interruption import Obstacle
from training.recipe import Recipe
from training.search import LOOKS, MIX, Point, Study, due, merged, point_of, settings_of, space

Document = dict[str, Any]

TUNE = "ratchet tune"
TRIES = 2  # of a trial whose process was killed, as for want of memory


@dataclass(frozen=True)
class Limit:
    """What a search may take."""

    trials: int
    minutes: float | None = None  # after which no trial begins; the first one always does
    max_steps: int | None = None  # caps each stage of each trial


class _Hopeless(Exception):
    """The trial that runs lies behind the others."""


def tune(
    settings: Settings, objective: Objective, ask: Ask, limit: Limit, log: Log, who: str | None = None
) -> Document:
    """One whole search, or the rest of one; returns its document (the contract of `ratchet tune --json`)."""
    with only_round(settings.home, who or login(), SEARCH), cancellable(TUNE):
        return search(settings, objective, ask, limit, log)


def search_if_due(settings: Settings, objective: Objective, ask: Ask, log: Log) -> None:
    """What a new round does first, as `[training.search]` says; one that fails leaves the settings as they are."""
    plan, runs = search_of(objective), settings.home / "runs"
    if plan is None or RunFolder.unfinished(runs):
        return
    ended = searches(settings.home)
    if not due(plan.every_rounds, _finished(runs), ended[-1]["finished_rounds"] if ended else None):
        return
    try:
        search(settings, objective, ask, Limit(plan.trials, plan.minutes), log)
    except RatchetError as error:
        log(f"the search for settings failed, the round goes by the present ones: {error}")


def search(settings: Settings, objective: Objective, ask: Ask, limit: Limit, log: Log) -> Document:
    """Trial after trial, the present settings first, until a limit is reached; for whoever holds the round lock."""
    folder = _begin(settings, ask, limit, log)
    plan = folder.read("plan.json")
    recipe = Recipe.model_validate(plan["recipe"])
    varied = space(recipe, plan["mixes"][0]["counts"]["preference"]["train"], len(plan["mixes"]))
    study = Study(folder.path / "journal.jsonl", varied, point_of(recipe, tuple(varied)))
    began, ended = time.monotonic(), trials(folder)
    while not _is_enough(limit, ended, time.monotonic() - began):
        number, point = study.next()
        _try(settings, folder, plan, study, number, point, log)
        ended = trials(folder)
    return conclude(settings, objective.gate, folder, plan, ended)


def _is_enough(limit: Limit, ended: Sequence[Document], seconds: float) -> bool:
    if not any(trial["present"] and trial["value"] is not None for trial in ended):
        return False  # there is nothing to compare with
    return len(ended) >= limit.trials or (limit.minutes is not None and seconds > 60 * limit.minutes)


def _begin(settings: Settings, ask: Ask, limit: Limit, log: Log) -> RunFolder:
    """The search that was cut off, or a new one with its datasets frozen."""
    if folder := unfinished(settings.home):
        log(f"{folder.name}: going on where it stopped")
        return folder
    plan = ask("begin_search", max_steps=limit.max_steps)
    first, others = plan["mixes"][0], len(plan["mixes"]) - 1
    log(f"{plan['search']}: dataset {first['dataset_hash']}, and {others} with other shares")
    return RunFolder(settings.home / "tuning" / plan["search"])


# trials


def _try(
    settings: Settings, folder: RunFolder, plan: Document, study: Study, number: int, point: Point, log: Log
) -> None:
    """One trial to its end, whatever that is; leaves trial.json and no weights."""
    trial = RunFolder(folder.path / f"{folder.name}-{number:02d}")
    if not trial.has("plan.json"):
        trial.path.mkdir(exist_ok=True)
        trial.write("plan.json", _trial_plan(plan, trial.name, point))
    present, mix = study.is_present(number), plan["mixes"][point.get(MIX, 0)]
    said = {"number": number, "present": present, "settings": settings_of(point), "curation": mix["curation"]}
    if not trial.has("trial.json"):
        log(f"{trial.name}: {setting_words(said)}")
        trial.write("trial.json", said | _outcome(settings, trial, study, number, log))
    ended = trial.read("trial.json")
    for name in WEIGHTS:
        shutil.rmtree(trial.path / name, ignore_errors=True)
    study.end(number, ended["value"], _looks(trial), ended["outcome"] == "pruned")
    log(
        f"{trial.name}: {ended['outcome']}"
        + (f", {ended['value']:.4f}" if ended["value"] is not None else "")
    )
    if present and ended["value"] is None:
        raise RatchetError(f"the present settings do not train: {ended['because']}")


def _trial_plan(plan: Document, name: str, point: Point) -> Document:
    mix = plan["mixes"][point.get(MIX, 0)]
    recipe = Recipe.model_validate(merged(plan["recipe"], settings_of(point)))
    return {key: plan[key] for key in ("base_model", "base_model_name", "max_steps")} | {
        "start": plan.get("start"),
        "run": name,
        "dataset": mix["dataset"],
        "dataset_hash": mix["dataset_hash"],
        "recipe": recipe.model_dump(mode="json"),
        "looks": LOOKS,
    }


def _outcome(settings: Settings, trial: RunFolder, study: Study, number: int, log: Log) -> Document:
    """Train, and what came of it: the value is the mean log-likelihood of the validation answers."""

    def watch(line: str) -> None:
        log(line)
        if study.is_hopeless(number, _looks(trial)):
            raise _Hopeless

    outcome, because = "complete", None
    try:
        _train(settings, trial, watch)
    except _Hopeless:
        outcome, because = "pruned", "its validation loss lay above the median of the others"
    except Obstacle:
        raise
    except RatchetError as error:
        if trial.has("failure.json") and trial.read("failure.json")["resumable"]:
            raise
        outcome, because = "failed", str(error)
    stage = {}
    if outcome == "complete":
        made = trial.read("run.json")
        stage = made["stages"][made["chosen"]]
    return {
        "outcome": outcome,
        "because": because,
        "value": stage.get("validation_log_likelihood"),
        "each": stage.get("validation_log_likelihoods", []),
        "seconds": round(_seconds(trial), 1),
    }


def _train(settings: Settings, trial: RunFolder, watch: Log) -> None:
    for left in reversed(range(TRIES)):
        try:
            return run_job("training.job", settings, trial, "training.log", watch, goes_on=TUNE)
        except RatchetError:
            if trial.has("failure.json") or not left:
                raise


def _looks(trial: RunFolder) -> dict[int, float]:
    """{number of the look: the validation rows' mean log-likelihood then}."""
    return {line["look"]: -line["loss"] for line in trial.progress_lines() if "look" in line}


def _seconds(trial: RunFolder) -> float:
    """What training and measuring took, over all starts."""
    last = {line["stage"]: line.get("elapsed_s", 0.0) for line in trial.progress_lines()}
    return sum(last.values())


# what was found


def conclude(
    settings: Settings, gate: Gate, folder: RunFolder, plan: Document, ended: Sequence[Document]
) -> Document:
    """Keep the best settings if they surely beat the present ones; leaves search.json."""
    complete = [trial for trial in ended if trial["value"] is not None]
    present = next(trial for trial in reversed(complete) if trial["present"])
    best = max(complete, key=lambda trial: (trial["value"], -trial["number"]))
    gain = _gain(best, present, _clusters(plan), gate)
    kept = best is not present and gain["low"] > 0
    if kept:
        before = plan["settings"] or {}
        shares = best["curation"] if len(plan["mixes"]) > 1 else before.get("curation", {})
        found = FoundSettings(
            source=f"{folder.name}, trial {best['number']}",
            training=merged(before.get("training", {}), best["settings"]),
            curation=shares,
        )
        keep_found(settings.home, found)
    shown = [{key: value for key, value in trial.items() if key != "each"} for trial in ended]
    document = {
        "search": folder.name,
        "dataset": plan["mixes"][0]["dataset_hash"],
        "trials": shown,
        "present": present["number"],
        "best": best["number"],
        "gain": gain,
        "kept": kept,
        "finished_rounds": _finished(settings.home / "runs"),
    }
    folder.write("search.json", document)
    return document


def _gain(best: Document, present: Document, clusters: Sequence[str], gate: Gate) -> Document:
    """What the best settings gain over the present ones, a validation answer at a time."""
    differences = np.array(best["each"]) - np.array(present["each"])
    low, high = interval(differences[:, None], clusters, gate.confidence, gate.resamples, gate.seed)
    return {
        "difference": best["value"] - present["value"],
        "low": float(low[0]),
        "high": float(high[0]),
        "n": len(differences),
    }


def _clusters(plan: Document) -> list[str]:
    """Of the validation answers, which are the same in every mix."""
    file = Path(plan["mixes"][0]["dataset"]) / "sft" / "validation.parquet"
    return pyarrow.parquet.read_table(file, columns=["cluster"])["cluster"].to_pylist()


def _finished(runs: Path) -> int:
    return len(list(runs.glob("r*/decision.json")))
