"""A tiny random chat model with its own tokenizer: real files of a real architecture, made in a second."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
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


def tiny_model(folder: Path, seed: int = 0, hidden: int = 64) -> Path:
    """A random two-layer Llama in `folder`, the same bytes for the same `seed`; returns `folder`."""
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # wide enough that greedy answers differ from prompt to prompt
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = TEMPLATE
    return fast
