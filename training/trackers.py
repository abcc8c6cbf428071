"""Experiment trackers that watch a training beside progress.jsonl, by transformers' own integrations.

RATCHET_REPORT_TO names them, parted by commas. It is the machine's setting, as RATCHET_LAUNCHER is: who watches changes
nothing that is learnt, so neither the recipe nor run.json, a search or a repetition knows of it.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from training.interruption import Obstacle

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

VARIABLE = "RATCHET_REPORT_TO"
TRACKERS = ("mlflow", "tensorboard", "trackio")  # each is the extra that installs it, too
PROJECT = "ratchet"


def trackers(said: str) -> tuple[str, ...]:
    """Those that `said` names, each once; Obstacle where one is unknown or not installed."""
    named = tuple(dict.fromkeys(filter(None, map(str.strip, said.split(",")))))
    for name in named:
        if name not in TRACKERS:
            raise Obstacle(f"{VARIABLE} names {name!r}; it takes {', '.join(TRACKERS)}, parted by commas")
        if find_spec(name) is None:
            install = f".venv/bin/python -m pip install -e '.[{name}]'"
            raise Obstacle(f"{VARIABLE} names {name}, which is not installed; run `{install}`, or unset it")
    return named


def own_places(home: Path) -> dict[str, str]:
    """The environment that keeps MLflow and Trackio in `home`; what a person sets goes before it."""
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKIO_DIR": str(home / "trackio"),
    }


def attach(trainer: "Trainer", run_dir: Path, stage: str) -> None:
    """Let the trackers that RATCHET_REPORT_TO names watch `trainer`.

    A stage that goes on after a stop goes on in the same log. Only the first process of a launched group writes.
    """
    trainer.args.run_name, trainer.args.project = f"{run_dir.name}-{stage}", PROJECT
    for name in trackers(os.environ.get(VARIABLE, "")):
        trainer.add_callback(WATCHES[name](trainer, run_dir, stage))


def _mlflow(trainer: "Trainer", run_dir: Path, stage: str) -> "TrainerCallback":
    import mlflow
    from transformers.integrations import MLflowCallback

    if trainer.is_world_process_zero():
        try:
            os.environ["MLFLOW_RUN_ID"] = _mlflow_run(trainer.args.run_name, run_dir / f"mlflow-{stage}.txt")
        except mlflow.MlflowException as error:
            raise Obstacle(
                f"MLflow takes no run, training.log says why; mend MLFLOW_TRACKING_URI, or take it out of {VARIABLE}"
            ) from error
    return MLflowCallback()


def _mlflow_run(name: str, kept: Path) -> str:
    """The id of the run that an earlier start made, as `kept` says, or of a new one."""
    import mlflow

    experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    client = mlflow.MlflowClient()
    if kept.exists():
        return client.get_run(kept.read_text("utf-8")).info.run_id
    made = client.create_run(experiment.experiment_id, run_name=name).info.run_id
    kept.write_text(made, "utf-8")
    return made


def _tensorboard(trainer: "Trainer", run_dir: Path, stage: str) -> "TrainerCallback":
    from transformers.integrations import TensorBoardCallback

    watch = TensorBoardCallback()
    watch.logging_dir = str(run_dir / "tensorboard" / stage)
    return watch


def _trackio(trainer: "Trainer", run_dir: Path, stage: str) -> "TrainerCallback":
    from transformers.integrations import TrackioCallback

    return TrackioCallback()


WATCHES: dict[str, Callable[["Trainer", Path, str], "TrainerCallback"]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
