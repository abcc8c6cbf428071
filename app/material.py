"""What a round or a search begins with: the rows and settings to train with, and the version that is gone on with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from app.domain import recipe_of
from app.found_settings import FoundSettings, read_found
from app.settings import Settings
from eval.objective import Objective
from feedback.compiling.budget import Selection, select
from feedback.compiling.compiler import Compilation, Events
from feedback.compiling.curation import Curation
from feedback.compiling.dataset import freeze, trained_rows
from feedback.errors import RatchetError
from feedback.likeness.leaks import Evaluated, check_leaks, first_leak
from feedback.records import Example
from training.recipe import Recipe, with_flip_rate
from training.registry import BASE, LEARNS, adapter_of, lineages, stages_of

FROM_THE_BASE = "begin from the base model (training.warm_start = false)"


@dataclass(frozen=True)
class Material:
    """What can be trained on now, and with which settings."""

    datasets: Path  # the folder of the frozen ones
    events: Events
    compilation: Compilation
    evaluated: Sequence[Evaluated]  # what no row may teach
    objective: Objective  # with what a search found before
    found: FoundSettings | None
    base: Path  # the base model's folder
    count_tokens: Callable[[str], int]
    start: Mapping[str, Any] | None  # the version that is gone on with; see training.plan
    learnt: Sequence[Example]  # the rows that it has learnt

    @classmethod
    def of(
        cls,
        settings: Settings,
        objective: Objective,
        events: Events,
        compilation: Compilation,
        evaluated: Sequence[Evaluated],
        champion: str,
    ) -> "Material":
        """What `events`, which were compiled, give to train on beside `champion`.

        RatchetError where a warm start cannot go on with that.
        """
        from training.base_model import base_model_folder  # imports torch, which only a round needs

        found = read_found(settings.home, objective)
        objective = found.over(objective) if found else objective
        base = base_model_folder(objective.base_model, settings.cache)
        recipe, start, learnt = recipe_of(objective), None, []
        if recipe.warm_start and champion != BASE:
            lineage = lineages(settings.home)[champion]
            start = _start(settings.home, lineage[0], objective.base_model, recipe, base)
            learnt = _learnt(settings.home, lineage)
        return cls(
            settings.home / "datasets",
            events,
            compilation,
            evaluated,
            objective,
            found,
            base,
            cache(_token_counter(base)),
            start,
            learnt,
        )

    @property
    def curation(self) -> Curation:
        """The limits that the objective sets to a dataset."""
        return self.objective.curation

    @property
    def recipe(self) -> Recipe:
        """The settings of a training."""
        return recipe_of(self.objective)

    def plan(self) -> dict[str, Any]:
        """What a plan says of all this."""
        differing = self.compilation.disagreement
        recipe, flip_rate_from = with_flip_rate(self.recipe, differing.flip_rate, differing.judged_twice)
        return {
            "base_model": str(self.base),
            "base_model_name": self.objective.base_model,
            "start": self.start,
            "recipe": recipe.model_dump(mode="json"),
            "flip_rate_from": flip_rate_from,
            "settings": self.found.document() if self.found else None,
        }

    def select(self, curation: Curation) -> Selection:
        """The rows that these limits choose; an item that is asked at the gate is not among them."""
        window = self.recipe.max_length
        learnt = frozenset(row.id for row in self.learnt)
        selection = select(self.compilation.rows, curation, self.count_tokens, window, learnt)
        check_leaks(selection.rows, self.evaluated)
        return selection

    def check_start(self, asked: Iterable[str]) -> None:
        """RatchetError where the version that is gone on with has learnt one of the items that a round asks, by id."""
        ids = set(asked)
        if self.learnt and (leak := first_leak(self.learnt, (i for i in self.evaluated if i[0] in ids))):
            raise RatchetError(
                f"{self.start['version']} has learnt what is asked at the gate by now: {leak}; {FROM_THE_BASE}"
            )

    def freeze(self, selection: Selection, curation: Curation) -> dict[str, Any]:
        """Write the dataset of `selection`, which `curation` chose, and holds no personal data; its manifest."""
        frozen_settings = {
            "system_prompt": self.objective.system_prompt,
            "curation": curation.model_dump(mode="json"),
            "base_model": self.objective.base_model,
            "max_length": self.recipe.max_length,
        }
        funnel = self.compilation.document()
        return freeze(self.datasets, selection, funnel, frozen_settings, datetime.now(UTC))

    def place(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Where a plan finds the dataset."""
        return {"dataset": str(self.datasets / manifest["hash"]), "dataset_hash": manifest["hash"]}


def _start(home: Path, made: Mapping[str, Any], base_name: str, recipe: Recipe, base: Path) -> dict[str, Any]:
    """The champion, which its run.json says was `made` so, as a plan says with what a warm start goes on.

    RatchetError where its adapter does not fit.
    """
    from training.base_model import base_model_sha256

    champion, lora = made["version"], made["recipe"]["lora"]
    if (lora["rank"], lora["alpha"]) != (recipe.lora.rank, recipe.lora.alpha):
        raise RatchetError(
            f"training.lora is not of rank {lora['rank']} and alpha {lora['alpha']} as {champion}, whose adapter a "
            f"warm start goes on with; set it back, or {FROM_THE_BASE}"
        )
    if made["base_model_sha256"] != base_model_sha256(base):
        raise RatchetError(
            f"{base_name} is not the base model that {champion} was trained on; put it back, or {FROM_THE_BASE}"
        )
    adapter = str(adapter_of(home, champion))
    return {"version": champion, "adapter": adapter, "adapter_sha256": made["adapter_sha256"]}


def _learnt(home: Path, lineage: Sequence[Mapping[str, Any]]) -> list[Example]:
    """The rows that the champion was trained on, and every version that it goes back to."""
    return [
        row
        for run in lineage
        for row in trained_rows(
            home / "datasets" / run["dataset_hash"], [LEARNS[stage] for stage in stages_of(run)]
        )
    ]


def _token_counter(base: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
