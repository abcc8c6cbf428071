"""The chat page as a person meets it: a real browser, a real server, a tiny random model."""

import base64
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from app.conversations import Conversations
from app.engine import Engine
from eval.objective import Gate, Objective, RedFlag, Sampling, SuitePlan
from eval.objective import Page as Words
from feedback.records import Turn
from feedback.store import Store
from tests.accessibility import serious
from tests.adapters import random_adapter
from tests.browsing import chromium, serving
from tests.tiny import tiny_model
from tests.visitor import Visitor

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Site:
    """A running server and what stands behind it."""

    url: str
    store: Store
    chats: Conversations
    engine: Engine
    model: Path  # the base


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from app.web.chat import HEAD, STYLES, chat_page  # after the environment is set
    from app.web.mine import mine_router
    from app.web.server import Mount, build_app

    home = tmp_path_factory.mktemp("home")
    objective = Objective(
        folder=home,
        title="Leaflet <about> health",
        system_prompt="Answer plainly.",
        base_model="tiny",
        encoder="tiny",
        page=Words(
            consent="Keep it?",
            disclaimer="No advice & often wrong.",
            examples=("What is asthma?",),
            reasons_up=("clear",),
            reasons_down=("wrong", "too long"),
        ),
        sampling=Sampling(max_new_tokens=24, temperature=1),
        suites={"questions": SuitePlan(kind="questions", items=1, metrics=("similarity",))},
        gate=Gate(primary="similarity"),
        red_flag=(RedFlag(name="heart", patterns=("chest pain",), message="Call 112 now."),),
    )
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"  # its sums are never read, and warn
    engine = Engine(tiny_model(home / "model"))
    with Store.open(home / "store.duckdb") as store:
        chats = Conversations(store, engine, objective, "base")
        mount = Mount("/", lambda: chat_page(chats, objective), (STYLES,), HEAD)
        app = build_app([mount], [mine_router(chats)], "a secret of 32 characters or more", "127.0.0.1")
        with serving(app) as url:
            yield Site(url, store, chats, engine, home / "model")
        engine.close()


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    with page.expect_response(lambda response: response.request.method == "POST"):
        page.goto(site.url)
    yield page
    context.close()


def ask(page: Page, question: str, consent: bool = True) -> None:
    page.locator("#consent input").set_checked(consent)
    page.locator("#question textarea").fill(question)
    page.locator("#send").click()
    if consent:
        expect(page.locator("#about").filter(visible=True)).to_contain_text(question[:20])
    else:
        expect(page.locator("#not-kept")).to_be_visible()
    expect(page.locator("#send")).to_be_visible()


def person(page: Page) -> str:
    return named_in(next(c["value"] for c in page.context.cookies() if c["name"] == "ratchet"))


def named_in(cookie: str) -> str:
    return json.loads(base64.b64decode(cookie.split(".")[0] + "=="))["person"]


def sidebar(page: Page) -> None:
    """Open it, where it is not."""
    if not page.locator(".sidebar.open").count():
        page.locator(".toggle-button").click()
    expect(page.locator("#new-chat")).to_be_in_viewport(ratio=1)


def turns(site: Site, page: Page) -> list:
    return [turn for turn in site.store.records(Turn) if turn.user == person(page)]


def signals(site: Site, page: Page) -> list[dict[str, Any]]:
    return [signal.value for signal in site.store.events().signals if signal.user == person(page)]


def thanked(page: Page, words: str) -> None:
    expect(page.locator("#thanks")).to_contain_text(words)


