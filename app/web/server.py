"""The web server: who is asking, what a browser may do with the page, and the chat at `/`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import gradio as gr
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.conversations import Conversations
from app.web.chat import STYLES, chat_page, theme
from eval.objective import Objective
from feedback.records import new_id

SWEEP_EVERY = 60  # seconds
A_YEAR = 365 * 24 * 3600  # seconds
EVERY_ADDRESS = ("0.0.0.0", "::")
UPLOAD_LIMIT = "1kb"  # the pages take no files

# Gradio's page starts from inline scripts and styles; all else comes from this server, and goes nowhere else.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def build_app(
    conversations: Conversations, objective: Objective, secret: str, router: APIRouter, host: str
) -> FastAPI:
    """The whole site: `router`'s paths, then the chat. `secret` signs the cookie that says who is asking.

    Only requests that name `host` (or this machine) are answered, unless it stands for every address.
    """
    app = FastAPI(lifespan=_sweeping(conversations), openapi_url=None)
    allowed = ["*"] if host in EVERY_ADDRESS else [host, "localhost", "127.0.0.1"]
    app.add_middleware(Visitors)
    app.add_middleware(
        SessionMiddleware, secret_key=secret, session_cookie="ratchet", max_age=A_YEAR, same_site="strict"
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed)
    app.add_middleware(SafeHeaders)
    app.include_router(router)
    # Outside of an event loop Gradio opens new ones for its locks, and never closes them.
    return asyncio.run(_with_chat(app, conversations, objective))


async def _with_chat(app: FastAPI, conversations: Conversations, objective: Objective) -> FastAPI:
    return gr.mount_gradio_app(
        app,
        chat_page(conversations, objective),
        path="/",
        theme=theme(),
        css_paths=[STYLES],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=UPLOAD_LIMIT,
        app_kwargs={"openapi_url": None},
    )


def run_app(app: FastAPI, host: str, port: int) -> None:
    """Serve until interrupted; open pages are given three seconds to finish."""
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)


class Visitors:
    """Gives everybody who does something an id of their own in the signed cookie.

    Only where something is sent: a page that was reached from elsewhere comes without its (strict) cookie,
    and would else be taken for a new person's.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["path"].startswith("/api/"):
            scope["session"].setdefault("person", new_id(datetime.now(UTC)))
        await self._app(scope, receive, send)


class SafeHeaders:
    """Puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _sweeping(conversations: Conversations):
    """A lifespan in which idle conversations are forgotten, and versions nobody is on unloaded."""

    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            await asyncio.to_thread(conversations.sweep)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(sweep())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return lifespan
