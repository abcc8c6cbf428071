"""The report of a finished round: everything is in it, nothing comes from elsewhere, and it reads for everybody."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from app.operations import Operations
from app.reports import Report, Reports, Voices
from app.run_folder import RunFolder
from app.settings import Settings
from app.web.report_path import report_router
from app.web.round_report import CASES, round_report
from eval.objective import Gate, Guard, load_objective
from feedback.records import Signal, Turn
from feedback.satisfaction import Satisfaction
from feedback.store import Store
from tests.accessibility import serious
from tests.browsing import chromium, serving
from tests.test_circle import OBJECTIVE

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
ALIEN = "<script>alert(1)</script><img src='https://elsewhere.example/x.png'>"
GATE = Gate(
    primary="token_f1",
    guards={"rouge_l": Guard(margin=0.1, spread=0.2), "corrections_kept": Guard(margin=0.2, spread=0.4)},
    slice_margin=0.05,
    resamples=1000,
)
VOICES = Voices(
    [Satisfaction("base", 7, 10), Satisfaction("v0001-aaaaaaaa", 9, 10)],
    [
        (date(2026, 11, 2), Satisfaction("base", 7, 10)),
        (date(2026, 11, 9), Satisfaction("v0001-aaaaaaaa", 9, 10)),
    ],
    {"reviewer": 1, "user": 12},
)


def compared(champion: float, candidate: float, reach: float, n: int = 12) -> dict:
    """A metric as decision.json keeps it."""
    difference = candidate - champion
    bounds = {"difference": difference, "low": difference - reach, "high": difference + reach}
    return {"champion": champion, "candidate": candidate, **bounds, "n": n, "clusters": n}


def finish(home: Path, name: str, champion: str, version: str, **decided) -> RunFolder:
    """Leave in `home` what a finished round leaves there, with words of strangers in it."""
    run = RunFolder(home / "runs" / name)
    run.path.mkdir(parents=True)
    counts = {"sft": 30, "preference": 8, "unpaired": 4, "tokens": 9000}
    plan = {"run": name, "dataset_hash": "da7a", "base_model_name": "tiny", "champion": champion}
    run.write("plan.json", plan | {"counts": counts})
    stage = {"steps": 2, "tokens": 4500, "tokens_per_s": 450.0}
    stage |= {"validation_log_likelihood": -2.05, "validation_pair_accuracy": 0.75}
    made = {"version": version, "chosen": "dpo", "chosen_because": "pair accuracy rose", "threads": 2}
    made |= {
        "rows": {"sft": {"train": 28}, "preference": {"train": 7}},
        "device": "cpu",
        "wall_s": 30.0,
        "cpu_s": 45.0,
        "energy_wh": 0.15,
        "energy_from": "12 W for each busy core",
        "stages": {"sft": stage, "dpo": stage},
    }
    run.write("run.json", made)
    answers = [
        ("Rest and drink plenty of hot milk at night.", "Rest and drink plenty of water at night."),
        (f"It is nothing. {ALIEN}", "It is nothing to worry about when you rest."),
        *[("The same words.", "The same words.")] * 10,
    ]
    items = [
        {
            "id": f"i{n}",
            "messages": [{"role": "user", "content": f"Question {n}? {ALIEN}"}],
            "reference": ALIEN,
        }
        for n in range(12)
    ]
    run.write("suites.json", [{"name": "held_out", "items": items}])
    scores = {"champion": [0.2, 0.9, *[0.5] * 10], "candidate": [0.8, 0.1, *[0.5] * 10]}
    run.write(
        "evaluation.json",
        {
            role: {
                "version": who,
                "suites": {
                    "held_out": {
                        "hash": "cafe",
                        "answers": {f"i{n}": pair[side] for n, pair in enumerate(answers)},
                        "clusters": {f"i{n}": f"i{n}" for n in range(12)},
                        "scores": {
                            metric: {f"i{n}": value for n, value in enumerate(scores[role])}
                            for metric in ("token_f1", "rouge_l")
                        },
                    }
                },
            }
            for side, (role, who) in enumerate((("champion", champion), ("candidate", version)))
        },
    )
    lines = [
        {"stage": stage, "step": step, "steps": 2, "loss": 3.0 - step, "elapsed_s": 5.0 * step}
        for stage in ("sft", "dpo")
        for step in (1, 2)
    ]
    lines += [{"stage": "look", "look": 1, "step": 1, "steps": 2, "loss": 2.5}]
    lines += [{"stage": "choose", "step": 4, "steps": 4, "elapsed_s": 3.0}]
    lines += [
        {"stage": f"evaluate {who} on held_out", "step": 12, "steps": 12, "elapsed_s": took}
        for who, took in ((champion, 7.0), (version, 8.0))
    ]
    (run.path / "progress.jsonl").write_text("\n".join(map(json.dumps, lines)))
    decision = {
        "decision": "refuse",
        "promoted": False,
        "reasons": [f"token_f1 changed by 0.000: no sure win {ALIEN}"],
        "metrics": {"token_f1": compared(0.5, 0.5, 0.02), "rouge_l": compared(0.5, 0.48, 0.03)},
        "slices": {"token_f1": {f"topic {ALIEN}": compared(0.5, 0.44, 0.02, 6)}},
        "detectable": 0.031,
        "items_needed": 480,
        "figures": {"champion": {"held_out.stopped": 0.25}, "candidate": {"held_out.stopped": 0.75}},
    }
    run.write("decision.json", decision | decided)
    return run


def freeze(home: Path) -> None:
    """The manifest of the rounds' dataset."""
    folder = home / "datasets" / "da7a"
    folder.mkdir(parents=True)
    tally = {"in": 612, "dropped": {"too_long": 4}, "held_out": 72, "kept": 536}
    manifest = {
        "counts": {"sft": {"train": 28, "validation": 2}, "preference": {"train": 7, "validation": 1}},
        "rules": {"sft: correction": 12, "sft: knowledge": 18},
        "tokens": {"by_origin": {"feedback": 3000, "knowledge": 6000}},
        "excluded_by_budget": {"token_budget": 101},
        "rejected_by": {"last_version": 5, "older_versions": 2, "others": 0, "on_policy": 0.714},
        "length_lean": {"pairs": 7, "share": 0.571, "low": 0.25, "high": 0.842},
        "funnel": {"signals": tally, "knowledge": tally},
        "sources": {"feedback": ["s1", "s2"], "knowledge": ["k1"]},
        "created_at": AT.isoformat(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two finished rounds: the first was promoted, the second refused."""
    home = tmp_path / "home"
    finish(home, "r0001", "base", "v0001-aaaaaaaa", decision="promote", promoted=True)
    finish(home, "r0002", "v0001-aaaaaaaa", "v0002-bbbbbbbb")
    freeze(home)
    return home


def page(home: Path, name: str = "r0002", voices: Voices = VOICES) -> str:
    return round_report(f"Health {ALIEN}", GATE, Reports(home, GATE).findings(name, CASES, str), voices, AT)


def test_personal_data_is_replaced_in_what_is_quoted(home: Path):
    """A report is passed on, and no erasure follows it there."""
    found = Reports(home, GATE).findings("r0002", CASES, lambda text: "<REPLACED>")
    quoted = [
        text for case in (*found.won, *found.lost) for text in (case.question, case.champion, case.candidate)
    ]
    assert quoted and set(quoted) == {"<REPLACED>"}


def words(document: str) -> str:
    """What a reader sees of it, on one line."""
    body = re.sub(r"<style>.*?</style>", "", document, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_everything_is_told_in_its_order(home: Path):
    """Decision and reasons, metrics, plots, wins and losses, lineage, cost."""
    said = words(page(home))
    parts = (
        "v0002-bbbbbbbb was refused: v0001-aaaaaaaa keeps its place.",
        "Smallest gain it could see 0.031 80 % of the time; the one that was seen takes 480 items",
        "Trained on 35 rows 9,000 tokens",
        "It took 38 s",
        "token_f1 changed by 0.000: no sure win",
        "token f1 primary 12 0.500 0.500 +0.000 -0.020 to +0.020",
        "rouge l guard 12 0.500 0.480 -0.020 -0.050 to +0.010",
        "Worst slices",
        "-0.060 -0.080 to -0.040",
        "Metrics by version",
        "token f1: mean and interval on the same 12 items",
        "rouge l: mean and interval",
        "Liked, of 20 rated answers",
        "Liked, week by week",
        "Training loss: Answers (SFT)",
        "Training loss: Preferences (DPO)",
        "Validation loss: Answers (SFT) 2.500",
        "On the validation side",
        "-2.05 75%",
        "The candidate is the adapter after DPO: pair accuracy rose.",
        "Largest wins in token f1",
        "+0.600",
        "Rest and drink plenty of hot milk at night.",
        "Largest losses in token f1",
        "-0.800",
        "Beside the gate",
        "held out: stopped 0.25 0.75",
        "What it learnt from",
        "da7a",
        "2 things by 1 reviewer, 12 end users",
        "Pairs Of 7 pairs 71% reject an answer of the last version",
        "v0001-aaaaaaaa of r0001",
        "sft: correction 12",
        "came in 612 dropped: too long 4 held out for the suites 72 kept 536",
        "token budget 101",
        "Cost",
        "Answers (SFT) 10 s 4,500 450",
        "Examining the champion 7 s",
        "all 38 s",
        "Trained on 2 processors: 45 s of processor time in 30 s",
        "Energy of the training, an estimate: 0.15 Wh; 12 W for each busy core.",
    )
    place = 0
    for part in parts:
        assert part in said[place:], part
        place = said.index(part, place)


@pytest.mark.parametrize(
    ("decided", "sentence"),
    [
        ({"decision": "promote", "promoted": True}, "v0003 was promoted: it takes the place of base."),
        ({"decision": "promote"}, "v0003 won against base, and was not promoted."),
        ({"decision": "refuse"}, "v0003 was refused: base keeps its place."),
        (
            {"decision": "not_enough_data"},
            "There was not enough data to decide on v0003: base keeps its place.",
        ),
    ],
)
def test_the_decision_is_one_sentence(tmp_path: Path, decided: dict, sentence: str):
    """It stands first, as the only heading of its rank."""
    finish(tmp_path, "r0003", "base", "v0003", **decided)
    assert re.findall(r"<h1>(.*?)</h1>", page(tmp_path, "r0003")) == [sentence]


def test_it_needs_nothing_else_and_runs_nothing(home: Path):
    """No script, no address, whatever people and models wrote; the browser is told so, too."""
    document = page(home)
    assert "default-src 'none'; style-src 'unsafe-inline'" in document
    assert not re.search(r"<(script|img|link|iframe|object|embed|base|form)\b", document)
    assert not re.search(r"<[^>]*\b(src|href|srcset|on\w+)=", document)
    assert not re.search(r"url\(|@import", document)
    assert document.count("&lt;script&gt;") >= 8  # title, reason, slice, questions, experts, answer


def test_a_word_diff_marks_by_more_than_colour(home: Path):
    """What only one of the two says is deleted or inserted, in its own answer."""
    document = page(home)
    assert "plenty of <del>hot milk</del> at night." in document
    assert "plenty of <ins>water</ins> at night." in document


def test_a_margin_is_drawn_where_it_lies(home: Path):
    """The dashed line of a guard is at minus its margin, on the scale of its row."""
    row = re.search(r"<tr><th scope='row'>rouge l.*?</tr>", page(home))[0]
    assert "class='limit' style='left:4.55%'" in row  # -0.1 on a scale from -0.11 to 0.11


def test_later_rounds_do_not_change_it(home: Path):
    """A report made today on an old round shows the versions that there were."""
    assert "v0002-bbbbbbbb" not in page(home, "r0001")
    assert "v0001-aaaaaaaa" in words(page(home, "r0002")).split("Metrics by version")[1]


def test_headings_and_tables_have_their_order(home: Path):
    """No rank is skipped, and every column of numbers has a head."""
    document = page(home)
    ranks = [int(rank) for rank in re.findall(r"<h(\d)", document)]
    assert ranks[0] == 1 and all(after <= before + 1 for before, after in pairwise(ranks))
    assert document.count("<table") == document.count("<caption>") == document.count("<thead>")


def test_a_round_of_which_little_is_left(home: Path):
    """After an erasure there are numbers, and a word on what is missing; nobody rated, no slices, no figures."""
    run = RunFolder(home / "runs" / "r0002")
    for name in ("suites.json", "progress.jsonl"):
        (run.path / name).unlink()
    (home / "datasets" / "da7a" / "manifest.json").unlink()
    older = run.read("decision.json")
    run.write(
        "decision.json", {k: v for k, v in older.items() if k not in ("slices", "figures", "detectable")}
    )
    said = words(page(home, voices=Voices([], [], {})))
    assert "was refused" in said and "token f1 primary" in said
    assert "Nobody had rated an answer yet." in said
    assert "The dataset is no longer there" in said
    for gone in ("Largest wins", "Question 0", "hot milk", "Worst slices", "Beside the gate", "Cost"):
        assert gone not in said, gone


def test_asking_again_after_a_stop_is_counted():
    """An examination counts from nought each time; what a training took goes on after a stop."""
    lines = [
        ("sft", 4.0),
        ("sft", 3.0),
        ("sft", 9.0),
        ("evaluate base on held_out", 5.0),
        ("evaluate base on held_out", 0.5),
        ("evaluate base on general", 6.0),
        ("evaluate v1 on held_out", 7.0),
    ]
    progress = [{"stage": stage, "step": 1, "steps": 9, "elapsed_s": elapsed} for stage, elapsed in lines]
    report = Report("r0001", {"champion": "base"}, None, None, None, False, (), progress, True)
    assert report.seconds() == {"sft": 9.0, "champion": 11.0, "candidate": 7.0}


# in a browser, behind its door


@pytest.fixture
def site(home: Path, tmp_path: Path) -> Iterator[str]:
    from app.web.server import build_app

    objective = tmp_path / "objective"
    objective.mkdir()
    (objective / "objective.toml").write_text(OBJECTIVE.format(base="none"))
    (objective / "golden.jsonl").write_text(json.dumps({"id": "g", "question": "Why?", "answer": "So."}))
    settings = Settings(home, objective, tmp_path / "cache")
    asked = ({"role": "user", "content": "?"},)
    with Store.open(settings.store_file) as store:
        for number, version in enumerate(("base", "v0001-aaaaaaaa")):
            turn = Turn(f"t{number}", "c", "ann", asked, "No.", version, AT)
            store.add(turn, Signal(f"s{number}", turn.id, "ann", "user", "rating", {"rating": 1}, AT))
        domain = load_objective(settings.objective)
        operations = Operations(settings, domain, store)
        reports = Reports(home, domain.gate)
        router = report_router(operations, reports, lambda request: request.headers.get("x-operator"))
        with serving(build_app([], [router], "a secret of 32 characters or more", "127.0.0.1")) as url:
            yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def get(site: str, name: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{site}/rounds/report/{name}", headers=headers, trust_env=False)


def test_only_an_operator_reads_it(site: str, home: Path):
    """Whoever is not signed in learns nothing, not even which rounds there are; a browser is sent to the sign-in."""
    for name in ("r0001", "r9999"):
        assert get(site, name).status_code == 401
        sent = get(site, name, accept="text/html")
        assert (sent.status_code, sent.headers["location"]) == (303, f"/sign-in?next=/rounds/report/{name}")
    for name in ("r9999", "..%2F..%2Fstore.duckdb", "decision.json"):
        assert get(site, name, **{"x-operator": "oz"}).status_code == 404, name
    answer = get(site, "r0001", **{"x-operator": "oz"})
    assert "v0001-aaaaaaaa was promoted" in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_what_was_written_then_is_shown_and_nothing_else_is_kept(site: str, home: Path):
    """The file of the round comes first; one made on the way is not left where an erasure would not look."""
    shown = get(site, "r0001", **{"x-operator": "oz"}).text
    assert "Liked, of 2 rated answers" in shown and "Liked, week by week" in shown
    assert "2 things by 1 end user" in shown
    run = RunFolder(home / "runs" / "r0001")
    assert not run.has("report.html")
    run.write_page("report.html", "<p>As it was then.</p>")
    assert get(site, "r0001", **{"x-operator": "oz"}).text == "<p>As it was then.</p>"


@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}])
def test_it_reads_in_light_and_dark_and_on_a_phone(browser: Browser, home: Path, look: dict):
    """No serious barrier, no sideways scrolling, and nothing is fetched."""
    file = home / "report.html"
    file.write_text(page(home))
    context = browser.new_context(**look)
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri())
    assert serious(opened) == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert asked == [file.as_uri()]
    context.close()


def test_it_prints_light_and_whole(browser: Browser, home: Path):
    """Paper is white also for a reader in the dark, and no part is wider than the page."""
    file = home / "report.html"
    file.write_text(page(home))
    context = browser.new_context(color_scheme="dark", viewport={"width": 688, "height": 1000})
    opened = context.new_page()
    opened.goto(file.as_uri())
    opened.emulate_media(media="print", color_scheme="dark")
    assert (
        opened.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    )
    widest = "Math.max(...[...document.querySelectorAll('main *')].map(e => e.getBoundingClientRect().right))"
    assert opened.evaluate(widest) <= 688
    context.close()
