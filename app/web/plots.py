"""Plots as plain HTML: they follow the page's colours and width, and their numbers are there as text."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, and what stands beside it."""

    label: str
    middle: float
    low: float
    high: float
    mark: str = ""  # a word about it, such as "serves"
    limit: float | None = None  # a bound that the interval is held against
    note: str = ""  # more numbers


def whiskers(
    caption: str,
    rows: Sequence[Whisker],
    header: tuple[str, str],
    digits: int = 3,
    percent: bool = False,
) -> str:
    """A table with a dot and its whisker in each row, all on one scale."""
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    room = (high - low) * 0.06 or 0.01
    scale = (low - room, high + room)
    body = "".join(_row(row, scale, _number(digits, percent, signed=False)) for row in rows)
    return _table(caption, header, body)


def differences(caption: str, rows: Sequence[Whisker], header: tuple[str, str]) -> str:
    """As `whiskers`, but each row has a scale of its own with zero in its middle."""
    body = ""
    for row in rows:
        reach = max(abs(row.low), abs(row.high), abs(row.limit or 0)) * 1.1 or 1.0
        body += _row(row, (-reach, reach), _number(3, False, signed=True), zero=True)
    return _table(caption, header, body)


def columns(days: Mapping[date, int], caption: str, noun: str) -> str:
    """A column for each day, with what they say as text."""
    most = max(days.values(), default=0)
    bars = "".join(f"<i style='height:{100 * count / max(most, 1):.1f}%'></i>" for count in days.values())
    first, last = min(days), max(days)
    summary = f"{sum(days.values())} {noun} from {first:%d %b} to {last:%d %b}, at most {most} a day"
    rows = "".join(
        f"<tr><th scope='row'>{day:%d %b %Y}</th><td>{count}</td></tr>"
        for day, count in days.items()
        if count
    )
    table = (
        f"<table><thead><tr><th scope='col'>day</th><th scope='col'>{noun}</th></tr></thead>{rows}</table>"
    )
    return (
        f"<figure class='plot'><figcaption>{html.escape(caption)}</figcaption>"
        f"<div class='columns' role='img' aria-label='{summary}'><b>{most}</b>{bars}</div>"
        f"<p class='axis'><span>{first:%d %b}</span><span>{last:%d %b}</span></p>"
        f"<details><summary>As a table</summary>{table}</details></figure>"
    )


def curve(points: Sequence[tuple[int, float]], steps: int, caption: str) -> str:
    """A line through (step, value) on a scale of `steps`, with what it says as text."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    height = (high - low) or 1.0
    path = " ".join(
        f"{100 * step / max(steps, 1):.2f},{40 - 36 * (value - low) / height - 2:.2f}"
        for step, value in points
    )
    summary = f"{caption}: {values[0]:.3f} at step {points[0][0]}, {values[-1]:.3f} at step {points[-1][0]} of {steps}"
    return (
        f"<figure class='plot'><figcaption>{html.escape(caption)} "
        f"<span class='now'>{values[-1]:.3f}</span></figcaption>"
        f"<svg class='curve' viewBox='0 0 100 40' preserveAspectRatio='none' role='img' "
        f"aria-label='{html.escape(summary)}'><polyline points='{path}' /></svg>"
        f"<p class='axis'><span>{values[0]:.3f} at step {points[0][0]}</span>"
        f"<span>step {points[-1][0]} of {steps}</span></p></figure>"
    )


def _table(caption: str, header: tuple[str, str], body: str) -> str:
    name, value = header
    return (
        f"<table class='whiskers'><caption>{html.escape(caption)}</caption><thead><tr>"
        f"<th scope='col'>{html.escape(name)}</th><td></td><th scope='col'>{html.escape(value)}</th>"
        f"</tr></thead><tbody>{body}</tbody></table>"
    )


def _row(row: Whisker, scale: tuple[float, float], number: str, zero: bool = False) -> str:
    start, end = scale

    def place(value: float) -> float:
        return 100 * (value - start) / (end - start)

    drawn = "<u class='zero' style='left:50%'></u>" if zero else ""
    if row.limit is not None:
        drawn += f"<u class='limit' style='left:{place(row.limit):.2f}%'></u>"
    drawn += f"<i style='left:{place(row.low):.2f}%;width:{place(row.high) - place(row.low):.2f}%'></i>"
    drawn += f"<b style='left:{place(row.middle):.2f}%'></b>"
    mark = f" <small class='mark'>{html.escape(row.mark)}</small>" if row.mark else ""
    note = f"<small>{html.escape(row.note)}</small>" if row.note else ""
    numbers = [number.format(value) for value in (row.middle, row.low, row.high)]
    return (
        f"<tr><th scope='row'>{html.escape(row.label)}{mark}</th>"
        f"<td class='strip' aria-hidden='true'><span>{drawn}</span></td>"
        f"<td>{numbers[0]} <small>{numbers[1]} to {numbers[2]}</small>{note}</td></tr>"
    )


def _number(digits: int, percent: bool, signed: bool) -> str:
    return "{:" + ("+" if signed else "") + ("." + str(digits) + ("%" if percent else "f")) + "}"
