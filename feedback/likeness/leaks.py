"""The last look before a dataset is frozen: does a row teach what an evaluation asks?

It keeps no books and trusts none: it compares the texts themselves, exactly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from feedback.errors import RatchetError
from feedback.likeness.sides import TELLING_WORDS
from feedback.records import Example
from feedback.text import normalised, shingles, words

# Of word triples (Jaccard). `SideBook` estimates similarity and may miss what is just above its own
# threshold; what it misses from here on is a mistake of ours.
NEARLY_EQUAL = 0.95

Evaluated = tuple[str, str, str]  # the name of an evaluation item, its question and its answer


def check_leaks(rows: Iterable[Example], evaluated: Iterable[Evaluated]) -> None:
    """RatchetError that names the first of `rows` that asks or teaches what an evaluation item does."""
    if leak := first_leak(rows, evaluated):
        raise RatchetError(f"{leak}; remove one of the two, nothing was frozen")


def first_leak(rows: Iterable[Example], evaluated: Iterable[Evaluated]) -> str | None:
    """Which of `rows` is the first that asks or teaches what an evaluation item does, and of which item."""
    questions, answers = _Texts(), _Texts()
    for name, question, answer in evaluated:
        questions.add(name, question)
        if _is_telling(answer):
            answers.add(name, answer)
    for row in rows:
        asked = [message["content"] for message in row.prompt if message["role"] == "user"]
        for text in dict.fromkeys([*asked, "\n".join(asked)]):
            if name := questions.find(text):
                return _leak(row, "asks the question", name)
        if _teaches(row) and (name := answers.find(row.chosen)):
            return _leak(row, "teaches the answer", name)
    return None


def taught(rows: Iterable[Example], answers: Mapping[str, str]) -> set[str]:
    """The names of those `answers` ({name: text}) that one of `rows` teaches."""
    known = _Texts()
    for name, answer in answers.items():
        if _is_telling(answer):
            known.add(name, answer)
    return {name for row in rows if _teaches(row) for name in known.like(row.chosen)}


def _leak(row: Example, does: str, name: str) -> str:
    sources = ", ".join(row.sources[:3])
    return f"the {row.kind} row {row.id[:12]} ({row.rule}, from {sources}) {does} of the evaluation item {name!r}"


def _teaches(row: Example) -> bool:
    return row.label is not False and _is_telling(row.chosen or "")


def _is_telling(answer: str) -> bool:
    return len(words(answer)) >= TELLING_WORDS


class _Texts:
    """Texts by name, found again by what they share with another."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # by the text's words
        self._sizes: list[tuple[str, int]] = []  # of each text: its name and how many triples it has
        self._having: dict[bytes, list[int]] = defaultdict(list)  # the texts that have a triple

    def add(self, name: str, text: str) -> None:
        """Remember `text`."""
        self._names.setdefault(normalised(text), name)
        triples = shingles(text)
        for triple in triples:
            self._having[triple].append(len(self._sizes))
        self._sizes.append((name, len(triples)))

    def find(self, text: str) -> str | None:
        """The name of a text that equals `text` or nearly does."""
        return self._names.get(normalised(text)) or next(self.like(text), None)

    def like(self, text: str) -> Iterator[str]:
        """The names of all texts that equal `text` or nearly do."""
        triples = shingles(text)
        shared = Counter(number for triple in triples for number in self._having.get(triple, ()))
        for number, both in shared.items():
            name, size = self._sizes[number]
            if both >= NEARLY_EQUAL * (len(triples) + size - both):
                yield name
