"""The settings that a search found: settings.json in the home, which later rounds put over the objective's.

Remove the file, and rounds go by the objective again. It may be written by hand, too.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain import recipe_of
from app.run_folder import write_document
from eval.objective import Objective, in_words
from feedback.errors import RatchetError
from training.recipe import Recipe
from training.search import merged

FILE = "settings.json"


class Shares(BaseModel):
    """The data shares of `[curation]`; None leaves one to the objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    knowledge_share: float | None = Field(None, ge=0, le=1)
    preference_share: float | None = Field(None, ge=0, le=1)


class FoundSettings(BaseModel):
    """What is put over the objective, and where it comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: str = Field(alias="from", min_length=1)  # "t0001, trial 5"
    training: dict[str, Any] = {}  # as `[training]` has them
    curation: Shares = Shares()

    def document(self) -> dict[str, Any]:
        """As it stands in settings.json and in a run's plan."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def over(self, objective: Objective) -> Objective:
        """`objective` with these settings."""
        curation = objective.curation.model_copy(update=self.curation.model_dump(exclude_none=True))
        training = merged(objective.training, self.training)
        return objective.model_copy(update={"training": training, "curation": curation})


def read_found(home: Path, objective: Objective) -> FoundSettings | None:
    """What settings.json says, None where there is none; RatchetError where it does not fit `objective`."""
    file = home / FILE
    if not file.exists():
        return None
    try:
        found = FoundSettings.model_validate_json(file.read_bytes())
        recipe_of(found.over(objective))
    except ValidationError as error:
        first = error.errors()[0]
        within = ("training",) if error.title == Recipe.__name__ else ()
        place = ".".join(str(part) for part in (*within, *first["loc"])) or "the whole"
        raise RatchetError(
            f"{file}: {place}: {in_words(first)}; mend the file, or remove it to go by the objective"
        ) from None
    return found


def keep_found(home: Path, found: FoundSettings) -> None:
    """Let later rounds go by `found`, in the place of what was found before."""
    write_document(home / FILE, found.document())
