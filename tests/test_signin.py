"""The doors of the desk and the rounds page: who is let in, and what everybody else learns (nothing)."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from app.accounts import IDLE_S, WRONG, Accounts, Sessions
from app.limits import Limits
from app.web.server import Mount, build_app
from app.web.signin import SignIn
from feedback.store import Store
from tests.accessibility import serious
from tests.browsing import chromium, serving
from tests.test_accounts import CHEAP, GOOD
from tests.test_headers import trivial_page
from tests.test_limits import Clock

BROWSER = {"Accept": "text/html"}
EVERY_PATH = [
    ("GET", ""),
    ("HEAD", ""),
    ("GET", "config"),
    ("GET", "theme.css"),
    ("GET", "static/js/iframeResizer.contentWindow.min.js"),
    ("GET", "assets/index.js"),
    ("GET", "gradio_api/info"),
    ("GET", "gradio_api/app_id"),
    ("GET", "gradio_api/user"),
    ("GET", "gradio_api/queue/data?session_hash=abc"),
    ("POST", "gradio_api/queue/join"),
    ("POST", "gradio_api/run/predict"),
    ("POST", "gradio_api/cancel"),
    ("POST", "gradio_api/reset"),
    ("GET", "gradio_api/heartbeat/abc"),
    ("GET", "gradio_api/startup-events"),
    ("GET", "gradio_api/file=/etc/passwd"),
    ("GET", "gradio_api/proxy=https://example.org"),
    ("POST", "gradio_api/upload"),
    ("POST", "gradio_api/component_server"),
    ("POST", "login"),
    ("GET", "no/such/path"),
]


@dataclass
class Site:
    """The two guarded pages, a page for everybody, and what stands behind the doors."""

    client: TestClient
    accounts: Accounts
    sign_in: SignIn
    clock: Clock

    def enter(self, name: str, password: str, **fields: str):
        """Send the sign-in form as a browser without a session would."""
        self.client.cookies.clear()
        form = {"name": name, "password": password, **fields}
        return self.client.post("/sign-in", data=form)


@contextmanager
def opened(folder: Path, *mounts: tuple[str, set[str]]) -> Iterator[Site]:
    """A site with no account yet, and a page for everybody at "/" where it has any page."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    clock = Clock()
    with Store.open(folder / "store.duckdb") as store:
        accounts = Accounts(store, CHEAP)
        sign_in = SignIn("Leaflet <health>", accounts, Sessions(accounts, clock), Limits(clock=clock))
        pages = [Mount(path, trivial_page, enter=sign_in.entrance(roles)) for path, roles in mounts]
        pages += [Mount("/", trivial_page)] if mounts else []
        app = build_app(pages, [sign_in.router()], "a secret of 32 characters or more", "127.0.0.1")
        yield Site(TestClient(app, "http://127.0.0.1", follow_redirects=False), accounts, sign_in, clock)


@pytest.fixture(scope="module")
def whole_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    doors = ("/review", {"reviewer", "operator"}), ("/rounds", {"operator"})
    with opened(tmp_path_factory.mktemp("home"), *doors) as site:
        yield site


@pytest.fixture
def staffed(whole_site: Site) -> Site:
    """A site with a reviewer and an operator, a day after whatever was before."""
    whole_site.clock.now += 86_400
    whole_site.accounts.put("rita", "reviewer", GOOD)
    whole_site.accounts.put("olga", "operator", GOOD)
    whole_site.client.cookies.clear()
    return whole_site


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """A sign-in without pages and without any account."""
    with opened(tmp_path) as site:
        yield site


def test_each_role_comes_through_its_own_doors(staffed: Site):
    """A reviewer reviews; an operator does both; each lands on the page that is theirs."""
    answer = staffed.enter("Rita", GOOD)
    assert (answer.status_code, answer.headers["location"]) == (303, "/review")
    assert staffed.client.get("/review/").status_code == 200
    assert staffed.client.get("/rounds/", headers=BROWSER).status_code == 303
    assert staffed.client.get("/rounds/config").status_code == 401
    assert staffed.enter("olga", GOOD).headers["location"] == "/rounds"
    assert staffed.client.get("/review/config").json()["username"] == "olga"
    assert staffed.client.get("/rounds/").status_code == 200


def test_the_cookie_is_for_this_server_alone(staffed: Site):
    """No script reads it, no other site sends it, over https only https carries it; it names nobody."""
    cookie = staffed.enter("rita", GOOD).headers["set-cookie"]
    token, rest = re.match(r"ratchet_staff=([\w-]{43,}); (.*)", cookie).groups()
    assert rest == "HttpOnly; Max-Age=43200; Path=/; SameSite=strict"
    assert (
        "Secure"
        in staffed.client.post("https://127.0.0.1/sign-in", data={"name": "rita", "password": GOOD}).headers[
            "set-cookie"
        ]
    )
    assert token not in str(staffed.sign_in._sessions._sessions)


