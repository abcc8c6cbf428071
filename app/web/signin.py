"""The sign-in: one plain page without scripts, the cookie of whoever passed, and the doors that ask for it.

A refusal is the same for every cause, and a locked name says nothing about whether there is such an account.
"""

import asyncio
import html
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from app.accounts import FIRST, PASSWORD_LENGTH, SESSION_S, WRONG, Accounts, Sessions, tidy_name
from app.limits import Limits, network_of
from app.web.guards import SIGN_IN
from feedback.errors import Refused
from feedback.records import Account, StaffRole

COOKIE = "ratchet_staff"
STYLES = Path(__file__).parent / "static" / "signin.css"
HOME = {"reviewer": "/review", "operator": "/rounds"}
NO_ACCOUNT = (
    "No account exists yet: open the link that the server printed at its start, "
    "or run `ratchet account NAME --role operator`."
)


class SignIn:
    """Signs people in and out. `title` is the site's name; without any account `link()` leads to the first one."""

    def __init__(self, title: str, accounts: Accounts, sessions: Sessions, limits: Limits):
        self._title, self._accounts, self._sessions, self._limits = title, accounts, sessions, limits
        self._code = secrets.token_urlsafe(24)
        self._turn = asyncio.Lock()  # one at a time: a check of a password takes 64 MB and a core

    def link(self) -> str | None:
        """The path where the first account can be made, while there is none; whoever has it may."""
        return None if self._accounts else f"{SIGN_IN}?{urlencode({'code': self._code})}"

    def entrance(self, roles: Collection[StaffRole]) -> Callable[[Request], str | None]:
        """For `Mount.enter`: the name of whoever is signed in and has one of `roles`."""

        def enter(request: Request) -> str | None:
            account = self._signed_in(request)
            return account.name if account and account.role in roles else None

        return enter

    def router(self) -> APIRouter:
        """GET and POST /sign-in, POST /sign-out, and the page's style."""
        router = APIRouter()

        @router.get(SIGN_IN)
        def show(request: Request, next: str = "", code: str = "") -> Response:
            return self._page(request, _local(next), code=code)

        @router.post(SIGN_IN)
        async def enter(request: Request) -> Response:
            form = await request.form()
            async with self._turn:
                return await asyncio.to_thread(self._enter, request, form)

        @router.post("/sign-out")
        def leave(request: Request) -> Response:
            self._sessions.end(request.cookies.get(COOKIE, ""))
            response = RedirectResponse(SIGN_IN, 303)
            response.delete_cookie(COOKIE, httponly=True, samesite="strict")
            return response

        @router.get("/sign-in.css")
        def style() -> Response:
            return FileResponse(STYLES, media_type="text/css")

        return router

    def _signed_in(self, request: Request) -> Account | None:
        return self._sessions.account(request.cookies.get(COOKIE, ""))

    # what is done

    def _enter(self, request: Request, form: FormData) -> Response:
        name, onward, code = _text(form, "name"), _local(_text(form, "next")), _text(form, "code")
        network = network_of(request.scope.get("client"))
        try:
            self._limits.refuse("sign-in from", network)
            self._limits.refuse("sign-in as", tidy_name(name))
            self._limits.check("sign-in", "everybody")
        except Refused as refused:
            return self._page(request, onward, name, _sentence(refused), code, 429)
        try:
            account = (
                self._first(form, code) if code else self._accounts.verify(name, _text(form, "password"))
            )
        except Refused as refused:
            return self._page(request, onward, name, _sentence(refused), code, 400)
        if account is None:
            self._limits.count("sign-in from", network)
            self._limits.count("sign-in as", tidy_name(name))
            return self._page(request, onward, name, WRONG, code, 401)
        self._limits.forget("sign-in as", account.name)
        self._sessions.end(request.cookies.get(COOKIE, ""))
        response = RedirectResponse(onward or HOME[account.role], 303)
        response.set_cookie(
            COOKIE,
            self._sessions.begin(account),
            max_age=SESSION_S,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    def _first(self, form: FormData, code: str) -> Account | None:
        """The first account, made by whoever has the code; None when the code is not, or no longer, good."""
        if not self._good(code):
            return None
        if _text(form, "password") != _text(form, "again"):
            raise Refused("the two passwords differ")
        return self._accounts.put(_text(form, "name"), "operator", _text(form, "password"))

    def _good(self, code: str) -> bool:
        return not self._accounts and secrets.compare_digest(code.encode(), self._code.encode())

    # what there is to see

    def _page(
        self,
        request: Request,
        onward: str,
        name: str = "",
        problem: str = "",
        code: str = "",
        status: int = 200,
    ) -> Response:
        account = self._signed_in(request)
        if self._good(code):
            heading, body = "Make the first account", _first_form(name or FIRST, code)
        elif not self._accounts:
            heading, body = "Sign in", f"<p>{_code_marked(NO_ACCOUNT)}</p>"
        else:
            heading = "Sign in as somebody else" if account else "Sign in"
            body = _form(name, onward)
        alert = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
        here = _signed_in_as(account) if account else ""
        title = html.escape(self._title)
        return HTMLResponse(
            f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{heading} · {title}</title>
<link rel="stylesheet" href="/sign-in.css">
</head>
<body>
<main>
<p class="site">{title}</p>
{here}
<h1>{heading}</h1>
{alert}
{body}
<p class="back"><a href="/">Go to the chat</a></p>
</main>
</body>
</html>
""",
            status,
            {"Cache-Control": "no-store"},
        )


def _form(name: str, onward: str) -> str:
    return f"""<p>The review desk and the rounds page are for people with an account.</p>
<form method="post" action="{SIGN_IN}">
{_hidden("next", onward)}
{_name_field(name)}
{_password_field("password", "Password", "current-password", focus=bool(name))}
<button type="submit">Sign in</button>
</form>"""


def _first_form(name: str, code: str) -> str:
    return f"""<p>It may review answers and operate the rounds. Choose a password of at least {PASSWORD_LENGTH[0]}
characters.</p>
<form method="post" action="{SIGN_IN}">
{_hidden("code", code)}
{_name_field(name)}
{_password_field("password", "Password", "new-password", focus=True)}
{_password_field("again", "The same again", "new-password")}
<button type="submit">Make the account</button>
</form>"""


def _signed_in_as(account: Account) -> str:
    return f"""<section>
<p>You are signed in as <strong>{html.escape(account.name)}</strong>.
<a href="{HOME[account.role]}">Go on</a></p>
<form method="post" action="/sign-out"><button type="submit" class="quiet">Sign out</button></form>
</section>"""


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{html.escape(value)}">'


def _name_field(name: str) -> str:
    return f"""<label for="name">Name</label>
<input id="name" name="name" value="{html.escape(name)}" required maxlength="40"
{"" if name else "autofocus "}autocomplete="username" autocapitalize="none" spellcheck="false">"""


def _password_field(name: str, label: str, autocomplete: str, focus: bool = False) -> str:
    return f"""<label for="{name}">{label}</label>
<input id="{name}" name="{name}" type="password" required maxlength="{PASSWORD_LENGTH[1]}"
{"autofocus " if focus else ""}autocomplete="{autocomplete}">"""


def _code_marked(text: str) -> str:
    """`text` as HTML, with what stands between backquotes as code."""
    before, code, after = html.escape(text).split("`")
    return f"{before}<code>{code}</code>{after}"


def _sentence(refused: Refused) -> str:
    text = str(refused)
    return f"{text[:1].upper()}{text[1:]}."


def _text(form: FormData, field: str) -> str:
    value = form.get(field)
    return value if isinstance(value, str) else ""


def _local(path: str) -> str:
    """`path` where it leads to a page of this server, else nothing. Browsers read a backslash as a slash."""
    inside = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if inside else ""
