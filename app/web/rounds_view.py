"""What the rounds page shows, as HTML: every text that a person or a model wrote is escaped here."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from app.reports import STEPS, Case, Report, Score
from app.run_folder import figures_in_words
from app.schedule import Outlook
from app.web import wording
from app.web.plots import Whisker, columns, curve, differences, whiskers
from app.web.search_view import search_view
from eval.objective import Gate
from feedback.proportions import Adjusted
from feedback.records import Event
from feedback.satisfaction import Satisfaction

STEP_NAMES = dict(
    zip(
        STEPS,
        (
            "Freeze",
            "Answers",
            "Preferences",
            "Thumbs",
            "Choose",
            "Examine champion",
            "Examine candidate",
            "Decide",
        ),
        strict=True,
    )
)
STAGE_NAMES = {"sft": "Loss on answers", "dpo": "Loss on preferences", "kto": "Loss on thumbs"}
COURSES = {"grad_norm": ("Gradient norm", ".3g"), "learning_rate": ("Learning rate", ".1e")}
EVENT_NAMES = {
    "promote": "promoted a version",
    "rollback": "rolled back",
    "erase": "erased a person",
    "round_asked": "started a round",
    "round_cancelled": "cancelled the round",
    "schedule_paused": "paused the schedule",
    "schedule_resumed": "resumed the schedule",
}
LATEST = 12  # versions in a plot


def header(title: str, who: str) -> str:
    """The top of the page: where one is, as whom, and the way out."""
    return (
        f"<header><div><h1>Rounds</h1><p>{wording.text(title)}</p></div>"
        "<nav aria-label='Pages'><a href='/'>Chat</a><a href='/review'>Review desk</a></nav>"
        f"<form method='post' action='/sign-out'><span>{wording.text(who)}</span>"
        "<button type='submit'>Sign out</button></form></header>"
    )


def serving(champion: str, events: Sequence[Event], people: Sequence[Satisfaction]) -> str:
    """The card of what serves now, since when, and how people like it."""
    moved = [event for event in events if "version" in event.payload]
    since = f"since {wording.when(moved[-1].at)}" if moved else "from the beginning"
    how = "Nobody has rated its answers yet."
    for one in people:
        if one.version == champion:
            low, high = one.interval
            liked = f"<b>{one.share:.0%}</b> of {wording.count(one.rated, 'rated answer')} liked"
            how = f"{liked} <small>{low:.0%} to {high:.0%}</small>"
    return _card("Serves now", wording.text(champion), f"{since}<br>{how}")


def running(report: Report | None, busy: bool, now: datetime) -> str:
    """The card of what runs."""
    if not busy:
        return _card("Runs now", "Nothing", "No round is on its way.")
    if report is None:
        return _card("Runs now", "A round begins", "The dataset and the suites are being frozen.")
    last = report.attempts[-1] if report.attempts else None
    who = ""
    if last:
        age = now - datetime.fromisoformat(last["at"])
        who = f"started by {wording.text(last['who'])}, {wording.duration(age.total_seconds())} ago"
    return _card("Runs now", f"{report.name}: {STEP_NAMES[report.step]}", f"{_time_left(report)}<br>{who}")


def searching(found: Mapping[str, Any]) -> str:
    """The card of a search for settings that runs."""
    ended = wording.count(found["trials_ended"], "trial")
    left = f"{wording.duration(found['seconds_left'])} left in this step" if "seconds_left" in found else ""
    said = "<br>".join(filter(None, (f"{ended} ended", left, " · ".join(figures_in_words(found)))))
    return _card("Runs now", f"{found['search']}: settings", said)


def coming(outlook: Outlook, now: datetime, queue: int) -> str:
    """The card of the next round and of what waits."""
    words = outlook.words
    if outlook.at is None:
        when = "When you start one"
    elif outlook.soon:
        when = "Within a minute"
    elif outlook.at <= now:
        when = "With enough signals"
    else:
        when = wording.when(outlook.at)
        words = f"In {wording.duration((outlook.at - now).total_seconds())} at the earliest. {words}"
    waiting = f"{wording.count(queue, 'answer')} in the reviewers' queue"
    return _card("Next round", when, f"{wording.text(words)}<br>{waiting}")


def cards(*shown: str) -> str:
    """Cards side by side."""
    return f"<div class='cards'>{''.join(shown)}</div>"


def live(report: Report | None) -> str:
    """How far the round is that runs."""
    if report is None:
        return ""
    last = report.progress[-1] if report.progress else {"step": 0, "steps": 0}
    share = 100 * last["step"] / last["steps"] if last["steps"] else 0
    bar = (
        f"<div class='bar' role='progressbar' aria-label='{STEP_NAMES[report.step]}' aria-valuemin='0' "
        f"aria-valuemax='100' aria-valuenow='{share:.0f}'><i style='width:{share:.1f}%'></i></div>"
    )
    pace = f"{last['tokens_per_s']:.0f} tokens/s" if "tokens_per_s" in last else ""
    done = f"{last['step']} of {last['steps']}" if last["steps"] else "loading the model"
    facts = " · ".join(filter(None, (done, _time_left(report), pace)))
    return (
        f"<section class='sheet'><h2>{report.name} runs</h2>{_stepper(report)}"
        f"{bar}<p class='quiet'>{facts}</p>{_curves(report)}{_courses(report)}</section>"
    )


def complaint(words: str | None) -> str:
    """Why the last try ended before its time."""
    return f"<p class='note'>The last try ended: {wording.text(words)}</p>" if words else ""


# plots


def scores(metric: str | None, found: Sequence[Score], served: Sequence[str]) -> str:
    """Every version by one metric."""
    if metric is None or not found:
        return "<p class='quiet'>The first finished round puts the base model and its candidate here.</p>"
    marks = dict.fromkeys(served, "served") | {served[-1]: "serves"}
    rows = [
        Whisker(score.version, score.mean, score.low, score.high, marks.get(score.version, ""))
        for score in found[-LATEST:]
    ]
    caption = f"{wording.spaced(metric)} on {found[-1].n} items, mean and interval"
    return whiskers(caption, rows, ("version", "mean"))


def liked(found: Sequence[Satisfaction], champion: str = "") -> str:
    """How many of the rated answers people liked, by version."""
    if not found:
        return "<p class='quiet'>Nobody has rated an answer yet.</p>"
    rows = [
        Whisker(
            one.version,
            one.share,
            *one.interval,
            "serves" if one.version == champion else "",
            note=_of_the_same_mix(one.adjusted),
        )
        for one in found[-LATEST:]
    ]
    total = sum(one.rated for one in found)
    caption = f"Liked, of {wording.count(total, 'rated answer')}; share and 95 % interval"
    return whiskers(caption, rows, ("version", "thumbs up"), digits=0, percent=True)


def _of_the_same_mix(found: Adjusted | None) -> str:
    if found is None:
        return ""
    part = (
        "the same mix of topics"
        if found.covered > 0.995
        else f"the {found.covered:.0%} of that mix in which it was rated"
    )
    return f"{found.share:.0%} on {part}, {found.low:.0%} to {found.high:.0%}"


def signals(per_day: Mapping[date, int], today: date, days: int) -> str:
    """How much people said on each of the last `days` days."""
    shown = {day: per_day.get(day, 0) for day in (today - timedelta(n) for n in reversed(range(days)))}
    return columns(shown, "Signals a day", "signals")


def search(found: Sequence[Mapping[str, Any]]) -> str:
    """The last search for settings that came to its end."""
    if not found:
        return ""
    return f"<section class='sheet'><h2>Settings</h2>{search_view(found[-1])}</section>"


# rounds


def label(report: Report, primary: str, is_running: bool) -> str:
    """One line about a round, for the list."""
    line = f"{report.name} · {outcome(report, is_running)}"
    if report.decided and primary in report.decided["metrics"]:
        line += f" · {wording.spaced(primary)} {report.decided['metrics'][primary]['difference']:+.3f}"
    return line


def outcome(report: Report, is_running: bool) -> str:
    """What came of a round, in a word or two."""
    if report.decided:
        if report.decided["promoted"]:
            return "promoted"
        won = "won, not promoted"
        return {"promote": won, "refuse": "refused", "not_enough_data": "not enough data"}[
            report.decided["decision"]
        ]
    return "runs now" if is_running else "stopped" if report.resumable else "failed"


def detail(
    report: Report, gate: Gate, is_running: bool, cases: tuple[Sequence[Case], Sequence[Case]] | None
) -> str:
    """One round in full."""
    parts = [f"<h2>{report.name} <span class='tag'>{outcome(report, is_running)}</span></h2>"]
    if report.decided:
        parts.append(f"<p><a href='/rounds/report/{report.name}'>Report</a></p>")
        reasons = "".join(f"<li>{wording.text(reason)}</li>" for reason in report.decided["reasons"])
        parts.append(f"<ul class='reasons'>{reasons}</ul>")
    elif not is_running:
        goes_on = "It can go on where it stopped." if report.resumable else "The next round begins anew."
        parts.append(f"<p class='note'>{wording.text(report.failure or 'It was cut off.')} {goes_on}</p>")
    parts.append(_lineage(report))
    if report.decided and report.decided["metrics"]:
        parts.append(_metrics(report.decided["metrics"], gate))
    if cases:
        won, lost = cases
        name = wording.spaced(gate.primary)
        parts.append(
            _cases(f"Largest wins in {name}", won, report) + _cases(f"Largest losses in {name}", lost, report)
        )
    if not is_running:
        parts.append(_curves(report))
    return f"<section class='sheet'>{''.join(parts)}</section>"


def log(events: Sequence[Event]) -> str:
    """Who did what to the circle, and why; the newest first."""
    if not events:
        return "<p class='quiet'>Nobody has used a lever yet.</p>"
    rows = "".join(
        f"<tr><td>{wording.when(event.at)}</td><td>{wording.text(event.who)} {_did(event)}</td>"
        f"<td>{wording.text(event.payload['why'])}</td></tr>"
        for event in events
    )
    heads = "".join(f"<th scope='col'>{name}</th>" for name in ("when", "who did what", "why"))
    return f"<table class='log'><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _did(event: Event) -> str:
    done = EVENT_NAMES[event.kind]
    return f"{done}: {wording.text(event.payload['version'])}" if "version" in event.payload else done


def _stepper(report: Report) -> str:
    taken = report.steps_taken
    items = ""
    for step in STEPS:
        if step == "kto" and step not in (report.step, *taken):
            continue  # few objectives train on thumbs
        state = "now" if step == report.step else "done" if step in taken else ""
        current = " aria-current='step'" if state == "now" else ""
        items += f"<li class='{state}'{current}>{STEP_NAMES[step]}</li>"
    return f"<ol class='steps'>{items}</ol>"


def _curves(report: Report) -> str:
    shown = [
        curve(points, _steps(report, stage), STAGE_NAMES[stage]) for stage, points in report.losses().items()
    ]
    if report.looked:
        kept = report.made and report.made["stages"]["sft"].get("kept_step")
        caption = "Loss on validation answers" + (f"; step {kept} was kept" if kept else "")
        shown.append(curve(report.looked, report.looks[-1]["steps"], caption))
    return f"<div class='two'>{''.join(shown)}</div>" if shown else ""


def _courses(report: Report) -> str:
    """How gradient and learning rate go in the stage that trains now."""
    shown = [
        curve(points, _steps(report, report.step), caption, number)
        for figure, (caption, number) in COURSES.items()
        if (points := report.course(figure).get(report.step))
    ]
    return f"<div class='two small'>{''.join(shown)}</div>" if shown else ""


def _steps(report: Report, stage: str) -> int:
    return next(line["steps"] for line in reversed(report.progress) if line["stage"] == stage)


def _time_left(report: Report) -> str:
    seconds = report.seconds_left
    return f"{wording.duration(seconds)} left in this step" if seconds is not None else ""


def _lineage(report: Report) -> str:
    counts, start = report.plan["counts"], report.plan.get("start")
    rows = ", ".join(
        f"{counts[kind]:,} {noun}"
        for kind, noun in (("sft", "answers"), ("preference", "pairs"), ("unpaired", "thumbs"))
        if counts.get(kind)
    )
    made = f"<code>{wording.text(report.version)}</code>" if report.version else "not made yet"
    chosen = f"<small>after {report.made['chosen'].upper()}</small>" if report.made else ""
    steps = (
        ("dataset", f"<code>{wording.text(report.plan['dataset_hash'])}</code>"),
        ("rows", f"{rows}<small>{counts['tokens']:,} tokens</small>"),
        *([("on from", f"<code>{wording.text(start['version'])}</code>")] if start else []),
        ("version", made + chosen),
        ("measured against", f"<code>{wording.text(report.plan['champion'])}</code>"),
    )
    items = "".join(f"<li><span>{name}</span>{value}</li>" for name, value in steps)
    by = ", ".join(
        f"{wording.text(a['who'])} {wording.when(datetime.fromisoformat(a['at']))}" for a in report.attempts
    )
    started = f"<p class='quiet'>Worked on by {by}</p>" if by else ""
    return f"<ol class='lineage' aria-label='Lineage'>{items}</ol>{started}"


def _metrics(metrics: Mapping[str, Mapping[str, Any]], gate: Gate) -> str:
    rows = []
    for name, found in metrics.items():
        guard = gate.guards.get(name)
        mark = "primary" if name == gate.primary else "guard" if guard else ""
        limit = -guard.margin if guard else None
        numbers = f"{found['champion']:.3f} → {found['candidate']:.3f}, {found['n']} items"
        whisker = Whisker(
            wording.spaced(name), found["difference"], found["low"], found["high"], mark, limit, numbers
        )
        rows.append(whisker)
    caption = "Candidate less champion, with interval; the dashed line is what a guard may lose"
    return differences(caption, rows, ("metric", "difference"))


def _cases(title: str, cases: Sequence[Case], report: Report) -> str:
    if not cases:
        return ""
    champion, candidate = wording.text(report.plan["champion"]), wording.text(report.version)
    shown = ""
    for number, case in enumerate(cases):
        expert = f"<p class='quiet'>The expert: {wording.text(case.reference)}</p>" if case.reference else ""
        shown += (
            f"<details{' open' if number == 0 else ''}><summary><span class='tag'>{case.after - case.before:+.3f}"
            f"</span> {wording.text(case.question)}</summary><div class='two'>"
            f"<div><span>{champion} · {case.before:.3f}</span><p>{wording.text(case.champion)}</p></div>"
            f"<div><span>{candidate} · {case.after:.3f}</span><p>{wording.text(case.candidate)}</p></div></div>"
            f"{expert}</details>"
        )
    return f"<div class='cases'><h3>{title}</h3>{shown}</div>"


# words


def _card(title: str, value: str, text: str) -> str:
    return f"<section class='card'><h2>{title}</h2><p class='value'>{value}</p><p class='quiet'>{text}</p></section>"
