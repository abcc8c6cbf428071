"""Several answers written at once, a token each per step, while others come and go.

A batch is one left-padded cache with a row per answer. Between two steps a row is taken out as soon as its
answer has ended, and a new prompt is read into a cache of its own, some tokens at a time, before it joins: nobody
waits for another's whole answer or whole prompt. Nothing here knows of threads.
"""

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

import torch
from torch.nn.functional import pad
from transformers import (
    DynamicCache,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from eval.objective import Sampling
from training.responder import penalise

READ_AT_ONCE = 64  # tokens of a prompt between two steps of the others; fewer cost the reading its speed
REMEMBERED = 8  # conversations whose beginning need not be read again


class Answer(Protocol):
    """What is written: its tokens so far, and where the next one goes."""

    tokens: list[int]  # prompt and answer
    sampling: Sampling
    finish: str | None  # None until it has ended

    def accept(self, token: int) -> None: ...


class Decoder:
    """All that one version is asked: who waits, whose prompt is being read, who is answered to."""

    def __init__(self, model: PreTrainedModel, max_batch: int):
        self._model = model
        self._max_batch = max_batch
        self._waiting: deque[Answer] = deque()
        self._reading: Answer | None = None
        self._read = DynamicCache()  # of the one that is being read
        self._rows: list[Answer] = []
        self._cache = DynamicCache()  # a row each; the last token of an answer is not in it yet
        self._gaps: list[int] = []  # columns before a row's first token
        self._known: deque[tuple[list[int], DynamicCache]] = deque(maxlen=REMEMBERED)  # the latest last

    def ask(self, answer: Answer) -> None:
        """Take one more; the only method for other threads than the one that calls `step`."""
        self._waiting.append(answer)

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._rows or self._reading or self._waiting)

    @property
    def waiting(self) -> int:
        """How many have not got their first token."""
        return sum(answer.finish is None for answer in (self._reading, *self._waiting) if answer)

    @property
    def unfinished(self) -> list[Answer]:
        """All that were asked and not answered to the end."""
        return [
            answer for answer in (*self._rows, self._reading, *self._waiting) if answer and not answer.finish
        ]

    @torch.inference_mode()
    def step(self) -> None:
        """One token for every answer in work, and one portion of the prompt whose turn it is."""
        self._let_go()
        self._read_on()
        if self._rows:
            self._write_on()

    def give_up(self) -> list[Answer]:
        """Forget all that is in work, after an error in it, and return it; those that wait are left."""
        lost = [answer for answer in (*self._rows, self._reading) if answer]
        self._rows, self._gaps, self._cache, self._reading = [], [], DynamicCache(), None
        return lost

    def forget(self) -> None:
        """Keep nothing of what has ended."""
        self._let_go()
        self._known.clear()

    # writing

    def _write_on(self) -> None:
        width = self._cache.get_seq_length()
        gaps = torch.tensor(self._gaps, device=self._model.device)[:, None]
        logits = self._model(
            input_ids=torch.tensor([[row.tokens[-1]] for row in self._rows], device=gaps.device),
            attention_mask=(torch.arange(width + 1, device=gaps.device) >= gaps).long(),
            position_ids=width - gaps,
            past_key_values=self._cache,
            logits_to_keep=1,
        ).logits
        for row, token in zip(self._rows, choose(logits[:, -1], self._rows), strict=True):
            row.accept(token)

    def _join(self, answer: Answer, read: DynamicCache) -> None:
        """Put `answer` beside the others; the shorter side is padded on the left."""
        have, comes = self._cache.get_seq_length(), read.get_seq_length()
        width = max(have, comes)
        if self._rows:
            for all_rows, one in zip(self._cache.layers, read.layers, strict=True):
                all_rows.keys = _beside(all_rows.keys, one.keys)
                all_rows.values = _beside(all_rows.values, one.values)
        else:
            self._cache = read
        self._gaps = [gap + width - have for gap in self._gaps] + [width - comes]
        self._rows.append(answer)

    def _let_go(self) -> None:
        """Take the rows out that have ended, and the columns that were theirs alone."""
        staying = [i for i, row in enumerate(self._rows) if row.finish is None]
        if len(staying) == len(self._rows):
            return
        for i in set(range(len(self._rows))) - set(staying):
            self._remember(self._rows[i].tokens[:-1], _part(self._cache, [i], self._gaps[i]))
        spare = min((self._gaps[i] for i in staying), default=0)
        self._cache = _part(self._cache, staying, spare) if staying else DynamicCache()
        self._rows = [self._rows[i] for i in staying]
        self._gaps = [self._gaps[i] - spare for i in staying]

    # reading

    def _read_on(self) -> None:
        if self._reading is None or self._reading.finish is not None:
            self._begin_next()
        if (answer := self._reading) is None:
            return
        done = self._read.get_seq_length()
        portion = answer.tokens[done : done + READ_AT_ONCE]
        logits = self._model(
            input_ids=torch.tensor([portion], device=self._model.device),
            past_key_values=self._read,
            logits_to_keep=1,
        ).logits
        if done + len(portion) == len(answer.tokens):
            self._remember(list(answer.tokens), _part(self._read, [0], 0))
            answer.accept(choose(logits[:, -1], [answer])[0])
            self._join(answer, self._read)
            self._reading = None

    def _begin_next(self) -> None:
        """The one that waits longest, where there is a place; what is known of its beginning is not read."""
        self._reading = None
        while self._waiting and self._reading is None and len(self._rows) < self._max_batch:
            answer = self._waiting.popleft()
            self._reading = answer if answer.finish is None else None
        if self._reading:
            self._read = self._recalled(self._reading.tokens)

    def _remember(self, tokens: list[int], cache: DynamicCache) -> None:
        for known in [known for known in self._known if tokens[: len(known[0])] == known[0]]:
            self._known.remove(known)
        self._known.append((tokens, cache))

    def _recalled(self, tokens: Sequence[int]) -> DynamicCache:
        """The longest known beginning of `tokens`, all but its last token at most."""
        shared, cache = max(
            ((_common(tokens[:-1], known), cache) for known, cache in self._known),
            key=lambda known: known[0],
            default=(0, DynamicCache()),
        )
        return _part(cache, [0], 0, shared) if shared else DynamicCache()


