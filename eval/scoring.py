"""The only module that knows the `evaluate` library: metric scripts in, scores per item out.

A metric is one script. Beside the `evaluate.Metric` it declares, as literals that are read without running it:
KINDS      the kinds of suites that it can be taken on
NEEDS      {argument of its `compute`: what it is given}; eval.exam says what there is
MAY_GUARD  False where it may decide nothing, with the reason beside it (it agrees too little with people, say)
"""

import ast
import atexit
import functools
import importlib.util
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.records import digest

SCRIPTS = Path(__file__).parent / "metrics"


def metric_names() -> tuple[str, ...]:
    """The metrics that exist: one script each."""
    return tuple(sorted(script.stem for script in SCRIPTS.glob("[a-z]*.py")))


@dataclass(frozen=True)
class Declaration:
    """What a script says of itself."""

    kinds: tuple[str, ...]
    needs: Mapping[str, str]
    may_guard: bool = True


@functools.cache
def declaration(name: str) -> Declaration:
    """What the script of the metric `name` declares."""
    said = {
        node.targets[0].id.lower(): ast.literal_eval(node.value)
        for node in _parsed(name).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("KINDS", "NEEDS", "MAY_GUARD")
    }
    return Declaration(**said)


def metrics_of(kind: str) -> tuple[str, ...]:
    """The metrics that can be taken on suites of `kind`."""
    return tuple(name for name in metric_names() if kind in declaration(name).kinds)


@functools.cache
def fingerprint(name: str) -> str:
    """12 hex digits that change whenever the script of `name`, or a module of ours that it imports, does."""
    imported = [node.module for node in _parsed(name).body if isinstance(node, ast.ImportFrom)]
    ours = [importlib.util.find_spec(module).origin for module in imported if module.startswith("feedback.")]
    files = [SCRIPTS / f"{name}.py", *map(Path, ours)]
    return digest([file.read_text("utf-8") for file in files])[:12]


def _parsed(name: str) -> ast.Module:
    return ast.parse((SCRIPTS / f"{name}.py").read_text("utf-8"))


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


def measure(name: str, **inputs: Any) -> tuple[list[float | None], dict[str, float]]:
    """The score of each item by the metric `name`, and its figures over all items (the mean among them).

    An item that the metric says nothing about has the score None. `inputs` are those that the script
    describes. Raises ValueError when there are no items.
    """
    figures = load_metric(name).compute(**inputs)
    scores = [None if score is None else float(score) for score in figures.pop("scores")]
    return scores, {key: float(value) for key, value in figures.items()}
