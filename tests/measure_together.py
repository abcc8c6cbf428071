"""Four people chat while a reviewer works and a round trains: `python -m tests.measure_together URL [SECONDS]`.

Against a running `ratchet serve` on a home of its own, with RATCHET_MEASURE_COOKIE holding a signed-in
reviewer's `ratchet_staff` cookie. Prints one JSON document: first-token and longest waits alone and together.
"""

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from feedback.errors import RatchetError
from tests.visitor import Visitor

QUESTIONS = [
    json.loads(line)["question"] for line in Path("objectives/medical/golden.jsonl").read_text().splitlines()
]


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


def figures(chatters: list[Chatter]) -> dict[str, Any]:
    parts = {
        "first_token_s": [value for c in chatters for value in c.first],
        "longest_gap_s": [value for c in chatters for value in c.gaps],
        "rating_s": [value for c in chatters for value in c.clicks],
    }
    return {name: summary(values) for name, values in parts.items() if values} | {
        "answers": sum(c.answers for c in chatters)
    }


def main(url: str, seconds: float) -> None:
    problems: list[str] = []
    alone = Chatter(url, 0)
    until(time.monotonic() + min(60, seconds / 3), alone.once, problems)
    together = [Chatter(url, 11 * n) for n in range(1, 5)]
    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=until, args=(deadline, c.once, problems)) for c in together]
    looks: list[float] = []
    if cookie := os.environ.get("RATCHET_MEASURE_COOKIE"):
        desk = httpx.Client(base_url=url, cookies={"ratchet_staff": cookie}, timeout=60, trust_env=False)

        def look() -> None:
            began = time.monotonic()
            desk.get("/review/").raise_for_status()
            looks.append(time.monotonic() - began)
            time.sleep(2)

        threads.append(threading.Thread(target=until, args=(deadline, look, problems)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    document = {"alone": figures([alone]), "together": figures(together), "problems": problems}
    print(json.dumps(document | ({"desk_s": summary(looks)} if looks else {}), indent=1))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 300)
