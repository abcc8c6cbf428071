"""One stage of a training (SFT, DPO or KTO): its folder, the trainer settings all share, and how it ends."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer
from trl.trainer import utils as trl_utils

from feedback.errors import RatchetError
from training.device import Device, Step, device_settings
from training.head import Head
from training.interruption import Interruption
from training.progress import ProgressFile, StepReport, last_checkpoint, write_whole
from training.recipe import Dpo, Kto, Recipe, Sft
from training.rows import filled, training_order
from training.trackers import attach

if TYPE_CHECKING:
    from training.patience import BestLook


@dataclass(frozen=True)
class Stage:
    """runs/<run>/<name>: checkpoints while it runs, then adapter/ and, last, stage.json."""

    name: str  # "sft", "dpo" or "kto"
    folder: Path
    progress: ProgressFile
    interruption: Interruption

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def manifest(self) -> Path:
        return self.folder / "stage.json"

    def summary(self) -> dict[str, Any] | None:
        """What stage.json says, None while the stage is not complete."""
        return json.loads(self.manifest.read_text("utf-8")) if self.manifest.exists() else None


def lora(recipe: Recipe) -> LoraConfig:
    """A fresh adapter on all linear layers but the head."""
    return LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def trainer_settings(
    stage: Stage,
    recipe: Recipe,
    own: Sft | Dpo | Kto,
    lengths: Sequence[int],
    model: PreTrainedModel,
    device: Device,
) -> dict[str, Any]:
    """The arguments that the trainers' settings share, for ordered rows of these lengths."""
    steps = math.ceil(len(lengths) / own.batch_size)
    held = Step(
        rows=_own_rows(stage, own, device),
        places=max(lengths) * (2 if isinstance(own, Dpo) else 1),
        # DPO's SFT term is a mean over the tokens of a whole batch, KTO's loss one over its rows
        divisible=isinstance(own, Sft),
        model_bytes=model.get_memory_footprint(),
        place_bytes=_place_bytes(model),
    )
    return device_settings(device, held) | {
        "output_dir": str(stage.checkpoints),
        "max_steps": steps,
        "learning_rate": own.learning_rate,
        "lr_scheduler_type": "cosine",
        # a share is rounded up to whole steps, and the first of them learns nothing
        "warmup_steps": own.warmup_share if own.warmup_share * steps >= 1 else 0,
        "train_sampling_strategy": "sequential",  # see training.rows.training_order
        "max_length": recipe.max_length,
        "seed": recipe.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen
        "save_strategy": "steps",
        "save_steps": recipe.checkpoint_every,
        "report_to": "none",
        "disable_tqdm": True,
    }


def ordered(rows: Dataset, own: Sft | Dpo | Kto, seed: int, max_steps: int | None, device: Device) -> Dataset:
    """What a stage reads from start to end: every epoch in its order, by weight, cut to `max_steps`.

    Where processes share each step they read as many rows as each other, the last step included.
    """
    order = training_order(list(rows["length"]), own.batch_size, own.epochs, seed, list(rows["weight"]))
    if max_steps is not None:
        order = order[: max_steps * own.batch_size]
    return rows.select(order if device.processes == 1 else filled(order, own.batch_size))


def on_shared_disk(rows: Dataset, stage: Stage, device: Device) -> Dataset:
    """`rows`, in a file where processes share a step.

    What TRL's first process computes of them it leaves beside that file, and the others read it there.
    """
    if device.processes == 1:
        return rows
    stage.checkpoints.mkdir(parents=True, exist_ok=True)
    return rows.flatten_indices(cache_file_name=str(stage.checkpoints / f"rows-{os.environ['RANK']}.arrow"))


def _place_bytes(model: PreTrainedModel) -> int:
    """What one token keeps for the backward pass, near enough: 2.9 MB for SmolLM2-135M in fp32."""
    config = model.config.get_text_config()
    inner = (
        getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    )  # where none is named it is usual
    numbers = config.num_hidden_layers * (16 * config.hidden_size + 10 * inner)
    return numbers * model.dtype.itemsize


