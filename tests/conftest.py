"""What several tests share: the public data, and how long to look for counter-examples."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud which tests were skipped, and why."""
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {report.longrepr[-1]}", yellow=True)