def test_a_person_chats_and_says_what_they_think(site: Site, page: Page):
    """Each thing said in the browser is one row about the server's own copy of the answer."""
    ask(page, "What is asthma?")
    (turn,) = turns(site, page)
    assert turn.messages[-1]["content"] == "What is asthma?"
    assert turn.answer
    expect(page.locator("#version")).to_contain_text("base")

    page.locator("#thumb-up").click()
    thanked(page, "Thank you for rating")
    page.locator("#thumb-down").click()
    page.locator("#reasons label", has_text="wrong").click()
    thanked(page, "noted")
    page.locator("#comment textarea").fill("It is <b>odd</b>")
    page.locator("#send-comment").click()
    thanked(page, "comment")
    page.locator("#better").click()
    expect(page.locator("#correction textarea")).to_have_value(turn.answer)
    page.locator("#correction textarea").fill("A disease of the airways.")
    page.locator("#save-correction").click()
    thanked(page, "reviewer")
    page.locator("#take-back").click()
    thanked(page, "taken back")
    assert signals(site, page) == [
        {"rating": 1, "reasons": []},
        {"rating": -1, "reasons": []},
        {"rating": -1, "reasons": ["wrong"]},
        {"text": "It is <b>odd</b>"},
        {"text": "A disease of the airways."},
        {"rating": 0, "reasons": []},
    ]


@pytest.mark.parametrize("button", ["choose-left", "choose-right", "both-good", "both-bad"])
def test_a_person_chooses_between_two_answers(site: Site, page: Page, button: str):
    """The second answer stands beside the first; the chat goes on with the better one."""
    ask(page, "What is asthma?")
    (first,) = turns(site, page)
    page.locator("#another").click()
    expect(page.locator("#choices")).to_be_visible()
    second = site.chats.exchanges(first.conversation, first.user)[0].alternative.answer
    shown = [page.locator(f"#{side} [data-testid=markdown]").inner_text() for side in ("left", "right")]
    assert len(set(shown)) == 2
    second_is_left = int(first.id[-1], 16) % 2 == 1
    page.locator(f"#{button}").click()
    thanked(page, "comparing")
    (said,) = signals(site, page)
    if button.startswith("both"):
        assert said == {"alternatives": [second], "choice": "tie", "both": button.removeprefix("both-")}
    else:
        assert said == {"alternatives": [second], "choice": int((button == "choose-left") == second_is_left)}
    chosen = second if said["choice"] == 1 else first.answer
    assert [e.turn.answer for e in site.chats.exchanges(first.conversation, first.user)] == [chosen]


def test_a_rating_survives_a_reload_and_can_be_changed(site: Site, page: Page):
    """The page comes back as it was left: chat, thumb, reasons, consent."""
    ask(page, "What is asthma?")
    page.locator("#thumb-down").click()
    page.locator("#reasons label", has_text="wrong").click()
    thanked(page, "noted")
    page.reload()
    expect(page.locator("#chat .user")).to_contain_text("What is asthma?")
    expect(page.locator("#reasons label", has_text="wrong").locator("input")).to_be_checked()
    expect(page.locator("#consent input")).to_be_checked()
    page.locator("#thumb-up").click()
    thanked(page, "Thank you for rating")
    (turn,) = turns(site, page)
    assert site.store.current_signals(turn.id, turn.user)["rating"].value == {"rating": 1, "reasons": []}


def test_a_question_is_edited(site: Site, page: Page):
    """The server's copy of the question comes into the box; what was asked instead is shown alone."""
    ask(page, "What is <b>asthma</b>?")
    page.locator("#edit").click()
    expect(page.locator("#question textarea")).to_have_value("What is <b>asthma</b>?")
    page.locator("#leave-edit").click()
    expect(page.locator("#question textarea")).to_have_value("")
    page.locator("#edit").click()
    expect(page.locator("#question textarea")).to_have_value("What is <b>asthma</b>?")
    ask(page, "What is a migraine?")
    expect(page.locator("#chat .user-row")).to_have_count(1)
    assert [turn.asked for turn in turns(site, page)] == ["What is <b>asthma</b>?", "What is a migraine?"]


