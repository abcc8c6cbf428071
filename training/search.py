"""The search for better settings: what is varied, which settings come next, which are given up early (Optuna).

Optuna keeps its journal beside the trials. Whoever works on a study holds the round lock, so nobody else does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from training.recipe import Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Point = dict[str, Any]  # {dotted name of a setting: value}; "mix" is the number of a data mix

LOOKS = 3  # at the validation side while SFT runs: after each quarter but the last
DRAWN_BLINDLY = 4  # trials before the sampler goes by what the others reached, and before one is given up
MIX = "mix"


class SearchPlan(BaseModel):
    """When rounds search by themselves, and how long: `[training.search]` in an objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_rounds: int = Field(ge=1)  # finished ones between two searches
    trials: int = Field(12, ge=2)
    minutes: float | None = Field(None, gt=0)  # after which no trial begins


def due(every_rounds: int, finished: int, at_last_search: int | None) -> bool:
    """Whether the next round searches first; the numbers are of finished rounds, now and then."""
    return finished - (at_last_search or 0) >= every_rounds


def space(recipe: Recipe, pairs: int, mixes: int) -> "dict[str, BaseDistribution]":
    """What is varied around `recipe`, by dotted name; DPO's settings only where there are `pairs` enough for it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    def near(value: float, below: float, above: float) -> FloatDistribution:
        return FloatDistribution(value / below, value * above, log=True)

    def half_or_double(value: float) -> CategoricalDistribution:
        half = max(1, value // 2) if isinstance(value, int) else value / 2
        return CategoricalDistribution(sorted({half, value, 2 * value}))

    sft, dpo, lora = recipe.sft, recipe.dpo, recipe.lora
    varied: dict[str, BaseDistribution] = {
        "sft.learning_rate": near(sft.learning_rate, 8, 4),
        "sft.batch_size": half_or_double(sft.batch_size),
        "sft.epochs": half_or_double(sft.epochs),
    }
    if not recipe.warm_start:  # which goes on with an adapter that has its rank
        varied |= {"lora.rank": half_or_double(lora.rank), "lora.alpha": half_or_double(lora.alpha)}
    if pairs >= dpo.min_pairs:
        varied |= {
            "dpo.learning_rate": near(dpo.learning_rate, 8, 4),
            "dpo.batch_size": half_or_double(dpo.batch_size),
            "dpo.epochs": half_or_double(dpo.epochs),
            "dpo.beta": near(dpo.beta, 5, 5),
            "dpo.sft_weight": FloatDistribution(0, max(1.0, 2 * dpo.sft_weight)),
        }
    if mixes > 1:
        varied[MIX] = CategoricalDistribution(range(mixes))
    return varied


def mixes(knowledge_share: float, preference_share: float) -> list[dict[str, float]]:
    """The data shares that are tried: the present ones first, then each moved alone."""
    moved = [
        (knowledge_share, preference_share),
        *((min(max(knowledge_share + step, 0), 0.9), preference_share) for step in (-0.2, 0.2)),
        *((knowledge_share, min(preference_share * times, 0.6)) for times in (0.5, 2)),
    ]
    return [
        {"knowledge_share": round(knowledge, 6), "preference_share": round(preference, 6)}
        for knowledge, preference in dict.fromkeys(moved)
    ]


def point_of(recipe: Recipe, names: Sequence[str]) -> Point:
    """What `recipe` says to the settings `names`; the present mix is the first."""
    said = recipe.model_dump()
    return {name: 0 if name == MIX else said[name.split(".")[0]][name.split(".")[1]] for name in names}


def settings_of(point: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings at `point` as `[training]` has them, without the mix."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in point.items():
        if name != MIX:
            part, _, key = name.partition(".")
            found.setdefault(part, {})[key] = value
    return found


def merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as `[training]` has them, with what `over` says in its place."""
    return dict(settings) | {
        key: merged(settings.get(key, {}), value) if isinstance(value, Mapping) else value
        for key, value in over.items()
    }


class Study:
    """The trials of one search by number, on the file `journal`. Greater values are better."""

    def __init__(
        self, journal: Path, varied: "Mapping[str, BaseDistribution]", present: Mapping[str, Any]
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        Path(f"{journal}.lock").unlink(missing_ok=True)  # a killed process left it: nobody else works here
        self._varied, self._present = dict(varied), dict(present)
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            study_name=journal.stem,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=DRAWN_BLINDLY),
            load_if_exists=True,
        )

    def next(self) -> tuple[int, Point]:
        """The trial that was begun and has not ended, else a new one; the present settings come first.

        What is drawn depends on the trials before it alone: the same with a stop in between as without.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        for trial in self._study.get_trials(states=[TrialState.RUNNING]):
            if trial.params.keys() == self._varied.keys():
                return trial.number, trial.params
            self._study.tell(trial.number, state=TrialState.FAIL)  # cut off while it was drawn
        known = self._study.get_trials()
        if not any(t.user_attrs.get("present") and t.state != TrialState.FAIL for t in known):
            self._study.enqueue_trial(self._present, user_attrs={"present": True})
        self._study.sampler = TPESampler(n_startup_trials=DRAWN_BLINDLY, seed=len(known))
        trial = self._study.ask(self._varied)
        return trial.number, trial.params

    def is_present(self, number: int) -> bool:
        """Whether this trial has the present settings."""
        return bool(self._study.get_trials()[number].user_attrs.get("present"))

    def is_hopeless(self, number: int, looks: Mapping[int, float]) -> bool:
        """Whether the trial, which reached `looks` ({number of the look: value}), lies behind the others' median."""
        return not self.is_present(number) and bool(self._report(number, looks).should_prune())

    def end(self, number: int, value: float | None, looks: Mapping[int, float], pruned: bool = False) -> None:
        """Note what a trial reached; None where it failed or was given up."""
        from optuna.trial import TrialState

        self._report(number, looks)
        if value is not None:
            self._study.tell(number, value)
        else:
            self._study.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def _report(self, number: int, looks: Mapping[int, float]) -> Any:
        from optuna.trial import Trial

        known = self._study.get_trials()[number]
        trial = Trial(self._study, known._trial_id)  # a trial that is gone on with has no other door
        for look, value in looks.items():
            if look not in known.intermediate_values:
                trial.report(value, look)
        return trial
