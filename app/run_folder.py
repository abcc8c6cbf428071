"""The folder of one round: what each stage left there, and what is still missing."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from feedback.errors import RatchetError


@dataclass(frozen=True)
class RunFolder:
    """runs/<id>: plan.json, then run.json, evaluation.json and decision.json as the stages finish."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def new(cls, runs: Path) -> "RunFolder":
        """A fresh folder with the next number."""
        runs.mkdir(parents=True, exist_ok=True)
        numbers = [int(f.name[1:]) for f in runs.iterdir() if re.fullmatch(r"r\d+", f.name)]
        folder = runs / f"r{max(numbers, default=0) + 1:04d}"
        folder.mkdir()
        return cls(folder)

    @classmethod
    def unfinished(cls, runs: Path) -> "RunFolder | None":
        """The last round, if it began and can go on where it stopped."""
        folders = sorted(runs.glob("r*/plan.json")) if runs.exists() else []
        last = cls(folders[-1].parent) if folders else None
        if last is None or last.has("decision.json") or not last.can_go_on():
            return None
        return last

    def can_go_on(self) -> bool:
        """Whether another attempt could end otherwise than the last one."""
        return not self.has("failure.json") or bool(self.read("failure.json").get("resumable"))

    def has(self, name: str) -> bool:
        """Whether a stage has left this file."""
        return (self.path / name).exists()

    def read(self, name: str) -> Any:
        """The JSON document `name`."""
        return json.loads((self.path / name).read_text("utf-8"))

    def write(self, name: str, document: Any) -> None:
        """Write the JSON document `name`, whole or not at all."""
        draft = self.path / f".{name}.new"
        draft.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        os.replace(draft, self.path / name)

    def progress(self) -> dict[str, Any] | None:
        """The last line of progress.jsonl."""
        try:
            lines = (self.path / "progress.jsonl").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return None
        for line in reversed(lines):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a killed job may be cut short
        return None

    @staticmethod
    def running(home: Path) -> dict[str, Any] | None:
        """The round that holds the lock now, with the last thing it reported."""
        try:
            with FileLock(home / "round.lock", timeout=0):
                return None
        except Timeout:
            pass
        plans = sorted((home / "runs").glob("r*/plan.json"))
        if not plans:
            return {"round": None, "stage": "freeze"}
        folder = RunFolder(plans[-1].parent)
        return {"round": folder.name, "stage": "freeze"} | (folder.progress() or {})


@contextmanager
def only_round(home: Path) -> Iterator[None]:
    """Hold the round lock; RatchetError when another round runs."""
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "round.lock", timeout=0):
            yield
    except Timeout:
        raise RatchetError("another round is running; `ratchet status` shows how far it is") from None
