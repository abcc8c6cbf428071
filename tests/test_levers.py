"""The operator's levers on real rounds: processes of their own that are started, stopped, killed and taken up."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI

from app.door import write_server_file
from app.levers import Levers
from app.operations import Operations
from app.run_folder import Holder, RunFolder
from app.schedule import SCHEDULE, Schedule
from app.settings import Settings, read_settings
from eval.objective import Schedule as Rules
from eval.objective import load_objective
from feedback.errors import Refused
from feedback.records import Signal, Turn, new_id
from feedback.store import Store
from tests.browsing import serving
from tests.test_circle import ASKED, GOLDEN, OBJECTIVE, WHOLE
from tests.tiny import tiny_model

NEVER = Rules(every_hours=10_000, min_signals=10_000)


@dataclass
class House:
    """An installation whose operations listen on HTTP, as those of a server do."""

    settings: Settings
    store: Store
    levers: Levers
    schedule: Schedule

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.settings.home / "runs" / "r0001")

    def log(self) -> list[tuple[str, str, str]]:
        return [(e.kind, e.who, e.payload["why"]) for e in self.levers.operations.levers_used()]


def installation(folder: Path) -> Settings:
    """The tiny domain of the circle's test, in `folder`."""
    domain = folder / "objective"
    domain.mkdir()
    (domain / "objective.toml").write_text(OBJECTIVE.format(base=str(tiny_model(folder / "model"))))
    golden = [{"id": f"g{i}", "question": q, "answer": WHOLE, "topic": q} for i, q in enumerate(GOLDEN)]
    (domain / "golden.jsonl").write_text("\n".join(map(json.dumps, golden)))
    (folder / "home").mkdir()
    return Settings(folder / "home", domain, read_settings().cache)


def corrected(store: Store) -> None:
    """A reviewer has corrected two dozen answers."""
    for name in ASKED:
        now = datetime.now(UTC)
        asked = ({"role": "user", "content": f"What helps with {name}?"},)
        turn = Turn(new_id(now), new_id(now), "ann", asked, "Nobody knows at all.", "base", now)
        said = {"text": WHOLE}
        store.add(turn, Signal(new_id(now), turn.id, "rita", "reviewer", "correction", said, now))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    from app.web.api import operations_router

    settings = installation(tmp_path)
    with Store.open(settings.store_file) as store:
        corrected(store)
        operations = Operations(settings, load_objective(settings.objective), store)
        levers = Levers(settings, operations)
        app, router = FastAPI(), APIRouter()
        with serving(app) as url:
            router = operations_router(operations, write_server_file(settings.server_file, url))
            app.include_router(router)
            yield House(settings, store, levers, Schedule(levers, NEVER))
            if levers.busy():
                levers.cancel("the test", "it is over")
            until(lambda: not levers.busy())


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within a minute")


def test_a_round_is_started_once_and_cancelled(house: House):
    """It is a process of its own; a second is refused; cancelled, it rests, and the log says who did what and why."""
    house.levers.start("oz", "enough corrections")
    with pytest.raises(Refused, match="running already"):
        house.levers.start("ann", "me too")
    until(house.run.attempts)
    with pytest.raises(Refused, match="running already"):
        Levers(house.settings, house.levers.operations).start("ann", "from a restarted server")
    pid = Holder.read(house.settings.home).pid
    assert os.getsid(pid) != os.getsid(0), "it outlives the server"
    house.levers.cancel("ann", "too slow today")
    until(lambda: not house.levers.busy())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # not even a zombie is left
    assert [(a["who"], a["promotes"]) for a in house.run.attempts()] == [("oz", True)]
    assert house.schedule.situation().cancelled
    assert house.schedule.look() is None
    assert house.log() == [
        ("round_asked", "oz", "enough corrections"),
        ("round_cancelled", "ann", "too slow today"),
    ]
    with pytest.raises(Refused, match="no round is running"):
        house.levers.cancel("ann", "again")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches what is started, also where these tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_killed_round_is_picked_up_as_it_was_asked_for(house: House):
    """The schedule goes on with a terminal's killed --no-promote round, and lets it rest after Ctrl-C."""
    words = ["--home", str(house.settings.home), "--objective", str(house.settings.objective), "round"]
    command = [sys.executable, "-m", "app.cli", *words, "--no-promote", "--who", "cron"]
    terminal = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    until(house.run.attempts)
    assert house.schedule.look() is None, "it runs"
    os.killpg(terminal.pid, signal.SIGKILL)
    terminal.wait()

    assert house.schedule.look() == "r0001 was cut off and goes on"
    until(lambda: len(house.run.attempts()) == 2)
    assert [(a["who"], a["promotes"]) for a in house.run.attempts()] == [("cron", False), (SCHEDULE, False)]
    os.kill(Holder.read(house.settings.home).pid, signal.SIGINT)
    until(lambda: not house.levers.busy())
    assert house.log() == [
        ("round_asked", SCHEDULE, "r0001 was cut off and goes on"),
        ("round_cancelled", SCHEDULE, "Ctrl-C"),
    ]
    assert house.schedule.look() is None


