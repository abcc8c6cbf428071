"""A disk that is full stops a training in one line, and loses nothing of it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from test_training import ROOT, finished, new_run
from tiny import tiny_model

from app.run_folder import RunFolder
from training import job
from training.interruption import Obstacle

pytestmark = pytest.mark.usefixtures("one_thread")

# A small disk of its own, for this process alone; where the system grants none, it says so and ends.
MOUNTED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=8m none "$1" && shift && exec "$@"'

DRIVER = """
import json, os, shutil, sys
from pathlib import Path
from app.jobs import _reason
from app.run_folder import RunFolder
from training import job

job.work_in_background = lambda: None  # which would let everybody else on the machine go first
disk, source = Path(sys.argv[1]), Path(sys.argv[2])
run = RunFolder(disk / "r0001")
shutil.copytree(source, run.path)
told = []
for free in (0, 8_000, 40_000, 150_000, 220_000):
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as opened:
        left = shutil.disk_usage(disk).free - free
        opened.write(bytes(max(0, left)))
    code = job.main([str(run.path)])
    reason = _reason(run, "training.job", code, "training.log")
    told.append([free, code, run.has("failure.json"), run.can_go_on(), reason])
    filler.unlink()
    if code == 0:
        break
told.append([None, job.main([str(run.path)]), run.has("failure.json"), True, ""])
print(json.dumps({"told": told, "run": run.read("run.json"), "left": sorted(file.name for file in run.path.iterdir())}))
"""


def test_a_run_that_filled_the_disk_goes_on_when_there_is_space(tmp_path):
    """Wherever it hits, also where not even failure.json can be written; the result is that of an empty disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run([*MOUNTED, MOUNT, "sh", str(disk), "true"], capture_output=True).returncode:
        pytest.skip("NO SMALL DISK: this system lets nobody mount one (unshare --user --mount); not tested")
    model, plan = tiny_model(tmp_path / "model", hidden=32), {"max_steps": 3, "min_free_bytes": 0}
    recipe = {"checkpoint_every": 1, "dpo": {"learning_rate": 1e-4}}
    runs = [new_run(tmp_path / name, model, (16, 2), (8, 2), recipe, **plan) for name in ("calm", "hit")]
    done = subprocess.run(
        [*MOUNTED, MOUNT, "sh", str(disk), sys.executable, "-c", DRIVER, str(disk), str(runs[1])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    *full, last = found["told"]
    assert last[1:3] == [0, False]
    for free, code, _, goes_on, reason in full:
        assert (code, goes_on) == (1, True), found["told"]
        assert reason == "r0001: the disk is full; free some space and run `ratchet round` again", free
    assert {left for _, _, left, _, _ in full} == {True, False}, "with and without failure.json"
    calm = finished(runs[0])
    assert found["run"]["adapter_sha256"] == calm["adapter_sha256"]
    assert {name for name in found["left"] if "failure" in name} == set()


def test_too_little_space_at_the_start_is_no_end(tmp_path):
    """A round that would begin on a full disk says how much it needs, and goes on as the same round later."""
    run = new_run(tmp_path, tiny_model(tmp_path / "model"), min_free_bytes=10**18)
    with pytest.raises(Obstacle, match="MB free, training needs") as refused:
        finished(run)
    assert job.reason_of(refused.value)[1] is True


def test_a_base_model_that_is_away_is_no_end(tmp_path):
    """As on a drive that is not mounted: the same round goes on when it is back."""
    model = tiny_model(tmp_path / "model")
    run = new_run(tmp_path, model)
    shutil.move(model, tmp_path / "away")
    with pytest.raises(Obstacle, match="restore it and run `ratchet round` again") as refused:
        finished(run)
    assert job.reason_of(refused.value)[1] is True


def test_failure_is_written_whole_or_not_at_all(tmp_path):
    """Whoever looks at the folder while it is written sees no half of it; the first process to fail is heard."""
    job._leave(tmp_path, "the first", True)
    job._leave(tmp_path, "the second", False)
    assert RunFolder(tmp_path).read("failure.json") == {"reason": "the first", "resumable": True}
    assert [file.name for file in tmp_path.iterdir()] == ["failure.json"]


def test_what_torch_says_of_a_full_disk_is_understood():
    """torch.save keeps none of the system's words."""
    said = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert job.reason_of(said) == ("the disk is full; free some space and run `ratchet round` again", True)