def _own_rows(stage: Stage, own: Sft | Dpo | Kto, device: Device) -> int:
    """What each process has of a step, which is as large as the recipe says however many share it."""
    rows, left = divmod(own.batch_size, device.processes)
    if left:
        raise RatchetError(
            f"{device.processes} processes cannot share a batch of {own.batch_size} evenly; start fewer, or change "
            f"training.{stage.name}.batch_size"
        )
    return rows


def run_stage(stage: Stage, trainer: Trainer, best: "BestLook | None" = None) -> None:
    """Train from the last whole checkpoint or from the start; leaves the adapter and, last, stage.json.

    The adapter is that of the `best` look, where `trainer` has it among its callbacks, else that of the last step.
    """
    attach(trainer, stage.folder.parent, stage.name)
    trainer.add_callback(StepReport(stage.name, stage.progress, stage.interruption))
    checkpoint = last_checkpoint(stage.checkpoints)
    if best and checkpoint:
        best.restore(checkpoint)
    if not (best and best.is_over):
        with compact_head():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = best.weights if best else learned(model)
    if trainer.is_world_process_zero():
        steps, planned = max(best.looks) if best else trainer.state.global_step, trainer.args.max_steps
        told = {"rows_shown": _shown(trainer, steps)} | (best.summary(planned) if best else {})
        _finish(stage, model, weights, _summary(stage, steps) | told)
    trainer.accelerator.wait_for_everyone()  # the next stage of every process starts from what the first wrote


def learned(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's weights by name, each whole: FSDP leaves a process with its part of them."""
    return {
        name: values.full_tensor() if isinstance(values, DTensor) else values
        for name, values in model.named_parameters()
        if values.requires_grad
    }


def save_adapter(model: PeftModel, weights: Mapping[str, torch.Tensor], stage: Stage) -> None:
    """Write the trained adapter, without TRL's frozen reference copy; RatchetError when it holds no numbers.

    Its settings are put into a fixed order, so that the same training gives the same bytes.
    """
    for name, values in weights.items():
        if not torch.isfinite(values).all():
            raise RatchetError(
                f"{stage.name}: the adapter's {name} is not finite; training diverged: "
                f"lower training.{stage.name}.learning_rate"
            )
    model.save_pretrained(stage.adapter, selected_adapters=["default"], state_dict=dict(weights))
    file = stage.adapter / "adapter_config.json"
    settings = json.loads(file.read_text("utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])
    file.write_text(json.dumps(settings, indent=2, sort_keys=True), "utf-8")


@contextmanager
def compact_head() -> Iterator[None]:
    """While inside, TRL's head scores the learned positions only, as it does on a GPU, and on a CPU by our own.

    Those are private names, so only the release line that was measured is touched; elsewhere this does nothing.
    """
    if not trl.__version__.startswith("1.16."):
        yield
        return
    before = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    trl_utils._use_triton = lambda device: True
    trl_utils._ChunkedLogProbFunction = Head(before[1])
    try:
        yield
    finally:
        trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = before


def _shown(trainer: Trainer, steps: int) -> int:
    """How many rows so many steps have read; the last of all may be short."""
    args = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return min(steps * rows, len(trainer.train_dataset))


def _finish(
    stage: Stage, model: PeftModel, weights: Mapping[str, torch.Tensor], summary: Mapping[str, Any]
) -> None:
    save_adapter(model, weights, stage)
    write_whole(stage.manifest, summary)
    shutil.rmtree(stage.checkpoints)


def _summary(stage: Stage, steps: int) -> dict[str, Any]:
    """What `steps` came to; a start that was cut off may have left lines beyond them, where resuming is not exact."""
    lines = [line for step, line in stage.progress.stage(stage.name).items() if step <= steps]
    first, last = lines[0], lines[-1]
    summary = {
        "steps": last["step"],
        "tokens": last["tokens"],
        "first_loss": first["loss"],
        "last_loss": last["loss"],
        "wall_s": last["elapsed_s"],
        "cpu_s": last["cpu_s"],
        "tokens_per_s": round(last["tokens"] / last["elapsed_s"], 1),
    }
    return summary | {name: last[name] for name in ("reward_margin", "reward_accuracy") if name in last}
