"""Looks at the validation side while SFT runs.

A search gives up by them what leads nowhere; patience ends by them what gets no better.
"""

import math
from datetime import UTC, datetime
from typing import Any

from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from feedback.errors import RatchetError
from training.progress import ProgressFile

STAGE = (
    "look"  # of their lines in progress.jsonl: {"look": its number, "loss": mean over the validation rows}
)
ROWS = 32  # that a look measures, near enough at the cost of two steps of 8


def look(trainer: Trainer, held: Dataset, count: int, file: ProgressFile, at_end: bool = False) -> None:
    """Let `trainer` measure its loss on the first rows of `held` so many times, at even distances, and write it to
    `file`; `at_end` says whether once more after the last step.
    """
    trainer.eval_dataset = held.select(range(min(ROWS, len(held))))
    trainer.args.per_device_eval_batch_size = 1  # each row counts the same, however many processes share them
    trainer.add_callback(_Looks(count, file, at_end))


class _Looks(TrainerCallback):
    def __init__(self, count: int, file: ProgressFile, at_end: bool) -> None:
        self._count, self._file, self._at_end = count, file, at_end

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
        loss = metrics["eval_loss"]
        if not math.isfinite(loss):
            raise RatchetError(
                f"sft step {state.global_step}: the loss on validation rows is {loss}; training diverged: lower "
                "training.sft.learning_rate"
            )
        self._file.add(
            {"stage": STAGE, "look": self._steps(state)[state.global_step], "loss": loss}
            | {"step": state.global_step, "steps": state.max_steps}
            | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
        )

    def _steps(self, state: TrainerState) -> dict[int, int]:
        """{step: number of its look}."""
        parts = self._count + 1
        steps = {math.ceil(state.max_steps * number / parts): number for number in range(1, parts + 1)}
        return {step: number for step, number in steps.items() if self._at_end or step < state.max_steps}
