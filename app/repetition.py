"""A run trained again from its run.json: does the same come out?"""

import shutil
from collections.abc import Mapping
from typing import Any

from app.jobs import Log, run_job
from app.run_folder import RunFolder, between_rounds
from app.settings import Settings
from feedback.compiling.dataset import open_dataset
from feedback.errors import RatchetError
from training.base_model import base_model_folder, base_model_sha256
from training.progress import ProgressFile
from training.registry import adapter_of, read_run

Losses = Mapping[str, Mapping[int, float]]  # by stage and step


def repeat(settings: Settings, name: str, log: Log) -> dict[str, Any]:
    """Train the run `name` again in a folder of its own inside it; returns what `compare` says.

    A repetition that was stopped goes on. One that came to the same is removed, another stays to be looked at;
    the version and the pointer are never touched.
    """
    run = RunFolder(settings.home / "runs" / name)
    if not run.path.is_dir():
        raise RatchetError(f"there is no run {name!r}; `ratchet rounds` lists them")
    made = read_run(run.path)
    with between_rounds(settings.home):
        plan, again = plan_of(settings, made), RunFolder(run.path / "repeat")
        if again.has("run.json"):
            shutil.rmtree(again.path)
        again.path.mkdir(exist_ok=True)
        again.write("plan.json", plan)
        goes_on = f"ratchet repeat {name}"
        run_job("training.job", settings, again, "training.log", log, made["threads"], goes_on, watched=False)
        remade = read_run(again.path)
        document = compare(made, remade, _losses(run, made), _losses(again, remade))
        if document["equal"]:
            shutil.rmtree(again.path)
            return document
        return document | {"folder_path": str(again.path)}


def plan_of(settings: Settings, made: Mapping[str, Any]) -> dict[str, Any]:
    """The plan that run.json repeats; RatchetError when the dataset or the base is not what it was."""
    dataset = settings.home / "datasets" / made["dataset_hash"]
    open_dataset(dataset)
    base = base_model_folder(made["base_model"], settings.cache)
    if base_model_sha256(base) != made["base_model_sha256"]:
        raise RatchetError(
            f"{made['base_model']} is not what {made['run']} was trained on any more; restore it, then repeat"
        )
    kept = {key: made[key] for key in ("run", "dataset_hash", "recipe", "max_steps")}
    places = {"dataset": str(dataset), "base_model": str(base), "base_model_name": made["base_model"]}
    return kept | places | {"start": _start(settings, made.get("start"))}


def _start(settings: Settings, start: Mapping[str, str] | None) -> dict[str, str] | None:
    """The version that the run went on with, and where its adapter is."""
    return start and {**start, "adapter": str(adapter_of(settings.home, start["version"]))}


def compare(
    made: Mapping[str, Any], remade: Mapping[str, Any], losses: Losses, again: Losses
) -> dict[str, Any]:
    """Whether a run and its repetition are equal in every loss and in the adapter's bytes, and where they part.

    `made` and `remade` are what run.json says of each.
    """
    first = next(
        (
            {"stage": stage, "step": step, "loss": loss, "repeated": again.get(stage, {}).get(step)}
            for stage, steps in losses.items()
            for step, loss in steps.items()
            if again.get(stage, {}).get(step) != loss
        ),
        None,
    )
    adapter = made["adapter_sha256"] == remade["adapter_sha256"]
    return {
        "run": made["run"],
        "version": made["version"],
        "equal": adapter and first is None,
        "adapter_equal": adapter,
        "losses_compared": {stage: len(steps) for stage, steps in losses.items()},
        "first_difference": first,
        "changed": _changed(_surroundings(made), _surroundings(remade)),
    }


def _surroundings(run: Mapping[str, Any]) -> dict[str, Any]:
    machine = {"device": run["device"], "threads": run["threads"], "processes": run.get("processes", 1)}
    machine |= {"products": run.get("products", "PyTorch")}
    return {**run["packages"], **machine}


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"then": then[name], "now": now.get(name)} for name in then if then[name] != now.get(name)}


def _losses(run: RunFolder, made: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Of every step where progress.jsonl is still there, else of the first and the last, as run.json has them."""
    progress = ProgressFile(run.path / "progress.jsonl")
    return {
        name: {step: line["loss"] for step, line in progress.stage(name).items()}
        or {1: stage["first_loss"], stage["steps"]: stage["last_loss"]}
        for name, stage in made["stages"].items()
    }