def test_a_person_keeps_several_chats(site: Site, page: Page):
    """They are listed, opened, named, handed over and deleted; deleted is gone."""
    ask(page, "What is asthma?")
    sidebar(page)
    page.locator("#new-chat").click()
    expect(page.locator("#example-0")).to_be_visible()
    ask(page, "What is a migraine?")
    expect(page.locator("#chats label")).to_have_text(["What is a migraine?", "What is asthma?"])
    page.locator("#chats label", has_text="asthma").click()
    expect(page.locator("#chat .user")).to_contain_text("What is asthma?")
    page.locator("#rename").click()
    page.locator("#chat-title textarea, #chat-title input").fill("My <lungs>")
    page.locator("#save-title").click()
    expect(page.locator("#chats label")).to_have_text(["What is a migraine?", "My <lungs>"])
    page.locator("#my-data button").first.click()
    with page.expect_download() as download:
        page.locator("#person a").click()
    mine = json.loads(Path(download.value.path()).read_text())
    assert [chat["title"] for chat in mine["chats"]] == ["What is a migraine?", "My <lungs>"]
    page.locator("#delete").click()
    page.locator("#confirm-delete").click()
    expect(page.locator("#chats label")).to_have_text(["What is a migraine?"])
    assert [turn.asked for turn in turns(site, page)] == ["What is a migraine?"]
    page.locator("#delete-all").click()
    page.locator("#confirm-delete-all").click()
    expect(page.locator("#chats label")).to_have_count(0)
    expect(page.locator("#example-0")).to_be_visible()
    assert turns(site, page) == []


def test_the_page_serves_every_reader(site: Site, browser: Browser):
    """No serious finding of axe-core, light and dark, wide and on a phone; a phone scrolls one way only."""
    for width, height, scheme in ((1280, 850, "light"), (390, 844, "dark")):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        page = context.new_page()
        page.goto(site.url)
        expect(page).to_have_title("Leaflet <about> health")
        assert serious(page) == []
        ask(page, "What is asthma?")
        page.locator("#thumb-down").click()
        thanked(page, "Thank you")
        page.locator("#better").click()
        expect(page.locator("#editor")).to_be_visible()
        assert serious(page) == []
        sidebar(page)
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        context.close()


def test_a_refusal_is_read_by_whoever_caused_it(site: Site, page: Page):
    """What cannot be done is said in words, and the page goes on."""
    ask(page, "What is asthma?")
    page.locator("#better").click()
    page.locator("#save-correction").click()
    expect(page.get_by_text("the better answer is the same as the one given")).to_be_visible()
    page.locator("#thumb-up").click()
    thanked(page, "Thank you for rating")


def test_keys_alone_are_enough(site: Site, page: Page):
    """Ask, rate and say why without a mouse."""
    page.locator("#consent input").focus()
    page.keyboard.press("Space")
    page.locator("#question textarea").focus()
    page.keyboard.type("What is asthma?")
    page.keyboard.press("Enter")
    expect(page.locator("#about").filter(visible=True)).to_contain_text("asthma")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "thumb-down":
            break
    page.keyboard.press("Enter")
    thanked(page, "Thank you")
    assert signals(site, page)[-1] == {"rating": -1, "reasons": []}


def test_a_conversation_has_many_turns_and_can_begin_anew(site: Site, page: Page):
    """The second question is asked with the first; a new chat starts empty."""
    ask(page, "What is asthma?")
    ask(page, "And a migraine?")
    sidebar(page)
    page.locator("#new-chat").click()
    expect(page.locator("#example-0")).to_be_visible()
    page.locator("#example-0").click()
    expect(page.locator("#feedback")).to_be_visible()
    first, second, anew = turns(site, page)
    assert [len(turn.messages) for turn in (first, second, anew)] == [1, 3, 1]
    assert second.messages[1]["content"] == first.answer
    assert first.conversation == second.conversation != anew.conversation


def test_without_consent_the_page_offers_no_rating(site: Site, page: Page):
    """One can chat; nothing is stored, and the page says so."""
    ask(page, "What is asthma?", consent=False)
    expect(page.locator("#not-kept")).to_be_visible()
    expect(page.locator("#feedback")).to_be_hidden()
    assert turns(site, page) == []


