"""The model at work: one worker thread owns it, and everybody else queues.

Adapters may not be switched under a running `generate` (outputs are mixed up silently), so all that touches
the model happens in one thread: a batch of questions to one version, then the next. Loading and unloading
stand in the same queue, which is why streams in flight finish on their version.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from eval.objective import Sampling
from feedback.errors import RatchetError, Refused
from feedback.records import Message
from training.base_model import load_model, load_tokenizer
from training.rendering import render

BASE = "base"  # the version without an adapter
SMOKE_PROMPT = ({"role": "user", "content": "How much water does an adult need in a day?"},)
SMOKE_TOKENS = 4

log = logging.getLogger(__name__)


class Stream:
    """One answer on its way: iterate for its pieces of text, close to cancel.

    `finish` is None until the end, then "stop", "length", "cancelled" or "error".
    """

    def __init__(
        self, prompt: Sequence[int], version: str, sampling: Sampling, decode: Callable[[list[int]], str]
    ):
        self.version = version
        self.sampling = sampling
        self.prompt = prompt
        self.finish: str | None = None
        self.completion_tokens = 0  # without the stop token
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._text = _Detokeniser(decode)
        self._ending = threading.Lock()

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get()) is not None:
            yield piece

    def close(self) -> None:
        """Stop at the next token; what was answered so far stays."""
        self.end("cancelled")

    def accept(self, token: int) -> None:
        """Take the next token from the worker."""
        self.completion_tokens += 1
        if piece := self._text.add(token):
            self._pieces.put(piece)

    def end(self, finish: str) -> None:
        """Say how it ended; the first word stands."""
        with self._ending:
            if self.finish is None:
                self.finish = finish
                self._pieces.put(None)


class Engine:
    """A base model and its adapters, each under the name of its version; safe to use from any thread."""

    def __init__(self, folder: Path, max_batch: int = 8):
        self._tokenizer = load_tokenizer(folder)
        self._model = load_model(folder)
        stops = self._model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        self._stops = set(stops) if isinstance(stops, list) else {stops}
        # The folder's own sampling settings would mix with the objective's.
        self._model.generation_config = GenerationConfig()
        self._context = self._model.config.max_position_embeddings
        self._max_batch = max_batch
        self._adapters: PeftModel | None = None
        self._versions = {BASE}
        self._waiting: list[Stream] = []
        self._lock = threading.Lock()  # of the two above
        self._tokenizing = threading.Lock()  # a fast tokenizer does not bear two threads
        self._closing = threading.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def versions(self) -> frozenset[str]:
        """What can be asked now."""
        with self._lock:
            return frozenset(self._versions)

    def stream(self, messages: Sequence[Message], version: str, sampling: Sampling) -> Stream:
        """The answer of `version` to `messages` (system prompt first), as a Stream.

        Where they do not fit the model, the oldest turns are left out; Refused when the question alone does
        not fit, RatchetError when `version` is not loaded.
        """
        with self._tokenizing:
            prompt = self._fitting_prompt(messages, self._context - sampling.max_new_tokens)
        stream = Stream(prompt, version, sampling, self._decode)
        with self._lock:
            if version not in self._versions:
                raise RatchetError(f"version {version} is not loaded; ask again for the one that serves now")
            self._waiting.append(stream)
            # One job per question: after as many jobs as questions, each was the oldest once.
            self._submit(self._answer_oldest)
        return stream

    def load(self, version: str, folder: Path) -> None:
        """Make the adapter in `folder` answer as `version`, once it has passed a smoke test.

        RatchetError when it is damaged, does not fit the base or answers with NaN; nothing has changed then.
        """
        self._submit(self._load, version, folder).result()

    def unload(self, version: str) -> None:
        """Take no more questions for `version`; it is forgotten when those in the queue are answered."""
        with self._lock:
            if version == BASE or version not in self._versions:
                loaded = ", ".join(sorted(self._versions))
                raise RatchetError(f"version {version} cannot be unloaded; loaded are {loaded}")
            self._versions.remove(version)
            self._submit(self._drop, version)

    def close(self) -> None:
        """Cancel what runs and waits, and end the worker."""
        self._closing.set()
        self._worker.shutdown(wait=True, cancel_futures=True)
        for stream in self._waiting:
            stream.close()

    def _submit(self, work: Callable, *arguments: object) -> Future:
        if self._closing.is_set():
            raise RatchetError("the engine is closed; start the server again")
        job = self._worker.submit(work, *arguments)
        job.add_done_callback(_log_failure)
        return job

    # reading and writing tokens

    def _fitting_prompt(self, messages: Sequence[Message], room: int) -> list[int]:
        """The tokens of `messages`, without the oldest turns where there are more than `room`."""
        system = [m for m in messages[:1] if m["role"] == "system"]
        turns = list(messages[len(system) :])
        while len(prompt := self._tokens([*system, *turns])) > room:
            if len(turns) == 1:
                raise Refused(f"the question has {len(prompt):,} tokens and at most {room:,} fit; shorten it")
            turns = turns[2:]  # a question and its answer
        return prompt

    def _tokens(self, messages: Sequence[Message]) -> list[int]:
        return render(self._tokenizer, messages)

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    # in the worker thread

    def _answer_oldest(self) -> None:
        """Answer the question that waits longest, together with its like."""
        with self._lock:
            self._waiting = [stream for stream in self._waiting if stream.finish is None]
            if not self._waiting:
                return
            oldest = self._waiting[0]
            alike = [s for s in self._waiting if (s.version, s.sampling) == (oldest.version, oldest.sampling)]
            batch = alike[: self._max_batch]
            self._waiting = [stream for stream in self._waiting if stream not in batch]
        try:
            self._generate(batch)
        finally:
            for stream in batch:
                stream.end("error")  # no effect on those that have ended well

    def _generate(self, batch: Sequence[Stream]) -> None:
        sampling = batch[0].sampling
        choice = {"do_sample": False}
        if sampling.temperature > 0:
            choice = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
            }
        settings = GenerationConfig(
            **choice,
            max_new_tokens=sampling.max_new_tokens,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=sorted(self._stops),
            pad_token_id=self._tokenizer.pad_token_id,
        )
        relay = _Relay(batch, self._stops, self._closing)
        with self._answering_as(batch[0].version):
            self._model.generate(
                **self._padded([stream.prompt for stream in batch]),
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([relay]),
            )

    def _padded(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """`prompts` as left-padded tensors (rows, longest prompt).

        Each row is padded with a token of its own, masked: a pad token would count as said and be penalised
        as a repetition, so that an answer would depend on its neighbours' lengths.
        """
        longest = max(map(len, prompts))
        gaps = [longest - len(prompt) for prompt in prompts]
        rows = [[prompt[0]] * gap + list(prompt) for prompt, gap in zip(prompts, gaps, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        device = self._model.device
        return {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    def _answering_as(self, version: str) -> AbstractContextManager:
        if version != BASE:
            self._adapters.set_adapter(version, inference_mode=True)
            return nullcontext()
        return self._adapters.disable_adapter() if self._adapters else nullcontext()

    def _load(self, version: str, folder: Path) -> None:
        if version in self.versions:
            raise RatchetError(f"version {version} is loaded already; a version's name is used once")
        try:
            self._attach(version, folder)
            self._smoke_test(version)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            self._drop(version)
            raise RatchetError(
                f"the adapter in {folder} cannot serve: {str(error).splitlines()[0]}; train it again"
            ) from error
        with self._lock:
            self._versions.add(version)

    def _attach(self, version: str, folder: Path) -> None:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{name} is missing")
        if self._adapters is None:
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            self._adapters = PeftModel(self._model, config, adapter_name=version)
        device = str(self._model.device)
        loaded = self._adapters.load_adapter(str(folder), adapter_name=version, torch_device=device)
        if odd := [*loaded.missing_keys, *loaded.unexpected_keys]:
            raise ValueError(f"it does not match the base model at {odd[0]} and {len(odd) - 1} more weights")

    @torch.no_grad()
    def _smoke_test(self, version: str) -> None:
        with self._tokenizing:
            prompt = self._tokens(SMOKE_PROMPT)
        with self._answering_as(version):
            answer = self._model.generate(
                **self._padded([prompt]),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=SMOKE_TOKENS,
                    return_dict_in_generate=True,
                    output_logits=True,
                    eos_token_id=sorted(self._stops),
                    pad_token_id=self._tokenizer.pad_token_id,
                ),
            )
        if not all(torch.isfinite(logits).all() for logits in answer.logits):
            raise ValueError("it answers with numbers that are not finite")

    def _drop(self, version: str) -> None:
        """Forget an adapter, also one attached halfway; the last one leaves the plain base behind."""
        if self._adapters is None or version not in self._adapters.peft_config:
            return
        others = [name for name in self._adapters.peft_config if name != version]
        if others:
            self._adapters.set_adapter(others[0], inference_mode=True)  # the active one is not to be deleted
            self._adapters.delete_adapter(version)
        else:
            self._adapters.unload()
            self._adapters = None


class _Relay(StoppingCriteria):
    """Hands each row's tokens to its stream and says which rows are done; it never raises into `generate`."""

    def __init__(self, batch: Sequence[Stream], stops: set[int], closing: threading.Event):
        self._batch = batch
        self._stops = stops
        self._closing = closing

    def __call__(self, input_ids: torch.LongTensor, scores: object, **_: object) -> torch.BoolTensor:
        for stream, token in zip(self._batch, input_ids[:, -1].tolist(), strict=True):
            self._pass_on(stream, token)
        return torch.tensor([stream.finish is not None for stream in self._batch], device=input_ids.device)

    def _pass_on(self, stream: Stream, token: int) -> None:
        if stream.finish is not None:
            return
        if self._closing.is_set():
            stream.close()
        elif token in self._stops:
            stream.end("stop")
        else:
            stream.accept(token)
            if stream.completion_tokens == stream.sampling.max_new_tokens:
                stream.end("length")


class _Detokeniser:
    """Tokens to text as they come; half a character is held back until it is whole."""

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._known: list[int] = []  # the tokens of the last piece: the next are decoded in their company
        self._fresh: list[int] = []
        self._given = 0  # characters of known and fresh together that were handed out

    def add(self, token: int) -> str:
        """The text that became certain with `token`; may be empty."""
        self._fresh.append(token)
        text = self._decode(self._known + self._fresh)
        certain = text.rstrip("\ufffd")
        piece = certain[self._given :]
        self._given += len(piece)
        if piece and certain == text:
            self._known, self._fresh = self._fresh, []
            self._given = len(self._decode(self._known))
        return piece


def _log_failure(job: Future) -> None:
    if not job.cancelled() and (error := job.exception()) and not isinstance(error, RatchetError):
        log.error("a batch of answers failed: %s", error, exc_info=error)
