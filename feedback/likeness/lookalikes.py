"""Finds the texts that nearly repeat a text, among a million, at some 200 bytes each.

MinHash over word triples (Broder 1997), of each minimum one byte (b-bit minwise hashing, Li and König
2010). Equal bands of a sketch propose, the share of equal bytes decides.
"""

import struct
from array import array
from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from operator import eq
from zlib import crc32

from feedback.text import shingles

Sketch = bytes  # of SKETCH bytes
SKETCH = 64
_SEED = 1
_RECALL = 0.95  # of pairs that are just alike enough, how many are proposed at least
_PATIENCE = 64  # sketches with the same band that are looked at, the latest first: templates have thousands
_NONE = -1


def sketch(text: str) -> Sketch:
    """The sketch of `text`; the same in every process and on every machine."""
    from rensa import RMinHash

    minima = RMinHash(SKETCH, _SEED)
    minima.update(shingles(text))
    return struct.pack(f"<{SKETCH}I", *minima.digest())[::4]


class LookAlikes:
    """An index of sketches, numbered in the order in which they were added."""

    def __init__(self, threshold: float):
        self._needed = ceil(round(threshold * SKETCH, 6))  # equal bytes of two that are alike
        self._rows = _rows_per_band(threshold)
        self._bands = SKETCH // self._rows
        self._sketches = bytearray()
        # A link is a band of a sketch: the number of the sketch, times the bands, and the band.
        self._latest = array("i", [_NONE]) * 1024  # link of each bucket
        self._older = array("i")  # of each link: the one before it in its bucket

    def __len__(self) -> int:
        return len(self._sketches) // SKETCH

    def __getitem__(self, number: int) -> Sketch:
        return bytes(self._sketches[number * SKETCH : (number + 1) * SKETCH])

    def add(self, mark: Sketch) -> int:
        """Add one more; returns its number."""
        self._sketches += mark
        if len(self._older) >= len(self._latest):
            self._make_room()
        self._link(mark)
        return len(self) - 1

    def like(self, mark: Sketch) -> list[int]:
        """The numbers of what resembles `mark`, in ascending order."""
        proposed = set(self._proposed(mark))
        return sorted(n for n in proposed if sum(map(eq, self[n], mark)) >= self._needed)

    def _proposed(self, mark: Sketch) -> Iterator[int]:
        sketches, older, rows, bands = self._sketches, self._older, self._rows, self._bands
        for band, bucket in enumerate(self._buckets(mark)):
            start, link = band * rows, self._latest[bucket]
            part = mark[start : start + rows]
            patience = _PATIENCE
            while link != _NONE and patience:
                number = link // bands
                place = number * SKETCH + start
                if sketches[place : place + rows] == part:
                    patience -= 1
                    yield number
                link = older[link]

    def _buckets(self, mark: Sketch) -> list[int]:
        last = len(self._latest) - 1  # as many as a power of two
        return [hashed & last for hashed in _hashes(mark, self._rows)]

    def _link(self, mark: Sketch) -> None:
        latest, older = self._latest, self._older
        for bucket in self._buckets(mark):
            before = latest[bucket]
            latest[bucket] = len(older)
            older.append(before)

    def _make_room(self) -> None:
        linked = len(self._older) // self._bands
        self._latest = array("i", [_NONE]) * (2 * len(self._latest))
        self._older = array("i")
        for number in range(linked):
            self._link(self[number])


@lru_cache(maxsize=1)  # one sketch is looked for in several indexes, then added to one
def _hashes(mark: Sketch, rows: int) -> list[int]:
    return [crc32(mark[start : start + rows], start) for start in range(0, SKETCH - rows + 1, rows)]


def _rows_per_band(threshold: float) -> int:
    """The longest band, in bytes, that still proposes what is just alike enough."""
    fitting = [rows for rows in range(1, 9) if 1 - (1 - threshold**rows) ** (SKETCH // rows) >= _RECALL]
    return max(fitting, default=1)
