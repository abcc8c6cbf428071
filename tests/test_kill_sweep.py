"""A training that is killed before one change of its folder after the other ends as an undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_training import QUICK, ROOT, new_run
from tiny import tiny_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="NO FORK HERE: kills are not swept")

# One warmed process forks a child for every start. The child dies at the first change of its folder, told by
# kind and file, at which none died before; what it was writing just then stays half written.
DRIVER = """
import os, re, signal, sys
from pathlib import Path
import torch
from training import candidate, device
from training.interruption import Interruption

calm, hit, moments = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
device.CPU_PLACES = 100  # a step of SFT is taken in parts
PLACES = {"open": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0}
ALIKE = ("README.md", "chat_template.jinja", "tokenizer_config.json")  # nothing reads these again
WRITING = os.O_WRONLY | os.O_RDWR
seen = set(moments.read_text().splitlines()) if moments.exists() else set()

def sizes():
    files = [file for file in hit.rglob("*") if file.is_file()]
    return {file.stat().st_ino: (file, file.stat().st_size) for file in files}

before = {}

def die_at_news(event, arguments):
    global before
    if event not in PLACES or (event == "open" and not (arguments[2] or 0) & WRITING):
        return
    path, inside = str(arguments[PLACES[event]]), event in ("os.remove", "os.rmdir") and arguments[-1] != -1
    if not (inside or path.startswith(str(hit))):
        return
    moment = event + " " + re.sub(r"[0-9]+|(?<=/tmp)[^/]+", "#", path.removeprefix(str(hit)))
    now = sizes()
    if moment not in seen and not moment.endswith(ALIKE):
        for number, (file, size) in now.items():
            known = before.get(number, (file, 0))[1]
            if size > known:
                os.truncate(file, (known + size) // 2)
        with moments.open("a") as noted:
            noted.write(moment + "\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    before = now

def start():
    child = os.fork()
    if child == 0:
        before.update(sizes())
        sys.addaudithook(die_at_news)
        candidate.make_candidate(hit, Interruption())
        os._exit(0)
    return os.waitpid(child, 0)[1]

candidate.make_candidate(calm, Interruption())
while (status := start()) == signal.SIGKILL:
    seen = set(moments.read_text().splitlines())
assert status == 0, status
"""


def test_killed_before_each_change_a_training_ends_as_an_undisturbed_one(tmp_path):
    """The same losses at every step of both stages and the same adapter, byte for byte; nothing is left over."""
    model = tiny_model(tmp_path / "model", hidden=32)
    recipe = QUICK | {"sft": {"epochs": 3, "learning_rate": 5e-3}, "checkpoint_every": 2}
    calm, hit = (
        new_run(tmp_path / name, model, (16, 2), (8, 2), recipe, max_steps=5) for name in ("calm", "hit")
    )
    moments = tmp_path / "moments"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(calm), str(hit), str(moments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    killed = moments.read_text().splitlines()
    for part in (
        "checkpoint-#/trainer_state.json",
        "checkpoint-#/whole",
        "dpo",
        ".stage.json.new",
        ".run.json.new",
    ):
        assert any(part in moment for moment in killed), (part, killed)
    runs = [json.loads((run / "run.json").read_text()) for run in (calm, hit)]
    assert runs[0]["adapter_sha256"] == runs[1]["adapter_sha256"]
    assert losses(calm) == losses(hit)
    assert files(calm) == files(hit)


def losses(run: Path) -> dict[tuple[str, int], float]:
    lines = []
    for line in (run / "progress.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # cut short by a kill
    return {(line["stage"], line["step"]): line["loss"] for line in lines if "loss" in line}


def files(run: Path) -> list[str]:
    return sorted(str(file.relative_to(run)) for file in run.rglob("*"))
