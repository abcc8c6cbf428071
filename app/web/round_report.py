"""The report of a finished round: one file that needs nothing else, for a screen and for paper."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from app.reports import Case, Findings, Report, Score, Voices
from app.searches import setting_words
from app.web.plots import Moment, Whisker, curve, differences, timeline, whiskers
from app.web.redline import redline
from app.web.rounds_view import liked
from app.web.search_view import search_view
from app.web.wording import count, duration, spaced, text, when
from eval.objective import Gate
from feedback.compiling.dataset import pairs_in_words
from training.registry import LEARNS

STYLES = tuple(Path(__file__).parent / "static" / name for name in ("plots.css", "report.css"))
CASES = 5  # wins, and as many losses
WORST = 5  # slices of the primary
LATEST = 12  # versions in a plot
MOMENTS = 26  # weeks of a version in a plot
STAGES = {"sft": "Answers (SFT)", "dpo": "Preferences (DPO)", "kto": "Thumbs (KTO)"}
STEPS = STAGES | {
    "choose": "Choosing between them",
    "champion": "Examining the champion",
    "candidate": "Examining the candidate",
}
KINDS = {"sft": "answers", "preference": "pairs", "unpaired": "thumbs"}
ROLES = {"user": "end user", "reviewer": "reviewer"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # also where the file is opened from a disk


def round_report(title: str, gate: Gate, found: Findings, voices: Voices, at: datetime) -> str:
    """The document, written at `at`, about a round of the objective `title` with this `gate`."""
    report = found.report
    sections = [
        _why(report),
        _metrics(report, gate),
        _by_version(found.scores, gate),
        _people(voices),
        _learning(report),
        _settings(found),
        _cases("wins", f"Largest wins in {spaced(gate.primary)}", found.won, report),
        _cases("losses", f"Largest losses in {spaced(gate.primary)}", found.lost, report),
        _figures(report),
        _lineage(found, voices),
        _cost(report),
    ]
    style = "".join(file.read_text("utf-8") for file in STYLES)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>Round {report.name}: {text(_verdict(report))}</title><style>{style}</style></head>"
        f"<body><main><header><p class='quiet'>{text(title)} · round {report.name}</p>"
        f"<h1>{text(_verdict(report))}</h1>{_cards(report, gate)}</header>"
        f"{''.join(sections)}<footer class='quiet'>Written {when(at)}.</footer></main></body></html>\n"
    )


def _verdict(report: Report) -> str:
    """The decision in a sentence."""
    decided, champion = report.decided, report.plan["champion"]
    if decided["promoted"]:
        return f"{report.version} was promoted: it takes the place of {champion}."
    if decided["decision"] == "promote":
        return f"{report.version} won against {champion}, and was not promoted."
    if decided["decision"] == "refuse":
        return f"{report.version} was refused: {champion} keeps its place."
    return f"There was not enough data to decide on {report.version}: {champion} keeps its place."


def _cards(report: Report, gate: Gate) -> str:
    decided = report.decided
    cards = []
    if primary := decided["metrics"].get(gate.primary):
        interval = f"{primary['low']:+z.3f} to {primary['high']:+z.3f}, {count(primary['n'], 'item')}"
        cards.append((spaced(gate.primary), f"{primary['difference']:+z.3f}", interval))
    if smallest := decided.get("detectable"):
        needed = decided.get("items_needed")
        takes = f"; the one that was seen takes {count(needed, 'item')}" if needed else ""
        cards.append(("Smallest gain it could see", f"{smallest:.3f}", f"80 % of the time{takes}"))
    if stages := report.made.get("stages"):
        rows = sum(report.made["rows"][LEARNS[stage]]["train"] for stage in stages)
        tokens = sum(stage["tokens"] for stage in stages.values())
        cards.append(("Trained on", count(rows, "row"), f"{tokens:,} tokens"))
    if seconds := report.seconds():
        cards.append(("It took", duration(sum(seconds.values())), "of training and examining"))
    items = "".join(
        f"<div><dt>{name}</dt><dd><b>{value}</b><span class='quiet'>{note}</span></dd></div>"
        for name, value, note in cards
    )
    return f"<dl class='cards'>{items}</dl>"


def _why(report: Report) -> str:
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in report.decided["reasons"])
    return _section("why", "Why", f"<ul class='reasons'>{reasons}</ul>")


# metrics


def _metrics(report: Report, gate: Gate) -> str:
    metrics = report.decided["metrics"]
    first = [name for name in (gate.primary, *gate.guards) if name in metrics]
    rows = [
        _compared(
            name.replace("_", " "),
            metrics[name],
            "primary" if name == gate.primary else "guard" if name in gate.guards else "",
            gate.guards[name].margin if name in gate.guards else None,
        )
        for name in dict.fromkeys((*first, *metrics))
    ]
    caption = (
        "The candidate less the champion, with its interval, each on a scale of its own. The solid line is no "
        "change, the dashed one what a guard may lose; the others are reported only."
    )
    header = ("metric", "items", "champion", "candidate", "difference")
    table = differences(caption, rows, header) if rows else "<p>Nothing could be measured.</p>"
    return _section("metrics", "Metrics", table + _worst_slices(report.decided.get("slices") or {}, gate))


def _worst_slices(slices: Mapping[str, Mapping[str, Any]], gate: Gate) -> str:
    """The primary's worst parts, and the worst one of each guard."""
    rows = []
    for metric in (gate.primary, *gate.guards):
        parts = sorted(slices.get(metric, {}).items(), key=lambda part: part[1]["difference"])
        margin = gate.slice_margin if metric == gate.primary else None
        for name, found in parts[: WORST if metric == gate.primary else 1]:
            rows.append(_compared(f"{metric.replace('_', ' ')}: {name}", found, "", margin))
    if not rows:
        return ""
    limit = "; the dashed line is what none of the primary may surely lose" if gate.slice_margin else ""
    caption = f"Their intervals are corrected for how many were looked at{limit}."
    header = ("slice", "items", "champion", "candidate", "difference")
    return f"<h3>Worst slices</h3>{differences(caption, rows, header)}"


