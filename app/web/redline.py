"""Two answers compared word by word: what only one of them says is marked in it."""

import html
import re
from collections.abc import Iterable, Sequence
from difflib import Match, SequenceMatcher
from itertools import groupby

HOLD = 12  # characters; what is shorter between two changes belongs to them, or the eye finds no hold
ALIKE = 0.15  # of the shorter one's words; answers that share fewer have no changes worth marking

_WORD = re.compile(r"\S+\s*|\s+")
_LINE = re.compile(r"\S(.*\S)?")  # a mark does not run over an empty line


def redline(before: str, after: str) -> tuple[str, str] | None:
    """Both texts as HTML, with <del> in the first and <ins> in the second; None where they have little in common."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(
        None, [_key(word) for word in old], [_key(word) for word in new], autojunk=False
    )
    kept = [block for block in matcher.get_matching_blocks() if _holds(block, old, new)]
    if sum(block.size for block in kept) < ALIKE * min(len(old), len(new)):
        return None
    in_old = {block.a + i for block in kept for i in range(block.size)}
    in_new = {block.b + i for block in kept for i in range(block.size)}
    return _marked(old, in_old, "del"), _marked(new, in_new, "ins")


def _key(word: str) -> str:
    """What two equal words have in common, whatever stands around them."""
    return re.sub(r"^\W+|\W+$", "", word).casefold() or word.strip()


def _holds(block: Match, old: Sequence[str], new: Sequence[str]) -> bool:
    end = (block.a + block.size, block.b + block.size)
    at_an_end = (block.a, block.b) == (0, 0) or end == (len(old), len(new))
    return at_an_end or len("".join(old[block.a : block.a + block.size])) >= HOLD


def _marked(words: Iterable[str], shared: set[int], tag: str) -> str:
    found = ""
    for is_shared, run in groupby(enumerate(words), key=lambda entry: entry[0] in shared):
        text = html.escape("".join(word for _, word in run))
        found += text if is_shared else _LINE.sub(rf"<{tag}>\g<0></{tag}>", text)
    return found
