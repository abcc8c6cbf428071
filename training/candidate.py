"""One run from its plan to a version: SFT, DPO on the same adapter, KTO where asked, the choices, run.json."""

import gc
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from feedback.errors import RatchetError
from training.base_model import base_model_sha256, load_tokenizer
from training.choice import Validation, choose, choose_after_thumbs, validate
from training.device import this_device
from training.energy import this_machine
from training.interruption import Interruption, Obstacle
from training.plan import Plan, read_plan
from training.preference import train_dpo
from training.progress import ProgressFile
from training.registry import adapter_sha256
from training.responder import Responder
from training.rows import pair_lengths, pair_rows, read_rows, sft_rows, teaches_thumbs, thumb_rows
from training.sft import train_sft
from training.stage import Stage
from training.threads import usable_threads
from training.unpaired import train_kto
from training.weights import check_weights

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets")
FIRST_PROCESS = "0"  # of those that a launcher such as torchrun starts; it alone writes


@dataclass(frozen=True)
class _Learnt:
    """What a run read and what each stage came to; `before_thumbs` is the stage that KTO went on from."""

    rows: Mapping[str, Dataset]
    cut: Mapping[str, Mapping[str, int]]
    held: Mapping[str, list[dict[str, Any]]]
    stages: Mapping[str, Stage]
    scores: Mapping[str, Validation]
    before_thumbs: str | None
    chosen: str | None
    because: str


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

    learnt = _learn(plan, run_dir, progress, interruption, first)
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
    _write(run_dir / "run.json", run)


def _described(plan: Plan, adapter: Path, learnt: _Learnt) -> dict[str, Any]:
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


def _training_rows(plan: Plan) -> tuple[dict[str, Dataset], dict[str, dict[str, int]]]:
    tokenizer = load_tokenizer(plan.base_model)
    kinds = {"sft": sft_rows, "preference": pair_rows}
    kinds |= {"unpaired": thumb_rows} if teaches_thumbs(plan.dataset) else {}
    made = {
        kind: tokenise(tokenizer, read_rows(plan.dataset, kind, "train"), plan.recipe.max_length)
        for kind, tokenise in kinds.items()
    }
    return {kind: rows for kind, (rows, _) in made.items()}, {kind: cut for kind, (_, cut) in made.items()}


def _learn(
    plan: Plan, run_dir: Path, progress: ProgressFile, interruption: Interruption, first: bool
) -> _Learnt:
    """Every stage that has something to learn from, and the choice among them; only the `first` process chooses."""
    rows, cut = _training_rows(plan)
    held = {kind: read_rows(plan.dataset, kind, "validation") for kind in rows}
    stages = _train(plan, rows, run_dir, progress, interruption)
    scores = _validate(plan, stages, held, progress) if first else {}
    chosen, because = _choose(plan, scores, len(rows["preference"])) if scores else (None, "")
    because = _ending(plan, stages) + because
    before_thumbs = None
    if _enough_thumbs(plan, rows):
        (before_thumbs,) = broadcast_object_list([chosen])
        start = stages[before_thumbs].adapter if before_thumbs else plan.start and plan.start.adapter
        kto = stages["kto"] = _train_on_thumbs(plan, rows["unpaired"], start, run_dir, progress, interruption)
        if first:
            scores |= _validate(plan, {"kto": kto}, held, progress)
            chosen, because = _choose_again(plan, scores, before_thumbs, because)
    elif "unpaired" in rows:
        because = f"{because}; {_lacking_thumbs(plan, rows['unpaired'])}"
    return _Learnt(rows, cut, held, stages, scores, before_thumbs, chosen, because)


def _train(
    plan: Plan, rows: Mapping[str, Dataset], run_dir: Path, progress: ProgressFile, interruption: Interruption
) -> dict[str, Stage]:
    """SFT and DPO, where they have something to learn from, each complete."""
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
    if not stages and not _enough_thumbs(plan, rows):
        raise RatchetError(
            f"nothing to train on: no supervised rows that fit, and {len(rows['preference'])} preference pairs "
            f"where DPO needs {plan.recipe.dpo.min_pairs}; collect more feedback or import knowledge"
        )
    return stages


def _enough_thumbs(plan: Plan, rows: Mapping[str, Dataset]) -> bool:
    """Whether there are answers enough that were liked or disliked by themselves, some of each."""
    labels = _labels(rows["unpaired"]) if "unpaired" in rows else []
    return len(labels) >= plan.recipe.kto.min_rows and 0 < sum(labels) < len(labels)


