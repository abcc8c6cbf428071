"""SFT with patience: it ends when the validation loss has stopped falling, and keeps the adapter of the best look."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from test_stopping import asks, interruption  # noqa: F401 (a fixture)
from test_training import ROOT, finished, new_run, sft_row
from tiny import TEXTS, tiny_model
from trl import SFTTrainer

from app.reports import Reports
from app.run_folder import RunFolder
from app.web import rounds_view
from eval.objective import Gate
from feedback.errors import RatchetError
from training.candidate import make_candidate
from training.interruption import Cancelled, Interruption
from training.patience import WEIGHTS, best_of, is_enough
from training.progress import ProgressFile, last_checkpoint
from training.recipe import Recipe
from training.registry import adapter_sha256

pytestmark = pytest.mark.usefixtures("one_thread")

# Eight answers of random words again and again: in the end others of such words get less likely.
GREEDY = {"epochs": 8, "batch_size": 4, "learning_rate": 0.015}
RECIPE = {"sft": GREEDY | {"patience": 2}}
STEPS = 16  # a look after each second
WORDS = " ".join(TEXTS).split()


def random_row(number: int) -> dict:
    said = " ".join(random.Random(number).sample(WORDS, 8))
    return sft_row(number) | {"completion": [{"role": "assistant", "content": said}]}


def greedy_run(folder: Path, model: Path, recipe: dict = RECIPE, **plan) -> Path:
    run = new_run(folder, model, recipe=recipe, **plan)
    for side, numbers in (("train", range(8)), ("validation", range(100, 106))):
        table = pyarrow.Table.from_pylist([random_row(number) for number in numbers])
        pyarrow.parquet.write_table(table, folder / "data" / "sft" / f"{side}.parquet")
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), hidden=32)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A finished run that stopped early."""
    run = greedy_run(tmp_path_factory.mktemp("stopped"), model)
    finished(run)
    return run