def _compared(label: str, found: Mapping[str, Any], mark: str, margin: float | None) -> Whisker:
    return Whisker(
        label,
        found["difference"],
        found["low"],
        found["high"],
        mark,
        -margin if margin else None,
        cells=(f"{found['n']:,}", f"{found['champion']:.3f}", f"{found['candidate']:.3f}"),
    )


# plots


def _by_version(scores: Mapping[str, Sequence[Score]], gate: Gate) -> str:
    plots = {metric: _versions(metric, found[-LATEST:]) for metric, found in scores.items()}
    primary = plots.pop(gate.primary, "")
    guards = f"<div class='two'>{''.join(plots.values())}</div>" if plots else ""
    return _section("versions", "Metrics by version", primary + guards) if primary or guards else ""


def _versions(metric: str, found: Sequence[Score]) -> str:
    rows = [Whisker(score.version, score.mean, score.low, score.high) for score in found]
    caption = f"{metric.replace('_', ' ')}: mean and interval on the same {count(found[-1].n, 'item')}"
    return f"<div>{whiskers(caption, rows, ('version', 'mean'))}</div>"


def _people(voices: Voices) -> str:
    if not voices.liked:
        return _section(
            "satisfaction", "Satisfaction", "<p class='quiet'>Nobody had rated an answer yet.</p>"
        )
    moments = [Moment(week, one.version, one.share, *one.interval) for week, one in voices.weeks]
    weeks = timeline("Liked, week by week: share and 95 % interval", moments[-MOMENTS:])
    return _section(
        "satisfaction", "Satisfaction", f"<div class='two'><div>{liked(voices.liked)}</div>{weeks}</div>"
    )


