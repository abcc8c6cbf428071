"""The rounds page as the operator meets it: a real browser, a real server, a real round with a tiny model."""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from app.door import write_server_file
from app.levers import Levers
from app.operations import Operations
from app.reports import Reports
from app.schedule import Schedule
from eval.objective import load_objective
from feedback.records import Signal, Turn, new_id
from feedback.store import Store
from tests.accessibility import serious
from tests.browsing import chromium, serving
from tests.test_levers import NEVER, House, corrected, installation, until

SLOW = 240_000  # ms: a round with its two processes, on a busy machine
ALIEN = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[tuple[str, House]]:
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"  # its sums are never read, and warn
    from app.web.api import operations_router
    from app.web.report_path import report_router
    from app.web.rounds import STYLES, rounds_page
    from app.web.server import Mount, build_app

    settings = installation(tmp_path_factory.mktemp("house"))
    objective = load_objective(settings.objective)
    with Store.open(settings.store_file) as store:
        corrected(store)
        liked(store, 7, 3)
        levers = Levers(settings, Operations(settings, objective, store))
        schedule = Schedule(levers, NEVER)
        reports = Reports(settings.home, objective.gate)

        def page():
            return rounds_page(levers, schedule, reports, objective, lambda: 3)

        def enter(request):
            return request.headers.get("x-operator") or None

        mount = Mount("/rounds", page, STYLES, enter=enter)
        token = write_server_file(settings.server_file, "")
        routers = [
            operations_router(levers.operations, token),
            report_router(levers.operations, reports, enter),
        ]
        app = build_app([mount], routers, "a secret of 32 characters or more", "127.0.0.1")
        with serving(app) as url:
            known = settings.server_file.read_text("utf-8").replace('"url": ""', f'"url": "{url}"')
            settings.server_file.write_text(known)
            yield f"{url}/rounds/", House(settings, store, levers, schedule)
            if levers.busy():
                levers.cancel("the test", "it is over")
            until(lambda: not levers.busy())


def liked(store: Store, up: int, down: int) -> None:
    """End users have rated so many answers of the base model, yesterday."""
    at = datetime.now(UTC) - timedelta(days=1)
    for rating in [1] * up + [-1] * down:
        turn = Turn(new_id(at), new_id(at), "ann", ({"role": "user", "content": "?"},), "No.", "base", at)
        store.add(turn, Signal(new_id(at), turn.id, "ann", "user", "rating", {"rating": rating}, at))


@pytest.fixture(scope="module")
def browser(site: tuple[str, House]) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def visit(browser: Browser, url: str, **context) -> Page:
    """The page, signed in as oz."""
    page = browser.new_context(extra_http_headers={"x-operator": "oz"}, **context).new_page()
    page.set_default_timeout(20_000)
    page.goto(url)
    expect(page.locator("#now")).to_contain_text("Next round")
    return page


def use(page: Page, lever: str, why: str) -> None:
    """Both clicks, and the reason."""
    page.locator(f"#{lever}").click()
    page.locator("#why").get_by_role("textbox").fill(why)
    page.locator("#yes").click()


def test_a_round_is_started_watched_and_promoted(browser: Browser, site: tuple[str, House]):
    """Two clicks start it; stage and loss are seen; in the end the new version serves, and the page tells why."""
    url, house = site
    page = visit(browser, url)
    expect(page.locator("#now")).to_contain_text("70% of 10 rated answers liked 40% to 89%")
    expect(page.locator("#now")).to_contain_text("3 answers in the reviewers' queue")
    expect(page.locator("#rollback")).to_have_count(0)
    assert serious(page) == []

    page.locator("#start").click()
    expect(page.locator("#will")).to_contain_text("examined against base")
    page.locator("#yes").click()
    expect(page.locator("#problem")).to_contain_text("say why, in a few words")
    assert house.log() == [], "the first click alone, and one without a reason, do nothing"
    page.locator("#why").get_by_role("textbox").fill(f"enough {ALIEN}")
    page.locator("#yes").click()
    expect(page.locator("#done")).to_contain_text("The round begins.")
    expect(page.locator("#log")).to_contain_text("oz started a round")
    expect(page.locator("#log")).to_contain_text(ALIEN)
    expect(page.locator("#start")).to_have_count(0)

    expect(page.locator("#live .steps .now")).to_be_visible(timeout=SLOW)
    expect(page.locator("#live svg.curve").first).to_be_visible(timeout=SLOW)
    expect(page.locator("#live")).to_contain_text(re.compile(r"\d+ of \d+"))
    assert serious(page) == []

    expect(page.locator("#detail")).to_contain_text("promoted", timeout=SLOW)
    version = house.levers.operations.champion()
    assert version.startswith("v0001-")
    expect(page.locator("#now")).to_contain_text(version)
    expect(page.locator("#now")).to_contain_text("Nothing")
    expect(page.locator("#start")).to_be_visible()
    detail = page.locator("#detail")
    expect(detail).to_contain_text("it wins")
    expect(detail).to_contain_text("Largest wins in token f1")
    expect(detail.locator(".cases .two").first).to_contain_text("base")
    expect(detail.locator(".cases .two").first).to_contain_text(version)
    expect(detail.locator(".lineage")).to_contain_text(house.run.read("plan.json")["dataset_hash"])
    expect(detail.locator(".whiskers")).to_contain_text("rouge l")
    expect(page.locator("#scores")).to_contain_text(f"{version} serves")
    page.locator("#metric").get_by_label("corrections honoured").check()
    expect(page.locator("#scores")).to_contain_text("corrections honoured on")
    assert serious(page) == []

    until(lambda: house.run.has("report.html"))
    detail.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(
        f"{version} was promoted: it takes the place of base."
    )
    expect(page.locator("#satisfaction")).to_contain_text("Liked, of 10 rated answers")
    expect(page.locator("#lineage")).to_contain_text("24 things by 1 reviewer")
    page.context.close()


