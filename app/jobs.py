"""The child processes in which a round trains and examines: started, watched, stopped, and what they died of."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.run_folder import RunFolder, figures_in_words
from app.settings import Settings
from feedback.errors import RatchetError
from training.interruption import Obstacle
from training.trackers import VARIABLE, own_places, trackers

Log = Callable[[str], None]

ROUND = "ratchet round"
FULL = 1_000_000  # free bytes; where fewer are left a job could not even write why it failed


class Terminated(KeyboardInterrupt):
    """Somebody sent SIGTERM; a plain KeyboardInterrupt is Ctrl-C."""


def run_job(
    module: str,
    settings: Settings,
    run: RunFolder,
    log_name: str,
    log: Log,
    threads: int | None = None,
    goes_on: str = ROUND,
    watched: bool = True,
) -> None:
    """Run `python -m module RUN` to its end, showing its progress; RatchetError with its reason when it fails.

    The job knows only rounds: its reason is told with the command that `goes_on`.
    RATCHET_LAUNCHER may hold a prefix (torchrun --no-python ..., srun ...) that carries the training, and
    RATCHET_REPORT_TO the trackers that watch it where it is `watched`.
    """
    watch = os.environ.get(VARIABLE, "") if watched else ""
    trackers(watch)
    (run.path / "failure.json").unlink(missing_ok=True)
    # What is installed beside Python comes before all else: a launcher is found there, and what it starts.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", module, str(run.path)]
    if module == "training.job" and (launcher := _launcher(path)):
        command = [sys.executable, "-m", "training.background", *launcher, *command]
    environment = own_places(settings.home) | os.environ | {"PATH": path, VARIABLE: watch}
    environment |= {"RATCHET_HOME": str(settings.home), "RATCHET_CACHE": str(settings.cache)}
    environment |= {"RATCHET_OBJECTIVE": str(settings.objective)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with (run.path / log_name).open("ab") as output:
        # In a session of its own the job can be put behind everybody else's; see training.background.
        child = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        with _stopping(child):
            for line in _progress_lines(run, child):
                log(line)
        code = child.wait()
    if code != 0:
        raise RatchetError(_reason(run, module, code, log_name).replace(f"`{ROUND}`", f"`{goes_on}`"))


def _launcher(path: str) -> list[str]:
    """The words of RATCHET_LAUNCHER; Obstacle unless the first is a command on `path`."""
    words = shlex.split(os.environ.get("RATCHET_LAUNCHER", ""))
    if words and shutil.which(words[0], path=path) is None:
        raise Obstacle(f"RATCHET_LAUNCHER begins with {words[0]!r}, which is no command here")
    return words


@contextmanager
def cancellable(command: str, on_ctrl_c: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While inside, SIGTERM ends the work as Ctrl-C does, in one line that says which `command` goes on.

    Whoever sends SIGTERM records why; Ctrl-C is for `on_ctrl_c` to record.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not isinstance(interrupt, Terminated):
            on_ctrl_c()
        raise RatchetError(f"cancelled; `{command}` goes on from the last checkpoint") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    raise Terminated


@contextmanager
def _stopping(child: subprocess.Popen) -> Iterator[None]:
    """Whatever ends the inside ends the child first, which leaves a checkpoint."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def _progress_lines(run: RunFolder, child: subprocess.Popen) -> Iterator[str]:
    """A line for people every few seconds while the child works."""
    shown, spoke = None, 0.0
    while child.poll() is None:
        time.sleep(0.2)
        last = run.progress()
        if last and last != shown and time.monotonic() - spoke > 5:
            shown, spoke = last, time.monotonic()
            yield f"{run.name}: {_in_words(last)}"


def _in_words(progress: dict[str, Any]) -> str:
    done = f"{progress['stage']} {progress.get('step', 0)}/{progress.get('steps', 0)}"
    left = progress.get("seconds_left")
    return ", ".join([done, *figures_in_words(progress), *([] if left is None else [f"{left:.0f} s left"])])


def _reason(run: RunFolder, module: str, code: int, log_name: str) -> str:
    try:
        return f"{run.name}: {run.read('failure.json')['reason']}"
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        pass
    if shutil.disk_usage(run.path).free < FULL:
        return f"{run.name}: the disk is full; free some space and run `ratchet round` again"
    if code < 0:
        return (
            f"{run.name}: {module} was killed by {signal.Signals(-code).name}; `ratchet round` goes on from the "
            f"last checkpoint (the log is {run.path / log_name})"
        )
    return f"{run.name}: {module} ended with status {code}; the log is {run.path / log_name}"
