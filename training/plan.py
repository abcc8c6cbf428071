"""What a training job is told: plan.json, written by the round before the job starts."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from feedback.errors import RatchetError
from training.recipe import Recipe


class Start(BaseModel):
    """The version whose adapter is gone on with."""

    model_config = ConfigDict(frozen=True)

    version: str
    adapter: Path
    adapter_sha256: str


class Plan(BaseModel):
    """One run; the round keeps more in the same file, which training does not look at."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str  # "r0001"
    dataset: Path  # the frozen folder
    dataset_hash: str
    base_model: Path  # a checked folder
    base_model_name: str
    recipe: Recipe
    start: Start | None = None  # None: the base model
    max_steps: int | None = None  # caps each stage
    looks: int = 0  # how often SFT is measured on the validation side on its way
    settings: dict[str, Any] | None = (
        None  # what a search found, where it was used; see app/found_settings.py
    )
    flip_rate_from: str | None = None  # where the recipe's flip rate is from; None where the loss has none
    pairs: dict[str, Any] | None = None  # who wrote what the pairs reject, and how they lean to length
    min_free_bytes: int = 200_000_000  # below it nothing is started: checkpoints and adapters need room


def read_plan(run_dir: Path) -> Plan:
    """The plan in `run_dir`; RatchetError when it is missing or not valid."""
    file = run_dir / "plan.json"
    try:
        return Plan.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise RatchetError(f"{file} does not exist; a training job is started by `ratchet round`") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise RatchetError(f"{file}: {where}: {first['msg']}") from None
