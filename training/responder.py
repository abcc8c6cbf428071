"""One version that answers and judges answers in batches: what an evaluation and the stage chooser ask of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import DynamicCache, PreTrainedModel, RepetitionPenaltyLogitsProcessor

from feedback.errors import RatchetError
from feedback.records import Message
from training.base_model import load_model, load_tokenizer
from training.rendering import control_tokens, plain, render, render_answer

Progress = Callable[[int, int], None]  # done, total

WINDOW = 1024  # tokens of a prompt (its end) and of an answer (its start) that are looked at
ANSWERING = 20_000  # token places that one answering batch may fill, with the answers; large ones are quick
SCORING = 2_000  # token places that one scoring batch may fill; each may need the whole vocabulary's logits
DROP_EVERY = 8  # new tokens between two looks at which rows have stopped


@dataclass(frozen=True)
class Answer:
    """What the version wrote."""

    text: str  # without control tokens
    tokens: int  # written, the stop token included
    stopped: bool  # by itself; otherwise the limit cut it


def penalise(scores: torch.Tensor, said: Sequence[int], penalty: float) -> None:
    """Make the tokens that were `said` less likely in `scores` (vocabulary)."""
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    scores[:] = processor(torch.tensor([said], device=scores.device), scores[None])[0]


class Responder:
    """The base model in `folder`, with `adapter` merged into it where one is given.

    Answers are greedy, after `repetition_penalty` (Keskar et al. 2019, arXiv 1909.05858; 1: none), as the chat's are
    at temperature 0. One thread may use it at a time.
    """

    def __init__(self, folder: Path, adapter: Path | None = None, repetition_penalty: float = 1.0) -> None:
        self.repetition_penalty = repetition_penalty
        self.tokenizer = load_tokenizer(folder)
        model = load_model(folder)
        self.model = model if adapter is None else load_adapter(model, adapter).merge_and_unload()
        stops = self.model.generation_config.eos_token_id
        self._stops = set(stops if isinstance(stops, list) else [stops]) | {self.tokenizer.eos_token_id}

    def answers(
        self, prompts: Sequence[Sequence[Message]], max_new_tokens: int, progress: Progress
    ) -> list[Answer]:
        """One greedy answer for each prompt (messages with the system prompt first), in their order."""
        ids = [render(self.tokenizer, prompt)[-WINDOW:] for prompt in prompts]
        found: dict[int, Answer] = {}
        for batch in _batches([len(row) for row in ids], ANSWERING, reserve=max_new_tokens):
            before, size = len(found), len(batch)

            def share_done(share: float, before: int = before, size: int = size) -> None:
                progress(before + int(share * size), len(ids))

            written = self._greedy([ids[i] for i in batch], max_new_tokens, share_done)
            found |= {i: self._answer(tokens) for i, tokens in zip(batch, written, strict=True)}
            progress(len(found), len(ids))
        return [found[i] for i in range(len(ids))]

    def log_likelihoods(
        self, pairs: Sequence[tuple[Sequence[Message], str]], progress: Progress
    ) -> list[float]:
        """For each (prompt, answer): mean log-probability of the answer's tokens and the stop token, in nats."""
        rows = [(render(self.tokenizer, p), render_answer(self.tokenizer, p, answer)) for p, answer in pairs]
        return self._score(rows, progress)

    def text_log_likelihoods(self, texts: Sequence[str], progress: Progress) -> list[float]:
        """For each bare text that is not empty: mean log-probability of its tokens, in nats."""
        specials = control_tokens(self.tokenizer)
        bos = self.tokenizer.bos_token_id
        start = [self.tokenizer.eos_token_id if bos is None else bos]
        plains = [plain(text, specials) for text in texts]
        return self._score(
            [(start, self.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in plains], progress
        )

    def _answer(self, tokens: list[int]) -> Answer:
        stopped = tokens[-1] in self._stops
        text = self.tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=True)
        return Answer(text, len(tokens), stopped)

    @torch.inference_mode()
    def _greedy(
        self, prompts: list[list[int]], max_new_tokens: int, progress: Callable[[float], None]
    ) -> list[list[int]]:
        """The most likely tokens after each prompt, up to a stop token; rows that stopped leave the batch."""
        width = max(map(len, prompts))
        pad, device = self.tokenizer.pad_token_id, self.model.device
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        written: list[list[int]] = [[] for _ in prompts]
        live = list(range(len(prompts)))
        for step in range(1, max_new_tokens + 1):
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            scores = output.logits[:, -1]
            if self.repetition_penalty != 1:
                for row, at in zip(scores, live, strict=True):
                    penalise(row, prompts[at] + written[at], self.repetition_penalty)
            best = scores.argmax(-1)
            for row, token in zip(live, best.tolist(), strict=True):
                if not self._has_stopped(written[row]):
                    written[row].append(token)
            ids, positions = best[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=-1)
            going = [at for at, row in enumerate(live) if not self._has_stopped(written[row])]
            if not going:
                break
            if step % DROP_EVERY:
                continue
            progress(step / max_new_tokens)
            if len(going) < len(live):
                kept = torch.tensor(going, device=device)
                cache.batch_select_indices(kept)
                ids, positions, mask = ids[kept], positions[kept], mask[kept]
                live = [live[at] for at in going]
        return written

    def _has_stopped(self, tokens: list[int]) -> bool:
        return bool(tokens) and tokens[-1] in self._stops

    @torch.inference_mode()
    def _score(self, rows: Sequence[tuple[list[int], list[int]]], progress: Progress) -> list[float]:
        """Mean log-probability of each row's second part after its first, in nats per token."""
        rows = [(before[-WINDOW:], after[:WINDOW]) for before, after in rows]
        found: dict[int, float] = {}
        for batch in _batches([len(before) + len(after) for before, after in rows], SCORING):
            scores = self._score_batch([rows[i] for i in batch])
            found |= dict(zip(batch, scores, strict=True))
            progress(len(found), len(rows))
        return [found[i] for i in range(len(rows))]

    def _score_batch(self, rows: list[tuple[list[int], list[int]]]) -> list[float]:
        width = max(len(before) + len(after) for before, after in rows)
        pad, device = self.tokenizer.pad_token_id, self.model.device
        tail = [[0] * (width - len(before) - len(after)) for before, after in rows]
        ids = torch.tensor(
            [b + a + [pad] * len(t) for (b, a), t in zip(rows, tail, strict=True)], device=device
        )
        attended = torch.tensor(
            [[1] * len(b + a) + t for (b, a), t in zip(rows, tail, strict=True)], device=device
        )
        asked = torch.tensor(
            [[0] * len(b) + [1] * len(a) + t for (b, a), t in zip(rows, tail, strict=True)], device=device
        )
        # The vocabulary's logits are most of the work: leave out the places before the first answer.
        kept = width - min(len(before) for before, _ in rows) + 1
        logits = self.model(
            input_ids=ids, attention_mask=attended, use_cache=False, logits_to_keep=kept
        ).logits[:, :-1]
        targets, asked = ids[:, -logits.shape[1] :], asked[:, -logits.shape[1] :].bool()
        logits = logits[asked].float()
        chosen = logits.gather(-1, targets[asked][:, None])[:, 0] - logits.logsumexp(-1)
        sums = torch.zeros(asked.shape, device=device).masked_scatter(asked, chosen).double().sum(-1)
        return (sums / asked.sum(-1)).tolist()


def load_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """`model` with the LoRA adapter in `adapter`, frozen; RatchetError when its files are damaged or foreign."""
    try:
        return PeftModel.from_pretrained(model, adapter, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RatchetError(
            f"the adapter in {adapter} does not load ({first}); roll back or train again"
        ) from error


def _batches(lengths: Sequence[int], places: int, reserve: int = 0) -> Iterator[list[int]]:
    """Indices in batches of similar lengths, longest first, that fill at most `places` with padding."""
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while by_length:
        rows = max(1, places // (lengths[by_length[0]] + reserve))
        yield by_length[:rows]
        by_length = by_length[rows:]
