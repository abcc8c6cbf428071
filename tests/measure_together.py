"""People chat at a running server, and a reviewer judges at the desk: how long each of them waits.

`python -m tests.measure_together URL PEOPLE SECONDS`, with RATCHET_MEASURE_COOKIE holding a signed-in reviewer's
`ratchet_staff` cookie. The server stands on a home of its own: what is asked is kept there. Prints one document.
"""

import json
import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx

from app.web.review import EVERYTHING
from feedback.errors import RatchetError
from tests.visitor import Visitor

QUESTIONS = [
    json.loads(line)["question"] for line in Path("objectives/medical/golden.jsonl").read_text().splitlines()
]

READING_S = 8


class Chatter:
    """One person who asks, rates what came, and asks again."""

    def __init__(self, url: str, offset: int):
        self.visitor, self.offset = Visitor(url), offset
        self.first, self.gaps, self.clicks, self.answers, self.pictures = [], [], [], 0, 0

    def once(self) -> None:
        question = QUESTIONS[(self.offset + 7 * self.answers) % len(QUESTIONS)]
        asked = time.monotonic()
        seen = list(self.visitor.ask(question))
        self.first.append(seen[1] - asked)  # the first picture is empty
        self.gaps.append(max(later - earlier for earlier, later in pairwise(seen)))
        self.pictures += len(seen)
        self.answers += 1
        if self.answers % 3 == 0:
            self.visitor.act("new-chat", "click")
            return
        began = time.monotonic()
        assert self.visitor.act("thumb-up" if self.answers % 2 else "thumb-down", "click").ok
        self.clicks.append(time.monotonic() - began)


class Reviewer:
    """A reviewer who reads for some seconds, then judges what is in hand: approves, corrects, rejects in turn."""

    def __init__(self, url: str, cookie: str):
        self.visitor = Visitor(f"{url}/review", cookies={"ratchet_staff": cookie})
        self.clicks: list[float] = []
        self.before, self.turn, self.text = 0, "", ""
        self._show("reason", "input")
        self.before = self.kept()

    def once(self) -> None:
        time.sleep(READING_S)
        if not self.turn:  # nothing waited
            return self._show("reason", "input")
        verdict = ("approve", "correct", "reject")[len(self.clicks) % 3]
        began = time.monotonic()
        self._show(
            verdict, "click", " See a doctor if it does not get better." if verdict == "correct" else ""
        )
        self.clicks.append(time.monotonic() - began)

    def kept(self) -> int:
        """How many judgements the desk counts since this one began."""
        return int(re.search(r"(\d+) in all", self.progress)[1]) - self.before

    def _show(self, part: str, event: str, more: str = "") -> None:
        data = (self.turn, self.text + more, EVERYTHING, EVERYTHING, EVERYTHING, "")
        outcome = self.visitor.act(part, event, data)
        assert outcome.ok and "Not done" not in outcome.text, outcome.text
        shown = json.loads(outcome.text)["output"]["data"]
        self.turn, self.text, self.progress = shown[0], shown[5].get("value", ""), shown[9]


def until(deadline: float, work: Callable[[], None], problems: list[str]) -> None:
    """Do `work` again and again; a problem is noted, and ends it."""
    try:
        while time.monotonic() < deadline:
            work()
    except (httpx.HTTPError, RatchetError, AssertionError, IndexError) as problem:
        problems.append(repr(problem))


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "max": round(ordered[-1], 2),
    }


def main(url: str, people: int, seconds: float) -> None:
    problems: list[str] = []
    chatters = [Chatter(url, 11 * n) for n in range(people)]
    began = time.monotonic()
    works = [chatter.once for chatter in chatters]
    reviewer = None
    if cookie := os.environ.get("RATCHET_MEASURE_COOKIE"):
        reviewer = Reviewer(url, cookie)
        works.append(reviewer.once)
    threads = [threading.Thread(target=until, args=(began + seconds, work, problems)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    parts = {
        "first_token_s": [value for c in chatters for value in c.first],
        "longest_gap_s": [value for c in chatters for value in c.gaps],
        "rating_s": [value for c in chatters for value in c.clicks],
        "judgement_s": reviewer.clicks if reviewer else [],
    }
    kept = [c.visitor.client.get("/mine.json").json()["chats"] for c in chatters]
    answers = [answer for chats in kept for chat in chats for answer in chat["answers"]]
    document = {name: summary(values) for name, values in parts.items() if values} | {
        "people": people,
        "answers": sum(c.answers for c in chatters),
        "answers_kept": len(answers),
        "ratings": sum(len(c.clicks) for c in chatters),
        "ratings_kept": sum(len(answer["said"]) for answer in answers),
        "judgements": len(reviewer.clicks) if reviewer else 0,
        "judgements_kept": reviewer.kept() if reviewer else 0,
        "tokens_per_s": round(sum(answer["completion_tokens"] for answer in answers) / took, 2),
        "problems": problems,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
