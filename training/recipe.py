"""The settings of a training run: what `[training]` in an objective says, and what run.json repeats."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FLIP_RATE = 0.1  # that of Chowdhury et al. 2024, for want of a measurement


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(_Frozen):
    """The adapter (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    base_bits: Literal[4] | None = None  # QLoRA: the base is held in 4 bits while it is trained, on a GPU


class Sft(_Frozen):
    """Supervised fine-tuning, loss on the completion only."""

    learning_rate: float = Field(5e-4, gt=0)
    batch_size: int = Field(8, ge=1)
    epochs: float = Field(1.0, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)  # of all steps
    patience: int | None = Field(None, ge=1)  # see training/patience.py; None: SFT runs to its end


class Dpo(_Frozen):
    """Preference tuning on the same adapter, with an SFT term on the chosen answers beside the loss.

    sigmoid: DPO (Rafailov et al. 2023, arXiv 2305.18290); robust: the same, unbiased where a share of the pairs stands
    the wrong way round (Chowdhury et al. 2024, arXiv 2403.00409); ipo: a margin of 1 / (2 beta) nats a token is aimed
    at, and no more (Azar et al. 2023, arXiv 2310.12036); apo_zero: the chosen answer becomes likelier, the rejected one
    less likely, each by itself (D'Oosterlinck et al. 2024, arXiv 2408.06266).
    """

    loss: Literal["sigmoid", "robust", "ipo", "apo_zero"] = "sigmoid"

    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(4, ge=1)
    epochs: float = Field(1.0, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)  # of all steps
    beta: float = Field(0.1, gt=0)
    flip_rate: float | None = Field(None, ge=0, lt=0.5)  # of robust; None: see `with_flip_rate`
    sft_weight: float = Field(0.3, ge=0)
    min_pairs: int = Field(8, ge=2)  # fewer pairs on the training side: the stage is left out


class Kto(_Frozen):
    """Tuning on answers that are liked or disliked each by itself: APO-zero without pairs (arXiv 2408.06266), which
    asks nothing of a batch, or KTO (arXiv 2402.01306), which compares the answers of one.
    """

    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(8, ge=2)
    epochs: float = Field(1.0, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)  # of all steps
    beta: float = Field(0.1, gt=0)
    loss: Literal["apo_zero_unpaired", "kto"] = "apo_zero_unpaired"
    min_rows: int = Field(16, ge=2)  # fewer on the training side, or none liked or disliked: it is left out


class Recipe(_Frozen):
    """One training run; lengths are in tokens."""

    seed: int = 1
    max_length: int = Field(512, ge=8)
    checkpoint_every: int = Field(20, ge=1)  # steps
    warm_start: bool = False  # go on with the champion's adapter instead of a fresh one
    lora: Lora = Lora()
    sft: Sft = Sft()
    dpo: Dpo = Dpo()
    kto: Kto = Kto()


def with_flip_rate(recipe: Recipe, measured: float | None, judged_twice: int) -> tuple[Recipe, str | None]:
    """`recipe` with the flip rate that a robust loss goes by, and where it is from; nothing for the other losses.

    `measured` is how often one person errs, by what `judged_twice` things show that two people judged; None where
    those are too few.
    """
    if recipe.dpo.loss != "robust":
        return recipe, None
    if recipe.dpo.flip_rate is not None:
        return recipe, "the settings"
    dpo = recipe.dpo.model_copy(update={"flip_rate": FLIP_RATE if measured is None else measured})
    source = (
        f"the default: {judged_twice} things were judged by two people, too few to measure it"
        if measured is None
        else f"measured: {judged_twice} things were judged by two people or more"
    )
    return recipe.model_copy(update={"dpo": dpo}), source
