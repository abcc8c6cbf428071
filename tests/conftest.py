"""What several tests share: the public data, and how long to look for counter-examples."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny import tiny_model

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trainers that run inside the tests ask nobody
settings.register_profile("ratchet", max_examples=30, deadline=None, database=None, derandomize=True)
settings.load_profile("ratchet")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets, which is no part of the repository; skips where it is absent."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("RATCHET_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"NO PUBLIC DATA: {folder} does not exist; name it with RATCHET_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model, which no test changes."""
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Here and in child processes: two threads on a tiny matrix wait for each other longer than they work."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud which tests were skipped, and why."""
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {report.longrepr[-1]}", yellow=True)
