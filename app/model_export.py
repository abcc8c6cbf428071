"""A version taken elsewhere: a folder that other programs load, with a card that says where it comes from."""

from pathlib import Path
from typing import Any

from app.door import Ask
from app.model_card import Base, Form, Lineage, model_card
from app.run_folder import RunFolder
from app.settings import Settings
from eval.objective import Objective
from feedback.compiling.dataset import open_dataset
from feedback.drafts import drafted
from feedback.errors import RatchetError
from training.base_model import ORIGINS, base_model_folder, base_model_sha256
from training.forms import write_adapter, write_gguf, write_merged
from training.registry import BASE, adapter_of, read_run, versions
from training.weights import named_folder


def export_model(
    settings: Settings, objective: Objective, ask: Ask, version: str | None, form: Form, folder: Path
) -> dict[str, Any]:
    """Write `version` (the champion where it is None) to `folder`, whole or not at all; says what was written."""
    version = version or ask("status")["champion"]
    adapter = adapter_of(settings.home, version)
    if adapter is None and form == "adapter":
        raise RatchetError(
            "the base model has no adapter; use --form merged or --form gguf, or name a version"
        )
    run = None if version == BASE else RunFolder(versions(settings.home)[version])
    name = run.read("run.json")["base_model"] if run else objective.base_model
    base = base_model_folder(name, settings.cache)
    known = _base(name, base)
    lineage = _lineage(settings, ask, version, run, known) if run else Lineage(version, known)
    with drafted(folder) as draft:
        if form == "adapter":
            write_adapter(base, name, adapter, draft)
        elif form == "merged":
            write_merged(base, adapter, draft)
        else:
            write_gguf(base, name, adapter, draft / f"{version}.gguf")
        (draft / "README.md").write_text(model_card(objective, form, lineage), "utf-8")
    return {"kind": "model", "version": version, "form": form, "folder_path": str(folder)}


def _base(name: str, folder: Path) -> Base:
    sha256 = base_model_sha256(folder)
    if origin := ORIGINS.get(name):
        return Base(name, sha256, origin.hub_id, origin.licence, origin.quantization)
    return Base(name, sha256, hub_id=None if named_folder(name) else name)


def _lineage(settings: Settings, ask: Ask, version: str, run: RunFolder, base: Base) -> Lineage:
    """What the run and its round left behind; RatchetError when the base is another one by now."""
    made = read_run(run.path)
    if made["base_model_sha256"] != base.sha256:
        raise RatchetError(
            f"{base.name} is not what {version} was trained on any more; restore it, or export another version"
        )
    dataset = settings.home / "datasets" / made["dataset_hash"]
    return Lineage(
        version,
        base,
        made,
        run.read("decision.json") if run.has("decision.json") else None,
        open_dataset(dataset) if dataset.exists() else None,
        ask("voices", run=run.name)["behind"],
    )
