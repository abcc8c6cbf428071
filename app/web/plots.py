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
    cells: tuple[str, ...] = ()  # what stands in columns of its own, after the label


@dataclass(frozen=True)
class Dot:
    """A value by itself, and what stands beside it."""

    label: str
    value: float | None  # None where there is none
    mark: str = ""  # a word about it, such as "best"
    note: str = ""  # what stands in the place of a missing value


@dataclass(frozen=True)
class Moment:
    """A share at a time, with its interval."""

    at: date
    series: str  # whose it is
    middle: float
    low: float
    high: float


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


def differences(caption: str, rows: Sequence[Whisker], header: tuple[str, ...]) -> str:
    """As `whiskers`, but each row has a scale of its own with zero in its middle; `header` names its cells too."""
    body = ""
    for row in rows:
        reach = max(abs(row.low), abs(row.high), abs(row.limit or 0)) * 1.1 or 1.0
        body += _row(row, (-reach, reach), _number(3, False, signed=True), zero=True)
    return _table(caption, header, body)


def dots(caption: str, rows: Sequence[Dot], header: tuple[str, str]) -> str:
    """A table with a dot in each row that has a value, all on one scale."""
    values = [row.value for row in rows if row.value is not None]
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.01
    body = ""
    for row in rows:
        place = 0 if row.value is None else 100 * (row.value - low + room) / (high - low + 2 * room)
        drawn = "" if row.value is None else f"<b style='left:{place:.2f}%'></b>"
        shown = f"<small>{html.escape(row.note)}</small>" if row.value is None else f"{row.value:.4f}"
        mark = f" <small class='mark'>{html.escape(row.mark)}</small>" if row.mark else ""
        body += (
            f"<tr><th scope='row'>{html.escape(row.label)}{mark}</th>"
            f"<td class='strip' aria-hidden='true'><span>{drawn}</span></td><td>{shown}</td></tr>"
        )
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


def timeline(caption: str, moments: Sequence[Moment]) -> str:
    """Shares over time, each with its whisker; the dots of every other series are hollow, its first one is named."""
    first, last = moments[0].at, moments[-1].at
    span = max((last - first).days, 1)
    drawn, seen = "", list(dict.fromkeys(moment.series for moment in moments))
    named: set[str] = set()
    for moment in moments:
        left = f"left:{6 + 86 * (moment.at - first).days / span:.2f}%"
        number = seen.index(moment.series)
        other = " class='other'" if number % 2 else ""
        drawn += (
            f"<i{other} style='{left};bottom:{moment.low:.1%};height:{moment.high - moment.low:.1%}'></i>"
        )
        drawn += f"<b{other} style='{left};bottom:{moment.middle:.1%}'></b>"
        if moment.series not in named:
            named.add(moment.series)
            name = html.escape(moment.series.partition("-")[0])
            drawn += f"<small style='{left};top:{number % 2 * 15}px'>{name}</small>"
    ends = {moment.series: moment for moment in moments}
    summary = f"{caption}: " + ", ".join(
        f"{name} {end.middle:.0%} on {end.at:%d %b}" for name, end in ends.items()
    )
    lines = "".join(f"<u style='bottom:{share}%'><span>{share}%</span></u>" for share in (0, 50, 100))
    return (
        f"<figure class='plot'><figcaption>{html.escape(caption)}</figcaption>"
        f"<div class='timeline' role='img' aria-label='{html.escape(summary)}'><div>{lines}{drawn}</div></div>"
        f"<p class='axis'><span>{first:%d %b %Y}</span><span>{last:%d %b %Y}</span></p></figure>"
    )


def curve(points: Sequence[tuple[int, float]], steps: int, caption: str, number: str = ".3f") -> str:
    """A line through (step, value) on a scale of `steps`, with what it says as text, as `number` writes it."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    height = (high - low) or 1.0
    path = " ".join(
        f"{100 * step / max(steps, 1):.2f},{40 - 36 * (value - low) / height - 2:.2f}"
        for step, value in points
    )
    first, last = (format(value, number) for value in (values[0], values[-1]))
    summary = f"{caption}: {first} at step {points[0][0]}, {last} at step {points[-1][0]} of {steps}"
    return (
        f"<figure class='plot'><figcaption>{html.escape(caption)} "
        f"<span class='now'>{last}</span></figcaption>"
        f"<svg class='curve' viewBox='0 0 100 40' preserveAspectRatio='none' role='img' "
        f"aria-label='{html.escape(summary)}'><polyline points='{path}' /></svg>"
        f"<p class='axis'><span>{first} at step {points[0][0]}</span>"
        f"<span>step {points[-1][0]} of {steps}</span></p></figure>"
    )


def _table(caption: str, header: tuple[str, ...], body: str) -> str:
    *names, value = (f"<th scope='col'>{html.escape(name)}</th>" for name in header)
    return (
        f"<table class='whiskers'><caption>{html.escape(caption)}</caption><thead><tr>"
        f"{''.join(names)}<td></td>{value}</tr></thead><tbody>{body}</tbody></table>"
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
    cells = "".join(f"<td class='cell'>{html.escape(cell)}</td>" for cell in row.cells)
    return (
        f"<tr><th scope='row'>{html.escape(row.label)}{mark}</th>{cells}"
        f"<td class='strip' aria-hidden='true'><span>{drawn}</span></td>"
        f"<td>{numbers[0]} <small>{numbers[1]} to {numbers[2]}</small>{note}</td></tr>"
    )


def _number(digits: int, percent: bool, signed: bool) -> str:
    return "{:" + ("+" if signed else "") + ("z." + str(digits) + ("%" if percent else "f")) + "}"
