"""The pointer: what may serve, who moved it and why, and the way back."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from app.door import open_door, read_server_file, write_server_file
from app.operations import Operations
from app.run_folder import RunFolder, only_round
from app.settings import Settings
from eval.objective import load_objective
from feedback.errors import RatchetError
from feedback.store import Store
from training.registry import adapter_of, adapter_sha256, versions


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", Path("objectives/medical").absolute(), tmp_path / "cache")


def finished_run(home: Path, name: str, weights: bytes) -> str:
    """A run folder as training leaves it; the weights are only hashed here, never loaded."""
    adapter = home / "runs" / name / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    sha = adapter_sha256(adapter)
    version = f"v{name[1:]}-{sha[:8]}"
    (adapter.parent / "run.json").write_text(json.dumps({"version": version, "adapter_sha256": sha}))
    return version


class FakeServing:
    """Keeps what it was told; refuses to load what it is told to refuse."""

    def __init__(self, refuses: str = ""):
        self.refuses, self.heard = refuses, []

    def load(self, version: str, adapter: Path | None) -> None:
        if version == self.refuses:
            raise RatchetError(f"{version} does not answer")
        self.heard.append(("load", version))

    def move(self, version: str, withdrawn: str | None) -> None:
        self.heard.append(("move", version, withdrawn))


def test_a_rollback_undoes_the_last_promotion_and_so_on_to_the_base(settings: Settings):
    """promote, promote, rollback, rollback ends at the base; a third has nothing to go back to."""
    first, second = (finished_run(settings.home, n, w) for n, w in (("r0001", b"1"), ("r0002", b"2")))
    with Store.open(settings.store_file) as store:
        serving = FakeServing()
        operations = Operations(settings, load_objective(settings.objective), store, serving)
        operations.promote(first, "oz", "first")
        operations.promote(second, "oz", "second")
        projected = json.loads((settings.home / "promoted.json").read_text())
        assert (projected["version"], projected["who"], projected["why"]) == (second, "oz", "second")
        assert operations.rollback("oz", "worse") == {"champion": first, "withdrawn": second}
        assert operations.rollback("oz", "worse") == {"champion": "base", "withdrawn": first}
        with pytest.raises(RatchetError, match="nothing to go back to"):
            operations.rollback("oz", "worse")
        assert serving.heard[:4] == [
            ("load", first),
            ("move", first, None),
            ("load", second),
            ("move", second, None),
        ]
        assert serving.heard[-1] == ("move", "base", first)
        assert [(e.kind, e.who) for e in store.log()] == [("promote", "oz")] * 2 + [("rollback", "oz")] * 2


def test_an_adapter_that_was_touched_is_not_promoted(settings: Settings):
    """Its hash is in run.json; the pointer stays and nothing is logged."""
    version = finished_run(settings.home, "r0001", b"1")
    adapter = adapter_of(settings.home, version)
    (adapter / "adapter_model.safetensors").write_bytes(b"other")
    with Store.open(settings.store_file) as store:
        operations = Operations(settings, load_objective(settings.objective), store)
        with pytest.raises(RatchetError, match="is not what the run wrote"):
            operations.promote(version, None, "try")
        assert operations.champion() == "base"
        assert store.log() == []


def test_a_version_that_does_not_load_moves_nothing(settings: Settings):
    """The server tries it first; when it fails the old champion goes on."""
    version = finished_run(settings.home, "r0001", b"1")
    with Store.open(settings.store_file) as store:
        operations = Operations(
            settings, load_objective(settings.objective), store, FakeServing(refuses=version)
        )
        with pytest.raises(RatchetError, match="does not answer"):
            operations.promote(version, None, "try")
        assert (operations.champion(), store.log()) == ("base", [])


def test_unfinished_runs_are_no_versions(settings: Settings):
    """Without run.json there is no version."""
    version = finished_run(settings.home, "r0001", b"1")
    (settings.home / "runs" / "r0002" / "adapter").mkdir(parents=True)
    assert list(versions(settings.home)) == [version]


def test_an_unfinished_round_is_gone_on_with_unless_it_cannot_succeed(tmp_path: Path):
    """The last round without a decision goes on; after a failure for good a new one begins."""
    run = RunFolder.new(tmp_path)
    assert RunFolder.unfinished(tmp_path) is None
    run.write("plan.json", {})
    assert RunFolder.unfinished(tmp_path) == run
    run.write("failure.json", {"reason": "loss is nan", "resumable": False})
    assert RunFolder.unfinished(tmp_path) is None
    run.write("failure.json", {"reason": "cancelled", "resumable": True})
    assert RunFolder.unfinished(tmp_path) == run
    run.write("decision.json", {})
    assert RunFolder.unfinished(tmp_path) is None
    assert RunFolder.new(tmp_path).name == "r0002"


def test_only_one_round_runs(tmp_path: Path):
    """A second is refused, also from another process; afterwards the lock is free."""
    code = (
        "import sys; from pathlib import Path; from app.run_folder import only_round\n"
        f"with only_round(Path({str(tmp_path)!r}), 'ann'): pass"
    )
    with only_round(tmp_path, "oz"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another round is running" in done.stderr
        assert RunFolder.running(tmp_path) == {"round": None, "stage": "freeze"}
    assert RunFolder.running(tmp_path) is None
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_server_file_is_for_its_owner_alone(tmp_path: Path):
    """Address and token have mode 0600; one that a killed server left is not believed."""
    file = tmp_path / "server.json"
    write_server_file(file, "http://127.0.0.1:1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_server_file(file)["pid"] == os.getpid()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    file.write_text(json.dumps({"url": "http://127.0.0.1:1", "token": "t", "pid": gone.pid}))
    assert read_server_file(file) is None


def test_a_command_works_after_a_server_was_killed(settings: Settings):
    """Its file names a process that lives, but nobody listens there: the store is opened instead."""
    settings.home.mkdir()
    write_server_file(settings.server_file, "http://127.0.0.1:1")
    assert open_door(settings, load_objective(settings.objective))("status")["champion"] == "base"