def _learning(report: Report) -> str:
    made = report.made.get("stages", {})
    curves = "".join(
        curve(points, made.get(stage, {}).get("steps", points[-1][0]), f"Training loss: {STAGES[stage]}")
        for stage, points in report.losses().items()
    )
    if report.looked:
        curves += curve(report.looked, report.looks[-1]["steps"], f"Validation loss: {STAGES['sft']}")
    rows = [
        (
            STAGES[stage],
            _number(found["validation_log_likelihood"]),
            "" if (right := found["validation_pair_accuracy"]) is None else f"{right:.0%}",
        )
        for stage, found in made.items()
    ]
    heads = ("after", "log-likelihood of an answer, nats a token", "pairs ranked right")
    validation = _table("On the validation side", heads, rows) if rows else ""
    chosen = ""
    if rows:
        because = text(report.made["chosen_because"])
        chosen = f"<p>The candidate is the adapter after {report.made['chosen'].upper()}: {because}.</p>"
    if not curves and not validation:
        return ""
    return _section("learning", "Learning", f"<div class='two'>{curves}</div>{validation}{chosen}")


def _settings(found: Findings) -> str:
    """What was put over the objective's settings, and the search that found it."""
    settings = found.report.plan.get("settings")
    if not settings:
        return ""
    words = setting_words({"settings": settings["training"], "curation": settings["curation"]})
    source = f"<p>From {text(settings['from'])}: {text(words)}.</p>"
    return _section("settings", "Settings", source + (search_view(found.search) if found.search else ""))


# answers


def _cases(name: str, title: str, cases: Sequence[Case], report: Report) -> str:
    if not cases:
        return ""
    shown = "".join(_case(case, report) for case in cases)
    legend = (
        f"<p class='quiet'><del>Struck through</del>: only {text(report.plan['champion'])} says it. "
        f"<ins>Underlined</ins>: only {text(report.version)} does.</p>"
    )
    return _section(name, title, legend + shown)


def _case(case: Case, report: Report) -> str:
    compared = redline(case.champion, case.candidate)
    before, after = compared or (text(case.champion), text(case.candidate))
    unlike = (
        ""
        if compared
        else "<p class='quiet'>The two have little wording in common, so nothing is marked.</p>"
    )
    expert = f"<p class='expert'><b>The expert:</b> {text(case.reference)}</p>" if case.reference else ""
    return (
        f"<article><h3>{text(case.question)} <span class='tag'>{case.after - case.before:+.3f}</span></h3>{expert}"
        f"<div class='two'><div class='answer'><h4>{text(report.plan['champion'])} · {case.before:.3f}</h4>"
        f"<p>{before}</p></div><div class='answer'><h4>{text(report.version)} · {case.after:.3f}</h4>"
        f"<p>{after}</p></div></div>{unlike}</article>"
    )


# grounds


def _figures(report: Report) -> str:
    figures = report.decided.get("figures") or {}
    champion, candidate = figures.get("champion", {}), figures.get("candidate", {})
    rows = [
        (spaced(name.replace(".", ": ", 1)), _number(champion.get(name)), _number(candidate.get(name)))
        for name in dict.fromkeys((*champion, *candidate))
    ]
    if not rows:
        return ""
    heads = ("suite: figure", "champion", "candidate")
    return _section(
        "figures", "Beside the gate", _table("Measured, and no part of the decision", heads, rows)
    )


