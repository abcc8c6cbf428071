"""The versions that exist, whether their adapters are whole, and which one the log says serves."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feedback.errors import RatchetError
from feedback.records import Event

BASE = "base"
LEARNS = {"sft": "sft", "dpo": "preference", "kto": "unpaired"}  # {stage: the kind of rows that it reads}


def versions(home: Path) -> dict[str, Path]:
    """Every version that a finished run made: {version: run folder}, oldest first."""
    found = {}
    for file in sorted((home / "runs").glob("*/run.json")):
        found[read_run(file.parent)["version"]] = file.parent
    return found


def read_run(run: Path) -> dict[str, Any]:
    """What run.json says; RatchetError when the run is unfinished."""
    try:
        return json.loads((run / "run.json").read_text("utf-8"))
    except FileNotFoundError:
        raise RatchetError(f"{run.name} has no run.json: its training never finished") from None


def lineages(home: Path) -> dict[str, list[dict[str, Any]]]:
    """For every version what run.json says of it, then of the version that its training went on from, and so on."""
    found: dict[str, list[dict[str, Any]]] = {}
    for version, run in versions(home).items():
        made = read_run(run)
        start = made.get("start") or {"version": BASE}
        found[version] = [made, *found.get(start["version"], [])]
    return found


def stages_of(run: Mapping[str, Any] | None) -> list[str]:
    """The stages that a version went through, as its run.json says; the base went through none."""
    if run is None:
        return []
    stages, chosen = run["stages"], run["chosen"]
    if chosen == "kto":
        start = stages["kto"]["from"]
        return [*(stages_of({**run, "chosen": start}) if start else []), "kto"]
    return ["sft"] if chosen == "sft" else [name for name in ("sft", "dpo") if name in stages]


def adapter_of(home: Path, version: str) -> Path | None:
    """The adapter folder of `version`, checked against the hash in its run.json; None for the base model."""
    if version == BASE:
        return None
    known = versions(home)
    if version not in known:
        names = ", ".join([BASE, *known])
        raise RatchetError(f"there is no version {version!r}; there are: {names}")
    adapter = known[version] / "adapter"
    if adapter_sha256(adapter) != read_run(known[version])["adapter_sha256"]:
        raise RatchetError(
            f"{adapter} is not what the run wrote; restore it from a backup, or promote another version"
        )
    return adapter


def adapter_sha256(adapter: Path) -> str:
    """The sha256 over the adapter's settings and weights; of nothing when they are gone."""
    content = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if (adapter / name).exists():
            content.update((adapter / name).read_bytes())
    return content.hexdigest()


MOVES = ("promote", "rollback", "erase")  # the kinds of events that move the pointer


def pointer_history(log: Sequence[Event]) -> list[str]:
    """The versions that served, as a stack: a promotion goes on top, a rollback takes the top away.

    An erasure takes out what was trained on the erased words, wherever it stands.
    """
    stack = [BASE]
    for event in log:
        if event.kind == "promote":
            stack.append(event.payload["version"])
        elif event.kind == "rollback" and len(stack) > 1:
            stack.pop()
        elif event.kind == "erase":
            stack = [version for version in stack if version not in event.payload["versions"]]
    return stack


def tainted_versions(log: Sequence[Event]) -> set[str]:
    """The versions that were trained on words which were erased since; they never serve again."""
    return {version for event in log if event.kind == "erase" for version in event.payload["versions"]}


def champion_withdrawn(log: Sequence[Event]) -> str | None:
    """The champion that an erasure withdrew, for as long as nothing was promoted in its place."""
    withdrawn = None
    for event in log:
        if event.kind == "promote":
            withdrawn = None
        elif event.kind == "erase":
            withdrawn = event.payload.get("withdrawn", withdrawn)
    return withdrawn


def project(home: Path, event: Event, champion: str) -> None:
    """Write promoted.json, the log's projection for those who only read files; atomic."""
    draft = home / "promoted.json.new"
    document = {
        "version": champion,
        "by": event.kind,
        "who": event.who,
        "event": event.id,
        "at": event.at.isoformat(),
    }
    draft.write_text(json.dumps(document | {"why": event.payload["why"]}, indent=1) + "\n", "utf-8")
    os.replace(draft, home / "promoted.json")
