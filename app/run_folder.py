"""The folder of one round: what each stage left there, what is still missing, and who works on it."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from feedback.errors import RatchetError

PATIENCE_S = 1  # whoever looks whether a round runs holds the lock for a moment
ROUND, SEARCH = "round.json", "tune.json"  # who works on a round, and on a search
FIGURES = {  # of a training step, as progress.jsonl has them, and how they are said
    "loss": "loss {:.3f}",
    "learning_rate": "learning rate {:.1e}",
    "grad_norm": "gradient norm {:.3g}",
    "tokens_per_s": "{:.0f} tokens/s",
}


@dataclass(frozen=True)
class RunFolder:
    """runs/<id>: plan.json, then run.json, evaluation.json and decision.json as the stages finish."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def new(cls, runs: Path, letter: str = "r") -> "RunFolder":
        """A fresh folder with the next number."""
        runs.mkdir(parents=True, exist_ok=True)
        numbers = [int(f.name[1:]) for f in runs.iterdir() if re.fullmatch(rf"{letter}\d+", f.name)]
        folder = runs / f"{letter}{max(numbers, default=0) + 1:04d}"
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

    @staticmethod
    def evaluation_of(runs: Path, version: str) -> dict[str, Any] | None:
        """How `version` did when it was last examined in a round."""
        for file in sorted(runs.glob("r*/evaluation.json"), reverse=True):
            for evaluation in json.loads(file.read_text("utf-8")).values():
                if evaluation["version"] == version:
                    return evaluation
        return None

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
        write_document(self.path / name, document)

    def write_page(self, name: str, page: str) -> None:
        """Write the HTML document `name`, whole or not at all."""
        _write_text(self.path / name, page)

    def attempts(self) -> list[dict[str, Any]]:
        """Who began this round, and who went on with it: {"who", "at", "promotes"} each."""
        return self.read("attempts.json") if self.has("attempts.json") else []

    def attempt(self, who: str, promotes: bool) -> None:
        """Note that `who` works on this round from now on."""
        now = datetime.now(UTC).isoformat()
        self.write("attempts.json", [*self.attempts(), {"who": who, "at": now, "promotes": promotes}])

    def progress(self) -> dict[str, Any] | None:
        """The last line of progress.jsonl."""
        lines = self.progress_lines()
        return lines[-1] if lines else None

    def progress_lines(self) -> list[dict[str, Any]]:
        """The whole lines of progress.jsonl, which somebody may be writing to."""
        file, found = self.path / "progress.jsonl", []
        for line in file.read_text("utf-8").splitlines() if file.exists() else ():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # cut short by a kill, or not yet whole
        return found

    @staticmethod
    def running(home: Path) -> dict[str, Any] | None:
        """The round that holds the lock now, with the last thing it reported."""
        if not is_held(home):
            return None
        folder = RunFolder.unfinished(home / "runs")
        if folder is None:
            return {"round": None, "stage": "freeze"}
        return {"round": folder.name, "stage": "freeze"} | (folder.progress() or {})


@dataclass(frozen=True)
class Holder:
    """Who holds the round lock, or held it last: round.json in the home, or tune.json for a search by itself."""

    who: str
    started_at: datetime  # UTC
    pid: int | None  # None once it has ended by itself

    @classmethod
    def read(cls, home: Path, name: str = ROUND) -> "Holder | None":
        """The last one, None when there was none yet."""
        try:
            document = json.loads((home / name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        return cls(**document | {"started_at": datetime.fromisoformat(document["started_at"])})

    @classmethod
    def latest(cls, home: Path) -> "Holder | None":
        """Whoever took the lock last, for a round or for a search."""
        both = [holder for name in (ROUND, SEARCH) if (holder := cls.read(home, name))]
        return max(both, key=lambda holder: holder.started_at, default=None)

    def write(self, home: Path, name: str = ROUND) -> None:
        """Take the place of the last one; for whoever holds the lock."""
        document = asdict(self) | {"started_at": self.started_at.isoformat()}
        write_document(home / name, document)


@contextmanager
def only_round(home: Path, who: str, name: str = ROUND) -> Iterator[None]:
    """Hold the round lock for `who`, who works on a round or (SEARCH) on a search; RatchetError when it is held."""
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home, "another round is running, or a search; `ratchet status` shows how far it is"):
        holder = Holder(who, datetime.now(UTC), os.getpid())
        holder.write(home, name)
        try:
            yield
        finally:
            replace(holder, pid=None).write(home, name)


@contextmanager
def no_round(home: Path) -> Iterator[None]:
    """Let no round run meanwhile; RatchetError when one does."""
    refusal = (
        "a round is running, and it may have read what shall be erased; cancel it on the rounds page (or with "
        "Ctrl-C where it runs), or wait for its end, then erase again"
    )
    with _locked(home, refusal):
        yield


@contextmanager
def between_rounds(home: Path) -> Iterator[None]:
    """Let neither a round nor an erasure run meanwhile; RatchetError when one does."""
    with _locked(
        home, "a round is running; `ratchet status` shows how far it is; try again when it has ended"
    ):
        yield


@contextmanager
def _locked(home: Path, refusal: str) -> Iterator[None]:
    try:
        lock = FileLock(home / "round.lock", timeout=PATIENCE_S).acquire()
    except Timeout:
        raise RatchetError(refusal) from None
    with lock:
        yield


def is_held(home: Path) -> bool:
    """Whether a round runs."""
    if not home.exists():
        return False
    try:
        with FileLock(home / "round.lock", timeout=0):
            return False
    except Timeout:
        return True


def figures_in_words(line: Mapping[str, Any]) -> list[str]:
    """What a line of progress.jsonl says of a training step; nothing where it tells of other work."""
    return [words.format(line[name]) for name, words in FIGURES.items() if name in line]


def write_document(file: Path, document: Any) -> None:
    """Write a JSON document, whole or not at all."""
    _write_text(file, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _write_text(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(text, "utf-8")
    os.replace(draft, file)