def test_whoever_holds_the_lock_is_cancelled(house: House):
    """Also a round that nobody here has started; a holder that was killed is no round."""
    code = (
        "import time; from pathlib import Path; from app.run_folder import only_round\n"
        f"with only_round(Path({str(house.settings.home)!r}), 'cron'): time.sleep(600)"
    )
    cron = subprocess.Popen([sys.executable, "-c", code])
    until(house.levers.busy)
    until(lambda: Holder.read(house.settings.home))
    house.levers.cancel("oz", "the night is over")
    assert cron.wait(30) == -signal.SIGTERM
    assert Holder.read(house.settings.home).pid == cron.pid, "it had no time to say that it ended"
    with pytest.raises(Refused, match="no round is running"):
        house.levers.cancel("oz", "again")


def test_a_start_that_fails_is_explained(tmp_path: Path):
    """Why the round ended before it began stands in round.log; the schedule does not try again at once."""
    settings = installation(tmp_path)
    with Store.open(settings.store_file) as store:
        levers = Levers(settings, Operations(settings, None, store))
        (settings.objective / "objective.toml").write_text("title = 1")
        levers.start("oz", "to see")
        until(lambda: not levers.busy())
        last = (settings.home / "round.log").read_text().splitlines()[-1]
        assert Schedule(levers, Rules(every_hours=1, min_signals=1)).situation().last_began is not None
    assert last.startswith("ratchet: ")
    assert "objective.toml" in last


def test_every_lever_wants_a_reason(house: House):
    """Without words, or with too many, nothing happens and nothing is recorded."""
    for why in ("", "  ", "x" * 501, "nul \0", None):
        for use in (house.levers.start, house.levers.cancel, house.levers.pause, house.levers.rollback):
            with pytest.raises(Refused):
                use("oz", why)
        with pytest.raises(Refused):
            house.levers.promote("base", "oz", why)
    assert house.log() == []


def test_the_schedule_is_paused_once(house: House):
    """A pause is one until it is resumed, across restarts."""
    house.levers.pause("oz", "a demonstration")
    assert Levers(house.settings, house.levers.operations).paused()
    with pytest.raises(Refused, match="paused already"):
        house.levers.pause("ann", "me too")
    house.levers.resume("ann", "over")
    with pytest.raises(Refused, match="not paused"):
        house.levers.resume("ann", "over")
    assert not house.levers.paused()


def test_the_schedule_starts_what_is_due(house: House):
    """With enough signals it starts a round under its own name; looking again changes nothing."""
    eager = Schedule(house.levers, Rules(every_hours=0.00001, min_signals=24))
    house.levers.pause("oz", "not yet")
    assert eager.look() is None
    house.levers.resume("oz", "now")
    eager.start()  # its clock looks at once
    until(house.run.attempts)
    eager.stop()
    assert eager.look() is None
    assert house.run.attempts()[0]["who"] == SCHEDULE
    reason = "24 signals wait, and 1e-05 hours have passed"
    assert house.log()[-1] == ("round_asked", SCHEDULE, reason)
