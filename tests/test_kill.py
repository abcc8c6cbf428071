"""A rating that was acknowledged is kept, whatever happens to the server."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from feedback.store import Store
from tests.tiny import tiny_model
from tests.visitor import Visitor

KILLS = int(os.environ.get("RATCHET_TEST_KILLS", "2"))

SERVER = """
import os, socket, sys, torch, uvicorn
from pathlib import Path
from app.serve import ENVIRONMENT
os.environ |= ENVIRONMENT
torch.set_num_threads(1)
from app.conversations import Conversations
from app.engine import Engine
from app.web.chat import STYLES, chat_page
from app.web.server import Mount, build_app
from eval.objective import load_objective
from feedback.store import Store
home = Path(sys.argv[1])
objective = load_objective(Path("objectives/medical"))
objective = objective.model_copy(update={"sampling": objective.sampling.model_copy(update={"max_new_tokens": 8})})
with Store.open(home / "store.duckdb") as store:
    chats = Conversations(store, Engine(home / "model"), objective, "base")
    mount = Mount("/", lambda: chat_page(chats, objective), (STYLES,))
    app = build_app([mount], [], "a secret of 32 characters or more", "127.0.0.1")
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
"""


def rate_until_it_dies(url: str, acknowledged: list[int]) -> None:
    """Ask once, then change the rating again and again; what was answered is noted."""
    try:
        visitor = Visitor(url)
        for _ in visitor.ask("What is asthma?"):
            pass
        while True:
            for button, rating in (("thumb-up", 1), ("thumb-down", -1)):
                if not visitor.act(button, "click").ok:
                    return  # 30 ratings a minute are enough
                acknowledged.append(rating)
    except httpx.HTTPError:
        pass  # it is dead


@pytest.mark.parametrize("kill", range(KILLS))
def test_no_acknowledged_rating_is_missing(kill: int, tmp_path: Path):
    """The server is killed in the midst of three people's ratings; the store opens and has each of them."""
    tiny_model(tmp_path / "model")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        url = server.stdout.readline().strip()
        acknowledged: list[list[int]] = [[], [], []]
        threads = [threading.Thread(target=rate_until_it_dies, args=(url, said)) for said in acknowledged]
        for thread in threads:
            thread.start()
        while sum(map(len, acknowledged)) < 5 + 7 * kill % 40 and any(t.is_alive() for t in threads):
            time.sleep(0.005)
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()
    for thread in threads:
        thread.join()
    assert sum(map(len, acknowledged)) >= 5
    with Store.open(tmp_path / "store.duckdb") as store:
        kept: dict[str, list[int]] = {}
        for stored in store.events().signals:
            kept.setdefault(stored.user, []).append(stored.value["rating"])
    assert all(
        ratings == [1, -1] * (len(ratings) // 2) + [1] * (len(ratings) % 2) for ratings in kept.values()
    )
    wanted = sorted(map(len, acknowledged))
    there = sorted([*map(len, kept.values()), 0, 0, 0])[-3:]
    # What was stored may be one ahead of what was acknowledged, never behind.
    assert all(more - said in (0, 1) for more, said in zip(there, wanted, strict=True)), (there, wanted)
