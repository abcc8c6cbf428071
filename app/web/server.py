"""The web server around the pages: who is asking, and what a browser may do with a page."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.theme import theme
from feedback.records import new_id

CHORES_EVERY = 60  # seconds
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


@dataclass(frozen=True)
class Mount:
    """A page and where it stands. `enter` names whoever may come in, or gives None; without it everybody may."""

    path: str
    page: Callable[[], gr.Blocks]
    styles: tuple[Path, ...] = ()
    head: str = ""  # HTML for the page's head: its scripts
    enter: Callable[[Request], str | None] | None = None


def build_app(
    mounts: Sequence[Mount],
    routers: Sequence[APIRouter],
    secret: str,
    host: str,
    chores: Sequence[Callable[[], object]] = (),
) -> FastAPI:
    """The whole site: the paths of `routers`, then the pages. `secret` signs the cookie that says who is asking.

    Only requests that name `host` (or this machine) are answered, unless it stands for every address.
    Each of `chores` is done once a minute.
    """
    app = FastAPI(lifespan=_doing(chores), openapi_url=None)
    allowed = ["*"] if host in EVERY_ADDRESS else [host, "localhost", "127.0.0.1"]
    app.add_middleware(Visitors)
    app.add_middleware(
        SessionMiddleware, secret_key=secret, session_cookie="ratchet", max_age=A_YEAR, same_site="strict"
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed)
    app.add_middleware(SafeHeaders)
    for router in routers:
        app.include_router(router)
    # Outside of an event loop Gradio opens new ones for its locks, and never closes them.
    return asyncio.run(_with_pages(app, mounts))


async def _with_pages(app: FastAPI, mounts: Sequence[Mount]) -> FastAPI:
    for mount in sorted(mounts, key=lambda mount: -len(mount.path)):  # the chat at "/" would take them all
        gr.mount_gradio_app(
            app,
            mount.page(),
            path=mount.path,
            auth_dependency=mount.enter,
            theme=theme(),
            css_paths=[*mount.styles],
            head=mount.head,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            show_error=False,
            max_file_size=UPLOAD_LIMIT,
            app_kwargs={"openapi_url": None},
        )
    return app


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


def _doing(chores: Sequence[Callable[[], object]]):
    """A lifespan in which each chore is done every minute."""

    async def work() -> None:
        while True:
            await asyncio.sleep(CHORES_EVERY)
            for chore in chores:
                await asyncio.to_thread(chore)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(work())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return lifespan
