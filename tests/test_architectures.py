"""Any base model: another architecture and another chat format learn, answer, serve and leave as the first does."""

from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from test_responder import LIMIT, PROMPTS, QUESTIONS, SYSTEM, one_by_one, untold
from test_training import finished, new_run, pair_row, sft_row
from tiny import FAMILIES, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from app.engine import BASE, Engine
from eval.objective import Sampling
from feedback.errors import RatchetError
from training.base_model import base_model_folder, load_model, load_tokenizer
from training.device import Device
from training.forms import write_adapter, write_merged
from training.interruption import Interruption
from training.plan import read_plan
from training.preference import dpo_trainer
from training.progress import ProgressFile
from training.rendering import control_tokens, render
from training.responder import Responder
from training.rows import NO_LOSS, pair_rows, read_rows, sft_rows
from training.sft import sft_trainer
from training.stage import Stage, _place_bytes, compact_head

pytestmark = pytest.mark.usefixtures("one_thread")

OTHERS = [family for family in FAMILIES if family != "llama"]
GREEDY = Sampling(max_new_tokens=24, temperature=0, repetition_penalty=1.0)


@pytest.fixture(scope="module", params=OTHERS)
def model(request, tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp(request.param) / "tiny", family=request.param)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("gemma") / "tiny", family="gemma")


def test_training_tokens_are_what_serving_sends(model):
    """Prompt and completion, token for token, are the start of the next turn's prompt; its end is learned once."""
    tokenizer = load_tokenizer(model)
    row = sft_row(3)
    row["prompt"][1]["content"] += " ".join(control_tokens(tokenizer))
    rows, _ = sft_rows(tokenizer, [row], 512)
    prompt = render(tokenizer, row["prompt"])
    next_turn = render(tokenizer, [*row["prompt"], *row["completion"], {"role": "user", "content": "And?"}])
    ids, labels = rows[0]["input_ids"], rows[0]["labels"]
    assert next_turn[: len(ids)] == ids
    assert labels == [NO_LOSS] * len(prompt) + ids[len(prompt) :]
    stop = ids[-1]
    assert stop in Responder(model)._stops and ids[len(prompt) :].count(stop) == 1
    pairs, _ = pair_rows(tokenizer, [pair_row(3)], 512)
    assert pairs[0]["chosen_ids"][-1] == pairs[0]["rejected_ids"][-1] == stop


def test_both_stages_learn(tmp_path, model):
    """SFT makes the validation answers likelier, DPO widens its margin, and the candidate is one of the two."""
    run = finished(new_run(tmp_path, model, preference=(12, 4)))
    sft, dpo = run["stages"]["sft"], run["stages"]["dpo"]
    assert sft["last_loss"] < sft["first_loss"] - 1
    assert dpo["reward_margin"] > 0 and dpo["reward_accuracy"] > 0.5
    assert run["chosen"] in ("sft", "dpo") and sft["validation_log_likelihood"] < 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_compact_head_gives_equal_losses(tmp_path, kind, family):
    """Scoring the learned positions only is a shorter way to the same loss and the same gradient.

    Also where the head caps its logits, and where it is no copy of the embedding.
    """
    model = tiny_model(tmp_path / "model", family=family)
    run = new_run(tmp_path, model, preference=(8, 0))
    plan, stage = read_plan(run), Stage(kind, run / kind, ProgressFile(run / "p", False), Interruption())
    tokenizer = load_tokenizer(model)
    if kind == "sft":
        rows = sft_rows(tokenizer, read_rows(plan.dataset, "sft", "train"), 512)[0]
        trainer = sft_trainer(plan, rows, stage, Device("cpu"))
    else:
        pairs = pair_rows(tokenizer, read_rows(plan.dataset, "preference", "train"), 512)[0]
        trainer = dpo_trainer(plan, pairs, None, stage, Device("cpu"))
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))

    def loss_and_gradient() -> tuple[float, torch.Tensor]:
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        return loss.item(), torch.cat(grads)

    full = loss_and_gradient()
    with compact_head():
        compact = loss_and_gradient()
    assert compact[0] == pytest.approx(full[0], rel=1e-5)
    assert torch.allclose(compact[1], full[1], atol=1e-5)


def test_batched_answers_equal_plain_generation(model):
    """Padding, and rows that leave the batch, change no answer, also beyond a sliding window."""
    responder = Responder(model)
    found = responder.answers(PROMPTS, LIMIT, untold)
    stops = responder._stops
    for answer, prompt in zip(found, PROMPTS, strict=True):
        tokens = [token for token in one_by_one(model, prompt) if token not in stops]
        assert answer.text == responder.tokenizer.decode(tokens, skip_special_tokens=True)
    together = responder.log_likelihoods([(prompt, "Rest and drink water.") for prompt in PROMPTS], untold)
    for score, prompt in zip(together, PROMPTS, strict=True):
        assert score == pytest.approx(
            responder.log_likelihoods([(prompt, "Rest and drink water.")], untold)[0], abs=1e-4
        )


