"""One run from its plan to a version: what it learns, the adapter that is kept, run.json."""

import os
import shutil
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from datasets import Dataset

from feedback.errors import RatchetError
from training.base_model import base_model_sha256
from training.choice import Validation
from training.device import this_device
from training.energy import this_machine
from training.interruption import Interruption, Obstacle
from training.learning import Learnt, learn
from training.plan import Plan, read_plan
from training.products import products
from training.progress import ProgressFile, write_whole
from training.registry import adapter_sha256
from training.rows import pair_lengths
from training.threads import usable_threads
from training.weights import check_weights

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets")
FIRST_PROCESS = "0"  # of those that a launcher such as torchrun starts; it alone writes


def make_candidate(run_dir: Path, interruption: Interruption) -> None:
    """Train what plan.json in `run_dir` says and leave adapter/ and run.json; goes on where it stopped."""
    if (run_dir / "run.json").exists():
        return
    clock = time.monotonic()
    plan = read_plan(run_dir)
    _check_places(plan, run_dir)
    torch.set_num_threads(usable_threads())
    if torch.cuda.is_available():  # "cuda" is this process's own from here on
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    first = os.environ.get("RANK", FIRST_PROCESS) == FIRST_PROCESS
    meter = this_machine(this_device().processes)
    progress = ProgressFile(run_dir / "progress.jsonl", first, meter)
    before = {what: progress.spent(what) for what in ("elapsed_s", "cpu_s")}
    started_at = progress.started_at() or _now()

    learnt = learn(plan, run_dir, progress, interruption, first)
    if not first:
        return
    adapter = _keep(learnt.stages[learnt.chosen].adapter, run_dir / "adapter")
    run = _described(plan, adapter, learnt) | {
        "wall_s": round(before["elapsed_s"] + time.monotonic() - clock, 1),
        "cpu_s": round(before["cpu_s"] + time.process_time(), 1),
        "energy_wh": round(progress.joules() / 3600, 3),
        "energy_from": meter.source,
        "started_at": started_at,
        "ended_at": _now(),
    }
    for stage in learnt.stages.values():
        shutil.rmtree(stage.checkpoints, ignore_errors=True)  # where a kill interrupted their removal
    write_whole(run_dir / "run.json", run)


def _described(plan: Plan, adapter: Path, learnt: Learnt) -> dict[str, Any]:
    """What run.json says of a training, but for its times."""
    sha256, rows = adapter_sha256(adapter), learnt.rows
    stages = {name: stage.summary() | _reported(learnt.scores[name]) for name, stage in learnt.stages.items()}
    if "kto" in stages:
        stages["kto"]["from"] = learnt.before_thumbs
    return {
        "run": plan.run,
        "version": f"v{plan.run.removeprefix('r')}-{sha256[:8]}",
        "adapter_sha256": sha256,
        "base_model": plan.base_model_name,
        "base_model_sha256": base_model_sha256(plan.base_model),
        "dataset": str(plan.dataset),
        "dataset_hash": plan.dataset_hash,
        "start": plan.start and plan.start.model_dump(mode="json", exclude={"adapter"}),
        "recipe": plan.recipe.model_dump(mode="json"),
        "settings": plan.settings,
        "flip_rate_from": plan.flip_rate_from,
        "max_steps": plan.max_steps,
        "seed": plan.recipe.seed,
        "threads": torch.get_num_threads(),
        "products": products(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {name: version(name) for name in PACKAGES} | {"python": python_version()},
        "rows": {kind: {"train": len(rows[kind]), "validation": len(learnt.held[kind])} for kind in rows},
        "effective_rows": {kind: _effective(rows[kind]) for kind in rows},
        "dropped": {kind: counts["dropped"] for kind, counts in learnt.cut.items()},
        "truncated": {kind: counts["truncated"] for kind, counts in learnt.cut.items()},
        "pairs": (plan.pairs or {}) | pair_lengths(rows["preference"]) if len(rows["preference"]) else None,
        "stages": stages,
        "chosen": learnt.chosen,
        "chosen_because": learnt.because,
    }


def _check_places(plan: Plan, run_dir: Path) -> None:
    try:
        check_weights(plan.base_model)
    except RatchetError as error:
        raise Obstacle(f"{error}; restore it and run `ratchet round` again") from error
    if not plan.dataset.is_dir():
        raise RatchetError(f"the dataset {plan.dataset} is gone; start a new round")
    if plan.start and adapter_sha256(plan.start.adapter) != plan.start.adapter_sha256:
        raise RatchetError(
            f"{plan.start.adapter} is not what {plan.start.version} was; restore it, or start a new round"
        )
    free = shutil.disk_usage(run_dir).free
    if free < plan.min_free_bytes:
        raise Obstacle(
            f"{run_dir} has {free / 1e6:.0f} MB free, training needs {plan.min_free_bytes / 1e6:.0f} MB; "
            "free some space and run `ratchet round` again"
        )


def _keep(chosen: Path, adapter: Path) -> Path:
    """Copy the chosen adapter to its place, whole or not at all."""
    draft = adapter.with_name(".adapter.part")
    for place in (draft, adapter):
        shutil.rmtree(place, ignore_errors=True)
    draft.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(chosen / name, draft / name)
    draft.rename(adapter)
    return adapter


def _reported(scores: Validation) -> dict[str, Any]:
    return {
        "validation_log_likelihood": scores.log_likelihood,
        "validation_pair_accuracy": scores.pair_accuracy,
        "validation_thumb_gap": scores.thumb_gap,
        "validation_log_likelihoods": [round(value, 6) for value in scores.each],
    }


def _effective(rows: Dataset) -> float:
    """How many rows of weight 1 count as much as these: what an epoch shows."""
    return round(sum(rows["weight"]), 1) if len(rows) else 0.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