def test_nobody_else_learns_anything(staffed: Site):
    """Every path behind a door, of whatever kind, there or not, gets the same answer from an end user and
    from a reviewer whose role is too small."""
    answers = set()
    for name in (None, "rita"):
        staffed.client.cookies.clear()
        if name:
            staffed.enter(name, GOOD)
        for method, path in EVERY_PATH:
            for page in ("/rounds/",) if name else ("/rounds/", "/review/"):
                answer = staffed.client.request(method, page + path)
                answers.add((answer.status_code, answer.headers["content-type"]))
                assert answer.text == ("" if method == "HEAD" else "Not allowed."), page + path
    assert answers == {(401, "text/plain; charset=utf-8")}


def test_a_websocket_is_refused(staffed: Site):
    """The pages use none, whoever asks."""
    staffed.enter("olga", GOOD)
    for path in ("/review/gradio_api/queue/join", "/rounds/ws", "/queue/join"):
        with pytest.raises(WebSocketDisconnect), staffed.client.websocket_connect(path):
            pass


@pytest.mark.parametrize(
    "path", ["//review/", "/./review/", "/x/../review/", "/Review/", "/review%2F", "/review;/"]
)
def test_no_spelling_goes_around_a_door(staffed: Site, path: str):
    """A path either is the page's, and guarded, or leads nowhere."""
    target = staffed.client.build_request("GET", "http://127.0.0.1/")
    target.url = target.url.copy_with(raw_path=path.encode())
    assert staffed.client.send(target).status_code in (401, 404)


def test_a_browser_is_sent_to_the_sign_in_and_back(staffed: Site):
    """Who opens a page is asked to sign in and goes on where they wanted to go."""
    assert staffed.client.get("/rounds", headers=BROWSER).headers["location"] == "/rounds/"
    sent = staffed.client.get("/rounds/?x=1", headers=BROWSER)
    assert sent.status_code == 303
    onward = sent.headers["location"]
    assert onward == "/sign-in?next=/rounds/"
    asked = staffed.client.get(onward)
    assert asked.headers["cache-control"] == "no-store"
    wanted = re.search(r'name="next" value="([^"]*)"', asked.text)[1]
    assert staffed.enter("olga", GOOD, next=wanted).headers["location"] == "/rounds/"


@pytest.mark.parametrize(
    "onward",
    [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test",
        "evil",
        "javascript:x",
        "/\t/evil.test",
        "/\n/evil.test",
    ],
)
def test_the_way_on_stays_on_this_server(staffed: Site, onward: str):
    """A link to the sign-in cannot send anybody elsewhere."""
    assert staffed.enter("rita", GOOD, next=onward).headers["location"] == "/review"
    assert "evil" not in staffed.client.get("/sign-in", params={"next": onward}).text


def test_every_failure_reads_the_same(staffed: Site):
    """A wrong password, an unknown name, a closed account and nonsense are one refusal."""
    staffed.accounts.put("tom", "closed", None)
    pages = set()
    for name, password in (("rita", "wrong"), ("nobody", GOOD), ("tom", "-"), ("x" * 99, ""), ("<b>", GOOD)):
        answer = staffed.enter(name, password)
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        pages.add(re.sub(r'name="name" value="[^"]*"', "", answer.text))
    (page,) = pages
    assert f'<p role="alert">{WRONG}</p>' in page
    assert "<b>" not in staffed.enter("<b>", GOOD).text


def test_a_name_is_locked_whether_it_exists_or_not(staffed: Site):
    """After five failures even the right password is refused for a while, in the same words as any name."""
    said = []
    for name in ("rita", "nobody"):
        for _ in range(5):
            assert staffed.enter(name, "wrong").status_code == 401
        locked = staffed.enter(name, GOOD)
        said.append((locked.status_code, re.search(r'role="alert">(.*?)<', locked.text)[1]))
    assert said == [(429, "Too many attempts: wait 300 seconds.")] * 2
    assert staffed.enter("olga", GOOD).status_code == 303
    staffed.clock.now += 300
    assert staffed.enter("rita", GOOD).status_code == 303


def test_success_lets_a_name_begin_anew(staffed: Site):
    """Four slips, then the right one: four more are allowed."""
    for _ in range(2):
        for _ in range(4):
            assert staffed.enter("rita", "wrong").status_code == 401
        assert staffed.enter("rita", GOOD).status_code == 303


def test_an_address_is_locked_too(staffed: Site):
    """Twenty failures under any names."""
    for i in range(20):
        staffed.clock.now += 2
        assert staffed.enter(f"name{i}", "wrong").status_code == 401
    assert staffed.enter("rita", GOOD).status_code == 429


