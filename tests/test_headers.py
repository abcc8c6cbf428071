"""What the server says and refuses before any page is asked: headers, origins, hosts, sizes, spare routes."""

import os
import re
from collections.abc import Iterator

import gradio as gr
import pytest
from fastapi import FastAPI
from playwright.sync_api import expect
from starlette.testclient import TestClient

from app.limits import RATES
from app.web.guards import BODY_LIMIT
from app.web.server import Mount, build_app
from tests.browsing import chromium, serving

HEAD = "<script>window.own = 1</script>"
INJECTED = "<img src='data:,' onerror='window.injected = 1'><a href='javascript:window.injected = 1'>x</a>"


def trivial_page() -> gr.Blocks:
    """Says hello to whoever loads it, by the queue, by a click and by a timer's way."""
    with gr.Blocks(title="Trivial", analytics_enabled=False) as page:
        hello = gr.HTML(elem_id="hello")
        gr.HTML(INJECTED)
        asked = gr.Textbox(elem_id="asked")
        told = gr.Textbox(elem_id="told")
        gr.Button("Go", elem_id="go").click(_tell, asked, told, api_visibility="private")
        page.load(_greet, None, hello, queue=False, api_visibility="private")
    return page


def _greet(request: gr.Request) -> str:
    return f"hello {request.username}"


def _tell(asked: str) -> Iterator[str]:
    yield asked
    yield asked * 2


@pytest.fixture(scope="module")
def app() -> FastAPI:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return build_app(
        [Mount("/", trivial_page, head=HEAD)], [], "a secret of 32 characters or more", "127.0.0.1"
    )


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, "http://127.0.0.1", follow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/nothing", "/gradio_api/info"])
def test_every_answer_says_what_a_browser_may_do(client: TestClient, path: str):
    """Also one that refuses: no frames, no guesses, no devices, nothing from or to another host."""
    for request in ({}, {"headers": {"Host": "evil.test"}}):
        headers = client.get(path, **request).headers
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"https?:|\*", policy)
        assert "'unsafe-inline'" not in policy.split("style-src")[0]


def test_a_page_is_not_kept_but_its_scripts_are(client: TestClient):
    """What names somebody stays in no cache."""
    page = client.get("/")
    script = re.search(r'src="\.(/assets/index-[^"]+)"', page.text)[1]
    assert page.headers["cache-control"] == "no-store"
    assert client.get("/config").headers["cache-control"] == "no-store"
    assert client.get(script).headers.get("cache-control") != "no-store"


def test_only_a_request_for_this_host_is_answered(client: TestClient):
    """A name that was bound to this address elsewhere reads nothing."""
    for host in ("evil.test", "127.0.0.1.evil.test", ""):
        assert client.get("/config", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("origin", ["https://evil.test", "http://localhost:3000", "null"])
def test_no_other_origin_reads_or_writes(client: TestClient, origin: str):
    """Gradio's own answer, which lets some in, does not come through."""
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answers = [
        client.get("/config", headers={"Origin": origin}),
        client.options("/gradio_api/queue/join", headers=preflight),
        client.post("/gradio_api/queue/join", json={}, headers={"Origin": origin}),
    ]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-allow-origin")]
        assert "access-control-allow-credentials" not in answer.headers
    assert [answer.status_code for answer in answers[1:]] == [400, 403]
    assert "set-cookie" not in answers[2].headers


def test_what_is_too_large_is_not_read(client: TestClient):
    """By the length that is said; one that is not said is refused too."""

    large = client.post("/gradio_api/queue/join", content=b"x" * (BODY_LIMIT + 1))
    assert large.status_code == 413
    assert client.post("/api/status", content=b"x" * (BODY_LIMIT + 1)).status_code == 413
    assert client.post("/gradio_api/queue/join", content=b"x" * BODY_LIMIT).status_code == 422
    unsaid = {"Transfer-Encoding": "chunked"}
    assert client.post("/gradio_api/queue/join", content=b"x", headers=unsaid).status_code == 411


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/upload_progress?upload_id=x"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=https://example.org"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/stream/x"),
        ("POST", "/gradio_api/call/tell"),
        ("POST", "/gradio_api/api/predict"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/custom_component/1/client/component/x.js"),
        ("GET", "/gradio_api/deep_link"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/token"),
        ("GET", "/gradio_api/app_id"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("POST", "/login"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/openapi.json"),
        ("GET", "/static/..%2f..%2fconfig"),
        ("GET", "/assets/..%2f..%2f..%2f..%2froutes.py"),
    ],
)
def test_what_no_page_needs_is_not_there(client: TestClient, method: str, path: str):
    """Gradio brings more routes than the pages use."""
    answer = client.request(method, path)
    assert answer.status_code in (403, 404, 405)
    assert "root:" not in answer.text


def test_nobody_goes_past_the_queue(client: TestClient):
    """What waits its turn cannot be called directly, and what waits is limited."""
    queued = {"fn_index": 0, "data": ["x"], "session_hash": "abc"}
    assert client.post("/gradio_api/run/predict", json=queued).status_code == 404
    from gradio.routes import App

    (page,) = [route.app for route in client.app.routes if isinstance(getattr(route, "app", None), App)]
    assert page.get_blocks()._queue.max_size == 100


def test_one_network_brings_so_many_newcomers_an_hour(client: TestClient):
    """Whoever throws the cookie away is a new person, but not without end; who has one goes on."""
    body = {"fn_index": 1, "data": [], "session_hash": "abc"}
    known = client.post("/gradio_api/run/predict", json=body)
    assert known.status_code == 200
    cookie = client.cookies["ratchet"]
    statuses = []
    for _ in range(RATES["newcomer"].times + 1):
        client.cookies.clear()
        answer = client.post("/gradio_api/run/predict", json=body)
        statuses.append(answer.status_code)
    assert statuses.count(429) >= 2
    assert statuses.index(429) == statuses.count(200)
    assert re.fullmatch(r"too many new visitors from your network: wait \d+ seconds", answer.text)
    assert "set-cookie" not in answer.headers
    client.cookies["ratchet"] = cookie
    assert client.post("/gradio_api/run/predict", json=body).status_code == 200


def test_the_policy_holds_and_the_page_works(app: FastAPI):
    """In a real browser: the page's own scripts run, one that came in with a text does not."""
    with serving(app) as url, chromium() as browser:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(url)
        page.locator("#asked textarea").fill("ho")
        page.locator("#go").click()
        expect(page.locator("#told textarea")).to_have_value("hoho")
        assert page.evaluate("window.own") == 1
        page.evaluate(
            "document.body.appendChild(document.createElement('script')).text = 'window.injected = 1'"
        )
        assert page.evaluate("window.injected") is None
        refused = [text for text in said if "Content Security Policy" in text]
        assert all("inline" in text for text in refused)
        assert refused
