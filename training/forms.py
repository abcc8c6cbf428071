"""A version in the forms in which other programs load it: an adapter, a merged model, a GGUF file."""

import json
import shutil
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.tensor_mapping import get_tensor_name_map
from transformers import PreTrainedModel

from feedback.errors import RatchetError
from training.base_model import ORIGINS, PACKAGED, load_model, load_tokenizer
from training.responder import load_adapter
from training.weights import packaged_file

LLAMA = MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA]
REPLACED = ("general.name", "general.finetune", "general.file_type", "general.quantization_version")


def write_adapter(base: Path, base_name: str, adapter: Path, folder: Path) -> None:
    """What PEFT and vLLM load: the trained weights, and settings that name the base as others find it."""
    shutil.copyfile(adapter / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    origin = ORIGINS.get(base_name)
    settings["base_model_name_or_path"] = origin.hub_id if origin else base_name
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True), "utf-8")
    load_tokenizer(base).save_pretrained(folder)


def write_merged(base: Path, adapter: Path | None, folder: Path) -> None:
    """What transformers and vLLM load: the whole model, in the precision in which it serves here."""
    _merged(base, adapter).save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


def write_gguf(base: Path, base_name: str, adapter: Path | None, file: Path) -> None:
    """What llama.cpp loads: the whole model in fp32; tokenizer and settings are those of the GGUF file that
    the base came in. RatchetError for a base that came otherwise.
    """
    if base_name not in PACKAGED:
        raise RatchetError(
            f"GGUF is written of packaged models only ({', '.join(PACKAGED)}); use --form merged, and convert "
            "what it writes with llama.cpp's convert_hf_to_gguf.py"
        )
    source = GGUFReader(packaged_file(PACKAGED[base_name]))
    model = _merged(base, adapter).float().cpu()
    writer = GGUFWriter(file, LLAMA)
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", *REPLACED):
            continue  # the writer counts by itself, and named the architecture
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_name(file.stem)
    writer.add_file_type(LlamaFileType.ALL_F32)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, weights in model.named_parameters():  # a head that is the embedding comes once
        found = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(found, _as_llama_cpp(model, name, weights.detach().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _merged(base: Path, adapter: Path | None) -> PreTrainedModel:
    model = load_model(base)
    return model if adapter is None else load_adapter(model, adapter).merge_and_unload()


def _as_llama_cpp(model: PreTrainedModel, name: str, weights: np.ndarray) -> np.ndarray:
    """Queries and keys with each head's rows in another order: llama.cpp turns neighbours, transformers halves."""
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    count = heads.get(name.split(".")[-2])
    if count is None:
        return weights
    return weights.reshape(count, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)
