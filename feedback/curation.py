"""The limits of one domain: what is kept, how it is split, and what a dataset may cost."""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Curation(BaseModel):
    """The limits of one domain: what is kept, how it is split, and what a dataset may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    validation_share: float = Field(0.05, ge=0, lt=1)
    held_out_share: float = Field(0.12, ge=0, lt=1)
    near_duplicate: float = Field(0.8, gt=0, le=0.95)  # Jaccard similarity of word triples
    min_words: int = Field(4, ge=1)  # of an answer
    max_words: int = Field(260, ge=1)
    boilerplate: tuple[str, ...] = ()  # patterns of answers that say nothing
    max_rows_per_person: int = Field(40, ge=1)  # from an end user's likes and choices
    max_rows_per_cluster: int = Field(12, ge=1)  # from end users' likes and choices together
    token_budget: int = Field(72_000, ge=1)  # supervised and preference rows together
    max_share_per_person: float = Field(0.1, gt=0, le=1)  # of the budget
    knowledge_share: float = Field(0.6, ge=0, le=1)  # at least, of what is trained on
    preference_share: float = Field(0.15, ge=0, le=1)  # at most, of the budget

    @field_validator("boilerplate")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns
