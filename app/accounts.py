"""Who may enter the desk and the rounds page, and for how long: accounts in the store, sessions in memory."""

import hashlib
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from feedback.errors import RatchetError, Refused
from feedback.records import Account, StaffRole, new_id
from feedback.store import Store

NAME = re.compile(r"[a-z0-9._-]{1,40}")
PASSWORD_LENGTH = (10, 1000)  # characters
FIRST = "operator"  # the account that RATCHET_PASSWORD makes where there is none
NO_PASSWORD = "-"  # verifies with nothing
WRONG = "Name or password is wrong."

SESSION_S = 12 * 3600
IDLE_S = 2 * 3600
SESSIONS_KEPT = 2000


class Accounts:
    """The accounts of an open store; all changes while it is open go through here.

    `hasher` says what a check of a password costs; by default argon2id as RFC 9106 has it for little memory.
    """

    def __init__(self, store: Store, hasher: PasswordHasher | None = None):
        self._store = store
        self._hasher = hasher or PasswordHasher()
        self._current = {account.name: account for account in store.records(Account)}

    def __bool__(self) -> bool:
        """Whether there is any account, closed or not."""
        return bool(self._current)

    def everybody(self) -> list[Account]:
        """The accounts as they stand, by name."""
        return sorted(self._current.values(), key=lambda account: account.name)

    def get(self, name: str) -> Account | None:
        """The account of this name as it stands."""
        return self._current.get(tidy_name(name))

    def put(self, name: str, role: StaffRole, password: str | None) -> Account:
        """Make or change an account; "closed" takes no password. Refused where name or password will not do."""
        name = tidy_name(name)
        if not NAME.fullmatch(name):
            raise Refused(
                "a name has 1 to 40 characters: letters from a to z, digits, dots, dashes and underscores"
            )
        if role not in get_args(StaffRole):
            raise RatchetError(f"there is no role {role!r}; there are: {', '.join(get_args(StaffRole))}")
        if role == "closed":
            return self._add(name, role, NO_PASSWORD)
        password = _normal(password or "")
        shortest, longest = PASSWORD_LENGTH
        if not shortest <= len(password) <= longest:
            raise Refused(f"a password has {shortest} to {longest} characters")
        return self._add(name, role, self._hasher.hash(password))

    def put_first(self, password: str) -> None:
        """Make the account FIRST; an account that exists already is left as it is."""
        if not self:
            self.put(FIRST, "operator", password)

    def verify(self, name: str, password: str) -> Account | None:
        """The open account that has this name and password.

        It takes as long for a name that nobody has. A hash of another cost is replaced by one of today's.
        """
        found, nobody = self.get(name), self._nobody
        known = found if found and found.role != "closed" else None
        wanted = known.password_hash if known else nobody
        password = _normal(password) if len(password) <= PASSWORD_LENGTH[1] else ""
        try:
            self._hasher.verify(wanted, password)
        except (VerifyMismatchError, InvalidHashError):
            return None
        if known and self._hasher.check_needs_rehash(wanted):
            return self._add(known.name, known.role, self._hasher.hash(password))
        return known

    @cached_property
    def _nobody(self) -> str:
        """The hash of a password that nobody knows."""
        return self._hasher.hash(secrets.token_urlsafe())

    def _add(self, name: str, role: StaffRole, password_hash: str) -> Account:
        now = datetime.now(UTC)
        account = Account(new_id(now), name, role, password_hash, now)
        self._store.add(account)
        self._current[name] = account
        return account


@dataclass
class _Session:
    account: Account
    began: float  # on the clock of Sessions, as is the next
    used: float


class Sessions:
    """Who is signed in. A session ends after SESSION_S, after IDLE_S without use, and when its account changes.

    A restart ends all. Only the sha256 of a token is kept.
    """

    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.time):
        self._accounts, self._clock = accounts, clock
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def begin(self, account: Account) -> str:
        """A fresh token for `account`."""
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            if len(self._sessions) >= SESSIONS_KEPT:
                self._make_room()
            self._sessions[_digest(token)] = _Session(account, now, now)
        return token

    def account(self, token: str) -> Account | None:
        """Whose `token` it is, while it holds; counts as use."""
        with self._lock:
            session = self._sessions.get(_digest(token))
            if session is None:
                return None
            if not self._holds(session):
                del self._sessions[_digest(token)]
                return None
            session.used = self._clock()
            return session.account

    def end(self, token: str) -> None:
        """Let `token` open nothing more."""
        with self._lock:
            self._sessions.pop(_digest(token), None)

    def _holds(self, session: _Session) -> bool:
        now, account = self._clock(), session.account
        in_time = now - session.began < SESSION_S and now - session.used < IDLE_S
        return in_time and self._accounts.get(account.name) is account

    def _make_room(self) -> None:
        """Drop what holds no more, else what was not used for the longest time."""
        held = {key: session for key, session in self._sessions.items() if self._holds(session)}
        if len(held) >= SESSIONS_KEPT:
            del held[min(held, key=lambda key: held[key].used)]
        self._sessions = held


def tidy_name(name: str) -> str:
    """`name` as accounts are known by: without spaces around it, in small letters."""
    return name.strip().lower()


def _normal(password: str) -> str:
    """The same text, however a keyboard composed it."""
    return unicodedata.normalize("NFKC", password)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
