"""The child processes of a round: how they are started."""

from pathlib import Path

import pytest

from app.rounds import _run_job
from app.run_folder import RunFolder
from app.settings import Settings
from training.threads import BESIDE_OTHERS

LOOK = "import os\nfor name in {names}: print(name, os.environ.get(name))\n"


def seen_by_a_child(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that a job finds, for the names that we set."""
    modules = home / "modules"
    modules.mkdir()
    (modules / "look.py").write_text(LOOK.format(names=[*BESIDE_OTHERS, "RATCHET_HOME"]))
    monkeypatch.setenv("PYTHONPATH", str(modules))
    run = RunFolder(home / "runs" / "r0001")
    run.path.mkdir(parents=True)
    settings = Settings(home, Path("objectives/medical").absolute(), home / "cache")
    _run_job("look", settings, run, "look.log", log=print)
    return dict(line.split(" ", 1) for line in (run.path / "look.log").read_text().splitlines())


def test_a_job_leaves_the_cores_to_others_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Training threads that spin would starve the chat on the same cores."""
    for name in BESIDE_OTHERS:
        monkeypatch.delenv(name, raising=False)
    assert seen_by_a_child(tmp_path, monkeypatch) == {**BESIDE_OTHERS, "RATCHET_HOME": str(tmp_path)}


def test_a_persons_own_setting_of_the_threads_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who has a machine for training alone may let its threads spin."""
    for name in BESIDE_OTHERS:
        monkeypatch.setenv(name, "mine")
    assert {seen_by_a_child(tmp_path, monkeypatch)[name] for name in BESIDE_OTHERS} == {"mine"}
