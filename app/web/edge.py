"""Where a browser's request becomes a call: who asks, and how a refusal reaches them."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from feedback.errors import RatchetError

# "private" hides an event from the list of endpoints only; whoever posts to it is checked like anybody else.
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}
UNQUEUED = HIDDEN | {"queue": False}  # for pages that say a refusal themselves: Gradio would show none
CLICK = HIDDEN | {"concurrency_limit": None}  # at once; without the queue nobody would read a refusal

Updates = dict[Any, Any]  # {component: its new value or properties}


def person_of(request: gr.Request) -> str:
    """The number of the person behind the signed cookie."""
    return request.request.session["person"]


@contextmanager
def in_words() -> Iterator[None]:
    """A refusal is shown to the person who caused it; a defect is not."""
    try:
        yield
    except RatchetError as error:
        raise gr.Error(html.escape(str(error)), title="Not done", print_exception=False) from None


def shortened(text: str, limit: int = 60) -> str:
    """`text` on one line, cut where it is longer than `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
