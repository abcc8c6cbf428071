"""Dataset rows as token ids, cut to the length that is trained on, with what was cut or left out."""

import json
import math
import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from training.rendering import render, render_answer

NO_LOSS = -100  # the label of a token that is read but not learned
POOL = 16  # batches whose rows are sorted by length together
Row = dict[str, Any]


def read_rows(dataset: Path, kind: str, side: str) -> list[Row]:
    """The rows of one kind ("sft", "preference", "unpaired") on one side; none where the file is absent."""
    file = dataset / kind / f"{side}.parquet"
    return pyarrow.parquet.read_table(file).to_pylist() if file.exists() else []


def teaches_thumbs(dataset: Path) -> bool:
    """Whether the unpaired rows were given a share of what is trained on (`curation.unpaired_share`)."""
    manifest = dataset / "manifest.json"
    if not manifest.exists():
        return False
    settings = json.loads(manifest.read_bytes()).get("settings", {})
    return settings.get("curation", {}).get("unpaired_share", 0) > 0


def sft_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """input_ids, labels (completion only), length and weight of the rows that fit, and {"dropped", "truncated"} counts.

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
                    "length": min(max_length, len(prompt) + len(answer)),
                    "weight": _weight(row),
                }
            )
    return Dataset.from_list(kept), cut


def pair_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """prompt_ids, chosen_ids, rejected_ids, length (of the longer side) and weight; counts as for `sft_rows`."""
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
                {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
                | {"length": longest, "weight": _weight(row)}
            )
    return Dataset.from_list(kept), cut


def thumb_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """prompt_ids, completion_ids, label (whether it was liked), length and weight; counts as for `sft_rows`."""
    kept, cut = [], {"dropped": 0, "truncated": 0}
    for row in rows:
        prompt = render(tokenizer, row["prompt"])
        answer = render_answer(tokenizer, row["prompt"], row["completion"][0]["content"])
        if _fits(len(prompt), [len(answer)], max_length, cut):
            kept.append(
                {"prompt_ids": prompt, "completion_ids": answer, "label": row["label"]}
                | {"length": min(max_length, len(prompt) + len(answer)), "weight": _weight(row)}
            )
    return Dataset.from_list(kept), cut


def pair_lengths(pairs: Dataset) -> dict[str, float]:
    """How long both answers of `pair_rows` are, in tokens, and the share of pairs whose chosen one is the longer."""
    chosen, rejected = ([len(ids) for ids in pairs[side]] for side in ("chosen_ids", "rejected_ids"))
    longer = [good > bad for good, bad in zip(chosen, rejected, strict=True)]
    means = {
        "chosen_tokens": fmean(chosen),
        "rejected_tokens": fmean(rejected),
        "chosen_longer": fmean(longer),
    }
    return {name: round(value, 4) for name, value in means.items()}


def training_order(
    lengths: Sequence[int], batch: int, epochs: float, seed: int, weights: Sequence[float] | None = None
) -> list[int]:
    """Row numbers in the order they are trained on, `batch` after `batch`, with like lengths together.

    An epoch shows a row as often as its weight says, on average (None: all weigh 1). Weights count by sampling and
    not in a loss: so they do the same to every loss, whatever a trainer averages over, and a row that counts little
    costs little. All epochs are laid out ahead, so that a resumed training, or one of several processes, meets the
    same rows without any random state: the trainer's own grouping by length draws anew on resume.
    """
    chance = random.Random(seed)
    total = math.ceil(len(lengths) * epochs)
    stream: list[int] = []
    while len(stream) < total:
        stream += chance.sample(range(len(lengths)), len(lengths))
    del stream[total:]
    if weights is not None:
        stream = _shown(stream, weights, random.Random(f"weights {seed}")) or stream[:1]
    pools = [stream[at : at + POOL * batch] for at in range(0, len(stream), POOL * batch)]
    grouped = [row for pool in pools for row in sorted(pool, key=lambda row: -lengths[row])]
    batches = [grouped[at : at + batch] for at in range(0, len(grouped), batch)]
    whole = [rows for rows in batches if len(rows) == batch]
    chance.shuffle(whole)
    return [row for rows in (*whole, *batches[len(whole) :]) for row in rows]


def filled(order: Sequence[int], batch: int) -> list[int]:
    """`order` with its last batch made whole by its own rows, again from the first of them."""
    last = order[len(order) // batch * batch :]
    return [*order, *islice(cycle(last), -len(order) % batch)]


def _shown(stream: Sequence[int], weights: Sequence[float], chance: random.Random) -> list[int]:
    """`stream` with each row as often as its weight says: systematic sampling (Madow and Madow 1944).

    One start is drawn; then a row is shown whenever the sum of the weights passes a whole number. The number of
    rows is within one of that sum, and a row of weight 1 is shown whenever it comes.
    """
    shown: list[int] = []
    owed = chance.getrandbits(20) / 2**20  # few bits: adding ones to it is exact
    for row in stream:
        owed += weights[row]
        shown += [row] * int(owed)
        owed %= 1
    return shown


def _weight(row: Row) -> float:
    """How much a row counts; its confidence, and its age where it has one (see feedback/records.py)."""
    return row.get("weight", 1.0)


def _fits(prompt: int, answers: Sequence[int], max_length: int, cut: dict[str, int]) -> bool:
    if prompt >= max_length:
        cut["dropped"] += 1
        return False
    cut["truncated"] += prompt + max(answers) > max_length
    return True
