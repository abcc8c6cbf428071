"""What a run learns: its rows, its stages one after the other, and which of them it keeps."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from datasets import Dataset

from feedback.errors import RatchetError
from training.base_model import load_tokenizer
from training.choice import Validation, choose_again, choose_first, validated
from training.interruption import Interruption
from training.plan import Plan
from training.preference import train_dpo
from training.progress import ProgressFile
from training.rows import pair_rows, read_rows, sft_rows, teaches_thumbs, thumb_rows
from training.sft import train_sft
from training.stage import Stage
from training.unpaired import train_kto


@dataclass(frozen=True)
class Learnt:
    """What a run read and what each stage came to; `before_thumbs` is the stage that KTO went on from."""

    rows: Mapping[str, Dataset]
    cut: Mapping[str, Mapping[str, int]]
    held: Mapping[str, list[dict[str, Any]]]
    stages: Mapping[str, Stage]
    scores: Mapping[str, Validation]
    before_thumbs: str | None
    chosen: str | None
    because: str


def learn(
    plan: Plan, run_dir: Path, progress: ProgressFile, interruption: Interruption, first: bool
) -> Learnt:
    """Every stage that has something to learn from, and the choice among them; only the `first` process chooses."""
    rows, cut = _training_rows(plan)
    held = {kind: read_rows(plan.dataset, kind, "validation") for kind in rows}
    stages = _train(plan, rows, run_dir, progress, interruption)
    scores = validated(plan, stages, held, progress) if first else {}
    chosen, because = choose_first(plan, scores, len(rows["preference"])) if scores else (None, "")
    because = _ending(plan, stages) + because
    before_thumbs = None
    if _enough_thumbs(plan, rows):
        (before_thumbs,) = broadcast_object_list([chosen])
        start = stages[before_thumbs].adapter if before_thumbs else plan.start and plan.start.adapter
        kto = stages["kto"] = _train_on_thumbs(plan, rows["unpaired"], start, run_dir, progress, interruption)
        if first:
            scores |= validated(plan, {"kto": kto}, held, progress)
            chosen, because = choose_again(plan, scores, before_thumbs, because)
    elif "unpaired" in rows:
        because = f"{because}; {_lacking_thumbs(plan, rows['unpaired'])}"
    return Learnt(rows, cut, held, stages, scores, before_thumbs, chosen, because)


def _training_rows(plan: Plan) -> tuple[dict[str, Dataset], dict[str, dict[str, int]]]:
    tokenizer = load_tokenizer(plan.base_model)
    kinds = {"sft": sft_rows, "preference": pair_rows}
    kinds |= {"unpaired": thumb_rows} if teaches_thumbs(plan.dataset) else {}
    made = {
        kind: tokenise(tokenizer, read_rows(plan.dataset, kind, "train"), plan.recipe.max_length)
        for kind, tokenise in kinds.items()
    }
    return {kind: rows for kind, (rows, _) in made.items()}, {kind: cut for kind, (_, cut) in made.items()}


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
