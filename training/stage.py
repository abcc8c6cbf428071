"""One stage of a training (SFT or DPO): its folder, the trainer settings both share, and how it ends."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, Trainer
from trl.trainer import utils as trl_utils

from feedback.errors import RatchetError
from training.device import Device, Step, device_settings
from training.head import Head
from training.interruption import Interruption
from training.progress import ProgressFile, StepReport, last_checkpoint
from training.recipe import Dpo, Recipe, Sft
from training.rows import training_order


@dataclass(frozen=True)
class Stage:
    """runs/<run>/<name>: checkpoints while it runs, then adapter/ and, last, stage.json."""

    name: str  # "sft" or "dpo"
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
    own: Sft | Dpo,
    lengths: Sequence[int],
    model: PreTrainedModel,
    device: Device,
) -> dict[str, Any]:
    """The arguments that SFTConfig and DPOConfig share, for ordered rows of these lengths."""
    steps = math.ceil(len(lengths) / _batch(own))
    pairs = isinstance(own, Dpo)
    held = Step(
        rows=own.batch_size,
        places=max(lengths) * (2 if pairs else 1),
        divisible=not pairs,  # DPO's SFT term is a mean over the tokens of a whole batch
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


def ordered(rows: Dataset, own: Sft | Dpo, seed: int, max_steps: int | None) -> Dataset:
    """What a stage reads from start to end: every epoch in its order, cut to `max_steps`."""
    order = training_order(rows["length"], _batch(own), own.epochs, seed)
    return rows.select(order if max_steps is None else order[: max_steps * _batch(own)])


def _place_bytes(model: PreTrainedModel) -> int:
    """What one token keeps for the backward pass, near enough: 2.9 MB for SmolLM2-135M in fp32."""
    config = model.config.get_text_config()
    inner = (
        getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    )  # where none is named it is usual
    numbers = config.num_hidden_layers * (16 * config.hidden_size + 10 * inner)
    return numbers * model.dtype.itemsize


def _batch(own: Sft | Dpo) -> int:
    return own.batch_size * int(os.environ.get("WORLD_SIZE", "1"))


def run_stage(stage: Stage, trainer: Trainer) -> None:
    """Train from the last whole checkpoint or from the start; leaves the adapter and, last, stage.json."""
    trainer.add_callback(StepReport(stage.name, stage.progress, stage.interruption))
    checkpoint = last_checkpoint(stage.checkpoints)
    with compact_head():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.is_world_process_zero():
        _finish(stage, trainer.accelerator.unwrap_model(trainer.model))
    trainer.accelerator.wait_for_everyone()  # the next stage of every process starts from what the first wrote


def save_adapter(model: PeftModel, stage: Stage) -> None:
    """Write the trained adapter, without TRL's frozen reference copy; RatchetError when it holds no numbers.

    Its settings are put into a fixed order, so that the same training gives the same bytes.
    """
    for name, weights in model.named_parameters():
        if weights.requires_grad and not torch.isfinite(weights).all():
            raise RatchetError(
                f"{stage.name}: the adapter's {name} is not finite; training diverged: "
                f"lower training.{stage.name}.learning_rate"
            )
    model.save_pretrained(stage.adapter, selected_adapters=["default"])
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


def _finish(stage: Stage, model: PeftModel) -> None:
    save_adapter(model, stage)
    draft = stage.folder / ".stage.json.new"
    draft.write_text(json.dumps(_summary(stage), indent=1, allow_nan=False), "utf-8")
    os.replace(draft, stage.manifest)
    shutil.rmtree(stage.checkpoints)


def _summary(stage: Stage) -> dict[str, Any]:
    lines = list(stage.progress.stage(stage.name).values())
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
    if "reward_margin" in last:
        summary |= {"reward_margin": last["reward_margin"], "reward_accuracy": last["reward_accuracy"]}
    return summary
