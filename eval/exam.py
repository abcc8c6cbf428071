"""The examination of one version: each thing is asked once, every metric is taken on what came back."""

import itertools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval import scoring
from eval.suites import Suite
from feedback.errors import RatchetError
from feedback.records import Message, digest

Progress = Callable[[str, int, int], None]  # suite, things asked so far, things to ask
Result = dict[str, Any]  # of one suite; see Evaluation


class Answer(Protocol):
    """What a responder says to one prompt."""

    text: str
    tokens: int
    stopped: bool  # ended by itself, before the limit


class Responder(Protocol):
    """A model that is asked; every list comes back in the order of what was asked."""

    repetition_penalty: float  # of its answers; 1: none

    def answers(
        self,
        prompts: Sequence[Sequence[Message]],
        max_new_tokens: int,
        progress: Callable[[int, int], None],
    ) -> Sequence[Answer]:
        """The greedy answer to each prompt."""

    def log_likelihoods(
        self, pairs: Sequence[tuple[Sequence[Message], str]], progress: Callable[[int, int], None]
    ) -> Sequence[float]:
        """Mean nats per token of each answer after its prompt."""

    def text_log_likelihoods(
        self, texts: Sequence[str], progress: Callable[[int, int], None]
    ) -> Sequence[float]:
        """Mean nats per token of each bare text."""


class Encoder(Protocol):
    """A sentence encoder."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """A row of unit length for each text."""


@dataclass(frozen=True)
class Evaluation:
    """How one version did; two of them compare where settings and the hashes of the suites are equal."""

    version: str
    base_model: str  # which base the version stands on
    settings: Mapping[
        str, Any
    ]  # answer_tokens, repetition_penalty, encoder, language, scripts {metric: fingerprint}
    suites: Mapping[str, Result]  # {suite: {"hash", "answers": {item: text}, "clusters": {item: cluster},
    # "scores": {metric: {item: float}}, "figures": {name: float over all items}}}

    def to_json(self) -> dict[str, Any]:
        """As evaluation.json keeps it; every number is finite."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that `to_json` wrote."""
        return cls(**document)

    def compares_with(self, other: "Evaluation") -> bool:
        """Whether both were made at equal settings; a metric that only one of them took does not matter."""
        mine, theirs = dict(self.settings), dict(other.settings)
        scripts, others = mine.pop("scripts", {}), theirs.pop("scripts", {})
        return mine == theirs and all(
            scripts[name] == others[name] for name in scripts.keys() & others.keys()
        )


def examine(
    responder: Responder,
    encoder: Encoder,
    suites: Iterable[Suite],
    answer_tokens: int,
    progress: Progress,
    *,
    version: str,
    base_model: str,
    language: str = "",
    folder: Path | None = None,
) -> Evaluation:
    """Examine `version` on `suites`, with greedy answers of at most `answer_tokens`.

    `language` (ISO 639-1) is the one that answers should be in, "" for any. A finished suite is kept in
    `folder`/`version` and not asked again at equal settings: an interrupted examination goes on, and a champion
    is asked once. RatchetError when a score is not finite.
    """
    settings: dict[str, Any] = {
        "answer_tokens": answer_tokens,
        "repetition_penalty": responder.repetition_penalty,
        "encoder": encoder.name,
        "language": language,
        "scripts": {},
    }
    constants = {"encoder": _Remembering(encoder), "language": language}
    results: dict[str, Result] = {}
    for suite in suites:
        scripts = {metric: scoring.fingerprint(metric) for metric in suite.metrics}
        asked = settings | {"scripts": scripts}
        key = {"version": version, "base_model": base_model, "settings": asked, "suite": suite.hash}
        file = folder / version / f"{suite.name}-{digest(key)[:12]}.json" if folder else None
        result = _kept(file, key) if file else None
        if result is None:
            result = _examine_suite(responder, constants, suite, answer_tokens, progress)
            if file:
                _keep(file, {"key": key, "result": result})
        else:
            progress(suite.name, len(suite.items), len(suite.items))
        results[suite.name] = result
        settings["scripts"] |= scripts
    return Evaluation(version, base_model, settings, results)


