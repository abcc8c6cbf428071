"""What a training leaves while it runs: a line per step in progress.jsonl, and checkpoints known to be whole."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from feedback.errors import RatchetError
from training.energy import Meter
from training.interruption import Cancelled, Interruption

# DPO has both; KTO the margin, where a batch has liked and disliked answers
REWARDS = {"reward_margin": "rewards/margins", "reward_accuracy": "rewards/accuracies"}
WHOLE = "whole"  # a checkpoint holds this file once everything else in it is written


class ProgressFile:
    """progress.jsonl of a run; a later line for the same stage and step replaces an earlier one."""

    def __init__(self, file: Path, writes: bool = True, meter: Meter | None = None) -> None:
        self._file = file
        self._writes = writes  # only one process of a launched group does
        self._meter = meter
        self._earlier_j = max((line.get("energy_j", 0.0) for line in self._lines()), default=0.0)

    def add(self, line: dict[str, Any]) -> None:
        """Append one line and flush it; a line cut short by a kill is closed first."""
        if not self._writes:
            return
        if self._meter:
            line = line | {"energy_j": round(self.joules(), 1)}
        with self._file.open("a+b") as opened:
            if opened.tell() and not self._file.read_bytes().endswith(b"\n"):
                opened.write(b"\n")
            opened.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def stage(self, name: str) -> dict[int, dict[str, Any]]:
        """The lines of one stage by step, in order of the steps."""
        found = {line["step"]: line for line in self._lines() if line["stage"] == name}
        return dict(sorted(found.items()))

    def started_at(self) -> str | None:
        """When the run's first line was written (UTC), None before that."""
        return next((line["at"] for line in self._lines()), None)

    def elapsed(self, name: str) -> float:
        """Seconds that one stage has spent so far, as its last line says."""
        return next((line["elapsed_s"] for line in reversed([*self._lines()]) if line["stage"] == name), 0.0)

    def spent(self, what: str) -> float:
        """Seconds that the stages have spent so far: `what` is "elapsed_s" or "cpu_s"."""
        last = {line["stage"]: line.get(what, 0.0) for line in self._lines()}
        return sum(last.values())

    def joules(self) -> float:
        """What the run has taken until now, over all its starts; of this one without a meter nothing."""
        return self._earlier_j + (self._meter.joules() if self._meter else 0.0)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._file.exists():
            return
        for line in self._file.read_text("utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short by a kill


def write_whole(file: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")
    os.replace(draft, file)


class StepReport(TrainerCallback):
    """Writes a line per step, fails on a loss that is no number, and stops with a checkpoint when asked."""

    def __init__(self, stage: str, file: ProgressFile, interruption: Interruption) -> None:
        self._stage = stage
        self._file = file
        self._interruption = interruption

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Times and tokens go on from the step that is resumed."""
        self._first_step = state.global_step
        self._earlier = self._file.stage(self._stage).get(state.global_step, {})
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._interruption.training = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._interruption.asked = _anybody(self._interruption.asked, args)
        if self._interruption.asked:
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **_: Any,
    ) -> None:
        if "loss" not in logs:  # the summary at the end
            return
        self._check(logs, state.global_step)
        elapsed = time.monotonic() - self._wall
        done = state.global_step - self._first_step
        line = {
            "stage": self._stage,
            "step": state.global_step,
            "steps": state.max_steps,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "tokens_per_s": round(logs["num_tokens"] / elapsed, 1),
            "seconds_left": round(elapsed / done * (state.max_steps - state.global_step), 1),
            "elapsed_s": round(self._earlier.get("elapsed_s", 0) + elapsed, 3),
            "cpu_s": round(self._earlier.get("cpu_s", 0) + time.process_time() - self._cpu, 3),
            "tokens": self._earlier.get("tokens", 0) + int(logs["num_tokens"]),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._file.add(line | {name: logs[key] for name, key in REWARDS.items() if key in logs})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as whole, then remove the others.

        The trainer's own limit goes by the time of each folder, which a removal that was cut short makes new:
        it may take the last whole one away.
        """
        if args.world_size > 1:
            torch.distributed.barrier()  # each process adds the state of its own random numbers
        if state.is_world_process_zero:
            written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (written / WHOLE).touch()
            for other in set(written.parent.glob("checkpoint-*")) - {written}:
                (other / WHOLE).unlink(missing_ok=True)  # first: what is half removed is not taken for whole
                shutil.rmtree(other)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._interruption.training = False
        if self._interruption.asked:
            raise Cancelled(state.global_step)

    def _check(self, logs: dict[str, Any], step: int) -> None:
        if step == 1 and not math.isfinite(logs["loss"]):
            raise RatchetError(
                f"{self._stage} step 1: the loss is {logs['loss']} before anything was learnt; the base model's "
                "weights are damaged or overflow: fetch it again, or name another base_model"
            )
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs[name]):
                raise RatchetError(
                    f"{self._stage} step {step}: the {name.replace('_', ' ')} is {logs[name]}; training diverged: "
                    f"lower training.{self._stage}.learning_rate (now {logs['learning_rate']:g} at this step)"
                )


def _anybody(asked: bool, args: TrainingArguments) -> bool:
    """Whether a process of those that share each step was asked to stop: they must stop after the same one."""
    if args.world_size == 1:
        return asked
    flag = torch.tensor(int(asked), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint in `folder` that was written to its end."""
    whole = [file.parent for file in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)
