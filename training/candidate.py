"""One run from its plan to a version: SFT, DPO on the same adapter, the choice between the two, run.json."""

import gc
import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from datasets import Dataset

from feedback.errors import RatchetError
from training.base_model import base_model_sha256, load_tokenizer
from training.choice import Validation, choose, validate
from training.interruption import Interruption, Obstacle
from training.plan import Plan, read_plan
from training.preference import train_dpo
from training.progress import ProgressFile
from training.registry import adapter_sha256
from training.responder import Responder
from training.rows import pair_lengths, pair_rows, read_rows, sft_rows
from training.sft import train_sft
from training.stage import Stage
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
    if torch.cuda.is_available():
        torch.cuda.set_device(
            int(os.environ.get("LOCAL_RANK", "0"))
        )  # "cuda" is this process's own from here on
    first = os.environ.get("RANK", FIRST_PROCESS) == FIRST_PROCESS
    progress = ProgressFile(run_dir / "progress.jsonl", writes=first)
    before = {what: progress.spent(what) for what in ("elapsed_s", "cpu_s")}
    started_at = progress.started_at() or _now()

    rows, cut = _training_rows(plan)
    stages = _train(plan, rows, run_dir, progress, interruption)
    if not first:
        return
    held = {kind: read_rows(plan.dataset, kind, "validation") for kind in ("sft", "preference")}
    scores = _validate(plan, stages, held, progress)
    chosen, because = _choose(plan, scores, len(rows["preference"]))
    adapter = _keep(stages[chosen].adapter, run_dir / "adapter")
    sha256 = adapter_sha256(adapter)
    run = {
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
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {name: version(name) for name in PACKAGES} | {"python": python_version()},
        "rows": {kind: {"train": len(rows[kind]), "validation": len(held[kind])} for kind in rows},
        "effective_rows": {kind: _effective(rows[kind]) for kind in rows},
        "dropped": {kind: counts["dropped"] for kind, counts in cut.items()},
        "truncated": {kind: counts["truncated"] for kind, counts in cut.items()},
        "pairs": (plan.pairs or {}) | pair_lengths(rows["preference"]) if len(rows["preference"]) else None,
        "stages": {name: stage.summary() | _reported(scores[name]) for name, stage in stages.items()},
        "chosen": chosen,
        "chosen_because": because,
        "wall_s": round(before["elapsed_s"] + time.monotonic() - clock, 1),
        "cpu_s": round(before["cpu_s"] + time.process_time(), 1),
        "started_at": started_at,
        "ended_at": _now(),
    }
    for stage in stages.values():
        shutil.rmtree(stage.checkpoints, ignore_errors=True)  # where a kill interrupted their removal
    draft = run_dir / ".run.json.new"
    draft.write_text(json.dumps(run, indent=1, allow_nan=False) + "\n", "utf-8")
    os.replace(draft, run_dir / "run.json")


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


def _training_rows(plan: Plan) -> tuple[dict[str, Dataset], dict[str, dict[str, int]]]:
    tokenizer = load_tokenizer(plan.base_model)
    made = {
        kind: tokenise(tokenizer, read_rows(plan.dataset, kind, "train"), plan.recipe.max_length)
        for kind, tokenise in (("sft", sft_rows), ("preference", pair_rows))
    }
    return {kind: rows for kind, (rows, _) in made.items()}, {kind: cut for kind, (_, cut) in made.items()}


def _train(
    plan: Plan, rows: Mapping[str, Dataset], run_dir: Path, progress: ProgressFile, interruption: Interruption
) -> dict[str, Stage]:
    """The stages that have something to learn from, each complete."""
    stages: dict[str, Stage] = {}
    if len(rows["sft"]):
        stage = stages["sft"] = Stage("sft", run_dir / "sft", progress, interruption)
        if not stage.summary():
            train_sft(plan, rows["sft"], stage, _looked_at(plan))
            gc.collect()  # the trainer holds on to a copy of the model
    if len(rows["preference"]) >= plan.recipe.dpo.min_pairs:
        start = stages["sft"].adapter if stages else plan.start and plan.start.adapter
        stage = stages["dpo"] = Stage("dpo", run_dir / "dpo", progress, interruption)
        if not stage.summary():
            train_dpo(plan, rows["preference"], start, stage)
            gc.collect()
    if not stages:
        raise RatchetError(
            f"nothing to train on: no supervised rows that fit, and {len(rows['preference'])} preference pairs "
            f"where DPO needs {plan.recipe.dpo.min_pairs}; collect more feedback or import knowledge"
        )
    return stages


def _looked_at(plan: Plan) -> Dataset | None:
    """The validation rows that a search looks at while SFT runs; None in a round, and where there are none."""
    if not plan.looks:
        return None
    held = read_rows(plan.dataset, "sft", "validation")
    return sft_rows(load_tokenizer(plan.base_model), held, plan.recipe.max_length)[0] if held else None


def _validate(
    plan: Plan, stages: Mapping[str, Stage], held: Mapping[str, list[dict[str, Any]]], progress: ProgressFile
) -> dict[str, Validation]:
    clock, scores = time.monotonic(), {}
    for number, (name, stage) in enumerate(stages.items()):

        def tell(done: int, total: int, number: int = number) -> None:
            elapsed, share = time.monotonic() - clock, (number * total + done) / (len(stages) * total)
            line = {"stage": "choose", "step": number * total + done, "steps": len(stages) * total}
            progress.add(
                line
                | {"seconds_left": round(elapsed / share * (1 - share), 1), "elapsed_s": round(elapsed, 3)}
                | {"at": _now()}
            )

        responder = Responder(plan.base_model, stage.adapter)
        scores[name] = validate(responder, held["sft"], held["preference"], tell)
        if not scores[name].is_finite:
            raise RatchetError(
                f"{name}: the adapter answers validation rows with numbers that are not finite; training diverged: "
                f"lower training.{name}.learning_rate"
            )
    return scores


def _choose(plan: Plan, scores: Mapping[str, Validation], pairs: int) -> tuple[str, str]:
    if "dpo" not in scores:
        return "sft", f"DPO was left out: {pairs} preference pairs, it needs {plan.recipe.dpo.min_pairs}"
    if "sft" not in scores:
        return "dpo", "there are no supervised rows: DPO started from a fresh adapter on the base model"
    return choose(scores["sft"], scores["dpo"])


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
        "validation_log_likelihoods": [round(value, 6) for value in scores.each],
    }


def _effective(rows: Dataset) -> float:
    """How many rows of weight 1 count as much as these: what an epoch shows."""
    return round(sum(rows["weight"]), 1) if len(rows) else 0.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
