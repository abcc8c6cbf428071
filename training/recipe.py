"""The settings of a training run: what `[training]` in an objective says, and what run.json repeats."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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


class Dpo(_Frozen):
    """Preference tuning on the same adapter: sigmoid DPO (arXiv 2305.18290) with an SFT term."""

    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(4, ge=1)
    epochs: float = Field(1.0, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)  # of all steps
    beta: float = Field(0.1, gt=0)
    sft_weight: float = Field(0.3, ge=0)
    min_pairs: int = Field(8, ge=2)  # fewer pairs on the training side: the stage is left out


class Recipe(_Frozen):
    """One training run; lengths are in tokens."""

    seed: int = 1
    max_length: int = Field(512, ge=8)
    checkpoint_every: int = Field(20, ge=1)  # steps
    warm_start: bool = False  # go on with the champion's adapter instead of a fresh one
    lora: Lora = Lora()
    sft: Sft = Sft()
    dpo: Dpo = Dpo()