def test_the_pointer_moves_by_hand(browser: Browser, site: tuple[str, House]):
    """Promote and roll back say first what they do; what has changed meanwhile is not moved blindly."""
    url, house = site
    page = visit(browser, url)
    use(page, "rollback", "a look back")
    expect(page.locator("#done")).to_contain_text("base serves again.")
    expect(page.locator("#now")).to_contain_text("base")

    version = house.run.read("run.json")["version"]
    page.locator("#promote").click()
    page.locator("#version").get_by_label(f"{version} · promoted").check()
    page.locator("#why").get_by_role("textbox").fill("it was better")
    house.levers.promote(version, "ann", "quicker")
    page.locator("#yes").click()
    expect(page.locator("#problem")).to_contain_text("another version serves by now")
    page.locator("#no").click()
    expect(page.locator("#confirm")).to_have_count(0)
    assert [(kind, who) for kind, who, _ in house.log()][-2:] == [("rollback", "oz"), ("promote", "ann")]
    page.context.close()


def test_keys_alone_pause_the_schedule(browser: Browser, site: tuple[str, House]):
    """Tab, Enter and letters are enough; the pause is shown, and taken back."""
    url, house = site
    page = visit(browser, url)
    page.locator("#pause").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#why").get_by_role("textbox")).to_be_focused()
    page.keyboard.type("holidays")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#now")).to_contain_text("The schedule is paused.")
    assert house.levers.paused()
    use(page, "resume", "back")
    expect(page.locator("#now")).not_to_contain_text("paused")
    page.context.close()


@pytest.mark.parametrize("look", [{"viewport": {"width": 390, "height": 844}}, {"color_scheme": "dark"}])
def test_it_reads_on_a_phone_and_in_the_dark(browser: Browser, site: tuple[str, House], look: dict):
    """One column without sideways scrolling; no serious barrier; the panel open too."""
    url, _ = site
    page = visit(browser, url, **look)
    page.locator("#promote").click()
    expect(page.locator("#version")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert serious(page) == []
    page.context.close()


def test_a_stranger_sees_nothing(browser: Browser, site: tuple[str, House]):
    """Without a name there is no page, no configuration and no handler."""
    url, _ = site
    request = browser.new_context().request
    for path in ("", "config", "gradio_api/info", "report/r0001"):
        assert request.get(url + path, max_redirects=0).status != 200, path
    assert request.post(url + "gradio_api/run/predict", data={"data": [], "fn_index": 0}).status != 200


def test_only_what_has_changed_is_sent(site: tuple[str, House]):
    """A second look at the same house tells the browser nothing new."""
    from app.web.rounds import RoundsPage

    _, house = site
    objective = load_objective(house.settings.objective)
    import gradio as gr

    with gr.Blocks():
        reports = Reports(house.settings.home, objective.gate)
        rounds = RoundsPage(house.levers, house.schedule, reports, objective, lambda: 0)
        rounds.lay_out()
    first = rounds.look({}, None, None)
    assert set(rounds.parts.values()) <= first.keys()
    second = rounds.look(first[rounds.shown], None, None)
    assert second.keys() == {rounds.shown}