def _lineage(found: Findings, voices: Voices) -> str:
    report, dataset = found.report, found.dataset
    start = report.plan.get("start")
    before = "".join(
        f"<li><code>{text(earlier.version)}</code> of {earlier.name}, dataset "
        f"<code>{text(earlier.plan['dataset_hash'])}</code></li>"
        for earlier in found.before
    )
    people = ", ".join(count(number, ROLES[role]) for role, number in voices.behind.items()) or "nobody"
    facts = [
        ("Dataset", f"<code>{text(report.plan['dataset_hash'])}</code>"),
        ("Base model", text(report.plan["base_model_name"])),
        *([("Trained on from", f"<code>{text(start['version'])}</code>")] if start else []),
        ("Champions before", f"<ol><li><code>base</code></li>{before}</ol>"),
    ]
    if dataset is None:
        gone = "<p class='note'>The dataset is no longer there: somebody's words in it were erased.</p>"
        return _section("lineage", "What it learnt from", _facts(facts) + gone)
    sources = dataset["sources"]
    facts[1:1] = [
        ("Frozen", when(datetime.fromisoformat(dataset["created_at"]))),
        ("Said", f"{count(len(sources['feedback']), 'thing')} by {people}"),
        ("Knowledge", count(len(sources["knowledge"]), "row")),
        (
            "Tokens",
            ", ".join(f"{n:,} of {spaced(origin)}" for origin, n in dataset["tokens"]["by_origin"].items()),
        ),
        *([("Pairs", pairs_in_words(dataset))] if dataset.get("rejected_by") else []),
    ]
    return _section("lineage", "What it learnt from", _facts(facts) + _rows(dataset) + _funnel(dataset))


def _rows(dataset: Mapping[str, Any]) -> str:
    """How many rows there are by kind and rule, and on which side."""
    kinds = [
        (f"{KINDS[kind]} ({kind})", f"{sides['train']:,}", f"{sides['validation']:,}")
        for kind, sides in dataset["counts"].items()
    ]
    rules = [(spaced(rule), f"{number:,}") for rule, number in dataset["rules"].items()]
    by_kind = _table("Rows by kind", ("kind", "train", "validation"), kinds)
    return f"<div class='two'>{by_kind}{_table('Rows by rule', ('kind: rule', 'rows'), rules)}</div>"


def _funnel(dataset: Mapping[str, Any]) -> str:
    """What became of everything that came in."""
    tables = ""
    for name in ("signals", "knowledge"):
        tally = dataset["funnel"][name]
        dropped = [(f"dropped: {spaced(rule)}", f"{n:,}") for rule, n in tally["dropped"].items()]
        rows = [("came in", f"{tally['in']:,}"), *dropped]
        rows += [("held out for the suites", f"{tally['held_out']:,}"), ("kept", f"{tally['kept']:,}")]
        tables += _table(f"What became of {name}", ("outcome", "number"), rows)
    if excluded := dataset["excluded_by_budget"]:
        rows = [(spaced(limit), f"{n:,}") for limit, n in excluded.items()]
        tables += _table("Rows left out by the budget", ("limit", "rows"), rows)
    return f"<div class='two'>{tables}</div>"


def _cost(report: Report) -> str:
    made = report.made
    seconds, stages = report.seconds(), made.get("stages", {})
    if not seconds:
        return ""
    rows = []
    for step, taken in seconds.items():
        stage = stages.get(step, {})
        learnt = (f"{stage['tokens']:,}", f"{stage['tokens_per_s']:,.0f}") if stage else ("", "")
        rows.append((STEPS.get(step, text(step)), f"{taken:,.0f} s", *learnt))
    rows.append(("all", f"{sum(seconds.values()):,.0f} s", "", ""))
    used = ""
    if "threads" in made:
        beside = "" if made["device"] == "cpu" else f" beside {text(made['device'])}"
        took = f"{duration(made['cpu_s'])} of processor time in {duration(made['wall_s'])}"
        used = f"<p>Trained on {count(made['threads'], 'processor')}{beside}: {took}, with loading.</p>"
    if "energy_wh" in made:
        used += f"<p>Energy of the training, an estimate: {made['energy_wh']:,.2f} Wh; {text(made['energy_from'])}.</p>"
    heads = ("step", "time", "tokens", "tokens/s")
    return _section("cost", "Cost", _table("What each step took", heads, rows) + used)


# parts


def _section(name: str, title: str, body: str) -> str:
    return f"<section id='{name}'><h2>{title}</h2>{body}</section>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f"<dl class='facts'>{items}</dl>"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; the first of a row names it."""
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    body = "".join(
        f"<tr><th scope='row'>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for first, *cells in rows
    )
    return (
        f"<table class='plain'><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3f}".rstrip("0").rstrip(".")