def _lacking_thumbs(plan: Plan, rows: Dataset) -> str:
    labels = _labels(rows)
    return (
        f"KTO was left out: {sum(labels)} liked and {len(labels) - sum(labels)} disliked answers, it needs "
        f"{plan.recipe.kto.min_rows} and some of each"
    )


def _labels(rows: Dataset) -> list[bool]:
    return list(rows["label"]) if len(rows) else []


def _train_on_thumbs(
    plan: Plan,
    rows: Dataset,
    start: Path | None,
    run_dir: Path,
    progress: ProgressFile,
    interruption: Interruption,
) -> Stage:
    """KTO, complete, from the adapter that was chosen before it."""
    stage = Stage("kto", run_dir / "kto", progress, interruption)
    if not stage.summary():
        train_kto(plan, rows, start, stage)
        gc.collect()
    return stage


def _looked_at(plan: Plan) -> Dataset | None:
    """The validation rows that a search or patience looks at while SFT runs; None without both, or without rows."""
    if not plan.looks and plan.recipe.sft.patience is None:
        return None
    held = read_rows(plan.dataset, "sft", "validation")
    rows, _ = sft_rows(load_tokenizer(plan.base_model), held, plan.recipe.max_length)
    return rows if len(rows) else None


def _ending(plan: Plan, stages: Mapping[str, Stage]) -> str:
    """What patience did to SFT, in words; nothing where it was not asked for or changed nothing."""
    if plan.recipe.sft.patience is None or "sft" not in stages:
        return ""
    sft = stages["sft"].summary()
    if "kept_step" not in sft:
        return "SFT ran to its end: there are no supervised validation rows by which it could have stopped early; "
    if sft["kept_step"] == sft["steps"]:
        return ""
    how = "stopped early after" if sft["stopped_early"] else "took"
    return (
        f"SFT {how} {sft['steps']} of {sft['steps_planned']} steps and kept the adapter of step {sft['kept_step']}, "
        "where the validation loss was lowest; "
    )


def _validate(
    plan: Plan, stages: Mapping[str, Stage], held: Mapping[str, list[dict[str, Any]]], progress: ProgressFile
) -> dict[str, Validation]:
    """What each stage reaches on the validation side. It is kept beside the adapter: after a stop the same counts."""
    clock, before, scores = time.monotonic(), progress.elapsed("choose"), {}
    for number, (name, stage) in enumerate(stages.items()):
        file = stage.folder / "validation.json"

        def tell(done: int, total: int, number: int = number) -> None:
            elapsed, share = time.monotonic() - clock, (number * total + done) / (len(stages) * total)
            line = {"stage": "choose", "step": number * total + done, "steps": len(stages) * total}
            progress.add(
                line
                | {
                    "seconds_left": round(elapsed / share * (1 - share), 1),
                    "elapsed_s": round(before + elapsed, 3),
                }
                | {"at": _now()}
            )

        if not file.exists():
            responder = Responder(plan.base_model, stage.adapter)
            found = validate(responder, held["sft"], held["preference"], tell, held.get("unpaired", ()))
            if not found.is_finite:
                raise RatchetError(
                    f"{name}: the adapter answers validation rows with numbers that are not finite; training "
                    f"diverged: lower training.{name}.learning_rate"
                )
            _write(file, asdict(found))
        scores[name] = Validation(**json.loads(file.read_text("utf-8")))
    return scores


def _choose(plan: Plan, scores: Mapping[str, Validation], pairs: int) -> tuple[str, str]:
    """SFT or DPO, and why in words."""
    if "dpo" not in scores:
        return "sft", f"DPO was left out: {pairs} preference pairs, it needs {plan.recipe.dpo.min_pairs}"
    if "sft" not in scores:
        return "dpo", f"there are no supervised rows: DPO started from {_beginning(plan)}"
    return choose(scores["sft"], scores["dpo"])


def _choose_again(
    plan: Plan, scores: Mapping[str, Validation], earlier: str | None, because: str
) -> tuple[str, str]:
    """What was chosen before KTO, or KTO, and why in words; `because` says why the earlier one was."""
    if earlier is None:
        return "kto", f"there are no supervised rows and no pairs: KTO started from {_beginning(plan)}"
    chosen, told = choose_after_thumbs(scores[earlier], scores["kto"], earlier)
    return chosen, f"{because}; then {told}"


def _beginning(plan: Plan) -> str:
    return plan.start.version if plan.start else "a fresh adapter on the base model"


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


def _write(file: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")
    os.replace(draft, file)


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
