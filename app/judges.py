"""Who can be the judge: the base model itself, or a model behind an OpenAI-compatible endpoint."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from eval.exam import Responder
from eval.judge import Judge, Progress, Verdict, prompt, read_reply
from eval.objective import JudgePlan
from feedback.errors import RatchetError
from feedback.pairs import Pair

PATIENCE_S = 1800  # for all that one judge is asked
TIMEOUT_S = 60  # without a sign of life
PAUSES_S = (1, 5)  # before each further try
REPLY_TOKENS = 8
REPLY_BYTES = 1_000_000  # a longer reply is none


class LocalJudge:
    """A model of ours: it prefers the answer whose letter it finds more likely."""

    def __init__(self, responder: Responder, question: str):
        self._responder, self._question = responder, question

    def verdicts(self, pairs: Sequence[Pair], progress: Progress) -> list[Verdict]:
        """What it says of each of `pairs`; it never finds a tie but by chance."""
        asked = [(prompt(self._question, pair), letter) for pair in pairs for letter in "AB"]
        found = self._responder.log_likelihoods(asked, lambda done, _: progress(done // 2, len(pairs)))
        return [
            "first" if first > second else "second" if second > first else "tie"
            for first, second in zip(found[::2], found[1::2], strict=True)
        ]


class EndpointJudge:
    """A model at an endpoint; what it replies is read up to the first A, B or tie."""

    def __init__(self, model: str, endpoint: str, key: str | None, question: str):
        self._model, self._question = model, question
        self._url = f"{endpoint.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._deadline = time.monotonic() + PATIENCE_S

    def verdicts(self, pairs: Sequence[Pair], progress: Progress) -> list[Verdict]:
        """What it says of each of `pairs`; RatchetError when it fails, or takes too long for all of them."""
        found: list[Verdict] = []
        with httpx.Client(headers=self._headers, timeout=TIMEOUT_S, trust_env=False) as client:
            for pair in pairs:
                found.append(read_reply(self._reply(client, pair)))
                progress(len(found), len(pairs))
        return found

    def _reply(self, client: httpx.Client, pair: Pair) -> str:
        body = {
            "model": self._model,
            "messages": prompt(self._question, pair),
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
        }
        for pause in (0, *PAUSES_S):
            time.sleep(pause)
            try:
                status, text = self._post(client, body)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = str(error) or type(error).__name__
                continue
            if status == httpx.codes.OK:
                return self._content(text)
            said = " ".join(text[:200].decode("utf-8", "replace").split())
            problem = f"status {status}: {said}" if said else f"status {status}"
            if status < 500 and status != httpx.codes.TOO_MANY_REQUESTS:
                break
        raise RatchetError(f"{self._url} cannot be asked ({problem})")

    def _post(self, client: httpx.Client, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and text of a reply, which may neither grow nor take time for ever."""
        text = b""
        with client.stream("POST", self._url, json=body) as reply:
            for piece in reply.iter_bytes():
                text += piece
                if len(text) > REPLY_BYTES:
                    raise RatchetError(f"{self._url} replied with more than {REPLY_BYTES:,} bytes")
                if time.monotonic() > self._deadline:
                    raise RatchetError(f"{self._url} took more than {PATIENCE_S} s for all questions")
        return reply.status_code, text

    def _content(self, text: bytes) -> str:
        try:
            return str(json.loads(text)["choices"][0]["message"]["content"])
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise RatchetError(f"{self._url} replied with something that is no chat completion") from None


def endpoint_judge(plan: JudgePlan, environment: Mapping[str, str]) -> Judge:
    """The judge at the endpoint of `plan`; RatchetError when its key is not in `environment`."""
    key = environment.get(plan.key_variable, "") if plan.key_variable else None
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        raise RatchetError(f"the environment variable {plan.key_variable} holds no key")
    return EndpointJudge(plan.model, plan.endpoint, key, plan.question)