def test_a_click_soon_after_another_is_answered(site: Site, page: Page):
    """Also where the server has just told the browser that nothing is under way: each is done and shown."""
    ask(page, "What is asthma?")
    for pause in range(0, 120, 6):
        page.evaluate(
            """pause => {
                document.querySelector("#thumb-down").click();
                setTimeout(() => document.querySelector("#edit").click(), pause);
            }""",
            pause,
        )
        expect(page.locator("#leave-edit")).to_be_visible(timeout=5000)
        page.locator("#leave-edit").click()
        expect(page.locator("#leave-edit")).to_be_hidden()


def test_a_red_flag_stands_out(site: Site, page: Page):
    """An alert with the rule's words, no better answer and no second one asked for."""
    ask(page, "I have chest pain")
    expect(page.locator("#red-flag [role=alert]")).to_contain_text("Call 112 now.")
    expect(page.locator("#version")).to_contain_text("rules")
    expect(page.locator("#better")).to_be_hidden()
    assert [turn.red_flag for turn in turns(site, page)] == ["heart"]


def test_markup_is_shown_as_text(site: Site, page: Page):
    """What a person writes runs nowhere and loads nothing, and is stored as written."""
    hostile = (
        "<img src=x onerror=\"document.title='owned'\"> ![a](http://example.com/a.png) <script>1</script>"
    )
    ask(page, hostile)
    expect(page.locator("#chat")).to_contain_text("<script>1</script>")
    assert page.locator("#chat .message img").count() == 0
    assert page.title() == "Leaflet <about> health"
    assert turns(site, page)[-1].messages[-1]["content"] == hostile


def test_the_page_asks_no_other_host(site: Site, browser: Browser):
    """Fonts, scripts and all else come from this server."""
    context = browser.new_context()
    page = context.new_page()
    hosts, refusals = set(), []
    page.on("request", lambda request: hosts.add(httpx.URL(request.url).host))
    page.on("console", lambda line: refusals.append(line.text) if "Content Security" in line.text else None)
    page.goto(site.url)
    ask(page, "Water?")
    page.locator("#thumb-up").click()
    thanked(page, "Thank you")
    context.close()
    assert hosts <= {"127.0.0.1", ""}  # "" for data: and blob:
    assert refusals == []


def test_a_move_to_another_version_is_seen(site: Site, page: Page, tmp_path: Path):
    """A promotion reaches the next chat without a restart; after a rollback the page says who answers now."""
    site.engine.load("v1", random_adapter(site.model, tmp_path / "v1", seed=1))
    site.chats.promote("v1")
    ask(page, "What is asthma?")
    expect(page.locator("#version")).to_contain_text("Answered by version v1")
    site.chats.promote("base")
    site.chats.withdraw("v1")
    ask(page, "And a migraine?")
    expect(page.locator("#version")).to_contain_text("Now answered by version base")
    assert [turn.version for turn in turns(site, page)] == ["v1", "base"]


def test_stopping_keeps_what_there_is(site: Site, page: Page, monkeypatch: pytest.MonkeyPatch):
    """Stop ends the answer at once, and the page is ready for the next question."""
    slow = site.engine._decode
    monkeypatch.setattr(site.engine, "_decode", lambda tokens: (time.sleep(0.05), slow(tokens))[1])
    page.locator("#consent input").check()
    page.locator("#question textarea").fill("What is asthma?")
    page.locator("#send").click()
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#new-chat")).to_be_disabled()  # the answer would come into the new chat
    page.locator("#stop").click()
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#new-chat")).to_be_enabled()
    finished = turns(site, page)
    assert [turn.finish for turn in finished] in ([], ["cancelled"])


