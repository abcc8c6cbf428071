"""Dataset rows as token ids, cut to the length that is trained on, with what was cut or left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from training.rendering import render, render_answer

NO_LOSS = -100  # the label of a token that is read but not learned
Row = dict[str, Any]


def read_rows(dataset: Path, kind: str, side: str) -> list[Row]:
    """The rows of one kind ("sft", "preference") on one side; none where the file is absent."""
    file = dataset / kind / f"{side}.parquet"
    return pyarrow.parquet.read_table(file).to_pylist() if file.exists() else []


def sft_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """input_ids and labels (completion only) of the rows that fit; {"dropped", "truncated"} counts the others.

    A prompt that leaves no place for its completion is dropped; a longer completion loses its end.
    """
    kept, cut = [], {"dropped": 0, "truncated": 0}
    for row in rows:
        prompt = render(tokenizer, row["prompt"])
        answer = render_answer(tokenizer, row["prompt"], row["completion"][0]["content"])
        if _fits(len(prompt), [len(answer)], max_length, cut):
            kept.append(
                {
                    "input_ids": (prompt + answer)[:max_length],
                    "labels": ([NO_LOSS] * len(prompt) + answer)[:max_length],
                }
            )
    return Dataset.from_list(kept), cut


def pair_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """prompt_ids, chosen_ids, rejected_ids and length, the longest last; counts as for `sft_rows`."""
    kept, cut = [], {"dropped": 0, "truncated": 0}
    for row in rows:
        prompt = render(tokenizer, row["prompt"])
        chosen, rejected = (
            render_answer(tokenizer, row["prompt"], row[side][0]["content"])
            for side in ("chosen", "rejected")
        )
        if _fits(len(prompt), [len(chosen), len(rejected)], max_length, cut):
            longest = min(max_length, len(prompt) + max(len(chosen), len(rejected)))
            kept.append(
                {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "length": longest}
            )
    return Dataset.from_list(sorted(kept, key=lambda row: row["length"])), cut


def _fits(prompt: int, answers: Sequence[int], max_length: int, cut: dict[str, int]) -> bool:
    if prompt >= max_length:
        cut["dropped"] += 1
        return False
    cut["truncated"] += prompt + max(answers) > max_length
    return True
