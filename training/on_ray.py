"""A launcher for a Ray cluster: `python -m training.on_ray [--cpus N] [--gpus N] -- COMMAND...`.

RAY_ADDRESS names the cluster. COMMAND runs on the node where Ray finds room for it, in the same folder and with the
same environment as here, so the repository and the home must lie on a disk that the nodes share. What it writes is
written here, its exit code is this one's, and SIGTERM, or the death of this process, reaches it as SIGTERM.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from feedback.errors import RatchetError

PATIENCE_S = 0.5  # between looks whether somebody asked to stop


class Carrier:
    """What Ray starts on a node, as an actor: it carries one command."""

    def run(self, command: list[str], folder: str, told: Mapping[str, str]) -> Iterator[str | int]:
        """The name of the node, the lines that `command` writes, and at last its exit code."""
        given = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "training.background", *command],
            cwd=folder,
            env=os.environ | told | given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        yield f"training.on_ray: on {os.uname().nodename}\n"  # from here on there is something to stop
        for line in self._process.stdout:  # noqa: UP028 Ray sends to generators, and a file takes nothing
            yield line
        yield self._process.wait()

    def stop(self) -> None:
        """Ask the command to stop."""
        self._process.terminate()


def carry(command: list[str], cpus: int, gpus: int) -> int:
    """Run `command` on the cluster; returns its exit code, RatchetError where no cluster can be reached."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    try:
        import ray
    except ModuleNotFoundError:
        install = ".venv/bin/python -m pip install -e '.[ray]'"
        raise RatchetError(f"Ray is not installed; run `{install}`") from None
    try:
        ray.init(address="auto", log_to_driver=False)  # what RAY_ADDRESS names, or a cluster of this machine
    except (ConnectionError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise RatchetError(f"no Ray cluster answers ({first}); set RAY_ADDRESS to the one to use") from None
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))  # Ray has put its own there
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_concurrency=2)(Carrier).remote()
    said = actor.run.options(num_returns="streaming").remote(command, str(Path.cwd()), dict(os.environ))
    started, stopped = False, False
    while True:
        ready, _ = ray.wait([said], timeout=PATIENCE_S)
        if ready:
            started, what = True, ray.get(next(said))
            if isinstance(what, int):
                return what
            print(what, end="", flush=True)
        if asked and not started:
            return 1
        if asked and not stopped:
            stopped = actor.stop.remote()


def main(arguments: list[str]) -> int:
    """Read the command line and carry the command; returns the exit code."""
    parser = argparse.ArgumentParser("python -m training.on_ray", description="Run COMMAND on a Ray cluster.")
    parser.add_argument("--cpus", type=int, default=1, help="processors that it takes (1)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that it takes (0)")
    parser.add_argument("command", nargs="+")
    told = parser.parse_args(arguments)
    try:
        return carry(told.command, told.cpus, told.gpus)
    except RatchetError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
