"""The review desk as a reviewer meets it: a real browser, a real server, keys and all."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from app.review import ReviewDesk
from eval.objective import Gate, Objective, SuitePlan
from eval.objective import Page as Words
from feedback.records import Draft, Judgement, Review, Signal, Turn, new_id
from feedback.store import Store
from tests.browsing import chromium, serving

ANSWER = "Asthma is a disease of the stomach that comes from cold water."
BETTER = "Asthma is a disease of the airways that makes breathing hard."


@dataclass
class Site:
    """A running desk, and what stands behind it."""

    url: str
    store: Store
    desk: ReviewDesk

    def clear(self) -> None:
        """Nothing waits, and nobody has anything in hand."""
        for table in ("turn", "signal", "review", "judgement", "draft"):
            self.store.write(lambda c, table=table: -c.execute(f"DELETE FROM {table}").fetchone()[0])
        for reviewer in ("dora", "emil"):
            self.desk.put_down(reviewer)

    def answer(self, turn: str, question: str = "What is asthma?", answer: str = ANSWER, **more) -> None:
        at = datetime.now(UTC)
        asked = ({"role": "user", "content": question},)
        given = {"conversation": "c" + turn, "user": "ann", "messages": asked, "version": "v0001", "at": at}
        self.store.add(Turn(id=turn, answer=answer, **given | more))

    def say(self, turn: str, kind: str, **value) -> None:
        at = datetime.now(UTC)
        self.store.add(Signal(new_id(at), turn, "ann", "user", kind, value, at))

    def judged(self) -> list[tuple[str, str, str]]:
        return [(j.reviewer, j.turn, j.verdict) for j in self.store.records(Judgement)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"  # its sums are never read, and warn
    from app.web.review import HEAD, STYLES, review_page  # after the environment is set
    from app.web.server import Mount, build_app

    home = tmp_path_factory.mktemp("home")
    objective = Objective(
        folder=home,
        title="Health <leaflet>",
        system_prompt="Answer plainly.",
        base_model="tiny",
        encoder="tiny",
        page=Words(consent="Keep it?", disclaimer="No advice."),
        suites={"questions": SuitePlan(kind="questions", items=1, metrics=("similarity",))},
        gate=Gate(primary="similarity"),
    )
    with Store.open(home / "store.duckdb") as store:
        desk = ReviewDesk(store, objective, home)
        mount = Mount(
            "/review",
            lambda: review_page(desk, objective),
            (STYLES,),
            HEAD,
            lambda request: request.cookies.get("name"),
        )
        app = build_app([mount], [], "a secret of 32 characters or more", "127.0.0.1")
        with serving(app) as url:
            yield Site(url, store, desk)


@pytest.fixture
def site(running: Site) -> Site:
    running.clear()
    return running


@pytest.fixture(scope="module")
def browser(running: Site) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def browsers(browser: Browser, running: Site) -> Iterator[Callable[..., BrowserContext]]:
    """A browser for each reviewer and look, which keeps what it has loaded."""
    contexts: dict[str, BrowserContext] = {}

    def browser_of(reviewer: str, **look) -> BrowserContext:
        key = f"{reviewer} {look}"
        if key not in contexts:
            contexts[key] = browser.new_context(**look)
            contexts[key].add_cookies([{"name": "name", "value": reviewer, "url": running.url}])
        return contexts[key]

    yield browser_of
    for context in contexts.values():
        context.close()


@pytest.fixture
def visit(browsers: Callable[..., BrowserContext], site: Site) -> Iterator[Callable[..., Page]]:
    """Opens the desk for one reviewer."""
    pages: list[Page] = []

    def open_as(reviewer: str, **look) -> Page:
        pages.append(page := browsers(reviewer, **look).new_page())
        page.set_default_timeout(20_000)
        page.goto(f"{site.url}/review/")
        expect(page.locator("#person")).to_contain_text(reviewer, timeout=20_000)
        return page

    yield open_as
    for page in pages:
        page.close()


def shown(page: Page, question: str) -> None:
    """Waits until the answer to `question` is in hand."""
    expect(page.locator("#about .asked")).to_have_text(question)


def editor(page: Page):
    return page.locator("#editor textarea")


def test_five_answers_by_keys_alone(site: Site, visit):
    """Every verdict has a key; the next answer comes by itself."""
    for i in range(5):
        site.answer(f"t{i}", f"Question {i}?")
    site.say("t3", "correction", text=BETTER)
    page = visit("dora")
    shown(page, "Question 3?")  # corrected by a user, so before the others
    expect(editor(page)).to_have_value(BETTER)
    page.keyboard.press("c")
    shown(page, "Question 4?")
    expect(page.locator("#notice")).to_contain_text("Corrected.")
    page.keyboard.press("e")
    expect(editor(page)).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.type(" a, c, r and s are letters here")
    page.keyboard.press("Control+Enter")
    shown(page, "Question 2?")
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    shown(page, "Question 1?")
    page.keyboard.press("e")
    page.keyboard.press("Alt+u")
    shown(page, "Question 0?")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    expect(page.locator("#about")).to_contain_text("Nothing waits here.")
    assert [verdict for _, _, verdict in site.judged()] == [
        "correct",
        "correct",
        "reject",
        "unsafe",
        "approve",
    ]
    (own,) = [s for s in site.store.records(Signal) if s.kind == "correction" and s.role == "reviewer"]
    assert own.value["text"] == ANSWER + " a, c, r and s are letters here"
    assert [review.verdict for review in site.store.records(Review)] == ["approve"]
    expect(page.locator("#progress")).to_contain_text("5 today · 5 in all")
    page.locator("#fates summary").click()
    expect(page.locator("#fates .fate").first).to_have_text("waits for the next round")


def test_skip_and_undo(site: Site, visit):
    """A skipped answer comes back at the end; undo brings the last one back, and its draft."""
    site.answer("t1", "First?")
    site.answer("t2", "Second?")
    page = visit("dora")
    shown(page, "Second?")
    page.keyboard.press("s")
    shown(page, "First?")
    editor(page).fill(BETTER)
    page.locator("#correct").click()
    shown(page, "Second?")
    page.locator("#title").click()
    page.keyboard.press("z")
    shown(page, "First?")
    expect(editor(page)).to_have_value(BETTER)
    expect(page.locator("#notice")).to_contain_text("Taken back: correct.")
    page.keyboard.press("z")
    shown(page, "Second?")
    page.keyboard.press("z")
    expect(page.locator("#notice")).to_contain_text("Not done: there is nothing to take back")
    assert [verdict for _, _, verdict in site.judged()] == ["skip", "correct", "undo", "undo"]


def test_two_reviewers_at_once(site: Site, visit):
    """Each is given another answer, and sees which one the other has."""
    for i in range(4):
        site.answer(f"t{i}", f"Question {i}?")
    dora, emil = visit("dora"), visit("emil")
    shown(dora, "Question 3?")
    shown(emil, "Question 2?")
    expect(emil.locator("#places button").first).to_contain_text("with dora")
    expect(emil.locator("#places button").first).to_be_disabled()
    dora.keyboard.press("a")
    shown(dora, "Question 1?")
    emil.keyboard.press("a")
    shown(emil, "Question 0?")
    dora.keyboard.press("r")
    expect(dora.locator("#about")).to_contain_text("Nothing waits")
    emil.keyboard.press("r")
    expect(emil.locator("#about")).to_contain_text("Nothing waits")
    assert sorted(turn for _, turn, _ in site.judged()) == ["t0", "t1", "t2", "t3"]


def test_a_lost_answer_is_refused_in_a_line(site: Site, visit):
    """Somebody else took it in the meantime: one line, the next answer, and the text is kept."""
    site.answer("t1", "First?")
    site.answer("t2", "Second?")
    page = visit("dora")
    shown(page, "Second?")
    site.desk.put_down("dora")
    assert site.desk.board("emil").item.place.turn.id == "t2"
    editor(page).fill(BETTER)
    page.locator("#correct").click()
    shown(page, "First?")
    expect(page.locator("#notice")).to_contain_text("emil has this answer in hand now")
    assert site.judged() == []
    assert [(draft.turn, draft.text) for draft in site.store.records(Draft)] == [("t2", BETTER)]


def test_a_draft_survives_a_reload(site: Site, visit):
    """What was typed is there again, and only there."""
    site.answer("t1")
    page = visit("dora")
    expect(editor(page)).to_have_value(ANSWER)
    editor(page).fill(BETTER)
    expect(page.locator("#kept")).to_contain_text("Draft kept")
    page.reload()
    expect(editor(page)).to_have_value(BETTER)
    expect(page.locator("#kept")).to_contain_text("Your draft")
    assert len(site.store.records(Draft)) == 1


def test_changes_are_shown_while_one_types(site: Site, visit):
    """Word by word, as insertions and deletions that need no colour."""
    site.answer("t1")
    page = visit("dora")
    expect(page.locator("#diff")).to_contain_text("None yet")
    editor(page).fill(
        ANSWER.replace("the stomach", "our airways").replace("water.", "water, or <b>dust</b>.")
    )
    expect(page.locator("#diff del")).to_have_text(["the stomach", "water."])
    expect(page.locator("#diff ins")).to_have_text(["our airways", "water, or <b>dust</b>."])
    editor(page).fill(ANSWER)
    expect(page.locator("#diff")).to_contain_text("None yet")


def test_the_conversation_and_what_was_said_are_shown_as_text(site: Site, visit):
    """Whatever people or models wrote stays text; earlier messages fold out."""
    hostile = "<img src=x onerror=\"document.title='owned'\"> {{value}} ${document.title='owned'} \"'"
    before = ({"role": "user", "content": "Before?"}, {"role": "assistant", "content": hostile})
    site.answer("t1", messages=(*before, {"role": "user", "content": hostile}), answer=hostile)
    site.say("t1", "rating", rating=-1, reasons=["too vague"])
    site.say("t1", "comment", text=hostile)
    site.say("t1", "choice", alternatives=["Another one."], choice=1)
    page = visit("dora")
    shown(page, hostile)
    expect(page.locator("#answer")).to_contain_text("<img src=x")
    expect(page.locator("#said li")).to_have_count(3)
    expect(page.locator("#said")).to_contain_text(f"Commented: {hostile}")
    expect(page.locator("#said")).to_contain_text("Preferred to it: Another one.")
    expect(page.locator("#places")).to_contain_text("rated down: too vague")
    page.locator("#about summary").click()
    expect(page.locator("#about dd").last).to_have_text(hostile)
    expect(editor(page)).to_have_value(hostile)
    expect(page.locator("#diff")).to_contain_text("None yet")
    assert page.locator("#desk img").count() == 0
    assert "owned" not in page.title()


def test_a_fixed_notice_cannot_be_corrected(site: Site, visit):
    """A red flag was answered by a rule: its editor is closed, the other verdicts work."""
    site.answer("t1", "I have chest pain", "Call 112 now.", red_flag="chest-pain", version="rules")
    page = visit("dora")
    shown(page, "I have chest pain")
    expect(page.locator("#about")).to_contain_text("red flag: chest-pain")
    expect(editor(page)).to_be_disabled()
    expect(page.locator("#correct")).to_be_disabled()
    page.keyboard.press("c")
    page.keyboard.press("a")
    expect(page.locator("#about")).to_contain_text("Nothing waits")
    assert [verdict for _, _, verdict in site.judged()] == ["approve"]


def test_the_queue_is_narrowed_and_chosen_from(site: Site, visit):
    """A search and a filter change what comes next; a click takes another one in hand."""
    site.answer("t1", "What is gout?", "A disease of the joints.")
    site.answer("t2", "What is asthma?")
    site.answer("t3", "What is asthma, again?", version="v0002")
    page = visit("dora")
    shown(page, "What is asthma, again?")
    page.locator("#places button", has_text="gout").click()
    shown(page, "What is gout?")
    expect(page.locator("#places button[aria-current]")).to_have_text("What is gout?nothing said of it")
    page.locator("#search textarea").fill("ASTHMA")
    shown(page, "What is asthma, again?")
    expect(page.locator("#places h2")).to_have_text("2 waiting")
    page.locator("#version input").click()
    page.get_by_role("option", name="v0001").click()
    shown(page, "What is asthma?")
    page.locator("#search textarea").fill("nothing like it")
    expect(page.locator("#about")).to_contain_text("Nothing waits that fits these filters.")


def test_a_refusal_leaves_the_item_where_it_is(site: Site, visit):
    """An unchanged correction is refused with what to do instead."""
    site.answer("t1")
    page = visit("dora")
    expect(editor(page)).to_have_value(ANSWER)
    page.keyboard.press("c")
    expect(page.locator("#notice")).to_contain_text("change it, or approve it")
    shown(page, "What is asthma?")
    assert site.judged() == []


def test_nobody_enters_without_a_name(site: Site):
    """The page, its settings and its events are behind the door."""
    with httpx.Client(base_url=site.url) as client:
        for path in ("/review/", "/review/config", "/review/gradio_api/info"):
            assert client.get(path).status_code in (401, 403, 404), path
        body = {"data": [], "fn_index": 0, "session_hash": "x"}
        assert client.post("/review/gradio_api/run/predict", json=body).status_code in (401, 403)


@pytest.mark.parametrize(
    "look",
    [
        {"viewport": {"width": 1280, "height": 900}},
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
        {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    ],
    ids=["wide", "dark", "phone"],
)
def test_every_look_works_and_is_accessible(site: Site, visit, look: dict, request: pytest.FixtureRequest):
    """No serious finding of axe-core, nothing wider than the screen, and the queue folds on a phone."""
    fill(site)
    page = visit("dora", **look)
    shown(page, "How long does a cold last?")
    if look.get("is_mobile"):
        expect(page.locator("#places")).to_be_hidden()
        page.locator("#fold").click()
        expect(page.locator("#places")).to_be_visible()
        page.locator("#places button", has_text="asthma get worse").click()
        expect(page.locator("#places")).to_be_hidden()
    else:
        page.locator("#places button", has_text="asthma get worse").click()
    shown(page, "Why does my asthma get worse at night?")
    expect(page.locator("#places button[aria-current]")).to_contain_text("asthma get worse")
    expect(page.locator("#diff ins").first).to_be_visible()
    if folder := os.environ.get("RATCHET_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"review-{request.node.callspec.id.replace(' ', '-')}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    found = Axe().run(page).response["violations"]
    serious = {
        v["id"]: [n["html"] for n in v["nodes"]] for v in found if v["impact"] in ("serious", "critical")
    }
    assert serious == {}


def fill(site: Site) -> None:
    """A queue as it is on an ordinary day."""
    site.answer("t1", "Is it safe to take ibuprofen every day?", "Short courses are fine for most people.")
    site.answer("t2", "How often should I check my blood pressure at home?", "Twice a day, for a week.")
    site.say("t2", "rating", rating=1, reasons=["clear"])
    site.answer(
        "t3",
        "I have crushing chest pain",
        "Call your emergency number now.",
        red_flag="chest-pain",
        version="rules",
    )
    earlier = (
        {"role": "user", "content": "What is asthma?"},
        {"role": "assistant", "content": "A long-term condition of the airways."},
        {"role": "user", "content": "Why does my asthma get worse at night?"},
    )
    site.answer(
        "t4",
        messages=earlier,
        answer="Asthma gets worse at night because the **stomach** is cold while you sleep. Breathing becomes "
        "harder, and coughing may wake you up. Drink a glass of cold water before bed.\n\nIt usually goes away "
        "by itself.",
        version="r0007-3fa2",
    )
    site.say("t4", "rating", rating=-1, reasons=["not accurate", "unsafe"])
    site.say("t4", "comment", text="Cold water made it worse for me.")
    site.say(
        "t4",
        "correction",
        text="Asthma often gets worse at night because the airways narrow a little during sleep, and dust, pets or "
        "cold air can irritate them. Breathing becomes harder, and coughing may wake you up. If that happens "
        "often, see your doctor or nurse to review your treatment.",
    )
    site.answer("t5", "How long does a cold last?", "About three days.")
    site.say("t5", "comment", text="Mine lasted ten.")
