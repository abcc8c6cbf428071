"""What searches for settings left behind: which runs, which was cut off, what each found."""

import json
from pathlib import Path
from typing import Any

from app.run_folder import SEARCH, Holder, RunFolder, is_held

WEIGHTS = ("sft", "dpo", "kto", "adapter", ".adapter.part")  # of a trial, which keeps none when it has ended


def searches(home: Path) -> list[dict[str, Any]]:
    """What every search found that came to its end, the oldest first."""
    files = sorted((home / "tuning").glob("t*/search.json"))
    return [json.loads(file.read_text("utf-8")) for file in files]


def unfinished(home: Path) -> RunFolder | None:
    """The last search, if it was cut off and what it trains on and from is still there."""
    plans = sorted((home / "tuning").glob("t*/plan.json"))
    last = RunFolder(plans[-1].parent) if plans else None
    if last is None or last.has("search.json"):
        return None
    plan = last.read("plan.json")
    needed = [mix["dataset"] for mix in plan["mixes"]]
    needed += [plan["start"]["adapter"]] if plan.get("start") else []
    return last if all(Path(folder).is_dir() for folder in needed) else None


def trials(search: RunFolder) -> list[dict[str, Any]]:
    """The trials of a search that have ended, in their order."""
    folders = sorted(search.path.glob(f"{search.name}-*"), key=lambda folder: (len(folder.name), folder))
    return [trial.read("trial.json") for trial in map(RunFolder, folders) if trial.has("trial.json")]


def running(home: Path) -> dict[str, Any] | None:
    """The search that holds the lock now, by itself or before a round, with the last thing its trial reported."""
    search = unfinished(home) if is_held(home) else None
    if search is None:
        return None
    by_itself = Holder.latest(home) == Holder.read(home, SEARCH)
    if not by_itself and RunFolder.unfinished(home / "runs"):
        return None  # a round, which goes on before anything is searched
    going_on = [
        folder for folder in search.path.glob(f"{search.name}-*") if not (folder / "trial.json").exists()
    ]
    last = RunFolder(going_on[0]).progress() if going_on else None
    return {"round": None, "search": search.name, "trials_ended": len(trials(search)), "stage": "search"} | (
        last or {}
    )


def setting_words(trial: dict[str, Any]) -> str:
    """What a trial was trained with, in a line."""
    said = {}
    for part, of in trial["settings"].items():
        said |= {f"{part}.{key}": value for key, value in of.items()} if isinstance(of, dict) else {part: of}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in (said | trial["curation"]).items()
    )