class _Remembering:
    """An encoder that reads each text once, however many metrics ask for it."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._rows: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """A row of unit length for each text."""
        if new := list({text: None for text in texts if text not in self._rows}):
            self._rows |= zip(new, self._encoder.encode(new), strict=True)
        return np.stack([self._rows[text] for text in texts])


def _examine_suite(
    responder: Responder, constants: Mapping[str, Any], suite: Suite, answer_tokens: int, progress: Progress
) -> Result:
    ids = [item.id for item in suite.items]
    result: Result = {
        "hash": suite.hash,
        "clusters": {item.id: item.cluster for item in suite.items},
        "answers": {},
        "scores": {metric: {} for metric in suite.metrics},
        "figures": {},
    }
    if not ids:
        return result
    answers, likelihoods = _ask(responder, suite, answer_tokens, progress)
    if answers:
        result["answers"] = {key: answer.text for key, answer in zip(ids, answers, strict=True)}
        result["figures"] |= {
            "answer_tokens": sum(answer.tokens for answer in answers) / len(answers),
            "stopped": sum(answer.stopped for answer in answers) / len(answers),
        }
    given = _given(suite, [answer.text for answer in answers], likelihoods) | constants
    for metric in suite.metrics:
        needs = scoring.declaration(metric).needs
        scores, figures = scoring.measure(
            metric, **{argument: given[what] for argument, what in needs.items()}
        )
        of_items = {key: score for key, score in zip(ids, scores, strict=True) if score is not None}
        _check_finite(suite.name, metric, of_items.items())
        result["scores"][metric] = of_items
        result["figures"] |= figures
    return result


def _ask(
    responder: Responder, suite: Suite, answer_tokens: int, progress: Progress
) -> tuple[Sequence[Answer], Sequence[float]]:
    """The answers and the log-likelihoods that the metrics of `suite` need; each empty where none needs it."""
    needs = {what for metric in suite.metrics for what in scoring.declaration(metric).needs.values()}
    prompts = [item.messages for item in suite.items] if "answers" in needs else []
    pairs: list[tuple[Sequence[Message], str]] = []
    asked: list[str] = []  # the item of each log-likelihood
    texts = [item.text for item in suite.items if item.text is not None]
    for item in suite.items:
        expected = (item.choices or ()) if "option_likelihoods" in needs else ()
        if "likelihoods" in needs and item.reference is not None:
            expected = (item.reference,)
        if "pair_likelihoods" in needs:
            expected = (item.reference, item.rejected)
        pairs += [(item.messages, answer) for answer in expected]
        asked += [item.id] * (1 if item.text is not None else len(expected))
    total = len(prompts) + len(pairs) + len(texts)

    def after(before: int) -> Callable[[int, int], None]:
        return lambda done, _: progress(suite.name, before + done, total)

    answers = responder.answers(prompts, answer_tokens, after(0)) if prompts else []
    likelihoods: Sequence[float] = []
    if pairs:
        likelihoods = responder.log_likelihoods(pairs, after(len(prompts)))
    elif texts:
        likelihoods = responder.text_log_likelihoods(texts, after(0))
    _check_finite(suite.name, "log-likelihood", zip(asked, likelihoods, strict=True))
    return answers, likelihoods


def _given(suite: Suite, answers: list[str], likelihoods: Sequence[float]) -> dict[str, Any]:
    """What a metric can be given: for each item what was answered, how likely it is, and what the item says."""
    items, rest = suite.items, iter(likelihoods)
    return {
        "answers": answers,
        "likelihoods": list(likelihoods),
        "option_likelihoods": [list(itertools.islice(rest, len(item.choices or ()))) for item in items],
        "pair_likelihoods": list(zip(likelihoods[::2], likelihoods[1::2], strict=False)),
        "answer_indexes": [item.answer_index for item in items],
        "questions": [item.question for item in items],
        "references": [item.reference for item in items],
        "rejected": [item.rejected for item in items],
        "claims": [list(item.claims or ()) for item in items],
        "flags": [item.flag for item in items],
    }


def _check_finite(suite: str, what: str, values: Iterable[tuple[str, float]]) -> None:
    for item, value in values:
        if not math.isfinite(value):
            raise RatchetError(
                f"suite {suite}, item {item}: {what} is {value}, which is no number: the model has diverged; "
                "train it again at a lower learning rate"
            )


def _kept(file: Path, key: Mapping[str, Any]) -> Result | None:
    """The result in `file`, or None: where there is none, it belongs to another key, or was cut short."""
    try:
        document = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document["result"] if document["key"] == key else None


def _keep(file: Path, document: Mapping[str, Any]) -> None:
    """Write `file` whole or not at all, whoever else writes it at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as part:
        json.dump(document, part, ensure_ascii=False, allow_nan=False)
        part.flush()
        os.fsync(part.fileno())
    os.replace(part.name, file)
