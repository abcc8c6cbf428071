"""The objective with everything in it checked, also what only training reads."""

from pydantic import ValidationError

from app.settings import Settings
from eval.objective import Objective, in_words, load_objective
from feedback.errors import UsageError
from training.recipe import Recipe


def load_domain(settings: Settings) -> Objective:
    """The objective of `settings`; UsageError names the file and the key when it is not valid."""
    objective = load_objective(settings.objective)
    try:
        Recipe.model_validate(objective.training)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("training", *first["loc"]))
        raise UsageError(f"{settings.objective / 'objective.toml'}: {place}: {in_words(first)}") from None
    return objective
