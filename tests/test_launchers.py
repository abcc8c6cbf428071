"""A launcher spreads one training over several processes: the same training, written once, stopped together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import QUICK, ROOT, finished, new_run
from test_unpaired import with_thumbs

from app.jobs import run_job
from app.run_folder import RunFolder
from app.settings import Settings
from feedback.errors import RatchetError
from training.base_model import load_model, load_tokenizer
from training.device import Device
from training.interruption import Interruption
from training.plan import read_plan
from training.progress import ProgressFile
from training.rows import filled, pair_rows, read_rows
from training.stage import Stage, trainer_settings

pytestmark = pytest.mark.usefixtures("one_thread")

TWO = "torchrun --no-python --nproc_per_node 2"
SHARDED = (
    f"accelerate launch --config_file {ROOT / 'docs' / 'fsdp.yaml'} --main_process_port 0 --no_python "
    "python -m tests.sharded_job"
)
SAME = 1e-5  # relative: sums in another order
LONG = QUICK | {"sft": {"epochs": 22, "learning_rate": 2e-3}}  # 28 steps, the last with half of its rows


def a_run(folder: Path, model: Path) -> Path:
    """Ten supervised rows and ten pairs; neither fills its last step."""
    return new_run(folder, model, sft=(10, 3), preference=(10, 3), recipe=LONG)


def launched(run: Path, launcher: str) -> None:
    """Train as a round does."""
    settings = Settings(home=run.parent, objective=run.parent, cache=run.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_LAUNCHER", launcher)
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        run_job("training.job", settings, RunFolder(run), "training.log", print)


def cut_short(run: Path, launcher: str, after_step: int) -> None:
    """Kill a round in the middle of its training, and wait until its job has left a reason."""
    round_ = (
        "import sys, test_launchers; from pathlib import Path; "
        f"test_launchers.launched(Path({str(run)!r}), {launcher!r})"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]), prepend=os.pathsep)
        child = subprocess.Popen([sys.executable, "-c", round_])
    while child.poll() is None and not _steps(run, "sft")[after_step:]:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    while not (run / "failure.json").exists():
        time.sleep(0.005)


def _steps(run: Path, stage: str) -> list[dict]:
    return list(ProgressFile(run / "progress.jsonl").stage(stage).values())


def assert_same_training(run: Path, alone: Path, stages: Sequence[str] = ("sft", "dpo")) -> None:
    """Step by step the same losses, gradients and rates, the same adapters, the same choice."""
    for stage in stages:
        together, expected = _steps(run, stage), _steps(alone, stage)
        for what in ("step", "loss", "grad_norm", "learning_rate"):
            assert [line[what] for line in together] == pytest.approx(
                [line[what] for line in expected], rel=SAME
            ), (stage, what)
        mine, theirs = (
            load_file(folder / stage / "adapter" / "adapter_model.safetensors") for folder in (run, alone)
        )
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[name], theirs[name], atol=1e-4) for name in mine)
    chosen = [json.loads((folder / "run.json").read_text())["chosen"] for folder in (run, alone)]
    assert chosen[0] == chosen[1]


def test_two_processes_train_what_one_does(tmp_path, model):
    """Same losses and adapters, also across a round that was killed in the middle: nobody trains on for it, both
    processes stop after the same step with a checkpoint, and the next start goes on there.
    """
    alone = a_run(tmp_path / "alone", model)
    finished(alone)
    run = a_run(tmp_path / "two", model)
    cut_short(run, TWO, after_step=5)
    step = _steps(run, "sft")[-1]["step"]
    assert 5 < step < 28
    failure = json.loads((run / "failure.json").read_text())
    assert failure == {"reason": f"cancelled; `ratchet round` goes on from step {step}", "resumable": True}
    launched(run, TWO)
    assert_same_training(run, alone)
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == "sft"] == list(range(1, 29)), "each step once"
    assert not (run / "failure.json").exists() and not (run / "dpo" / "checkpoints").exists()


def test_two_processes_learn_from_thumbs_as_one_does(tmp_path, model):
    """Also by a loss that compares the answers of a whole batch."""
    kto = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 1, "loss": "kto"}
    alone, run = (
        with_thumbs(new_run(tmp_path / name, model, sft=(4, 3), recipe=QUICK | {"kto": kto}), range(18))
        for name in ("alone", "two")
    )
    finished(alone)
    launched(run, TWO)
    assert_same_training(run, alone, ["sft", "kto"])


def test_sharded_model_trains_what_a_whole_one_does(tmp_path, model):
    """The recipe for FSDP: each process holds a part of the model, and the adapter is written whole."""
    alone, run = (
        new_run(tmp_path / name, model, sft=(10, 3), preference=(8, 0), max_steps=3)
        for name in ("alone", "sharded")
    )
    finished(alone)
    launched(run, SHARDED)
    assert_same_training(run, alone)


def test_last_step_is_filled_with_its_own_rows():
    """Every process has as many rows as the others; a step that is full stays as it is."""
    assert filled([5, 3, 1, 4, 2], 4) == [5, 3, 1, 4, 2, 2, 2, 2]
    assert filled([5, 3, 1, 4, 2, 0, 9], 4) == [5, 3, 1, 4, 2, 0, 9, 2]
    assert filled([5, 3, 1, 4], 4) == [5, 3, 1, 4]
    assert filled([], 4) == []


@pytest.mark.parametrize(("processes", "rows"), [(1, 4), (2, 2), (4, 1)])
def test_processes_share_a_step(tmp_path, model, processes, rows):
    """A step has the recipe's batch however many take part; what cannot be shared evenly is refused in one line."""
    plan = read_plan(new_run(tmp_path, model, preference=(8, 0)))
    stage = Stage("dpo", tmp_path / "dpo", ProgressFile(tmp_path / "p"), Interruption())
    dpo = plan.recipe.dpo
    pairs = pair_rows(load_tokenizer(model), read_rows(plan.dataset, "preference", "train"), 512)[0]
    loaded = load_model(model)
    told = trainer_settings(
        stage, plan.recipe, dpo, pairs["length"], loaded, Device("cpu", processes=processes)
    )
    assert told["per_device_train_batch_size"] == rows and told["max_steps"] == 2
    with pytest.raises(RatchetError, match=r"3 processes .* batch of 4 .* training\.dpo\.batch_size"):
        trainer_settings(stage, plan.recipe, dpo, pairs["length"], loaded, Device("cpu", processes=3))


def test_launcher_that_is_no_command_is_said(tmp_path, model):
    """A word that cannot be started is named before anything runs."""
    with pytest.raises(RatchetError, match="begins with 'no-such-launcher', which is no command here"):
        launched(new_run(tmp_path, model), "no-such-launcher --now")
