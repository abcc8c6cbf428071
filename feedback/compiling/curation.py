"""The limits of one domain: what is kept, how it is split, and what a dataset may cost."""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Curation(BaseModel):
    """The limits of one domain: what is kept, how it is split, and what a dataset may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    validation_share: float = Field(0.05, ge=0, lt=1)
    held_out_share: float = Field(0.12, ge=0, lt=1)
    near_duplicate: float = Field(0.8, gt=0, le=0.95)  # Jaccard similarity of word triples
    semantic_duplicate: float = Field(0.9, gt=0, le=1)  # cosine from which two questions mean the same
    relevance: float | None = Field(
        None, ge=-1, le=1
    )  # at least, of a question; see feedback/likeness/clusters.py
    min_words: int = Field(4, ge=1)  # of an answer
    max_words: int = Field(260, ge=1)
    boilerplate: tuple[str, ...] = ()  # patterns of answers that say nothing
    leftovers: tuple[str, ...] = ()  # patterns of what is cut out of an answer: its web page spoke there
    language: str = Field("en", pattern="^([a-z]{2})?$")  # ISO 639-1, of questions and answers; "" is any
    max_repetition: float = Field(0.3, gt=0, le=1)  # of an answer's words, in runs of five that came before
    max_rows_per_person: int = Field(40, ge=1)  # from an end user's likes and choices
    max_rows_per_cluster: int = Field(12, ge=1)  # from end users' likes and choices together
    min_confidence: float = Field(0.6, ge=0, lt=1)  # of a label that several people settle
    suspicion_limit: float = Field(0.99, gt=0, lt=1)  # one honest crowd in a hundred has anybody above it
    help_lines: tuple[str, ...] = ()  # telephone numbers that are nobody's own: they stay in every text
    token_budget: int = Field(72_000, ge=1)  # all that is trained on
    max_share_per_person: float = Field(0.1, gt=0, le=1)  # of what is trained on, on end users' word alone
    max_share_per_cluster: float = Field(0.1, gt=0, le=1)  # the same
    stale_half_life: float = Field(4, gt=0)  # versions after which a rejected answer weighs half
    knowledge_share: float = Field(0.6, ge=0, le=1)  # at least, of what is trained on
    preference_share: float = Field(0.15, ge=0, le=1)  # at most, of the budget
    replay_share: float = Field(0.5, ge=0, lt=1)  # of each kind in a warm start: what the champion knows
    unpaired_share: float = Field(0, ge=0, le=1)  # at most, of the budget; at 0 nothing is trained on thumbs

    @field_validator("boilerplate", "leftovers")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns
