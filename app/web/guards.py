"""What stands between a browser and the pages: each guard is one ASGI middleware with one duty."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.limits import Limits, network_of
from feedback.errors import Refused
from feedback.records import new_id

SIGN_IN = "/sign-in"
BODY_LIMIT = 1_000_000  # bytes of one request
PERSONLESS = (
    "/api/",
    "/sign-",
    "/review",
    "/rounds",
)  # paths where something is sent by no visitor of a page

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with "no-referrer" a form names no origin either
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Of what Gradio offers, what its browser side asks for: no uploads, files, proxies, streams or histories.
ASSETS = re.compile(r"/(assets|static)/.+")
NEEDED = re.compile(
    r"/(config|theme\.css|favicon\.ico|gradio_api/"
    r"(info|startup-events|queue/(join|data)|run/\w+|cancel|reset|heartbeat/\w+))?/?"
)
SCRIPT = re.compile(rb"<script[^>]*>(.*?)</script>", re.DOTALL)


class SafeHeaders:
    """Puts HEADERS on every answer that does not say otherwise."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class SoundRequests:
    """Refuses, before anything is read, what is too large and what another site's page sends."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def _refusal(method: str, headers: Headers) -> Response | None:
    if "transfer-encoding" in headers:
        return PlainTextResponse("Say how long the body is.", 411)
    if int(headers.get("content-length", 0)) > BODY_LIMIT:  # the server lets only digits pass
        return PlainTextResponse("Too large.", 413)
    if method not in ("GET", "HEAD", "OPTIONS") and not _same_site(headers):
        return PlainTextResponse("Not from here.", 403)
    return None


def _same_site(headers: Headers) -> bool:
    """Whether a page of this server, or no page at all, sends this: a browser always says one of the two."""
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


class Visitors:
    """Gives everybody who opens a page or sends something an id of their own in the signed cookie.

    With the page already: a newcomer's first two clicks would else be taken for two people's. So many new ids
    an hour from one network, or limits by person would be void.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _by_visitor(scope) and "person" not in scope["session"]:
            try:
                self._limits.check("newcomer", network_of(scope.get("client")))
            except Refused as refused:
                await PlainTextResponse(f"{refused}", 429)(scope, receive, send)
                return
            scope["session"]["person"] = new_id(datetime.now(UTC))
        await self._app(scope, receive, send)


def _by_visitor(scope: Scope) -> bool:
    """Whether this is a visitor's doing: the page at "/" opened, or something sent."""
    if scope["method"] == "GET":
        return scope["path"] == "/"
    return scope["method"] == "POST" and not scope["path"].startswith(PERSONLESS)


class PageDoor:
    """Stands before one page and all its paths: who may come in, what there is, and what its scripts may do.

    Whoever `enter` does not know learns nothing: a browser that opens a page is sent to the sign-in,
    all else is answered alike, whether it exists or not.
    """

    def __init__(self, app: ASGIApp, head: str, enter: Callable[[Request], str | None] | None):
        self._app, self._enter = app, enter
        self._scripts = SCRIPT.findall(head.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # the pages use none
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._enter and self._enter(Request(scope)) is None:
            await shut(Request(scope))(scope, receive, send)
        else:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            asset = ASSETS.fullmatch(path)
            app = self._app if asset or NEEDED.fullmatch(path) else PlainTextResponse("Not found.", 404)
            await app(scope, receive, self._with_policy(send, keep=bool(asset)))

    def _with_policy(self, send: Send, keep: bool) -> Send:
        """`send` that puts a policy on the answer: a page's own inline scripts by their hashes, and no others.

        `keep`: the browser may keep the answer.
        """
        start: Message = {}
        page = bytearray()

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _policy(())
                if not keep:
                    headers["Cache-Control"] = "no-store"
                if headers.get("content-type", "").startswith("text/html"):
                    start.update(message)
                    return
            elif start:
                page.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                scripts = [*SCRIPT.findall(page), *self._scripts]
                MutableHeaders(scope=start)["Content-Security-Policy"] = _policy(scripts)
                await send(start)
                message = {"type": "http.response.body", "body": bytes(page)}
            await send(message)

        return send_with_policy


def page_headers() -> dict[str, str]:
    """What an answer behind a door carries that has no scripts of its own."""
    return {"Content-Security-Policy": _policy(()), "Cache-Control": "no-store"}


def shut(request: Request) -> Response:
    """What whoever may not come in is answered."""
    opened = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    if opened:
        return RedirectResponse(f"{SIGN_IN}?next={quote(request.url.path)}", 303)
    return PlainTextResponse("Not allowed.", 401)


def _policy(scripts: Iterable[bytes]) -> str:
    """A Content-Security-Policy that runs these inline scripts and what this server serves; nothing goes elsewhere.

    'unsafe-eval' stays: Gradio's gr.HTML builds what it shows with Function(), as do plots and `js=`.
    Its components write inline styles.
    """
    digests = {base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts if script}
    inline = "".join(f" 'sha256-{digest}'" for digest in sorted(digests))
    return (
        f"default-src 'self'; script-src 'self' 'unsafe-eval'{inline}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )
