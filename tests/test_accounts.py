"""Accounts, their passwords and sessions: what lets somebody in, and what ends it."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher, Type

from app.accounts import IDLE_S, SESSION_S, SESSIONS_KEPT, Accounts, Sessions
from app.cli import main, take_password
from app.operations import Operations, operate
from app.settings import read_settings
from feedback.errors import RatchetError, Refused
from feedback.records import Account
from feedback.store import Store
from tests.test_limits import Clock

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
GOOD = "correct horse"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.duckdb") as store:
        yield store


@pytest.fixture
def accounts(store: Store) -> Accounts:
    return Accounts(store, CHEAP)


def test_a_name_and_its_password_let_in(accounts: Accounts, store: Store):
    """Only both together, and only a hash is kept."""
    accounts.put(" Rita ", "reviewer", GOOD)
    assert accounts.verify("RITA", GOOD).role == "reviewer"
    assert accounts.verify("rita", GOOD + " ") is None
    assert accounts.verify("rosa", GOOD) is None
    assert accounts.verify("rita", "x" * 100_000) is None
    (row,) = store.records(Account)
    assert row.name == "rita"
    assert row.password_hash.startswith("$argon2id$")
    assert GOOD not in str(row)


def test_the_default_cost_is_argon2id_as_rfc_9106_has_it(store: Store):
    """64 MiB, three passes, four lanes."""
    kept = Accounts(store).put("rita", "reviewer", GOOD).password_hash
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert PasswordHasher().type is Type.ID


def test_a_name_that_nobody_has_costs_as_much(accounts: Accounts):
    """A hash of the same cost is checked, whether there is such an account, it is closed, or neither."""
    checked = []

    class Watching(PasswordHasher):
        def verify(self, hash, password):
            checked.append(hash.rsplit("$", 2)[0])
            return super().verify(hash, password)

    accounts.put("rita", "reviewer", GOOD)
    accounts.put("tom", "closed", None)
    accounts._hasher = Watching(time_cost=1, memory_cost=8, parallelism=1)
    for name in ("rita", "nobody", "tom", "no such name!", ""):
        assert accounts.verify(name, "wrong password") is None
    assert len(checked) == 5
    assert len(set(checked)) == 1


def test_the_last_row_of_a_name_stands(accounts: Accounts, store: Store):
    """A change is a new row; a closed account lets nobody in; a store that is opened again says the same."""
    accounts.put("rita", "reviewer", GOOD)
    accounts.put("rita", "operator", "another password")
    assert accounts.verify("rita", GOOD) is None
    assert accounts.verify("rita", "another password").role == "operator"
    accounts.put("rita", "closed", None)
    again = Accounts(store, CHEAP)
    assert again.verify("rita", "another password") is None
    assert again.verify("rita", "-") is None
    assert again.verify("rita", "") is None
    assert [a.role for a in again.everybody()] == ["closed"]
    assert again
    assert len(store.records(Account)) == 3


def test_a_hash_of_another_cost_is_replaced(accounts: Accounts, store: Store):
    """The next sign-in brings it to today's cost, and the account stays the same."""
    accounts.put("rita", "reviewer", GOOD)
    dearer = Accounts(store, PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))
    assert dearer.verify("rita", GOOD).role == "reviewer"
    assert "t=2" in store.records(Account)[-1].password_hash
    dearer.verify("rita", GOOD)
    assert len(store.records(Account)) == 2


def test_a_password_is_the_same_however_it_is_typed(accounts: Accounts):
    """One keyboard sends é as one character, another as two."""
    accounts.put("rita", "reviewer", "caf\u00e9 au lait")
    assert accounts.verify("rita", "cafe\u0301 au lait")


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [
        ("", GOOD, "a name has 1 to 40"),
        ("x" * 41, GOOD, "a name has 1 to 40"),
        ("rita<b>", GOOD, "a name has 1 to 40"),
        ("rita", "short one", "10 to 1000"),
        ("rita", "x" * 1001, "10 to 1000"),
        ("rita", None, "10 to 1000"),
    ],
)
def test_what_will_not_do_is_said(accounts: Accounts, name: str, password: str | None, says: str):
    """Nothing is stored of a name or a password that is refused."""
    with pytest.raises(Refused, match=says):
        accounts.put(name, "reviewer", password)
    assert not accounts
    with pytest.raises(RatchetError, match="there is no role"):
        accounts.put("rita", "king", GOOD)


def test_the_first_account_is_made_once(accounts: Accounts):
    """The password that a server is started with makes no second account and changes none."""
    accounts.put_first(GOOD)
    accounts.put_first("another password")
    (first,) = accounts.everybody()
    assert (first.name, first.role) == ("operator", "operator")
    assert accounts.verify("operator", GOOD)


