"""The examination asks each thing once, measures everything, and goes on where it was interrupted."""

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np
import pytest

from eval.exam import Evaluation, examine
from eval.suites import Item, Suite
from feedback.errors import RatchetError


class WordHashEncoder:
    """Texts as unit vectors of hashed word counts."""

    name = "word-hash"

    def encode(self, texts):
        vectors = np.zeros((len(texts), 512), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split() or ["<nothing>"]:
                row[zlib.crc32(word.encode()) % 512] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True)
class Said:
    text: str
    tokens: int
    stopped: bool = True


class Parrot:
    """Answers with the question's own words and finds longer texts less likely; counts what it is asked."""

    repetition_penalty = 1.0

    def __init__(self):
        self.asked = []

    def answers(self, prompts, max_new_tokens, progress):
        said = []
        for number, messages in enumerate(prompts, 1):
            self.asked.append(messages[-1]["content"])
            words = messages[-1]["content"].split()[:max_new_tokens]
            said.append(Said(" ".join(words), len(words)))
            progress(number, len(prompts))
        return said

    def log_likelihoods(self, pairs, progress):
        self.asked += [answer for _, answer in pairs]
        progress(len(pairs), len(pairs))
        return [-len(answer) / 10 for _, answer in pairs]

    def text_log_likelihoods(self, texts, progress):
        self.asked += texts
        progress(len(texts), len(texts))
        return [-2.0 for _ in texts]


class Diverged(Parrot):
    """A model whose weights are no longer numbers."""

    def log_likelihoods(self, pairs, progress):
        return [math.nan if answer.startswith("bad") else -1.0 for _, answer in pairs]


def ask(text):
    return ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})


def suites():
    """One suite of each kind."""
    return (
        Suite(
            "asked",
            "questions",
            ("similarity", "token_f1", "rouge_l", "log_likelihood"),
            2,
            (
                Item("a", "asked", "water", messages=ask("drink water"), reference="drink water"),
                Item("b", "asked", "rest", messages=ask("sleep"), reference="rest a while"),
            ),
        ),
        Suite(
            "known",
            "multiple_choice",
            ("retention",),
            1,
            (
                Item(
                    "c", "known", "c", messages=ask("Grass is"), choices=("green", "of metal"), answer_index=0
                ),
            ),
        ),
        Suite("prose", "text", ("general_text",), 1, (Item("d", "prose", "d", text="It rained."),)),
        Suite(
            "corrected",
            "corrections",
            ("corrections_honoured",),
            1,
            (
                Item(
                    "e",
                    "corrected",
                    "e",
                    messages=ask("take less salt"),
                    reference="take less salt",
                    rejected="take more salt",
                    known_to_champion=True,
                ),
            ),
        ),
        Suite(
            "preferred",
            "pairs",
            ("preference",),
            1,
            (Item("f", "preferred", "f", messages=ask("how"), reference="so", rejected="not at all"),),
        ),
    )


def run(responder, chosen=None, progress=lambda *_: None, version="v0001-a", tokens=5, **more):
    chosen = suites() if chosen is None else chosen
    return examine(
        responder, WordHashEncoder(), chosen, tokens, progress, version=version, base_model="tiny", **more
    )


def test_every_metric_is_taken_on_what_was_asked_once():
    """Answers and scores are kept by item; nothing is asked twice."""
    parrot = Parrot()
    evaluation = run(parrot)
    assert parrot.asked == [
        *("drink water", "sleep", "drink water", "rest a while"),  # answers, then the expert's answers
        *("green", "of metal", "It rained.", "take less salt", "so", "not at all"),
    ]
    asked = evaluation.suites["asked"]
    assert asked["answers"] == {"a": "drink water", "b": "sleep"}
    assert asked["clusters"] == {"a": "water", "b": "rest"}
    assert asked["scores"]["similarity"] == {"a": pytest.approx(1.0), "b": pytest.approx(0.0)}
    assert asked["scores"]["token_f1"] == {"a": 1.0, "b": 0.0}
    assert asked["scores"]["log_likelihood"] == {"a": pytest.approx(-1.1), "b": pytest.approx(-1.2)}
    assert asked["figures"]["answer_tokens"] == 1.5
    assert evaluation.suites["known"]["scores"]["retention"] == {"c": pytest.approx(0.3)}
    assert evaluation.suites["known"]["figures"]["constant_answer"] == 1.0
    assert evaluation.suites["prose"]["figures"]["perplexity"] == pytest.approx(math.exp(2))
    assert evaluation.suites["corrected"]["scores"]["corrections_honoured"] == {"e": 1.0}
    assert evaluation.suites["preferred"]["scores"]["preference"] == {"f": pytest.approx(0.8)}


