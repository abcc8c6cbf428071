"""The sentence vectors of texts, each made once and kept in the store.

A table of the store rather than a file beside it: one lock, one backup, one erasure, and no half-written
cache. It is no part of the record of events: whatever is missing is made again.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from feedback.store import Store

_STEP = 2**-11  # the grid of what is kept: float16 holds it, and float32 sums products of it exactly
_AT_ONCE = 1024  # texts between two writes: what an interruption loses at most


class Encoder(Protocol):
    """Turns texts into vectors; `name` changes when they would."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dim), rows of unit length."""


def vector_digest(text: str) -> str:
    """What the vector of `text` is kept under: 32 hex digits, the same for any white space."""
    return hashlib.sha256(_read(text).encode()).hexdigest()[:32]


class Vectors:
    """The vectors of one encoder, over the store that keeps them."""

    def __init__(self, store: Store, encoder: Encoder):
        self._store = store
        self._encoder = encoder

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dim), rows of unit length to three digits, rounded to multiples of 1/2048.

        Sums of products of such numbers are exact in float32: their cosines are equal on every machine.
        """
        blocks = [self._block(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
        return np.concatenate(blocks, dtype=np.float32) if blocks else np.empty((0, 0), np.float32)

    def kept(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As `of`, by text, for those of `texts` that were read before: no model is asked."""
        digests = {text: vector_digest(text) for text in texts}
        kept = dict(self._store.vectors(self._encoder.name, list(digests.values())))
        return {
            text: np.frombuffer(kept[digest], "<f2").astype(np.float32)
            for text, digest in digests.items()
            if digest in kept
        }

    def _block(self, texts: Sequence[str]) -> np.ndarray:
        digests = [vector_digest(text) for text in texts]
        kept = dict(self._store.vectors(self._encoder.name, digests))
        missing = {d: _read(text) for d, text in zip(digests, texts, strict=True) if d not in kept}
        if missing:
            made = self._encoder.encode(list(missing.values()))
            fresh = dict(zip(missing, (row.tobytes() for row in rounded(made)), strict=True))
            self._store.add_vectors(self._encoder.name, list(fresh), list(fresh.values()))
            kept |= fresh
        return np.stack([np.frombuffer(kept[digest], "<f2") for digest in digests])


def rounded(vectors: np.ndarray) -> np.ndarray:
    """`vectors` on the grid, as float16."""
    return (np.round(vectors / _STEP) * _STEP).astype("<f2")


def _read(text: str) -> str:
    """`text` as the encoder reads it; its punctuation and capitals tell something, white space does not."""
    return " ".join(text.split())