def made_by(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def losses(run: Path, stage: str) -> dict[int, float]:
    """{step: loss}, no step of which was written twice."""
    lines = map(json.loads, (run / "progress.jsonl").read_text().splitlines())
    found = [(line["step"], line["loss"]) for line in lines if line["stage"] == stage]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize(
    ("looks", "best", "count"),
    [
        ({4: 2.0}, 4, 0),
        ({4: 2.0, 8: 1.5, 12: 1.0}, 12, 0),
        ({4: 2.0, 8: 1.5, 12: 1.6}, 8, 1),
        ({4: 2.0, 8: 2.5, 12: 2.4, 16: 2.3}, 4, 3),
        ({4: 2.0, 8: 2.0}, 4, 1),
        ({4: 2.0, 8: 2.5, 12: 1.9, 16: 2.5}, 12, 1),
    ],
)
def test_patience_counts_from_the_lowest_loss(looks: dict[int, float], best: int, count: int):
    """So many looks in a row were not lower; one that is as low is not lower."""
    assert best_of(looks) == best
    assert [is_enough(looks, patience) for patience in (1, 2, 3, 4)] == [n <= count for n in (1, 2, 3, 4)]
    assert not is_enough({}, 1) and Recipe().sft.patience is None


def test_training_stops_and_the_best_look_is_kept(stopped: Path):
    """Two looks in a row were worse: the adapter before them is kept, and what was trained on is counted."""
    looks, made = losses(stopped, "look"), made_by(stopped)
    assert list(looks) == [2, 4, 6, 8, 10]
    assert looks[2] > looks[4] > looks[6] < looks[8] and looks[6] < looks[10]
    assert list(losses(stopped, "sft")) == list(range(1, 11))
    sft = made["stages"]["sft"]
    told = {"steps": 10, "steps_planned": STEPS, "stopped_early": True, "kept_step": 6, "rows_shown": 40}
    assert told == {name: sft[name] for name in told}
    last = ProgressFile(stopped / "progress.jsonl").stage("sft")[10]
    assert (sft["tokens"], sft["last_loss"]) == (last["tokens"], last["loss"])
    assert sft["validation_log_likelihood"] == pytest.approx(-looks[6], abs=1e-5)
    assert made["chosen_because"].startswith(
        "SFT stopped early after 10 of 16 steps and kept the adapter of step 6, where the validation loss was lowest;"
    )


def test_looks_change_no_step(stopped: Path, tmp_path: Path, model: Path):
    """Without patience the same steps are trained, and then more; the last step's adapter is worse."""
    run = greedy_run(tmp_path, model, {"sft": GREEDY})
    sft, all_steps = finished(run)["stages"]["sft"], losses(run, "sft")
    assert losses(stopped, "sft") == {step: loss for step, loss in all_steps.items() if step <= 10}
    assert len(all_steps) == STEPS == sft["steps"] and losses(run, "look") == {}
    assert not sft.keys() & {"steps_planned", "stopped_early", "kept_step"}
    kept = made_by(stopped)["stages"]["sft"]
    assert sft["validation_log_likelihood"] < kept["validation_log_likelihood"]


def test_an_end_that_is_not_the_best_is_not_kept(tmp_path: Path, model: Path):
    """Where patience lasts to the end, the end is one of the looks."""
    run = greedy_run(tmp_path, model, {"sft": GREEDY | {"patience": 5}})
    made, looks = finished(run), losses(run, "look")
    sft = made["stages"]["sft"]
    assert list(looks) == list(range(2, STEPS + 1, 2))
    assert (sft["steps"], sft["stopped_early"], sft["kept_step"]) == (STEPS, False, 6)
    assert sft["validation_log_likelihood"] == pytest.approx(-looks[6], abs=1e-5)
    assert made["chosen_because"].startswith("SFT took 16 of 16 steps and kept the adapter of step 6, ")


def test_run_json_alone_comes_to_the_same(stopped: Path, tmp_path: Path, model: Path):
    """Same losses, same looks, same end; the looks of a search are those of patience, and change nothing."""
    made = made_by(stopped)
    again = greedy_run(tmp_path, model, made["recipe"], looks=3)
    assert finished(again)["adapter_sha256"] == made["adapter_sha256"]
    for stage in ("sft", "look"):
        assert losses(again, stage) == losses(stopped, stage)


def test_a_warm_start_is_looked_at_too(stopped: Path, tmp_path: Path, model: Path):
    """What goes on from an adapter keeps its own best look."""
    adapter = stopped / "adapter"
    start = {"version": "v0001", "adapter": str(adapter), "adapter_sha256": adapter_sha256(adapter)}
    recipe = {"sft": GREEDY | {"patience": 1}, "warm_start": True}
    run = greedy_run(tmp_path, model, recipe, start=start)
    sft, looks = finished(run)["stages"]["sft"], losses(run, "look")
    assert sft["stopped_early"] and sft["kept_step"] == best_of(looks) < sft["steps"]
    assert sft["validation_log_likelihood"] == pytest.approx(-min(looks.values()), abs=1e-5)


def test_without_validation_rows_it_trains_to_its_end(tmp_path: Path, model: Path):
    """Patience has nothing to go by, and the run says so."""
    made = finished(new_run(tmp_path, model, sft=(8, 0), recipe=RECIPE, max_steps=1))
    assert made["stages"]["sft"]["steps"] == 1 and "kept_step" not in made["stages"]["sft"]
    assert made["chosen_because"].startswith("SFT ran to its end: there are no supervised validation rows")


def test_a_look_that_is_no_number_ends_the_run(tmp_path: Path, model: Path):
    """It is seen before the next step's loss could tell; the line says what to change."""
    recipe = {"sft": GREEDY | {"learning_rate": 1e30, "patience": 1}}
    run = new_run(tmp_path, model, recipe=recipe, max_steps=4)
    with pytest.raises(
        RatchetError, match=r"^sft step 1: the loss on validation rows is nan; .*learning_rate"
    ):
        make_candidate(run, Interruption())


def test_sigterm_while_the_last_look_is_taken(
    stopped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    interruption: Interruption,  # noqa: F811
):
    """The look that ends the training leaves a checkpoint; the next start takes no step more."""
    run = greedy_run(tmp_path, model)
    with monkeypatch.context() as patch:
        asks(patch, SFTTrainer, "evaluate", 5)
        with pytest.raises(Cancelled, match="goes on from step 10"):
            make_candidate(run, interruption)
    assert last_checkpoint(run / "sft" / "checkpoints").name == "checkpoint-10"
    assert finished(run)["adapter_sha256"] == made_by(stopped)["adapter_sha256"]
    for stage in ("sft", "look"):
        assert losses(run, stage) == losses(stopped, stage)


# One warmed process forks a child for every start: first those that are killed, each when it first writes a file of
# this name, and its best adapter stays half written; one that ends by itself; then two that share each step of a run.
DRIVER = """
import os, signal, sys
from pathlib import Path
import torch
from training import candidate, patience, sft
from training.interruption import Interruption

def start(run, name=None, **environment):
    if child := os.fork():
        return child
    def die(event, arguments):
        if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR) and str(arguments[0]).endswith(name):
            for file in run.glob("sft/checkpoints/*/" + patience.WEIGHTS):
                if not (file.parent / "whole").exists():
                    os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    if name:
        sys.addaudithook(die)
    os.environ.update(environment)
    candidate.make_candidate(run, Interruption())
    os._exit(0)

def end(child):
    return os.waitpid(child, 0)[1]

hit, two = map(Path, sys.argv[1:3])
for name in ("checkpoint-8/whole", ".stage.json.new"):
    assert end(start(hit, name)) == signal.SIGKILL, name
assert end(start(hit)) == 0
group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3]}
both = [start(two, RANK=rank, LOCAL_RANK=rank, **group) for rank in "01"]
assert [end(child) for child in both] == [0, 0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="NO FORK HERE: kills and processes are not tried")
def test_killed_or_shared_it_stops_after_the_same_step(stopped: Path, tmp_path: Path, model: Path):
    """Killed with the best adapter half written, and after the last step: the same adapter, byte for byte.

    Two processes that share each step stop together after the same looks, each written once.
    """
    recipe = RECIPE | {"checkpoint_every": 4}
    hit, two = (greedy_run(tmp_path / name, model, recipe) for name in ("hit", "two"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(hit), str(two), port],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    calm, again, shared = map(made_by, (stopped, hit, two))
    assert again["adapter_sha256"] == calm["adapter_sha256"]
    figures = ("steps", "steps_planned", "stopped_early", "kept_step", "rows_shown", "tokens")
    for name in figures:
        assert {run["stages"]["sft"][name] for run in (calm, again, shared)} == {calm["stages"]["sft"][name]}
    for stage in ("sft", "look"):
        assert losses(two, stage) == pytest.approx(losses(stopped, stage), rel=1e-4)
    for run in (hit, two):
        assert not (run / "sft" / "checkpoints").exists() and not list(run.rglob(WEIGHTS))


def test_the_rounds_page_shows_the_looks(stopped: Path, tmp_path: Path):
    """They have a curve, also while SFT runs and the last line is a look; then it says which step was kept."""
    run = RunFolder(tmp_path / "runs" / "r0001")
    shutil.copytree(stopped, run.path)
    run.write("plan.json", run.read("plan.json") | {"counts": {"sft": 8, "tokens": 900}, "champion": "base"})
    gate = Gate(primary="token_f1")
    reports = Reports(tmp_path, gate)
    shown = rounds_view.detail(reports.one("r0001"), gate, False, None)
    told = r"Loss on validation answers; step 6 was kept: 7\.\d+ at step 2, 7\.\d+ at step 10 of 16"
    assert re.search(told, shown)

    (run.path / "run.json").unlink()
    progress = run.path / "progress.jsonl"
    progress.write_text(progress.read_text().split('{"stage": "choose"')[0])
    report = reports.one("r0001")
    assert report.step == "sft" and report.seconds().keys() == {"sft"} and report.seconds_left > 0
    assert "Loss on validation answers" in rounds_view.live(report)