def test_an_item_that_a_metric_says_nothing_about_has_no_score():
    """Claims are taken where an item has them, escalation on red flags; the others are asked all the same."""
    items = (
        Item("a", "asked", "a", messages=ask("drink water"), reference="rest", claims=("drink water",)),
        Item("b", "asked", "b", messages=ask("sleep"), reference="rest"),
    )
    prompts = (
        Item("c", "prompts", "c", messages=ask("call 911 now"), flag="chest"),
        Item("d", "prompts", "d", messages=ask("a sore toe")),
    )
    chosen = [
        Suite("asked", "questions", ("claims_covered", "form"), 2, items),
        Suite("prompts", "prompts", ("escalation",), 2, prompts),
    ]
    found = run(Parrot(), chosen, language="en").suites
    assert found["asked"]["scores"] == {"claims_covered": {"a": 1.0}, "form": {"a": 1.0, "b": 1.0}}
    assert found["prompts"]["scores"] == {"escalation": {"c": 1.0}}
    assert found["prompts"]["answers"].keys() == {"c", "d"}


def test_an_evaluation_comes_back_from_json():
    """Written as strict JSON and read again it is the same."""
    evaluation = run(Parrot())
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json(), allow_nan=False))) == evaluation


def test_progress_counts_up_to_the_total_of_each_suite():
    """The last report of every suite says that all is done."""
    seen = []
    run(Parrot(), progress=lambda *report: seen.append(report))
    assert seen[:3] == [("asked", 1, 4), ("asked", 2, 4), ("asked", 4, 4)]
    last = {suite: (done, total) for suite, done, total in seen}
    assert last == {
        "asked": (4, 4),
        "known": (2, 2),
        "prose": (1, 1),
        "corrected": (1, 1),
        "preferred": (2, 2),
    }


def test_a_number_that_is_none_names_item_and_metric():
    """A diverged model fails the examination in one line, also where a maximum would hide the NaN."""
    options = Item("m", "known", "m", messages=ask("Is"), choices=("good", "so", "bad"), answer_index=0)
    with pytest.raises(RatchetError, match=r"suite known, item m: log-likelihood is nan"):
        run(Diverged(), [Suite("known", "multiple_choice", ("retention",), 1, (options,))])


def test_a_suite_without_items_is_empty_and_asks_nothing():
    """The gate will say that it was left out."""
    parrot = Parrot()
    result = run(parrot, [Suite("asked", "questions", ("similarity",), 5, ())]).suites["asked"]
    assert parrot.asked == []
    assert result["scores"] == {"similarity": {}}


def test_a_finished_suite_is_not_asked_again(tmp_path):
    """A champion's answers are kept; only what was not finished is asked."""
    first, second = Parrot(), Parrot()
    begun = run(first, suites()[:2], folder=tmp_path)
    whole = run(second, folder=tmp_path)
    assert second.asked == ["It rained.", "take less salt", "so", "not at all"]
    assert {name: whole.suites[name] for name in begun.suites} == begun.suites
    assert len(list((tmp_path / "v0001-a").iterdir())) == 5


def test_other_settings_versions_and_suites_are_asked_anew(tmp_path):
    """What is kept answers exactly the question that was asked."""
    prose = suites()[2:3]
    run(Parrot(), prose, folder=tmp_path)
    for change in ({"tokens": 6}, {"version": "v0002-b"}):
        parrot = Parrot()
        run(parrot, prose, folder=tmp_path, **change)
        assert parrot.asked == ["It rained."]
    parrot = Parrot()
    parrot.repetition_penalty = 1.1
    run(parrot, prose, folder=tmp_path)
    assert parrot.asked == ["It rained."]


def test_a_kept_file_that_was_cut_short_is_asked_again(tmp_path):
    """A damaged result costs time, never an answer."""
    whole = run(Parrot(), suites()[2:3], folder=tmp_path)
    (file,) = (tmp_path / "v0001-a").iterdir()
    file.write_text(file.read_text()[:40])
    assert run(Parrot(), suites()[2:3], folder=tmp_path) == whole
