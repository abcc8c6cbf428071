"""How the data room grows with what people say, and how many ratings it acknowledges.

`python -m tests.measure_data_room [TURNS ...]` (10000 100000 1000000 unless told): generated conversations, 15 signals
to 100 turns from the chat and 15 from a file; import, compile with freeze, and the clusters of a tenth as many
questions, each in a process of its own, with the most memory it had. Then ratings from 32 threads, beside the same
group commit written bare.
"""

import json
import queue
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow

from eval.objective import load_objective
from feedback.records import Signal, Turn, new_id
from feedback.schema import insert_many
from feedback.store import GROUP_LIMIT, Store

OBJECTIVE = Path("objectives/medical")
AT = datetime(2026, 1, 1, tzinfo=UTC)
TURNS_IN_A_CONVERSATION = 4
WRITERS, SECONDS, PAIRS = 32, 3, 8


def prose(chance: random.Random, words: int) -> str:
    """English to a rule that tells languages, in words as unlike each other as those of people are."""
    said = (
        chance.choice(COMMON) if place % 2 else f"{chance.choice(STARTS)}{chance.choice(ENDS)}"
        for place in range(words)
    )
    return " ".join(said).capitalize()


ENGLISH = (
    "the and that have with this from they will would there their what about which when make can like time just "
    "know take people into year your good some could them than then now look only come over think also back after "
    "use how our work first well even want because any these give day most should through where much before right"
)
COMMON = ENGLISH.split()
STARTS = [a + b for a in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t") for b in "aeiou"]
ENDS = ["", *(a + b for a in ("n", "r", "s", "t", "l") for b in ("a", "e", "i", "o", "et", "um"))]


def conversations(turns: int, chance: random.Random) -> Iterator[list[Turn]]:
    """Chats of four answers each."""
    at = AT
    for number in range(turns // TURNS_IN_A_CONVERSATION):
        messages: list[dict[str, str]] = []
        found = []
        for _ in range(TURNS_IN_A_CONVERSATION):
            at += timedelta(seconds=5)
            messages.append({"role": "user", "content": prose(chance, 10) + "?"})
            answer = prose(chance, 40) + "."
            found.append(
                Turn(new_id(at), f"c{number:08}", f"p{number % 9973}", tuple(messages), answer, "base", at)
            )
            messages.append({"role": "assistant", "content": answer})
        yield found


def grow(home: Path, turns: int) -> None:
    """Chats straight into the store, and a file to import."""
    chance = random.Random(7)
    with Store.open(home / "store.duckdb") as store:
        batch: list[Turn | Signal] = []
        signals = 0
        for found in conversations(int(turns * 0.85), chance):
            batch += found
            if signals < 0.15 * turns and chance.random() < 0.75:
                turn = chance.choice(found)
                rating = {"rating": chance.choice((1, 1, -1)), "reasons": []}
                at = turn.at + timedelta(seconds=1)
                batch.append(Signal(new_id(at), turn.id, turn.user, "user", "rating", rating, at))
                signals += 1
            if len(batch) > 20_000:
                keep(store, batch)
                batch = []
        keep(store, batch)
    with (home / "feedback.jsonl").open("w") as lines:
        for number in range(int(turns * 0.15)):
            asked, answer = prose(chance, 10) + "?", prose(chance, 40) + "."
            line = {
                "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
                "user": f"i{number % 4999}",
            }
            said = (
                {"correction": prose(chance, 40) + ".", "role": "reviewer"}
                if number % 3 == 0
                else {"rating": 1}
            )
            lines.write(json.dumps(line | said) + "\n")


def keep(store: Store, records: list[Turn | Signal]) -> None:
    """A batch of chats in one transaction."""
    turns = [record for record in records if isinstance(record, Turn)]
    signals = [record for record in records if isinstance(record, Signal)]
    store.write(
        lambda connection: insert_many(connection, "turn", turns) + insert_many(connection, "signal", signals)
    )


def stage(name: str, home: Path, size: int) -> None:
    """One stage, alone in its process; prints what it took."""
    began = (time.monotonic(), time.process_time())
    if name == "grow":
        grow(home, size)
        report(name, size, began)
    elif name == "import":
        report(name, size, began, bring_in(home))
    elif name == "compile":
        compile_and_freeze(home, size)
    else:
        clusters(size)


def report(name: str, size: int, began: tuple[float, float], out: dict[str, int] | None = None) -> None:
    """Print seconds since `began` (by the clock, of the processor) and the most memory so far."""
    figures = {
        "seconds": round(time.monotonic() - began[0], 1),
        "cpu_s": round(time.process_time() - began[1], 1),
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps({"stage": name, "size": size} | figures | (out or {})), flush=True)


def bring_in(home: Path) -> dict[str, int]:
    """Import the file."""
    from app.operations import Operations
    from app.settings import read_settings
    from feedback.exchange.importers import import_files

    with Store.open(home / "store.duckdb") as store:
        operations = Operations(read_settings(str(home)), load_objective(OBJECTIVE), store)
        document = import_files([home / "feedback.jsonl"], operations.import_part, lambda _: None)
    return {"accepted": document["accepted"]}


def compile_and_freeze(home: Path, turns: int) -> None:
    """Compile everything, record its sides, and freeze what the budget allows."""
    from feedback.compiling.budget import select
    from feedback.compiling.compiler import compile_events
    from feedback.compiling.dataset import freeze

    began = (time.monotonic(), time.process_time())
    # No knowledge was grown, and the budget is that of the domain for each thousand turns.
    enough = {"knowledge_share": 0, "token_budget": 90 * turns}
    curation = load_objective(OBJECTIVE).curation.model_copy(update=enough)
    with Store.open(home / "store.duckdb") as store:
        compilation = compile_events(store.events(), curation, "Help.", recorded=store.sides())
        store.record_sides(compilation.new_sides, AT)
    report("compile", turns, began, compilation.document()["rows"])
    began = (time.monotonic(), time.process_time())
    selection = select(compilation.rows, curation, lambda text: len(text) // 4, 512)
    manifest = freeze(home / "datasets", selection, compilation.document(), {}, AT)
    report(
        "freeze", turns, began, {"rows": sum(sum(sides.values()) for sides in manifest["counts"].values())}
    )


def clusters(rows: int) -> None:
    """The semantic step, on vectors of the encoder's width that point anywhere."""
    from feedback.likeness.clusters import Meanings
    from feedback.likeness.vectors import rounded

    vectors = np.random.default_rng(7).normal(size=(rows, 384))
    vectors = rounded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    questions = [str(number) for number in range(rows)]
    began = (time.monotonic(), time.process_time())
    Meanings(questions, vectors, 0.9)
    report("clusters", rows, began)


# ratings


def acknowledged(rate: Callable[[int], None]) -> tuple[float, float]:
    """Ratings a second from all writers together, and the 99th percentile of one's wait in milliseconds."""
    waits: list[list[float]] = [[] for _ in range(WRITERS)]
    end = time.monotonic() + SECONDS

    def work(mine: list[float]) -> None:
        while (began := time.monotonic()) < end:
            rate(len(mine))
            mine.append(time.monotonic() - began)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in waits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(wait for mine in waits for wait in mine)
    return len(every) / SECONDS, 1000 * every[int(0.99 * len(every))]


def through_the_store(folder: Path) -> tuple[float, float]:
    """Ratings as the chat gives them."""
    with Store.open(folder / "store.duckdb") as store:

        def rate(_: int) -> None:
            at = datetime.now(UTC)
            store.add(Signal(new_id(at), "t", "ann", "user", "rating", {"rating": 1, "reasons": []}, at))

        return acknowledged(rate)


COLUMNS = ["id", "turn", "person", "role", "kind", "value", "happened", "source"]


def bare(folder: Path) -> tuple[float, float]:
    """The same rows, inserted and committed in groups by one thread that does nothing else."""
    connection = duckdb.connect(str(folder / "bare.duckdb"))
    connection.execute(
        "CREATE TABLE signal (id VARCHAR PRIMARY KEY, turn VARCHAR, person VARCHAR, role VARCHAR, kind VARCHAR, "
        "value VARCHAR, happened TIMESTAMP, source VARCHAR)"
    )
    waiting: queue.SimpleQueue = queue.SimpleQueue()

    def commit() -> None:
        while (first := waiting.get()) is not None:
            group = [first]
            while len(group) < GROUP_LIMIT:
                try:
                    group.append(waiting.get_nowait())
                except queue.Empty:
                    break
            rows = pyarrow.Table.from_arrays(
                [pyarrow.array(column) for column in zip(*(row for row, _ in group), strict=True)], COLUMNS
            )
            connection.begin()
            connection.register("incoming", rows)
            connection.execute("INSERT INTO signal SELECT * FROM incoming")
            connection.unregister("incoming")
            connection.commit()
            for _, done in group:
                done.set_result(None)

    writer = threading.Thread(target=commit)
    writer.start()

    def rate(_: int) -> None:
        at = datetime.now(UTC)
        done: Future = Future()
        value = json.dumps({"rating": 1, "reasons": []})
        waiting.put(
            ([new_id(at), "t", "ann", "user", "rating", value, at.replace(tzinfo=None), "chat"], done)
        )
        done.result()

    try:
        return acknowledged(rate)
    finally:
        waiting.put(None)
        writer.join()
        connection.close()


def ratings() -> None:
    """Bare and through the store in turn, PAIRS times; of each the median."""
    rates = {"store": [], "bare": []}
    ways = [("bare", bare), ("store", through_the_store)]
    for _ in range(PAIRS):
        for name, way in ways:
            with tempfile.TemporaryDirectory(dir=".") as folder:
                rates[name].append(way(Path(folder)))
        ways.reverse()
    found = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)]
        for name, runs in rates.items()
    }
    print(
        json.dumps(
            {
                "ratings_per_s": {name: round(rate) for name, (rate, _) in found.items()},
                "p99_ms": {name: round(wait, 1) for name, (_, wait) in found.items()},
                "ratio": round(found["store"][0] / found["bare"][0], 2),
            }
        )
    )


def main(sizes: list[int]) -> None:
    for turns in sizes:
        home = Path(tempfile.mkdtemp(prefix="data-room-", dir="."))
        try:
            for name, size in (
                ("grow", turns),
                ("import", turns),
                ("compile", turns),
                ("clusters", turns // 10),
            ):
                command = [
                    sys.executable,
                    "-m",
                    "tests.measure_data_room",
                    "stage",
                    name,
                    str(home),
                    str(size),
                ]
                subprocess.run(command, check=True)
        finally:
            shutil.rmtree(home)
    ratings()


if __name__ == "__main__":
    if sys.argv[1:2] == ["stage"]:
        stage(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main([int(size) for size in sys.argv[1:]] or [10_000, 100_000, 1_000_000])
