"""The base model and an endpoint as judges; one that fails has no licence, and the round goes on."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.examination import hear_judge
from app.judges import EndpointJudge, LocalJudge, endpoint_judge
from app.settings import Settings
from eval.judge import compare, prompt
from eval.objective import JudgePlan, load_objective
from feedback.errors import RatchetError
from feedback.pairs import Pair
from tests.test_objective import write
from tests.tiny import tiny_model

ASKED = ({"role": "user", "content": "What is asthma?"},)
LONG, SHORT = "Asthma is a disease of the airways.", "A disease."


class Endpoint:
    """A server on a port of its own that replies as `reply` says: body -> (status, bytes)."""

    def __init__(self, reply: Callable[[dict], tuple[int, bytes]]):
        self.heard: list[tuple[str, str | None, dict]] = []  # path, authorization, body
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.heard.append((self.path, self.headers["Authorization"], body))
                status, text = reply(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "Endpoint":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def completion(text: str | None) -> bytes:
    """As OpenAI's servers reply."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def prefers_the_longer(body: dict) -> tuple[int, bytes]:
    first, second = body["messages"][0]["content"].split("Answer A:\n")[1].split("\n\nAnswer B:\n")
    second = second.split("\n\n")[0]
    return 200, completion("A is better" if len(first) > len(second) else "**B**")


def at(endpoint: Endpoint, key: str | None = None) -> EndpointJudge:
    return EndpointJudge("tester", endpoint.url, key, "Which?")


def pairs(count: int = 2) -> list[Pair]:
    """The long answer stands first in every other one."""
    both = (LONG, SHORT)
    places = ("first", "second")
    return [
        Pair(f"p{n}", f"c{n}", ASKED, both[n % 2], both[1 - n % 2], places[n % 2], "choices")
        for n in range(count)
    ]


def silent(*_: object) -> None:
    """Nobody looks at the progress."""


def objective(folder, endpoint: str | None = None, key: str = "", base: str = "tiny"):
    """One with a judge."""
    where = f'model = "tester"\nendpoint = "{endpoint}"\n' if endpoint else 'model = "local"\n'
    where += f'key_variable = "{key}"\n' if key else ""
    text = f"[judge]\nfloor = 0.4\nmargin = 0.3\nitems = 60\n{where}"
    loaded = load_objective(write(folder, gate=text))
    return loaded.model_copy(update={"base_model": base})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch) -> None:
    monkeypatch.setattr("app.judges.PAUSES_S", (0, 0))


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(tmp_path / "home", tmp_path, tmp_path / "cache")


# an endpoint


