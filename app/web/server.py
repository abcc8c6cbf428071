"""The web server around the pages: who is asking, and what a browser may do with a page."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse

from app.limits import Limits
from app.web.guards import PageDoor, SafeHeaders, SoundRequests, Visitors
from app.web.theme import theme

CHORES_EVERY = 60  # seconds
A_YEAR = 365 * 24 * 3600  # seconds
EVERY_ADDRESS = ("0.0.0.0", "::")
UPLOAD_LIMIT = "1kb"  # the pages take no files
QUEUE_LIMIT = 100  # events of one page that wait


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
    app.add_middleware(Visitors, limits=Limits())
    app.add_middleware(
        SessionMiddleware, secret_key=secret, session_cookie="ratchet", max_age=A_YEAR, same_site="lax"
    )
    app.add_middleware(SoundRequests)
    app.add_middleware(CORSMiddleware)  # lets no other origin in; beside it Gradio leaves its own out
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed)
    app.add_middleware(SafeHeaders)
    for router in routers:
        app.include_router(router)
    # Outside of an event loop Gradio opens new ones for its locks, and never closes them.
    return asyncio.run(_with_pages(app, mounts))


async def _with_pages(app: FastAPI, mounts: Sequence[Mount]) -> FastAPI:
    for mount in sorted(mounts, key=lambda mount: -len(mount.path)):  # the chat at "/" would take them all
        if mount.path != "/":  # the page at "/" would answer for it without the last slash
            app.add_api_route(mount.path, _to_page, include_in_schema=False)
        door = Middleware(PageDoor, head=mount.head, enter=mount.enter)
        gr.mount_gradio_app(
            app,
            # Without `api_open` nobody goes past the queue.
            mount.page().queue(max_size=QUEUE_LIMIT, api_open=False),
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
            app_kwargs={"openapi_url": None, "middleware": [door]},
        )
    return app


def _to_page(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url.replace(path=request.url.path + "/", scheme="", netloc=""), 303)


def run_app(app: FastAPI, host: str, port: int) -> None:
    """Serve until interrupted; open pages are given three seconds to finish."""
    uvicorn.run(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3, server_header=False
    )


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