def test_all_together_are_limited(staffed: Site):
    """A check of a password is dear: sixty a minute for everybody."""
    answers = [staffed.enter("rita", GOOD).status_code for _ in range(61)]
    assert answers == [303] * 60 + [429]


def test_a_session_that_ended_opens_nothing(staffed: Site):
    """By sign-out, by time, by a new password."""
    staffed.enter("rita", GOOD)
    kept = staffed.client.cookies["ratchet_staff"]
    assert staffed.client.get("/review/config").status_code == 200
    left = staffed.client.post("/sign-out")
    assert (left.status_code, left.headers["location"]) == (303, "/sign-in")
    assert "ratchet_staff" not in staffed.client.cookies
    staffed.client.cookies["ratchet_staff"] = kept
    assert staffed.client.get("/review/config").status_code == 401
    staffed.enter("rita", GOOD)
    staffed.clock.now += IDLE_S
    assert staffed.client.get("/review/config").status_code == 401
    staffed.enter("rita", GOOD)
    staffed.accounts.put("rita", "reviewer", "another password")
    assert staffed.client.get("/review/config").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.test"},
        {"Origin": "http://127.0.0.1:81"},
        {"Origin": "null"},
    ],
)
def test_another_sites_page_signs_nobody_in_or_out(staffed: Site, headers: dict[str, str]):
    """A form that another origin's page sends is refused before it is read."""
    staffed.enter("rita", GOOD)
    for path in ("/sign-in", "/sign-out"):
        answer = staffed.client.post(path, data={"name": "rita", "password": GOOD}, headers=headers)
        assert (answer.status_code, answer.text) == (403, "Not from here.")
    assert staffed.client.get("/review/config").status_code == 200
    own = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert staffed.client.post("/sign-out", headers=own).status_code == 303


def test_signing_in_makes_no_visitor(staffed: Site):
    """Only what is sent to a page gives somebody a number; this one has a name."""
    assert "ratchet=" not in staffed.enter("rita", GOOD).headers["set-cookie"]


def test_the_first_account_needs_the_link(bare: Site):
    """There is no default: without the code from the server's start the page only says how to get in."""
    for path in ("/sign-in", "/sign-in?code=guess"):
        page = bare.client.get(path).text
        assert "No account exists yet" in page
        assert "<form" not in page
    assert bare.enter("operator", GOOD, again=GOOD, code="guess").status_code == 401
    assert bare.enter("operator", GOOD).status_code == 401
    assert not bare.accounts

    code = parse_qs(urlsplit(bare.sign_in.link()).query)["code"][0]
    assert "Make the first account" in bare.client.get(bare.sign_in.link()).text
    assert "The two passwords differ." in bare.enter("olga", GOOD, again="x", code=code).text
    assert "A password has 10 to 1000 characters." in bare.enter("olga", "x", again="x", code=code).text
    assert bare.enter("Olga", GOOD, again=GOOD, code=code).headers["location"] == "/rounds"
    assert [(a.name, a.role) for a in bare.accounts.everybody()] == [("olga", "operator")]

    assert bare.sign_in.link() is None
    assert bare.enter("eve", GOOD, again=GOOD, code=code).status_code == 401
    assert bare.accounts.get("eve") is None


def test_an_account_from_elsewhere_ends_the_link(bare: Site):
    """As soon as there is any account, a closed one too, the code is worth nothing."""
    link = bare.sign_in.link()
    bare.accounts.put("rita", "closed", None)
    assert bare.sign_in.link() is None
    assert "Make the first account" not in bare.client.get(link).text


def test_a_person_signs_in_by_keys(staffed: Site):
    """In a real browser: sent to the sign-in, wrong once, then in; the page runs; then out again; no barriers."""
    with serving(staffed.client.app) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(f"{url}/review")
        assert page.url == f"{url}/sign-in?next=/review/"
        expect(page.get_by_label("Name")).to_be_focused()
        page.keyboard.type("rita")
        page.keyboard.press("Tab")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(WRONG)
        assert serious(page) == []
        expect(page.get_by_label("Name")).to_have_value("rita")
        page.get_by_label("Password").fill(GOOD)
        page.keyboard.press("Enter")
        expect(page.locator("#hello")).to_have_text("hello rita")
        assert page.url == f"{url}/review/"
        page.goto(f"{url}/rounds/")
        expect(page.locator("section")).to_contain_text("You are signed in as rita")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert serious(page) == []
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading")).to_have_text("Sign in")
        page.goto(f"{url}/review/")
        assert page.url == f"{url}/sign-in?next=/review/"
        page.emulate_media(color_scheme="dark")
        assert serious(page) == []