@pytest.fixture
def forger(site: Site, browser: Browser) -> Iterator[Visitor]:
    """Sends to the server what the page never would, with the page's cookie and session."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "const send = window.fetch; window.fetch = (url, options) => {"
        "  try { window.__session = JSON.parse(options.body).session_hash || window.__session } catch {}"
        "  return send(url, options) }"
    )
    page.goto(site.url)
    ask(page, "What is asthma?")
    cookies = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    session = page.evaluate("() => window.__session")
    context.close()  # else it would read the answers that are meant for the forger
    forger = Visitor(site.url, cookies, session)
    yield forger
    forger.close()


def test_forged_events_store_nothing(site: Site, forger: Visitor):
    """An index, text, id or history that the session was not given is refused."""
    assert forger.session
    turn = site.store.records(Turn)[-1]
    rows = site.store.counts()

    def like(index: object, text: object) -> dict[str, Any]:
        return {"event_data": {"index": index, "value": text, "liked": True}}

    invented = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Bleach helps"}]
    for forged in (
        like(1, ["Bleach helps"]),
        like(99, [turn.answer]),
        like(-1, [turn.answer]),
        like([0, 1], [turn.answer]),
        like(0, ["What is asthma?"]),
        like(1, {"text": 5}),
        like(1, None),
        {},
    ):
        for data in ([None], [turn.conversation], [invented]):
            outcome = forger.act("chat", "like", data, **forged)
            assert not outcome.ok
            assert "Traceback" not in outcome.text
    assert not forger.act("reasons", "input", [None, None, ["best of all"]]).ok
    assert not forger.act("save-correction", "click", [turn.conversation, turn.id, ""]).ok
    assert not forger.act("choose-left", "click").ok
    assert not forger.act("chats", "input", ["0647484620538870006f16"]).ok
    assert site.store.counts() == rows


def test_another_persons_session_is_of_no_use(site: Site, forger: Visitor):
    """Who knows a session's name but has not its cookie can say nothing in it."""
    rows = site.store.counts()
    forger.client.cookies.clear()
    for button in ("thumb-up", "better", "confirm-delete"):
        outcome = forger.act(button, "click")
        assert not outcome.ok
        assert "not yours" in outcome.text
    forger.client.cookies.clear()
    forger.client.cookies.set("ratchet", "eyJwZXJzb24iOiAiYW5uYSJ9.aaaa.bbbb")
    assert not forger.act("thumb-up", "click").ok
    assert site.store.counts() == rows


def test_ids_in_a_request_are_not_believed(site: Site, forger: Visitor):
    """The session's own conversation and answer count, whatever a request names in their place."""
    own = site.store.records(Turn)[-1]
    stranger = site.chats.open("stranger")
    strange = list(site.chats.ask(stranger, "stranger", "Water?", True))[-1].exchange.turn
    assert forger.act("thumb-up", "click", [stranger, strange.id]).ok
    assert site.store.current_signals(strange.id, own.user) == {}
    assert site.store.current_signals(own.id, own.user)["rating"].value["rating"] == 1


def test_only_the_servers_own_name_is_answered(site: Site):
    """A page elsewhere cannot reach the server under a name of its own, nor frame it."""
    assert httpx.get(site.url, headers={"Host": "evil.example"}).status_code == 400
    headers = httpx.get(site.url).headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    joined = httpx.post(f"{site.url}/gradio_api/run/predict", content=json.dumps({"data": [], "fn_index": 0}))
    assert {"httponly", "samesite=lax"} <= set(joined.headers["set-cookie"].lower().split("; "))


def test_a_newcomer_is_one_person_from_the_first_page_on(site: Site):
    """The page itself brings the cookie: what is sent at once with it, twice, is one person's."""
    with httpx.Client(base_url=site.url) as client:
        client.get("/")
        newcomer = named_in(client.cookies["ratchet"])
        client.post("/gradio_api/run/predict", json={"data": [], "fn_index": 0})
        client.get("/")
        assert named_in(client.cookies["ratchet"]) == newcomer