def test_engine_serves_base_and_adapter_as_the_responder_answers(tmp_path, model):
    """Asked at once, each version gives in the chat what it gives in an examination."""
    adapter = random_adapter(model, tmp_path / "adapter", 1)
    engine = Engine(model)
    engine.load("v1", adapter)
    asked = [(version, prompt) for version in (BASE, "v1") for prompt in PROMPTS]
    streams = [engine.stream(prompt, version, GREEDY) for version, prompt in asked]
    told = ["".join(stream) for stream in streams]
    engine.close()
    expected = [
        answer.text.rstrip("\ufffd")  # half a character at the end is never shown
        for folder in (None, adapter)
        for answer in Responder(model, folder).answers(PROMPTS, GREEDY.max_new_tokens, untold)
    ]
    assert told == expected and len(set(told)) > len(QUESTIONS)


def test_exported_forms_answer_as_it_does_here(tmp_path, model):
    """The merged model, loaded by transformers alone, takes the same messages and gives the same logits."""
    adapter = random_adapter(model, tmp_path / "adapter", 1)
    (tmp_path / "peft").mkdir()
    write_adapter(model, "tiny", adapter, tmp_path / "peft")
    write_merged(model, adapter, tmp_path / "merged")
    ids = render(load_tokenizer(model), PROMPTS[0])
    for folder in ("peft", "merged"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert tokenizer.apply_chat_template(PROMPTS[0], add_generation_prompt=True, return_dict=False) == ids
    elsewhere = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    here = Responder(model, tmp_path / "peft").model
    with torch.inference_mode():
        logits = [m(input_ids=torch.tensor([ids]).to(m.device)).logits[0, -1] for m in (elsewhere, here)]
    assert torch.allclose(logits[0], logits[1].cpu(), atol=1e-4)


def test_a_template_without_system_messages_is_told_them_by_the_user(gemma):
    """The system prompt stands before the first question; messages of one role in a row are one."""
    tokenizer = load_tokenizer(gemma)
    messages = [SYSTEM, *({"role": "user", "content": text} for text in ("Hello.", "What is asthma?"))]
    messages += [{"role": "assistant", "content": "A disease."}, {"role": "user", "content": "And?"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        f"<bos><start_of_turn>user\n{SYSTEM['content']}\n\nHello.\n\nWhat is asthma?<end_of_turn>\n"
        "<start_of_turn>model\nA disease.<end_of_turn>\n<start_of_turn>user\nAnd?<end_of_turn>\n"
    )


STRICT = (
    "{% if messages[0]['role'] == 'system' %}<<{{ messages[0]['content'] }}>>{% set messages = messages[1:] %}"
    "{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('No') }}"
    "{% endif %}[{{ m['content'] }}]{% endfor %}"
)
SILENT = "{% for m in messages if m['role'] != 'system' %}[{{ m['content'] }}]{% endfor %}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (STRICT, "<<Be kind.>>[Hello.\n\nWhat is asthma?]"),
        (SILENT, "[Be kind.\n\nHello.\n\nWhat is asthma?]"),
        ("{% for m in messages %}({{ m['content'] }}){% endfor %}", "(Be kind.)(Hello.)(What is asthma?)"),
    ],
)
def test_only_what_a_template_refuses_is_told_otherwise(tmp_path, template, text):
    """One that has a place for system messages keeps it; one that leaves them out silently is told, too."""
    folder = tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    messages = [{"role": "system", "content": "Be kind."}]
    messages += [{"role": "user", "content": said} for said in ("Hello.", "What is asthma?")]
    assert load_tokenizer(folder).apply_chat_template(messages, tokenize=False) == text


@pytest.mark.parametrize("template", ["{{ raise_exception('No') }}", "Hello", "{{ tools[0] }}", "{% if %}"])
def test_a_template_that_cannot_be_used_is_refused(tmp_path, template):
    """When the model is named, in one line."""
    folder = tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(RatchetError, match="chat template refuses or leaves out") as refused:
        base_model_folder(str(folder), tmp_path / "cache")
    assert "\n" not in str(refused.value)


def test_memory_is_foreseen_for_any_architecture(model, tmp_path):
    """What a token keeps follows the model's size, also where the config names no inner size."""
    tiny = load_model(model)
    assert _place_bytes(tiny) == 2 * (16 * 64 + 10 * 128) * 4
    config = GPT2Config(vocab_size=1000, n_embd=64, n_layer=2, n_head=2)
    other = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert _place_bytes(other) == 2 * (16 * 64 + 10 * 256) * 4
