"""Looks at the validation side while SFT runs, so that a search can give up settings that lead nowhere."""

import math
from datetime import UTC, datetime
from typing import Any

from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.progress import ProgressFile

STAGE = (
    "look"  # of their lines in progress.jsonl: {"look": its number, "loss": mean over the validation rows}
)


def look(trainer: Trainer, held: Dataset, count: int, file: ProgressFile) -> None:
    """Let `trainer` measure its loss on `held` so many times, at even distances, and write it to `file`."""
    trainer.eval_dataset = held
    trainer.add_callback(_Looks(count, file))


class _Looks(TrainerCallback):
    def __init__(self, count: int, file: ProgressFile) -> None:
        self._count, self._file = count, file

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        control.should_evaluate = state.global_step in self._steps(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        self._file.add(
            {"stage": STAGE, "look": self._steps(state)[state.global_step], "loss": metrics["eval_loss"]}
            | {"step": state.global_step, "steps": state.max_steps}
            | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
        )

    def _steps(self, state: TrainerState) -> dict[int, int]:
        """{step: number of its look}; none at the last step, where the stages are compared."""
        parts = self._count + 1
        steps = {math.ceil(state.max_steps * number / parts): number for number in range(1, parts)}
        return {step: number for step, number in steps.items() if step < state.max_steps}
