"""Early stopping: SFT ends once some looks in a row were no better, and keeps the adapter of the best one.

It is off unless the objective asks for it: a round trains for one epoch within a token budget, which seldom is too
long, and the validation side chooses between its stages anyway.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.stage import learned

LOOKS = 7  # on the way: after each eighth of the steps, and once more at the end
WEIGHTS = "best.safetensors"  # in a checkpoint: the adapter of the best look so far


def best_of(looks: Mapping[int, float]) -> int:
    """The step of the lowest loss, of `looks` {step: loss}; the first of several."""
    return min(looks, key=lambda step: (looks[step], step))


def is_enough(looks: Mapping[int, float], patience: int) -> bool:
    """Whether the last `patience` of the looks {step: loss} were no better than one before them."""
    return bool(looks) and sum(step > best_of(looks) for step in looks) >= patience


class BestLook(TrainerCallback):
    """Holds the adapter of the best look, and ends the training after `patience` looks that are no better.

    Every checkpoint has that adapter in it: whole where the checkpoint is, and of the same step as all else there.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.looks: dict[int, float] = {}  # {step: loss}
        self.weights: dict[str, torch.Tensor] = {}  # by name, as `learned` has them

    @property
    def is_over(self) -> bool:
        return is_enough(self.looks, self._patience)

    def restore(self, checkpoint: Path) -> None:
        """Know again what was known at `checkpoint`."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.looks = {line["step"]: line["eval_loss"] for line in state.log_history if "eval_loss" in line}
        self.weights = load_file(checkpoint / WEIGHTS) if self.looks else {}

    def summary(self, planned: int) -> dict[str, Any]:
        """What stage.json says of it; `planned` is the number of steps without an early end."""
        return {
            "steps_planned": planned,
            "stopped_early": max(self.looks) < planned,
            "kept_step": best_of(self.looks),
        }

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PeftModel,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Every process has the same loss of all rows, and so decides the same."""
        self.looks[state.global_step] = metrics["eval_loss"]
        if best_of(self.looks) == state.global_step:
            self.weights = {
                name: values.detach().to("cpu", copy=True) for name, values in learned(model).items()
            }
        if self.is_over:
            control.should_save = control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Put it into the checkpoint, before that is marked as whole."""
        if state.is_world_process_zero and self.weights:
            save_file(self.weights, Path(args.output_dir) / f"checkpoint-{state.global_step}" / WEIGHTS)
