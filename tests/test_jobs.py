"""The child processes of a round beside the server: they come second, and end with the round."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.jobs import run_job
from app.run_folder import RunFolder
from app.settings import Settings
from feedback.errors import RatchetError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX has these: not tested here")

JOB = "from training.background import work_in_background; work_in_background(); "


def test_a_job_lets_everybody_else_go_first():
    """Its threads have the scheduling class of idle work, also those that are started later."""
    look = "import os, threading; t = threading.Thread(target=lambda: print(os.sched_getscheduler(0))); t.start()"
    done = subprocess.run([sys.executable, "-c", JOB + look], capture_output=True, text=True, check=True)
    assert int(done.stdout) == os.SCHED_IDLE


def test_a_job_ends_when_its_round_is_killed():
    """Nobody trains on for a round that is gone: whoever goes on with it would share the folder."""
    child = JOB + "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    round_ = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert int(round_.stdout.readline())
    round_.send_signal(signal.SIGKILL)
    round_.wait()
    with round_.stdout as shared:
        assert shared.read() == ""  # which ends when the job has let go of it


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (
            "os.kill(os.getpid(), 9)",
            r"job was killed by SIGKILL; `ratchet tune` goes on from the last checkpoint",
        ),
        (
            "open(sys.argv[1] + '/failure.json', 'w').write(TOLD); sys.exit(1)",
            "^t0001: stop; `ratchet tune` helps$",
        ),
        ("sys.exit(3)", r"job ended with status 3; the log is .*/log$"),
    ],
)
def test_what_a_job_died_of_names_the_command_that_goes_on(
    does: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A job knows only rounds; whoever searches goes on searching."""
    told = '{"reason": "stop; `ratchet round` helps"}'
    (tmp_path / "dying_job.py").write_text(f"import os, sys\nTOLD = {told!r}\n{does}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = RunFolder(tmp_path / "t0001")
    run.path.mkdir()
    settings = Settings(tmp_path, tmp_path, tmp_path)
    with pytest.raises(RatchetError, match=says):
        run_job("dying_job", settings, run, "log", print, goes_on="ratchet tune")