def test_an_endpoint_is_asked_as_openai_compatible_servers_are():
    """One question a request, at temperature 0, few tokens, the key in the header."""
    with Endpoint(prefers_the_longer) as endpoint:
        assert at(endpoint, "secret").verdicts(pairs(), silent) == ["first", "second"]
        path, key, body = endpoint.heard[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body == {
        "model": "tester",
        "messages": list(prompt("Which?", pairs()[0])),
        "temperature": 0,
        "max_tokens": 8,
    }


def test_both_orders_reach_the_endpoint():
    """Each pair twice, and the progress is told."""
    told = []
    with Endpoint(prefers_the_longer) as endpoint:
        found = compare(at(endpoint), pairs(), lambda *done: told.append(done))
        assert len(endpoint.heard) == 4
        assert {key for _, key, _ in endpoint.heard} == {None}
    assert [opinion.verdict for opinion in found] == ["first", "second"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_passing_trouble_is_waited_out():
    """Too many requests and errors of the server are tried again, twice."""
    replies = iter([(429, b""), (503, b""), (200, completion("B"))])
    with Endpoint(lambda _: next(replies)) as endpoint:
        assert at(endpoint).verdicts(pairs(1), silent) == ["second"]


@pytest.mark.parametrize(
    ("status", "text", "tries", "why"),
    [
        (500, b"", 3, "cannot be asked (status 500)"),
        (401, b"", 1, "cannot be asked (status 401)"),
        (302, b"", 1, "cannot be asked (status 302)"),
        (200, b"<html>", 1, "replied with something that is no chat completion"),
        (200, b'{"choices": []}', 1, "replied with something that is no chat completion"),
        (200, b"[" * 100_000, 1, "replied with something that is no chat completion"),
        (200, b" " * 1_000_001, 1, "replied with more than 1,000,000 bytes"),
    ],
)
def test_a_failing_endpoint_is_given_up(status, text, tries, why):
    """After a bounded number of tries, in one line that names it."""
    with Endpoint(lambda _: (status, text)) as endpoint:
        with pytest.raises(RatchetError) as caught:
            at(endpoint).verdicts(pairs(), silent)
        assert str(caught.value) == f"{endpoint.url}/chat/completions {why}"
        assert len(endpoint.heard) == tries


def test_an_endpoint_that_takes_too_long_is_given_up(monkeypatch):
    """There is a time for all questions together."""
    monkeypatch.setattr("app.judges.PATIENCE_S", -1)
    with Endpoint(prefers_the_longer) as endpoint, pytest.raises(RatchetError, match="for all questions"):
        at(endpoint).verdicts(pairs(), silent)


@pytest.mark.parametrize("reply", ["I cannot say.", "", None])
def test_rubbish_is_unclear(reply):
    """It is no verdict, and no error."""
    with Endpoint(lambda _: (200, completion(reply))) as endpoint:
        assert at(endpoint).verdicts(pairs(), silent) == ["unclear", "unclear"]


def test_the_key_comes_from_the_environment():
    """By the name that the objective gives; one that is missing or no key is said."""
    plan = JudgePlan(
        model="tester", endpoint="http://host/v1", key_variable="KEY", floor=0.4, margin=0.3, items=60
    )
    for environment in ({}, {"KEY": ""}, {"KEY": "two\nlines"}, {"KEY": "schlüssel"}):
        with pytest.raises(RatchetError, match="the environment variable KEY holds no key"):
            endpoint_judge(plan, environment)
    with Endpoint(prefers_the_longer) as endpoint:
        here = plan.model_copy(update={"endpoint": endpoint.url})
        endpoint_judge(here, {"KEY": "secret"}).verdicts(pairs(1), silent)
        assert endpoint.heard[0][1] == "Bearer secret"


# the local one


def test_the_local_judge_takes_the_likelier_letter():
    """Of A and B, after each pair's own question."""

    class Parrot:
        def log_likelihoods(self, asked, progress):
            progress(len(asked), len(asked))
            return [
                -1.0 if (letter == "A") == (LONG in asked_of(messages)) else -2.0
                for messages, letter in asked
            ]

    def asked_of(messages):
        return messages[0]["content"].split("Answer B")[0]

    told = []
    judge = LocalJudge(Parrot(), "Which?")
    assert judge.verdicts(pairs(), lambda *done: told.append(done)) == ["first", "second"]
    assert told == [(2, 2)]


# within a round


def test_an_endpoint_that_agrees_has_its_licence(tmp_path, settings):
    """From reviewers' pairs; what is sent holds no personal data."""
    rivals = [
        Pair("i1", "c1", ({"role": "user", "content": "My name is Ann Lee. What is asthma?"},), LONG, SHORT)
    ]
    with Endpoint(prefers_the_longer) as endpoint:
        judged = hear_judge(settings, objective(tmp_path, endpoint.url), pairs(20), rivals, silent)
        sent = json.dumps(endpoint.heard)
    assert (judged.licensed, judged.scores) == (True, {"i1": -1.0})
    assert "What is asthma?" in sent and "Ann" not in sent


def test_a_judge_that_cannot_be_asked_is_unlicensed(tmp_path, settings, monkeypatch):
    """No key, nobody there: said in words, and nothing is raised."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with Endpoint(prefers_the_longer) as endpoint:
        gone = endpoint.url
        keyless = hear_judge(settings, objective(tmp_path, gone, "NO_SUCH_KEY"), pairs(), pairs(), silent)
        assert endpoint.heard == []
    assert (keyless.licensed, keyless.why) == (False, "the environment variable NO_SUCH_KEY holds no key")
    unheard = hear_judge(settings, objective(tmp_path, gone), pairs(), pairs(), silent)
    assert (unheard.licensed, unheard.scores) == (False, {})
    assert unheard.why.startswith(f"{gone}/chat/completions cannot be asked")


def test_the_local_judge_is_the_base_model(tmp_path, settings):
    """It is asked here; nothing is needed beside it."""
    domain = objective(tmp_path, base=str(tiny_model(tmp_path / "model")))
    judged = hear_judge(settings, domain, pairs(20), pairs(4), silent)
    assert (judged.judge, judged.endpoint, len(judged.verdicts), len(judged.scores)) == ("local", None, 20, 4)
