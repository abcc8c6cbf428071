"""A training is carried by a Ray cluster as by no launcher: same run, same words, and it stops when asked."""

import importlib.util
import json
import secrets
import signal
import subprocess
import sys
import tempfile

import pytest
from test_launchers import launched
from test_training import QUICK, ROOT, new_run
from tiny import tiny_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="RAY IS NOT INSTALLED: `pip install -e '.[ray]'`"
)

CLUSTER = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine, on loopback; it ends with the process that began it."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # what makes it keep to loopback
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        head = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        address = head.stdout.readline().strip()
        assert address.startswith("127.0.0.1:"), "the cluster did not start"
        patch.setenv("RAY_ADDRESS", address)
        yield
        head.communicate()


def test_round_trains_on_the_cluster(tmp_path, cluster):
    """The prefix is all it takes: the job runs there, and leaves its folder as it does here."""
    run = new_run(
        tmp_path, tiny_model(tmp_path / "model"), recipe=QUICK | {"sft": {"epochs": 1}}, max_steps=1
    )
    launched(run, "python -m training.on_ray --")
    assert json.loads((run / "run.json").read_text())["stages"]["sft"]["steps"] == 1
    assert (run / "training.log").read_text().count("training.on_ray: on ") == 1


def test_command_is_stopped_and_its_status_comes_back(tmp_path, cluster):
    """SIGTERM reaches the command on its node; what it says and how it ends are heard here."""
    asleep = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit('asked')); "
        "print('asleep', flush=True); time.sleep(600)"
    )
    launcher = [sys.executable, "-m", "training.on_ray", "--", sys.executable, "-c", asleep]
    child = subprocess.Popen(launcher, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    heard = [child.stdout.readline(), child.stdout.readline()]
    assert heard[0].startswith("training.on_ray: on ") and heard[1] == "asleep\n"
    child.send_signal(signal.SIGTERM)
    assert child.communicate() == ("asked\n", None)
    assert child.returncode == 1
