"""What a text must be to be stored, and what makes an answer unfit to train on: pure named rules."""

import re
import unicodedata

from feedback.errors import Refused

MAX_CHARACTERS = 100_000

_CONTROL_TOKEN = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
_WORD = re.compile(r"\w+")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def acceptable(text: object, what: str = "text") -> str:
    """`text` unchanged, if the store can keep it exactly; else Refused, naming `what` and why."""
    if not isinstance(text, str):
        raise Refused(f"the {what} is not text")
    if not text.strip():
        raise Refused(f"the {what} is empty")
    if len(text) > MAX_CHARACTERS:
        raise Refused(f"the {what} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are kept")
    if "\0" in text:
        raise Refused(f"the {what} holds a NUL character")
    if _HALF_A_PAIR.search(text):
        raise Refused(f"the {what} holds half of a surrogate pair, which is no character")
    return text


def words(text: str) -> list[str]:
    """The words of `text`, case-folded, without punctuation: for comparing, not for showing."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalised(text: str) -> str:
    """`text` as its words with single spaces; equal for texts that differ in form only."""
    return " ".join(words(text))


def sentences(text: str) -> list[str]:
    """The sentences and lines of `text` that hold anything, roughly: an abbreviation ends one too."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def shingles(text: str, size: int = 3) -> set[bytes]:
    """The set of `size` consecutive words of `text`, encoded; the whole of a shorter text."""
    found = words(text)
    if len(found) < size:
        return {" ".join(found).encode()}
    return {" ".join(found[i : i + size]).encode() for i in range(len(found) - size + 1)}


def has_control_token(text: str) -> bool:
    """Whether `text` holds something that looks like a chat template's control token."""
    return _CONTROL_TOKEN.search(text) is not None
