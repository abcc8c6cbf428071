"""What the operator may do to the circle, and the schedule too: start, cancel, promote, roll back, pause.

Everything is recorded in the store with who and why before it takes effect. A round is a process of its own
that outlives this one, and reaches the store as any command does.
"""

import os
import signal
import subprocess
import sys
import threading
from datetime import datetime
from typing import Any

from app.operations import Operations
from app.run_folder import Holder, RunFolder, is_held
from app.settings import Settings
from feedback.errors import RatchetError, Refused
from feedback.text import acceptable

LONGEST_REASON = 500  # characters


class Levers:
    """The levers of one installation; `operations` works on its open store."""

    def __init__(self, settings: Settings, operations: Operations):
        self.settings, self.operations = settings, operations
        self._child: subprocess.Popen | None = None
        self._starting = threading.Lock()

    # rounds

    def start(self, who: str, why: str) -> None:
        """Begin a round in a process of its own, or go on with the one that stopped."""
        why = _reason(why)
        with self._starting:
            if self.busy():
                raise Refused("a round is running already; wait for its end, or cancel it first")
            self.operations.note("round_asked", who, why)
            self._child = self._spawn(who)
        threading.Thread(target=self._child.wait, name="round-reaper", daemon=True).start()

    def cancel(self, who: str, why: str) -> None:
        """Stop the round that runs, whoever started it; it leaves a checkpoint and can go on from there."""
        why = _reason(why)
        pid = self._pid()
        if pid is None:
            raise Refused("no round is running; there is nothing to cancel")
        self.operations.note(
            "round_cancelled", who, why
        )  # before it ends: else the schedule takes it up again
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            raise Refused("the round has ended just now; load the page again") from None
        except PermissionError:
            raise RatchetError(f"the round runs as another user (process {pid}); stop it there") from None

    def busy(self) -> bool:
        """Whether a round runs or is about to."""
        return self._is_starting() or is_held(self.settings.home)

    def _is_starting(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def _pid(self) -> int | None:
        """The process of the round: of the one that holds the lock, else of one that is about to."""
        if is_held(self.settings.home):
            holder = Holder.latest(self.settings.home)
            return holder.pid if holder else None
        return self._child.pid if self._is_starting() else None

    def _spawn(self, who: str) -> subprocess.Popen:
        places = ["--home", str(self.settings.home), "--objective", str(self.settings.objective)]
        command = [sys.executable, "-m", "app.cli", *places, "round", "--json", f"--who={who}"]
        stopped = RunFolder.unfinished(self.settings.home / "runs")
        attempts = stopped.attempts() if stopped else []
        if attempts and not attempts[-1]["promotes"]:
            command.append("--no-promote")  # it goes on as it was asked for
        with (self.settings.home / "round.log").open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=os.environ | {"RATCHET_CACHE": str(self.settings.cache)},
                start_new_session=True,  # so that it outlives the server
            )

    # the pointer

    def promote(self, version: str, who: str, why: str) -> dict[str, Any]:
        """Let `version` serve."""
        return self.operations.promote(version, who, _reason(why))

    def rollback(self, who: str, why: str) -> dict[str, Any]:
        """Let the version serve that served before."""
        return self.operations.rollback(who, _reason(why))

    # the schedule

    def pause(self, who: str, why: str) -> None:
        """Let no round start by itself."""
        if self.paused():
            raise Refused("the schedule is paused already")
        self.operations.note("schedule_paused", who, _reason(why))

    def resume(self, who: str, why: str) -> None:
        """Let rounds start by themselves again."""
        if not self.paused():
            raise Refused("the schedule is not paused")
        self.operations.note("schedule_resumed", who, _reason(why))

    def paused(self) -> bool:
        """Whether somebody has paused the schedule."""
        return self._last("schedule_paused") > self._last("schedule_resumed")

    def cancelled_since(self, began: datetime) -> bool:
        """Whether somebody has cancelled the round that began at `began`."""
        cancelled = self.operations.store.log("round_cancelled")
        return bool(cancelled) and cancelled[-1].at > began

    def _last(self, kind: str) -> str:
        """The id of the last event of this kind; "" comes before all."""
        return max((event.id for event in self.operations.store.log(kind)), default="")


def _reason(why: str) -> str:
    """`why`, if it can stand in the log."""
    if not isinstance(why, str) or not why.strip():
        raise Refused("say why, in a few words: it stands in the log beside your name")
    if len(why) > LONGEST_REASON:
        raise Refused(f"say why in at most {LONGEST_REASON} characters")
    return acceptable(" ".join(why.split()), "reason")