def test_a_session_expires(accounts: Accounts):
    """After two hours without use, and after twelve hours of it."""
    clock = Clock()
    sessions = Sessions(accounts, clock)
    rita = accounts.put("rita", "reviewer", GOOD)
    token = sessions.begin(rita)
    clock.now += IDLE_S - 1
    assert sessions.account(token) == rita
    clock.now += IDLE_S - 1
    assert sessions.account(token) == rita
    clock.now += 1 + IDLE_S
    assert sessions.account(token) is None
    token, began = sessions.begin(rita), clock.now
    while clock.now < began + SESSION_S - 1000:
        clock.now += 1000
        assert sessions.account(token) == rita
    clock.now = began + SESSION_S
    assert sessions.account(token) is None
    assert sessions._sessions == {}


def test_a_session_ends_with_what_it_stood_on(accounts: Accounts):
    """A new password, a closed account and a sign-out end it; another's session goes on."""
    sessions = Sessions(accounts)
    rita, tom = accounts.put("rita", "reviewer", GOOD), accounts.put("tom", "operator", GOOD)
    of_rita, of_tom = sessions.begin(rita), sessions.begin(tom)
    accounts.put("rita", "reviewer", GOOD)
    assert sessions.account(of_rita) is None
    assert sessions.account(of_tom) == tom
    accounts.put("tom", "closed", None)
    assert sessions.account(of_tom) is None
    again = sessions.begin(accounts.verify("rita", GOOD))
    sessions.end(again)
    assert sessions.account(again) is None
    assert sessions.account("") is None


def test_the_command_ends_sessions_in_the_server_it_reaches(store: Store, tmp_path: Path):
    """What an operation changes holds at once for whoever is signed in."""
    operations = Operations(read_settings(str(tmp_path)), None, store)
    operate(operations, "set_account", {"name": "rita", "role": "reviewer", "password": GOOD})
    sessions = Sessions(operations.staff)
    token = sessions.begin(operations.staff.verify("rita", GOOD))
    assert sessions.account(token)
    operate(operations, "set_account", {"name": "rita", "role": "closed", "password": None})
    assert sessions.account(token) is None
    assert [a["role"] for a in operate(operations, "accounts", {})["accounts"]] == ["closed"]


def test_sessions_have_an_end_in_number_too(accounts: Accounts):
    """Beyond some thousand the one that was not used for the longest time ends."""
    clock = Clock()
    sessions = Sessions(accounts, clock)
    rita = accounts.put("rita", "reviewer", GOOD)
    tokens = []
    for _ in range(SESSIONS_KEPT + 1):
        clock.now += 1
        tokens.append(sessions.begin(rita))
        sessions.account(tokens[0])
    assert len(sessions._sessions) == SESSIONS_KEPT
    assert sessions.account(tokens[0]) == rita
    assert sessions.account(tokens[1]) is None
    assert not set(tokens) & sessions._sessions.keys()  # only digests are kept


def test_the_command_makes_lists_and_closes(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """The password comes from the environment or a pipe, and is nowhere in what is printed."""

    def ratchet(*words: str) -> tuple[int, str, str]:
        status = main(["--home", str(tmp_path), "--objective", "objectives/medical", "account", *words])
        return status, *capsys.readouterr()

    monkeypatch.setenv("RATCHET_PASSWORD", GOOD)
    assert ratchet("Olga", "--role", "operator", "--json")[:2] == (
        0,
        '{"name": "olga", "role": "operator"}\n',
    )
    assert take_password() is None
    monkeypatch.setattr("sys.stdin", io.StringIO("a password\nrest"))
    assert ratchet("rita", "--role", "reviewer")[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert ratchet("tom", "--role", "reviewer") == (1, "", "ratchet: a password has 10 to 1000 characters\n")
    assert ratchet("rita", "--role", "closed")[0] == 0
    status, out, _ = ratchet("--json")
    listed = json.loads(out)["accounts"]
    assert status == 0
    assert [(a["name"], a["role"]) for a in listed] == [("olga", "operator"), ("rita", "closed")]
    assert "argon2" not in out
    assert ratchet("rita")[0] == 2
    assert ratchet("--role", "reviewer")[0] == 2
    with Store.open(tmp_path / "store.duckdb") as store:
        assert Accounts(store).verify("olga", GOOD)


def test_a_terminal_is_asked_twice(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """Two that differ change nothing."""
    typed = iter(["a password", "a passwort"])
    monkeypatch.delenv("RATCHET_PASSWORD", raising=False)
    monkeypatch.setattr("app.cli.getpass", lambda _: next(typed))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    words = [
        "--home",
        str(tmp_path),
        "--objective",
        "objectives/medical",
        "account",
        "rita",
        "--role",
        "reviewer",
    ]
    assert main(words) == 1
    assert "the two passwords differ" in capsys.readouterr().err
