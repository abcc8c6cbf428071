"""How a command reaches the store: through the running server, or by opening the store for one step."""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.settings import Settings
from eval.objective import Objective
from feedback import errors
from feedback.errors import RatchetError, StoreBusy

PATIENCE_S = 20  # another command holds the store for a step, a server takes some time to start

Ask = Callable[..., Any]  # ask("status") or ask("promote", version=..., who=..., why=...)


class _NotListening(RatchetError):
    """A server file is there, but nobody answers at its address: starting, or killed."""


def open_door(settings: Settings, objective: Objective) -> Ask:
    """A function that carries out operations, wherever the store is open at that moment."""

    def ask(operation: str, **arguments: Any) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                server = read_server_file(settings.server_file)
                if server is not None:
                    with contextlib.suppress(_NotListening):
                        return _ask_server(server, operation, arguments)
                return _ask_here(settings, objective, operation, arguments)
            except StoreBusy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    return ask


def _ask_here(settings: Settings, objective: Objective, operation: str, arguments: dict[str, Any]) -> Any:
    from app.operations import Operations, operate
    from feedback.store import Store

    with Store.open(settings.store_file) as store:
        return operate(Operations(settings, objective, store), operation, arguments)


def _ask_server(server: dict[str, Any], operation: str, arguments: dict[str, Any]) -> Any:
    import httpx

    try:
        answer = httpx.post(
            f"{server['url']}/api/{operation}",
            json=arguments,
            headers={"Authorization": f"Bearer {server['token']}"},
            timeout=httpx.Timeout(600, connect=10),
            trust_env=False,  # the server is on this machine: no proxy
        )
    except httpx.ConnectError as error:
        raise _NotListening(f"nobody answers at {server['url']}") from error
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise RatchetError(f"the server at {server['url']} broke off: {reason}") from None
    if answer.is_success:
        return answer.json()
    try:
        problem = answer.json()
        kind = getattr(errors, problem["kind"], RatchetError)
        text = problem["error"]
    except (json.JSONDecodeError, KeyError, TypeError):
        kind, text = RatchetError, f"the server at {server['url']} answered {answer.status_code}"
    raise kind(text)


def write_server_file(file: Path, url: str) -> str:
    """Leave the address and a fresh token for commands, readable by the owner alone; returns the token."""
    token = secrets.token_urlsafe(32)
    draft = file.with_name(file.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({"url": url, "token": token, "pid": os.getpid()}, out)
    os.replace(draft, file)
    return token


def read_server_file(file: Path) -> dict[str, Any] | None:
    """Where the running server is, or None when there is none."""
    try:
        server = json.loads(file.read_text("utf-8"))
        os.kill(server["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, json.JSONDecodeError, KeyError):
        return None  # it was killed, or never there
    except PermissionError:
        raise RatchetError(
            f"{file} belongs to somebody else's server; use a home of your own (--home)"
        ) from None
    return server
