"""RATCHET_REPORT_TO: a training can be watched by an experiment tracker, and learns the same."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_launchers import TWO, cut_short, launched
from test_training import QUICK, ROOT, finished, new_run

from app.jobs import run_job
from app.run_folder import RunFolder
from app.settings import Settings
from training.interruption import Obstacle
from training.progress import ProgressFile
from training.trackers import TRACKERS, VARIABLE, trackers

pytestmark = pytest.mark.usefixtures("one_thread")

SAYS = """
import json, os, sys
from pathlib import Path
names = ("RATCHET_REPORT_TO", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_DIR")
Path(sys.argv[1], "told.json").write_text(json.dumps({name: os.environ.get(name) for name in names}))
"""


def logged(run: Path, stage: str, figure: str) -> list[tuple[int, float]]:
    """(step, value) of a figure, as TensorBoard reads them."""
    events = EventAccumulator(str(run / "tensorboard" / stage))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(f"train/{figure}")]


def reported(run: Path, stage: str, figure: str) -> list[tuple[int, float]]:
    """The same, as progress.jsonl has them; TensorBoard keeps 32 bits."""
    lines = ProgressFile(run / "progress.jsonl").stage(stage)
    return [(step, pytest.approx(line[figure], rel=1e-6)) for step, line in lines.items()]


def test_watched_training_learns_the_same(tmp_path, model, monkeypatch):
    """Both stages are logged as progress.jsonl has them; the adapter is that of a training that nobody watched, to
    the byte, and that one left no log.
    """
    alone, watched = (
        new_run(tmp_path / name, model, preference=(8, 0), max_steps=4) for name in ("alone", "watched")
    )
    expected = finished(alone)
    monkeypatch.setenv(VARIABLE, "tensorboard")
    assert finished(watched)["adapter_sha256"] == expected["adapter_sha256"]
    for stage in ("sft", "dpo"):
        for figure in ("loss", "grad_norm", "learning_rate"):
            assert logged(watched, stage, figure) == reported(watched, stage, figure)
    assert not (alone / "tensorboard").exists()


def test_training_of_two_processes_is_logged_once_and_goes_on_in_the_same_log(tmp_path, model, monkeypatch):
    """The first process alone writes; after the round was killed the next start adds what is missing."""
    run = new_run(tmp_path, model, recipe=QUICK | {"sft": {"epochs": 22}})  # 44 steps
    monkeypatch.setenv(VARIABLE, "tensorboard")
    cut_short(run, TWO, after_step=5)
    before = logged(run, "sft", "loss")
    assert 5 < len(before) < 44 and before == reported(run, "sft", "loss")
    assert len(list((run / "tensorboard" / "sft").iterdir())) == 1
    finished(run)
    found = logged(run, "sft", "loss")
    assert found[: len(before)] == before and found == reported(run, "sft", "loss")
    assert [step for step, _ in found] == list(range(1, 45))


def test_names_are_read_once_each():
    """Parted by commas, spaces or not; nothing is asked for by default."""
    assert trackers("") == () and trackers(" , ") == ()
    assert trackers("tensorboard, tensorboard") == ("tensorboard",)


def test_unknown_tracker_is_refused():
    """The line says which there are."""
    with pytest.raises(Obstacle, match=r"'wandb'; it takes mlflow, tensorboard, trackio"):
        trackers("tensorboard,wandb")


@pytest.mark.parametrize("name", [name for name in TRACKERS if find_spec(name) is None])
def test_tracker_that_is_not_installed_is_refused_before_training(tmp_path, model, monkeypatch, name):
    """The line names the extra, and the round can go on once that is installed."""
    run = new_run(tmp_path, model)
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(
        Obstacle, match=rf"{name}, which is not installed; run `.*pip install -e '\.\[{name}\]'`"
    ):
        launched(run, "")
    assert [file.name for file in run.iterdir()] == ["plan.json"]
    assert RunFolder(run).can_go_on()


@pytest.mark.parametrize("watched", [True, False])
def test_trackers_keep_to_the_home_unless_told_otherwise(tmp_path, monkeypatch, watched):
    """MLflow and Trackio write there; a server that the environment names is taken. A repetition is not watched."""
    (tmp_path / "says.py").write_text(SAYS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv(VARIABLE, "tensorboard")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    run = RunFolder(tmp_path)

    def told() -> dict[str, str]:
        settings = Settings(home=tmp_path / "home", objective=tmp_path, cache=tmp_path)
        run_job("says", settings, run, "log", print, watched=watched)
        return json.loads((tmp_path / "told.json").read_text())

    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/home/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "ratchet"}
    own |= {"TRACKIO_DIR": str(tmp_path / "home" / "trackio")}
    assert told() == own | {VARIABLE: "tensorboard" if watched else ""}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert told()["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
