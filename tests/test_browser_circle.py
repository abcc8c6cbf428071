"""The operator promotes while people chat: the real server, the real command line, a real browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.adapters import random_adapter
from tests.browsing import chromium
from tests.test_circle import GOLDEN, OBJECTIVE, WHOLE
from tests.tiny import tiny_model
from training.registry import adapter_sha256


@pytest.fixture
def installation(tmp_path: Path) -> dict[str, str]:
    """The environment of a home with a tiny model and one finished version that does not serve yet."""
    folder = tmp_path / "objective"
    folder.mkdir()
    base = tiny_model(tmp_path / "model")
    (folder / "objective.toml").write_text(OBJECTIVE.format(base=str(base)))
    golden = [{"id": f"g{i}", "question": q, "answer": WHOLE, "topic": q} for i, q in enumerate(GOLDEN)]
    (folder / "golden.jsonl").write_text("\n".join(map(json.dumps, golden)))
    run = tmp_path / "home" / "runs" / "r0001"
    random_adapter(base, run / "adapter", seed=1)
    sha = adapter_sha256(run / "adapter")
    (run / "run.json").write_text(json.dumps({"version": f"v0001-{sha[:8]}", "adapter_sha256": sha}))
    return os.environ | {"RATCHET_HOME": str(tmp_path / "home"), "RATCHET_OBJECTIVE": str(folder)}


def ratchet(installation: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "app.cli", *words]
    return subprocess.run(command, env=installation, capture_output=True, text=True, timeout=120)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def server(installation: dict[str, str]) -> Iterator[str]:
    """`ratchet serve` as a process of its own; its address."""
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=installation, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr.read()
            try:
                httpx.get(url, trust_env=False)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "a server that is asked to stop ends well"
        process.stderr.close()
    assert not (Path(installation["RATCHET_HOME"]) / "server.json").exists()


def test_the_answering_version_changes_when_the_operator_promotes(installation: dict[str, str], server: str):
    """Chat, rate, correct; promote by command; a new conversation is answered by the new version, then back."""
    version = json.loads((Path(installation["RATCHET_HOME"]) / "runs/r0001/run.json").read_text())["version"]
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.goto(server)
        page.locator("#consent input").set_checked(True)

        def ask(question: str, answers: int) -> None:
            """Ask, and wait until the page shows this many whole answers."""
            page.locator("#question textarea").fill(question)
            page.locator("#send").click()
            expect(page.locator("#chat .bot.message")).to_have_count(answers)
            expect(page.locator("#send")).to_be_visible()
            expect(page.locator("#feedback")).to_be_visible()

        ask("What helps with a cough?", 1)
        expect(page.locator("#version")).to_contain_text("base")
        page.locator("#thumb-down").click()
        expect(page.locator("#thanks")).to_contain_text("Thank you")
        page.locator("#better").click()
        page.locator("#correction textarea").fill(WHOLE)
        page.locator("#save-correction").click()
        expect(page.locator("#thanks")).to_contain_text("Thank you")
        (waiting,) = json.loads(ratchet(installation, "review", "--json").stdout)["waiting"]
        assert waiting["correction"] == WHOLE

        promoted = ratchet(installation, "promote", version, "--who", "oz", "--json")
        assert json.loads(promoted.stdout) == {"champion": version, "previous": "base"}
        ask("And with a fever?", 2)
        expect(page.locator("#version")).to_contain_text("base")
        page.locator(".toggle-button").click()
        page.locator("#new-chat").click()
        expect(page.locator("#chat .bot.message")).to_have_count(0)
        ask("What helps with a fever?", 1)
        expect(page.locator("#version")).to_contain_text(version)

        assert ratchet(installation, "rollback", "--json").returncode == 0
        ask("And with a cough?", 2)
        expect(page.locator("#version")).to_contain_text("base")


def test_a_second_server_and_a_stranger_are_refused(installation: dict[str, str], server: str):
    """One server a home, one a port; no operation without the token, none that does not exist."""
    second = ratchet(installation, "serve", "--port", str(free_port()))
    assert second.returncode == 1
    assert "is in use" in second.stderr
    elsewhere = installation | {"RATCHET_HOME": installation["RATCHET_HOME"] + "-2"}
    taken = ratchet(elsewhere, "serve", "--port", server.rsplit(":", 1)[1])
    assert taken.returncode == 1
    assert "cannot listen" in taken.stderr
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.post(
            f"{server}/api/rollback", json={"who": "x", "why": "y"}, headers=headers, trust_env=False
        )
        assert answer.status_code == 401
    assert httpx.get(server, headers={"Host": "evil.example"}, trust_env=False).status_code == 400
    assert json.loads(ratchet(installation, "status", "--json").stdout)["champion"] == "base"
    assert ratchet(installation, "promote", "v7").returncode == 1