def choose(logits: torch.Tensor, answers: Sequence[Answer]) -> list[int]:
    """The next token of each answer from its row of `logits` (answers, vocabulary), by its own sampling."""
    scores = logits.float()
    for row, answer in zip(scores, answers, strict=True):
        penalise(row, answer.tokens, answer.sampling.repetition_penalty)
    tokens = scores.argmax(dim=-1)
    for sampling in {answer.sampling for answer in answers if answer.sampling.temperature > 0}:
        alike = [i for i, answer in enumerate(answers) if answer.sampling == sampling]
        warped = TemperatureLogitsWarper(sampling.temperature)(None, scores[alike])
        if sampling.top_p < 1:
            warped = TopPLogitsWarper(sampling.top_p)(None, warped)
        tokens[alike] = torch.multinomial(warped.softmax(dim=-1), 1)[:, 0]
    return tokens.tolist()


def _part(cache: DynamicCache, rows: Sequence[int], begin: int, end: int | None = None) -> DynamicCache:
    """A copy of `rows` and of the columns from `begin` to `end`."""
    return DynamicCache(
        [(layer.keys[rows, :, begin:end], layer.values[rows, :, begin:end]) for layer in cache.layers]
    )


def _beside(rows: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """Keys or values (rows, heads, tokens, size) with one row more; the shorter get zeros on the left."""
    width = max(rows.shape[2], one.shape[2])
    return torch.cat([pad(part, (0, 0, width - part.shape[2], 0)) for part in (rows, one)])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
