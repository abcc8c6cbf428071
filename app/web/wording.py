"""How pages write names, numbers and times, as HTML."""

import html
from datetime import UTC, datetime


def text(words: object) -> str:
    """What a person or a model wrote, escaped."""
    return html.escape(str(words))


def spaced(name: str) -> str:
    """The name of a metric, a rule or a figure as words."""
    return text(name.replace("_", " "))


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def when(at: datetime) -> str:
    """A moment, in UTC."""
    return f"<time datetime='{at.isoformat()}'>{at.astimezone(UTC):%d %b %Y, %H:%M} UTC</time>"


def duration(seconds: float) -> str:
    """A span of time, as exactly as one cares to know."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{max(seconds, 0):.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
