"""Answers written together: who comes late joins, who is done leaves, and nobody's words change by it."""

import random
from dataclasses import dataclass, field

import pytest
import torch
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM, PreTrainedModel

from app.decoding import READ_AT_ONCE, Decoder
from eval.objective import Sampling
from tests.tiny import VOCABULARY, tiny_model
from training.base_model import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = Sampling(max_new_tokens=20, temperature=0, repetition_penalty=1)


@dataclass
class Wanted:
    """An answer that ends after so many tokens."""

    tokens: list[int]
    sampling: Sampling = GREEDY
    finish: str | None = None
    answer: list[int] = field(default_factory=list)

    def accept(self, token: int) -> None:
        self.tokens.append(token)
        self.answer.append(token)
        if len(self.answer) == self.sampling.max_new_tokens:
            self.finish = "length"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load_model(tiny_model(tmp_path_factory.mktemp("base")))


@pytest.fixture
def forwards(model: PreTrainedModel):
    """The shape (rows, tokens) of what the model was given, call by call."""
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(4, VOCABULARY), k=length)


def generated(model: PreTrainedModel, tokens: list[int], sampling: Sampling = GREEDY) -> list[int]:
    """What transformers' own loop answers to `tokens` alone."""
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        repetition_penalty=sampling.repetition_penalty,
        pad_token_id=0,
    )
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model.generate(
        torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), generation_config=settings
    )[0, len(tokens) :].tolist()


def finish(decoder: Decoder) -> None:
    while decoder.busy:
        decoder.step()


def mistral_with_a_window() -> PreTrainedModel:
    """Another architecture, which sees the last few tokens only."""
    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=16,
            initializer_range=0.2,
        )
    ).eval()


@pytest.mark.parametrize("architecture", ["full attention", "sliding window"])
def test_answers_are_generates_own_whoever_comes_and_goes(model: PreTrainedModel, architecture: str):
    """Prompts of any length that come at any time get what `generate` gives each alone."""
    model = model if architecture == "full attention" else mistral_with_a_window()
    chance = random.Random(7)
    penalised = Sampling(max_new_tokens=13, temperature=0, repetition_penalty=1.3)
    wanted = [
        Wanted(prompt(chance.randint(1, 150), i), chance.choice([GREEDY, penalised])) for i in range(12)
    ]
    expected = [generated(model, one.tokens, one.sampling) for one in wanted]
    decoder = Decoder(model, max_batch=4)
    for one in wanted:
        decoder.ask(one)
        for _ in range(chance.randint(0, 8)):
            decoder.step()
    finish(decoder)
    assert [one.answer for one in wanted] == expected


def test_a_late_question_begins_beside_the_others(model: PreTrainedModel):
    """A short question has its first token after one step, however long the others still go on."""
    first, late = Wanted(prompt(30, 1)), Wanted(prompt(READ_AT_ONCE, 2))
    decoder = Decoder(model, max_batch=4)
    decoder.ask(first)
    decoder.step()
    decoder.ask(late)
    assert decoder.waiting == 1
    decoder.step()
    assert (len(first.answer), len(late.answer), decoder.waiting) == (3, 2, 0)


def test_a_long_question_does_not_stop_the_others(model: PreTrainedModel, forwards: list):
    """While a long prompt is read, each step gives the others their token."""
    first, long = Wanted(prompt(10, 1)), Wanted(prompt(3 * READ_AT_ONCE + 1, 2))
    decoder = Decoder(model, max_batch=4)
    decoder.ask(first)
    decoder.step()
    decoder.ask(long)
    for told in (3, 4, 5):
        decoder.step()
        assert (len(first.answer), len(long.answer)) == (told, 0)
    decoder.step()
    assert (len(first.answer), len(long.answer)) == (6, 2)
    assert max(tokens for _, tokens in forwards) == READ_AT_ONCE


def test_who_is_done_or_left_costs_nothing_more(model: PreTrainedModel, forwards: list):
    """A row that has ended is not computed again, and its place goes to the next."""
    short = Sampling(max_new_tokens=3, temperature=0)
    staying, done, leaving, next_one = (Wanted(prompt(9, i)) for i in range(4))
    done.sampling = short
    decoder = Decoder(model, max_batch=3)
    for one in (staying, done, leaving, next_one):
        decoder.ask(one)
    for _ in range(3):
        decoder.step()
    assert forwards[-1] == (3, 1)
    assert done.finish == "length"
    leaving.finish = "cancelled"
    del forwards[:]
    decoder.step()
    assert forwards == [(1, 9), (2, 1)]
    assert len(next_one.answer) == 2


def test_who_left_while_waiting_is_not_read(model: PreTrainedModel, forwards: list):
    """A question that was closed before its turn, or in the middle of being read, is dropped."""
    waiting, reading = Wanted(prompt(9, 1)), Wanted(prompt(3 * READ_AT_ONCE, 2))
    decoder = Decoder(model, max_batch=3)
    decoder.ask(reading)
    decoder.step()
    decoder.ask(waiting)
    waiting.finish = reading.finish = "cancelled"
    finish(decoder)
    assert forwards == [(1, READ_AT_ONCE)]
    assert (waiting.answer, reading.answer) == ([], [])


def test_what_was_read_before_is_not_read_again(model: PreTrainedModel, forwards: list):
    """The next question of a conversation, and another with the same beginning, start where they differ."""
    first = Wanted(prompt(50, 1))
    decoder = Decoder(model, max_batch=4)
    decoder.ask(first)
    finish(decoder)
    again = Wanted([*first.tokens, *prompt(10, 2)])
    beside = Wanted([*first.tokens[:40], *prompt(12, 3)])
    expected = [generated(model, one.tokens) for one in (again, beside)]
    for one, unread in ((again, 1 + 10), (beside, 12)):
        decoder.ask(one)
        del forwards[:]
        decoder.step()
        assert forwards[0] == (1, unread)
    finish(decoder)
    assert [again.answer, beside.answer] == expected


def test_each_answer_has_its_own_sampling(model: PreTrainedModel):
    """A greedy answer beside sampled ones is what it is alone, and sampled ones differ among themselves."""
    greedy = Wanted(prompt(12, 1))
    expected = generated(model, greedy.tokens)
    lively = Sampling(max_new_tokens=20, temperature=2, top_p=0.95)
    sampled = [Wanted(prompt(12, 1), lively) for _ in range(3)]
    decoder = Decoder(model, max_batch=4)
    for one in (sampled[0], greedy, *sampled[1:]):
        decoder.ask(one)
    finish(decoder)
    assert greedy.answer == expected
    assert len({tuple(one.answer) for one in sampled}) == 3


def test_sampled_answers_keep_to_the_likely(model: PreTrainedModel):
    """A tiny top_p leaves the most likely token only, whatever the temperature."""
    narrow = Sampling(max_new_tokens=20, temperature=0.7, top_p=1e-6, repetition_penalty=1)
    one = Wanted(prompt(12, 1), narrow)
    decoder = Decoder(model, max_batch=1)
    decoder.ask(one)
    finish(decoder)
    assert one.answer == generated(model, prompt(12, 1))
