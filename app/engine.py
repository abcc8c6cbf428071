"""The model at work: one worker thread owns it; questions join those that are being answered.

Adapters may not be switched under a running forward pass (outputs are mixed up silently), so all that touches
the model happens in one thread, in short slices: each version in use has its turn, then loading and unloading
theirs. A version that is unloaded keeps its turns until its last stream has ended.
"""

import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError

from app.decoding import Decoder
from eval.objective import Sampling
from feedback.errors import RatchetError, Refused
from feedback.records import Message
from training.base_model import load_model, load_tokenizer
from training.rendering import render

BASE = "base"  # the version without an adapter
SMOKE_PROMPT = ({"role": "user", "content": "How much water does an adult need in a day?"},)
SLICE = 0.25  # seconds for one version while others wait for their turn
LOOK_EVERY = 2  # seconds between two looks at who else computes

log = logging.getLogger(__name__)


class Stream:
    """One answer on its way: iterate for its pieces of text, close to cancel.

    `finish` is None until the end, then "stop", "length", "cancelled" or "error".
    """

    def __init__(
        self,
        prompt: Sequence[int],
        version: str,
        sampling: Sampling,
        stops: Set[int],
        decode: Callable[[list[int]], str],
    ):
        self.version = version
        self.sampling = sampling
        self.prompt_tokens = len(prompt)
        self.completion_tokens = 0  # without the stop token
        self.tokens = list(prompt)  # and the answer so far
        self.finish: str | None = None
        self._stops = stops
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._text = _Detokeniser(decode)
        self._ending = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get()) is not None:
            yield piece

    def close(self) -> None:
        """Stop at the next token; what was answered so far stays."""
        self.end("cancelled")

    def accept(self, token: int) -> None:
        """Take the next token from the worker."""
        if self.finish is not None:
            return
        self.tokens.append(token)
        if token in self._stops:
            self.end("stop")
            return
        self.completion_tokens += 1
        if piece := self._text.add(token):
            self._pieces.put(piece)
        if self.completion_tokens == self.sampling.max_new_tokens:
            self.end("length")

    def end(self, finish: str) -> None:
        """Say how it ended; the first word stands."""
        with self._ending:
            if self.finish is None:
                self.finish = finish
                self._pieces.put(None)


@dataclass
class _Served:
    """A version in memory."""

    version: str
    adapter: str  # its name in the model; BASE for none
    decoder: Decoder
    open: bool = True  # False once it was unloaded: no new questions
    has_turn: bool = False  # is in the worker's queue, or in its hands


