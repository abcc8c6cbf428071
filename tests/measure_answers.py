"""Tokens a second of one and of four answers at once by the small model: `python -m tests.measure_answers`.

Run it alone, and again while a round trains; the ratio is what counts.
"""

import json
import time

from app.engine import BASE, Engine
from app.settings import read_settings
from eval.objective import Sampling
from training.base_model import base_model_folder

SAMPLING = Sampling(max_new_tokens=40, temperature=0.4)


def tokens_per_s(engine: Engine, people: int) -> float:
    began = time.monotonic()
    questions = [[{"role": "user", "content": f"{n}. How can I sleep better?"}] for n in range(people)]
    streams = [engine.stream(question, BASE, SAMPLING) for question in questions]
    for stream in streams:
        for _ in stream:
            pass
    return round(sum(stream.completion_tokens for stream in streams) / (time.monotonic() - began), 1)


def main() -> None:
    engine = Engine(base_model_folder("smollm2-135m-instruct", read_settings().cache))
    tokens_per_s(engine, 1)  # the first one warms up
    print(json.dumps({people: [tokens_per_s(engine, people) for _ in range(3)] for people in (1, 4)}))
    engine.close()


if __name__ == "__main__":
    main()
