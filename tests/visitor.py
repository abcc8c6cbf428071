"""A person at the chat page without a browser: the same requests, the same cookie, over plain HTTP."""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Outcome:
    """What became of an event: whether it was done, and all that the server said about it."""

    ok: bool
    text: str


class Visitor:
    """One person with one open page at `url`; as somebody else's with their cookies and session."""

    def __init__(self, url: str, cookies: dict[str, str] | None = None, session: str | None = None):
        patience = httpx.Timeout(120, connect=10)
        self.client = httpx.Client(base_url=url, cookies=cookies, timeout=patience, trust_env=False)
        self.session = session or uuid.uuid4().hex
        self.client.get("/").raise_for_status()  # brings the cookie
        config = self.client.get("/config").raise_for_status().json()
        self._named = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
        self._events = {
            (part, event): (dependency["id"], len(dependency["inputs"]))
            for dependency in config["dependencies"]
            for part, event in dependency["targets"]
            if part is not None
        }
        self._next = {d["trigger_after"]: (d["id"], len(d["inputs"])) for d in config["dependencies"]}

    def close(self) -> None:
        self.client.close()

    def act(self, elem_id: str, event: str, data: Sequence[Any] = (), **more: Any) -> Outcome:
        """Send what a page sends, or what it never would; what is missing of `data` is None."""
        part = self._named[elem_id]
        joined = self._join(*self._events[part, event], data, trigger_id=part, **more)
        if joined.is_error:
            return Outcome(False, joined.text)
        last = [message for _, message in self._messages()][-1]
        return Outcome(last.get("success", False), json.dumps(last))

    def ask(self, question: str) -> Iterator[float]:
        """Ask with consent; gives the time (monotonic) of each picture of the answer, the first one empty."""
        function, inputs = self._events[self._named["send"], "click"]
        data = (question, True)
        while True:  # the click, the answer, and the page after it
            self._join(function, inputs, data).raise_for_status()
            for at, message in self._messages():
                if message["msg"] == "process_generating":
                    yield at
                assert message.get("success", True), message
            if function not in self._next:
                return
            (function, inputs), data = self._next[function], ()

    def _join(self, function: int, inputs: int, data: Sequence[Any], **more: Any) -> httpx.Response:
        body = {
            "data": [*data, *[None] * (inputs - len(data))],
            "fn_index": function,
            "session_hash": self.session,
        }
        return self.client.post("/gradio_api/queue/join", json=body | more)

    def _messages(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """What the server says until the event is over, each with its time."""
        params = {"session_hash": self.session}
        with self.client.stream("GET", "/gradio_api/queue/data", params=params) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line.removeprefix("data:"))
                    yield time.monotonic(), message
                    if message["msg"] in ("process_completed", "unexpected_error", "close_stream"):
                        return
