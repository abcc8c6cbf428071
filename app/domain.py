"""The objective with everything in it checked, also what only training reads."""

from pydantic import ValidationError

from app.settings import Settings
from eval.objective import Objective, in_words, load_objective
from feedback.errors import UsageError
from training.recipe import Recipe
from training.search import SearchPlan


def load_domain(settings: Settings) -> Objective:
    """The objective of `settings`; UsageError names the file and the key when it is not valid."""
    objective = load_objective(settings.objective)
    for read, place in ((recipe_of, ("training",)), (search_of, ("training", "search"))):
        try:
            read(objective)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in (*place, *first["loc"]))
            raise UsageError(f"{settings.objective / 'objective.toml'}: {key}: {in_words(first)}") from None
    return objective


def recipe_of(objective: Objective) -> Recipe:
    """The settings of a run, as `[training]` says."""
    return Recipe.model_validate({key: said for key, said in objective.training.items() if key != "search"})


def search_of(objective: Objective) -> SearchPlan | None:
    """When rounds search for better ones, as `[training.search]` says; None where it says nothing."""
    said = objective.training.get("search")
    return None if said is None else SearchPlan.model_validate(said)
