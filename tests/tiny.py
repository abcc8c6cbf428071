"""Tiny random chat models with their own tokenizers: real files of real architectures, made in a second."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
GEMMA_SPECIALS = ["<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>"]
GEMMA_TEMPLATE = (  # which has no place for a system message, and lets the roles do nothing but alternate
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
VOCABULARY = 1000  # tokens
TEXTS = [
    "system user assistant You give plain, careful health information.",
    "What is asthma? Asthma is a disease of the airways that makes breathing hard.",
    "How is high blood pressure treated? With less salt, more movement and medicines.",
    "What causes a migraine? Nobody knows all of it; light, stress and little sleep can start one.",
    "See a doctor when the pain is strong, sudden or does not go away after some days.",
    "Drink enough water, wash your hands, sleep well and keep your vaccinations up to date.",
    "Vitamin D is made in the skin when it is in the sun, and helps the bones to stay strong.",
    "Diabetes means that there is too much sugar in the blood, because insulin is missing or weak.",
]


@dataclass(frozen=True)
class Family:
    """An architecture, and what its chat format is made of."""

    config: type[PretrainedConfig]
    template: str
    specials: list[str]
    named: dict[str, str]  # the special tokens that its tokenizer has a name for
    stop: str  # ends a turn
    own: dict[str, Any]  # what its config says besides


CHATML = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"} | {
    "unk_token": "<|endoftext|>"
}
FAMILIES = {
    "llama": Family(LlamaConfig, TEMPLATE, SPECIALS, CHATML, "<|im_end|>", {"tie_word_embeddings": True}),
    "qwen": Family(
        Qwen3Config, TEMPLATE, SPECIALS, CHATML, "<|im_end|>", {"tie_word_embeddings": False, "head_dim": 32}
    ),
    "gemma": Family(
        Gemma2Config,
        GEMMA_TEMPLATE,
        GEMMA_SPECIALS,
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "<end_of_turn>",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24, "final_logit_softcapping": 5.0}
        | {"initializer_range": 0.05},  # it multiplies its embeddings, and normalises what layers add to them
    ),
}


def tiny_model(
    folder: Path, seed: int = 0, hidden: int = 64, family: str = "llama", places: int = 1024
) -> Path:
    """A random two-layer model in `folder`, the same bytes for the same `seed`; returns `folder`.

    `places` is how many tokens it can read.
    """
    kind = FAMILIES[family]
    tokenizer = _tokenizer(kind)
    torch.manual_seed(seed)
    config = kind.config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=places,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{"initializer_range": 0.2}
        | kind.own,  # wide enough that greedy answers differ from prompt to prompt
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    stop = tokenizer.convert_tokens_to_ids(kind.stop)
    if stop != tokenizer.eos_token_id:
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, stop]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(kind: Family) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=kind.specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kind.named)
    fast.chat_template = kind.template
    return fast
