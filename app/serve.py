"""One process that serves: the store, the model, the chat page and the operations, put together."""

import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from app.domain import load_domain
from app.door import write_server_file
from app.run_folder import is_held
from app.settings import Settings
from feedback.errors import RatchetError, StoreBusy
from feedback.store import Store
from training.registry import BASE, adapter_of

ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",  # else every click is summed up with pandas, for nobody
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def serve(settings: Settings, host: str, port: int, password: str | None, log: Callable[[str], None]) -> None:
    """Serve on host:port until stopped; `password` makes the first account where there is none.

    RatchetError when the home or the port is taken.
    """
    os.environ |= ENVIRONMENT  # before the imports below
    from app.conversations import Conversations
    from app.engine import Engine
    from app.limits import Limits
    from app.operations import Operations
    from app.web.server import run_app
    from training.base_model import base_model_folder

    objective = load_domain(settings)
    _check_port(host, port)
    with _open_store(settings) as store, ExitStack() as closing:
        base = base_model_folder(objective.base_model, settings.cache, log)
        log(f"loading {objective.base_model}")
        engine = Engine(base, crowded=lambda: is_held(settings.home))
        closing.callback(engine.close)
        operations = Operations(settings, objective, store)
        champion = operations.champion()
        if champion != BASE:
            engine.load(champion, adapter_of(settings.home, champion))
        if password:
            operations.staff.put_first(password)
        limits = Limits()
        conversations = Conversations(store, engine, objective, champion, limit=limits.check)
        operations.serving = Live(engine, conversations)
        url = f"http://{host}:{port}"
        token = write_server_file(settings.server_file, url)
        closing.callback(settings.server_file.unlink, missing_ok=True)
        site = Site(settings, objective, operations, conversations, limits)
        app = site.build(token, host)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: everything is closed
        site.schedule.start()
        closing.callback(site.schedule.stop)
        log(f"{champion} serves at {url} (Ctrl-C stops it)")
        if link := site.sign_in.link():
            log(f"no account exists yet; make the first operator's at {url}{link}")
        with suppress(KeyboardInterrupt):
            run_app(app, host, port)


class Site:
    """The three doors of one installation and what stands behind each."""

    def __init__(self, settings: Settings, objective, operations, conversations, limits):
        from app.accounts import Sessions
        from app.levers import Levers
        from app.review import ReviewDesk
        from app.schedule import Schedule
        from app.web.signin import SignIn

        self.settings, self.objective, self.operations = settings, objective, operations
        self.conversations, self.limits = conversations, limits
        self.levers = Levers(settings, operations)
        self.schedule = Schedule(self.levers, objective.schedule)
        self.desk = ReviewDesk(operations.store, objective, settings.home)
        self.sign_in = SignIn(objective.title, operations.staff, Sessions(operations.staff), limits)

    def build(self, token: str, host: str):
        """The web application; `token` lets commands in."""
        from app.reports import Reports
        from app.web import chat, review, rounds
        from app.web.api import operations_router
        from app.web.mine import mine_router
        from app.web.report_path import report_router
        from app.web.server import Mount, build_app

        objective, home = self.objective, self.settings.home
        reports = Reports(home, objective.gate)
        enter = self.sign_in.entrance
        mounts = [
            Mount("/", lambda: chat.chat_page(self.conversations, objective), (chat.STYLES,), chat.HEAD),
            Mount(
                "/review",
                lambda: review.review_page(self.desk, objective),
                (review.STYLES,),
                review.HEAD,
                enter(("reviewer", "operator")),
            ),
            Mount(
                "/rounds",
                lambda: rounds.rounds_page(self.levers, self.schedule, reports, objective, self.desk.waiting),
                rounds.STYLES,
                enter=enter(("operator",)),
            ),
        ]
        routers = [
            operations_router(self.operations, token),
            self.sign_in.router(),
            mine_router(self.conversations),
            report_router(self.operations, reports, enter(("operator",))),
        ]
        return build_app(mounts, routers, _secret(home), host, [self.conversations.sweep])


class Live:
    """What the engine and the open conversations do about a new champion."""

    def __init__(self, engine, conversations):
        self._engine, self._conversations = engine, conversations

    def load(self, version: str, adapter: Path | None) -> None:
        if adapter is not None and version not in self._engine.versions:
            self._engine.load(version, adapter)

    def move(self, version: str, withdrawn: str | None) -> None:
        self._conversations.promote(version)
        if withdrawn:
            self._conversations.withdraw(withdrawn)

    def forget(self, person: str) -> None:
        self._conversations.forget_person(person)
        self._engine.forget()


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise RatchetError(
                f"cannot listen on {host}:{port}: {reason}; choose another with --port"
            ) from None


def _open_store(settings: Settings) -> Store:
    try:
        return Store.open(settings.store_file)
    except StoreBusy:
        raise RatchetError(
            f"{settings.home} is in use: another `ratchet serve` runs on it, or a command holds it for a moment; "
            "stop it, try again, or choose another home with --home"
        ) from None


def _secret(home: Path) -> str:
    """What signs the cookies of this home; made once, readable by the owner alone."""
    file = home / "cookie.secret"
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(48))
    return file.read_text("utf-8")