class Engine:
    """A base model and its adapters, each under the name of its version; safe to use from any thread."""

    def __init__(self, folder: Path, max_batch: int = 8, crowded: Callable[[], bool] = lambda: False):
        """`crowded` says whether others compute on these cores now; one is left to them then."""
        self._tokenizer = load_tokenizer(folder)
        self._model = load_model(folder)
        stops = self._model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        self._stops = set(stops) if isinstance(stops, list) else {stops}
        self._context = self._model.config.get_text_config().max_position_embeddings
        self._max_batch = max_batch
        self._crowded = crowded
        self._threads = torch.get_num_threads()
        self._looked = -math.inf  # when `crowded` was asked last
        self._adapters: PeftModel | None = None
        self._active: str | None = None  # the adapter, or BASE, that the layers apply; None where unknown
        self._names = itertools.count(1)
        self._served = [_Served(BASE, BASE, self._decoder())]
        self._lock = threading.Lock()  # of the list above and of `_closing`
        self._tokenizing = threading.Lock()  # a fast tokenizer does not bear two threads
        self._closing = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def versions(self) -> frozenset[str]:
        """What can be asked now."""
        with self._lock:
            return frozenset(served.version for served in self._served if served.open)

    @property
    def waiting(self) -> int:
        """How many questions still wait for their first word."""
        with self._lock:
            return sum(served.decoder.waiting for served in self._served)

    def stream(self, messages: Sequence[Message], version: str, sampling: Sampling) -> Stream:
        """The answer of `version` to `messages` (system prompt first), as a Stream.

        Where they do not fit the model, the oldest turns are left out; Refused when the question alone does
        not fit, RatchetError when `version` is not loaded.
        """
        with self._tokenizing:
            prompt = self._fitting_prompt(messages, self._context - sampling.max_new_tokens)
        stream = Stream(prompt, version, sampling, self._stops, self._decode)
        with self._lock:
            served = self._find(version)
            if served is None:
                raise RatchetError(f"version {version} is not loaded; ask again for the one that serves now")
            self._give_turn(served)
            served.decoder.ask(stream)
        return stream

    def load(self, version: str, folder: Path) -> None:
        """Make the adapter in `folder` answer as `version`, once it has passed a smoke test.

        RatchetError when it is damaged, does not fit the base or answers with NaN; nothing has changed then.
        """
        with self._lock:
            job = self._submit(self._load, version, folder)
        job.result()

    def unload(self, version: str) -> None:
        """Take no more questions for `version`; it is forgotten when those it was asked are answered."""
        with self._lock:
            served = self._find(version)
            if served is None or version == BASE:
                loaded = ", ".join(sorted(served.version for served in self._served if served.open))
                raise RatchetError(f"version {version} cannot be unloaded; loaded are {loaded}")
            self._give_turn(served)
            served.open = False

    def forget(self) -> None:
        """Keep nothing of what was asked and has been answered; returns when it is gone."""
        with self._lock:
            job = self._submit(self._forget)
        job.result()

    def close(self) -> None:
        """Cancel what runs and waits, and end the worker."""
        with self._lock:
            self._closing = True
        self._worker.shutdown(wait=True, cancel_futures=True)
        for served in self._served:
            for stream in served.decoder.unfinished:
                stream.close()

    # with the lock held

    def _find(self, version: str) -> _Served | None:
        return next((served for served in self._served if served.open and served.version == version), None)

    def _give_turn(self, served: _Served) -> None:
        """Let the worker come by; it does so again by itself while there is something to answer."""
        if not served.has_turn:
            self._submit(self._serve, served)
            served.has_turn = True

    def _submit(self, work: Callable, *arguments: object) -> Future:
        if self._closing:
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

    def _share_cores(self) -> None:
        """Threads that wait for one which another process holds up are slower together than one alone."""
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            torch.set_num_threads(max(1, self._threads - 1) if self._crowded() else self._threads)

    def _serve(self, served: _Served) -> None:
        """A slice of time for one version."""
        self._share_cores()
        try:
            self._activate(served.adapter)
            until = time.monotonic() + SLICE
            while served.decoder.busy and not self._closing:
                served.decoder.step()
                if time.monotonic() > until:
                    break
        except Exception:
            for stream in served.decoder.give_up():
                stream.end("error")
            raise  # to the log
        finally:
            self._pass_on(served)

    def _pass_on(self, served: _Served) -> None:
        """Queue for the next turn, or forget a version that nobody may ask any more."""
        with self._lock:
            served.has_turn = False
            if self._closing:
                return
            if served.decoder.busy:
                self._give_turn(served)
            elif not served.open:
                self._served.remove(served)
                self._detach(served.adapter)

    def _activate(self, adapter: str) -> None:
        """Make the model answer with `adapter`, or without one for BASE."""
        if self._adapters is None or self._active == adapter:
            return
        if adapter == BASE:
            self._adapters.base_model.disable_adapter_layers()
        else:
            self._adapters.base_model.enable_adapter_layers()
            self._adapters.set_adapter(adapter, inference_mode=True)
        self._active = adapter

    def _forget(self) -> None:
        for served in self._served:
            served.decoder.forget()

    def _load(self, version: str, folder: Path) -> None:
        if version in self.versions:
            raise RatchetError(f"version {version} is loaded already; a version's name is used once")
        # The same version may still have streams from before it was unloaded.
        adapter = f"adapter{next(self._names)}"
        try:
            self._attach(adapter, folder)
            self._smoke_test(adapter)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            self._detach(adapter)
            raise RatchetError(
                f"the adapter in {folder} cannot serve: {str(error).splitlines()[0]}; train it again"
            ) from error
        with self._lock:
            self._served.append(_Served(version, adapter, self._decoder()))

    def _attach(self, adapter: str, folder: Path) -> None:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{name} is missing")
        self._active = None
        if self._adapters is None:
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            self._adapters = PeftModel(self._model, config, adapter_name=adapter)
        device = str(self._model.device)
        loaded = self._adapters.load_adapter(str(folder), adapter_name=adapter, torch_device=device)
        if odd := [*loaded.missing_keys, *loaded.unexpected_keys]:
            raise ValueError(f"it does not match the base model at {odd[0]} and {len(odd) - 1} more weights")

    @torch.inference_mode()
    def _smoke_test(self, adapter: str) -> None:
        with self._tokenizing:
            prompt = self._tokens(SMOKE_PROMPT)
        self._activate(adapter)
        logits = self._model(input_ids=torch.tensor([prompt], device=self._model.device)).logits
        if not torch.isfinite(logits).all():
            raise ValueError("it answers with numbers that are not finite")

    def _detach(self, adapter: str) -> None:
        """Forget an adapter, also one attached halfway; the last one leaves the plain base behind."""
        if self._adapters is None or adapter not in self._adapters.peft_config:
            return
        self._active = None
        others = [name for name in self._adapters.peft_config if name != adapter]
        if others:
            self._adapters.set_adapter(others[0], inference_mode=True)  # the active one is not to be deleted
            self._adapters.delete_adapter(adapter)
        else:
            self._adapters.unload()
            self._adapters = None

    def _decoder(self) -> Decoder:
        return Decoder(self._model, self._max_batch)


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
