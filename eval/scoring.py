"""The only module that knows the `evaluate` library: metric scripts in, scores per item out."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from feedback.records import digest

SCRIPTS = Path(__file__).parent / "metrics"


def metric_names() -> tuple[str, ...]:
    """The metrics that exist: one script each."""
    return tuple(sorted(script.stem for script in SCRIPTS.glob("[a-z]*.py")))


@functools.cache
def fingerprint() -> str:
    """12 hex digits that change whenever a metric script does; scores of two of them do not compare."""
    return digest({name: (SCRIPTS / f"{name}.py").read_text("utf-8") for name in metric_names()})[:12]


@functools.cache
def _modules_folder() -> str:
    """A folder of this process alone for the copies that `evaluate` makes of the scripts it loads.

    Its default is one folder for all processes, where a copy that was cut short is never mended and a
    changed one is run without a look.
    """
    folder = tempfile.mkdtemp(prefix="ratchet-metrics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def load_metric(name: str) -> Any:
    """The `evaluate.Metric` in eval/metrics/`name`.py; needs no network."""
    import evaluate  # takes seconds, and only a job that measures something needs it

    evaluate.config.HF_MODULES_CACHE = _modules_folder()  # `load` has no argument for it
    script = SCRIPTS / f"{name}.py"
    return evaluate.load(str(script), cache_dir=_modules_folder(), keep_in_memory=True)


def measure(name: str, **inputs: Any) -> tuple[list[float], dict[str, float]]:
    """The score of each item by the metric `name`, and its figures over all items (the mean among them).

    `inputs` are those that the script describes. Raises ValueError when there are no items.
    """
    figures = load_metric(name).compute(**inputs)
    scores = [float(score) for score in figures.pop("scores")]
    return scores, {key: float(value) for key, value in figures.items()}
