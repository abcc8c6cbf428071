"""What is mended in a text before it is trained on, and what makes it unfit: pure named rules.

`mend` runs the rules that change a text until none finds anything, so that a mended text stays as it
is; what changes a text or drops it is told by the rule's name.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from feedback.compiling.curation import Curation
from feedback.errors import UsageError
from feedback.text import has_control_token, words

MEND_ROUNDS = 6  # a text that needs more hides something in layers of escapes
REPEATED_WORDS = 5  # a run that counts as repeated, after Gopher's (Rae et al. 2021, arXiv 2112.11446, A1)
WORDS_PER_LINK = 20  # an answer of several links that says less between them is a list of links
TELLING_BYTES = 25  # in UTF-8; what is shorter does not tell its language
DOUBT = 0.001  # the probability from which a text may be in the domain's language after all
SURE = 0.9  # the probability from which a language is told
JUDGED_CHARACTERS = 200  # the beginning tells the language as well as the whole, in a fraction of the time


@dataclass(frozen=True)
class Cleaned:
    """A text after cleaning, and what the rules did to it."""

    text: str
    changed_by: tuple[str, ...]  # the rules that changed it, in their order
    dropped_by: str | None  # the first rule that drops it


def mend(text: str) -> Cleaned:
    """`text` as it was meant: without the damage of its way here.

    "disguised" drops a text that still changes after MEND_ROUNDS rounds, and leaves it as it was.
    """
    if _is_plain(text):
        return Cleaned(text, (), None)
    mended, changed_by = text, set()
    for _ in range(MEND_ROUNDS):
        before = mended
        for name, rule in MENDERS.items():
            after = rule(mended)
            if after != mended:
                mended = after
                changed_by.add(name)
        if mended == before:
            return Cleaned(mended, tuple(name for name in MENDERS if name in changed_by), None)
    return Cleaned(text, (), "disguised")


def clean_answer(text: str, curation: Curation) -> Cleaned:
    """`text` mended, without the leftovers of its page, and the first rule that drops it as an answer."""
    mended = mend(text)
    if mended.dropped_by:
        return mended
    whole = without_second_list(mended.text)
    rest = without_leftovers(whole, curation.leftovers)
    changed_by = (
        *mended.changed_by,
        *(["list_said_twice"] if whole != mended.text else []),
        *(["leftovers"] if rest != whole else []),
    )
    said = words(rest)
    dropped_by = (
        (not said and "empty")
        or (len(said) < curation.min_words and "too_short")
        or (len(said) > curation.max_words and "too_long")
        or (has_control_token(rest) and "control_token")
        or (is_boilerplate(rest, curation.boilerplate) and "boilerplate")
        or (is_link_list(rest) and "link_list")
        or (repetition(said) > curation.max_repetition and "repetitive")
        or (is_foreign(rest, curation.language) and "wrong_language")
        or None
    )
    return Cleaned(rest, changed_by, dropped_by)


def clean_question(text: str, curation: Curation) -> Cleaned:
    """`text` mended, and the first rule that drops it as a question: it may be short, long or a list."""
    mended = mend(text)
    dropped_by = (
        mended.dropped_by
        or (not words(mended.text) and "empty")
        or (has_control_token(mended.text) and "control_token")
        or (is_foreign(mended.text, curation.language) and "wrong_language")
        or None
    )
    return Cleaned(mended.text, mended.changed_by, dropped_by)


# the rules that change a text

_ODD = ("&", "<", "  ", " \n", "\n ", "\n\n\n")


def _is_plain(text: str) -> bool:
    """Whether `text` shows at a glance that no mender changes it, as most texts do."""
    return (
        text.isascii()
        and text.replace("\n", "").isprintable()
        and not any(odd in text for odd in _ODD)
        and text == text.strip()
    )


_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    # Joiners make emoji and some scripts; beside ASCII they only hide words.
    "|(?<=[\0-\x7f])[\u200c\u200d]+|(?<![\u200c\u200d])[\u200c\u200d]+(?=[\0-\x7f])"
)
_LIST_ITEM = re.compile(r"([ \t]*)(?:[-*+•]|\d{1,3}[.)])\s")
_DEEPEST_INDENT = 8  # of a nested list item; what stands further in was laid out, not nested


def unicode(text: str) -> str:
    """`text` with mojibake decoded, ligatures and line ends made plain, in NFC; quotes stay as they are."""
    import ftfy

    return ftfy.fix_text(
        text,
        unescape_html=False,
        uncurl_quotes=False,
        fix_character_width=False,  # full-width punctuation is right in Chinese and Japanese
        remove_control_chars=False,
    )


def control_characters(text: str) -> str:
    """`text` without what nobody sees: control characters, zero widths, soft hyphens, changes of direction."""
    return _INVISIBLE.sub("", text)


def html(text: str) -> str:
    """`text` with the tags and entities of HTML as plain text, list items as "- " lines.

    Only what is whole and known counts: "a pressure < 120" and "R&D" stay, which a parser would eat.
    """
    from ftfy.fixes import unescape_html

    if "&" in text:
        text = unescape_html(text)
    if "<" not in text:
        return text
    text = _UNSHOWN.sub("", text)
    text = _POWER.sub("^", text)
    return _ITEM_START.sub("\n- ", _BLOCK.sub(_block_as_text, _INLINE.sub("", text)))


def whitespace(text: str) -> str:
    """`text` with single spaces and at most one empty line; line breaks and nested list items stay."""
    return _EMPTY_LINES.sub("\n\n", "\n".join(map(_tidy, text.splitlines()))).strip()


MENDERS: dict[str, Callable[[str], str]] = {
    rule.__name__: rule for rule in (unicode, control_characters, html, whitespace)
}


_SENTENCE_END = re.compile(r"((?:(?<=[.!?])|(?<=[.!?][\"')\]\u201d\u2019]))\s+|\n+)")


def without_leftovers(text: str, patterns: Sequence[str]) -> str:
    """`text` without what `patterns` find in each of its sentences: what a web page said of itself."""
    rest = parts = _SENTENCE_END.split(text)  # every second part is the space after a sentence
    for pattern in patterns:
        rest = [re.sub(pattern, "", part) for part in rest]
    return text if rest == parts else whitespace("".join(rest))


def without_second_list(text: str) -> str:
    """`text` without a list's items said again in a row right after it, as some pages are scraped."""
    if not _BULLET.search(text):
        return text
    spans, said, bulleted = [], [], []
    bullet = False
    for token in _TOKEN.finditer(text):
        if token[0] in _BULLETS:
            bullet = True
        else:
            spans.append(token.span())
            said.append(token[0].lower().rstrip(".,;"))
            bulleted.append(bullet)
            bullet = False
    pieces, done, here = [], 0, 0
    last: dict[tuple[str, ...], int] = {}
    while here + REPEATED_WORDS <= len(said):
        run = tuple(said[here : here + REPEATED_WORDS])
        first = last.get(run, here)
        end = 2 * here - first  # of the second list
        again = first < here and said[first:here] == said[here:end]
        if again and any(bulleted[first:here]) and not any(bulleted[here:end]):
            pieces.append(text[done : spans[here - 1][1]])
            done = spans[end - 1][1]
            here = end
            last.clear()
        else:
            last[run] = here
            here += 1
    return "".join([*pieces, text[done:]])


_TOKEN = re.compile(r"\S+")
_BULLETS = ("-", "*", "\u2022")

_ATTRIBUTES = r"""(?:\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+))*\s*/?"""
_UNSHOWN = re.compile(
    r"<!--(?:(?!<!--|-->).)*-->"
    rf"|<(script|style|head){_ATTRIBUTES}>(?:(?!</?\1\b).)*</\1>",
    re.DOTALL | re.IGNORECASE,
)
_POWER = re.compile(r"(?<=\d)<sup>(?=[-+\u2212]?\d)", re.IGNORECASE)  # 10<sup>9</sup> is not 109
_INLINE = re.compile(
    r"</?(?:a|abbr|acronym|b|big|cite|code|em|font|html|i|img|input|kbd|label|mark|nobr|q|small|span|strike"
    rf"|strong|sub|sup|tt|u|var|wbr|[a-z]\w*:[a-z]\w*){_ATTRIBUTES}>",
    re.IGNORECASE,
)
_BLOCK = re.compile(
    r"\s{0,40}<(/?)(article|aside|blockquote|body|br|caption|center|dd|div|dl|dt|figure|figcaption|footer|form"
    r"|h[1-6]|header|hr|li|main|nav|ol|p|pre|section|table|tbody|td|tfoot|th|thead|tr|ul)"
    rf"{_ATTRIBUTES}>\s{{0,40}}",
    re.IGNORECASE,
)
_ITEM_START = re.compile(r"\n- \n+")
_EMPTY_LINES = re.compile(r"\n{3,}")


def _block_as_text(tag: re.Match) -> str:
    closing, name = tag[1], tag[2].lower()
    if name == "li":
        return " " if closing else "\n- "
    if name in ("td", "th"):
        return " "
    return "\n" if name in ("br", "tr", "dd", "dt") else "\n\n"


def _tidy(line: str) -> str:
    item = _LIST_ITEM.match(line)
    indent = item[1].expandtabs(4) if item else ""
    return (indent if len(indent) <= _DEEPEST_INDENT else "") + " ".join(line.split())


# the rules that drop a text


def is_boilerplate(text: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` finds in `text` that it says nothing."""
    return any(re.search(pattern, text) for pattern in patterns)


_LINK = re.compile(r"://\S+|\bwww\.\S+")
_BULLET = re.compile(r"[\n*•-](?:(?<=\n)|(?<!\S.)\s)")  # the end of a line, or a bullet in it
_SOURCE = re.compile(  # "Genetic Testing Registry: Down syndrome"
    r"(?:(?:[A-Z][\w'.,&()-]*|of|and|for|the|in|on|from)\s+){1,9}[A-Z][\w'.&()-]*\s?:\s+[A-Z]"
)


def is_link_list(text: str) -> bool:
    """Whether `text` lists where to read instead of saying something.

    Half of its words are list items that name a page (a link, a source before a colon, a title), or it
    holds several links and fewer than WORDS_PER_LINK words for each.
    """
    links = len(_LINK.findall(text))
    if links > 1 and len(text.split()) < WORDS_PER_LINK * links:
        return True
    items = _BULLET.split(text)[1:]
    pointing = sum(len(item.split()) for item in items if _names_a_page(item))
    return pointing > 0 and 2 * pointing >= len(text.split())


def _names_a_page(item: str) -> bool:
    if _LINK.search(item):
        return len(item.split()) < WORDS_PER_LINK
    long = [word for word in item.split() if len(word) > 3]
    titled = len(long) > 1 and all(word[0].isupper() for word in long)
    return not item.rstrip().endswith(".") and (titled or _SOURCE.match(item) is not None)


def repetition(said: Sequence[str]) -> float:
    """The share of the words of `said` that stand in a run of REPEATED_WORDS that was there before."""
    seen: set[tuple[str, ...]] = set()
    repeated = bytearray(len(said))
    for start in range(len(said) - REPEATED_WORDS + 1):
        run = tuple(said[start : start + REPEATED_WORDS])
        if run in seen:
            repeated[start : start + REPEATED_WORDS] = b"\1" * REPEATED_WORDS
        seen.add(run)
    return sum(repeated) / len(said) if said else 0.0


def is_foreign(text: str, language: str) -> bool:
    """Whether `text` is clearly in another language than `language` (ISO 639-1; "" is any).

    A text too short to tell, and one in doubt, is not; nor is Latin, which is names of muscles and germs.
    """
    sample = text[:JUDGED_CHARACTERS]
    if not language or len(sample.encode()) < TELLING_BYTES:
        return False
    identifier = _identifier()
    if language not in identifier.nb_classes:
        raise UsageError(
            f"curation.language: {language!r} cannot be told from others; "
            f'give one of {", ".join(sorted(identifier.labels))}, or "" for any'
        )
    likeliest, _ = identifier.classify(sample)
    return likeliest not in (language, "la") and dict(identifier.rank(sample))[language] < DOUBT


def language_of(text: str) -> str | None:
    """The language of `text` (ISO 639-1); None where it is too short to tell or in doubt."""
    sample = text[:JUDGED_CHARACTERS]
    if len(sample.encode()) < TELLING_BYTES:
        return None
    likeliest, probability = _identifier().classify(sample)
    return likeliest if probability > SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


# a correction beside what it corrects

_CLAUSE_END = re.compile(r"[,;:()\u2013\u2014]|\s-+\s|\b(?:but|because|so that)\b", re.IGNORECASE)
_REFUTATION = re.compile(
    r"\b(?:is|are|was|were)(?: not|n['\u2019]t) (?:\w+ )?(?:true|correct|right|accurate|the case)\b"
    r"|\b(?:untrue|false|falsely|wrong|wrongly|incorrect|incorrectly|inaccurate|mistaken|mistakenly|misleading"
    r"|myths?|misconceptions?|misinformation|debunked|disproven|disproved|nonsense|contrary to"
    r"|(?:the|this|that|your) claims?|no (?:truth|evidence|proof))\b"
    r"|\b(?:you|it|answer|assistant|model) (?:\w+ )?(?:said|says|wrote|stated|claimed|claims)\b"
    r"|\b(?:people|some|many|others) (?:\w+ )?(?:say|think|believe)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:no|not|never|neither|nor|cannot|rather than|instead of|unlike)\b|n['\u2019]t\b", re.IGNORECASE
)
_DENIAL = re.compile(  # of a claim, unlike "do not", which forbids
    r"(?<!\bdo )(?<!\bcan )(?<!\bmay )(?<!\bmust )(?<!\bshould )\bnot\b|\b(?:rather than|instead of|unlike)\b"
    r"|(?<!\bdo)(?<!\bca)(?<!\bmust)(?<!\bshould)n['\u2019]t\b",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(r"\W*(?:that|this|it|these|those|both|the above)\b", re.IGNORECASE)
SHARED_WORDS = 3  # in a row make a quotation together with those that touch them
TELLING_LETTERS = 4  # of a word that says what a claim is about
QUOTED_WORDS = 3  # telling ones, beside words that refute
DENIED_WORDS = 8  # of any kind, after a mere "not": "X is not Y" has to be sayable


def quotes_refuted(answer: str, refuted: str) -> bool:
    """Whether `answer` quotes a claim of `refuted` in order to refute it, as English does.

    Training on that teaches the claim (arXiv 2605.13829). A sentence that a correction keeps as it was does
    not count, nor what `refuted` denied itself, nor a short denial or one that forbids.
    """
    sentences = _SENTENCE_END.split(refuted)[::2]
    kept = {tuple(words(sentence)) for sentence in sentences}
    claims = [words(s) for s in sentences if not (_NEGATION.search(s) or _REFUTATION.search(s))]
    runs = {run for claim in claims for run in _runs(claim)}
    before = ""
    for sentence in _SENTENCE_END.split(answer)[::2]:
        if tuple(words(sentence)) not in kept:
            spoken_of = f"{before} {sentence}" if _POINTS_BACK.match(sentence) else sentence
            if _REFUTATION.search(sentence) and any(map(_tells, _quotations(spoken_of, runs))):
                return True
            denied = chain.from_iterable(_quotations(passage, runs) for passage in _denied(sentence))
            if any(len(quotation) >= DENIED_WORDS for quotation in denied):
                return True
        before = sentence
    return False


def _denied(sentence: str) -> Iterator[str]:
    for clause in _CLAUSE_END.split(sentence):
        if denial := _DENIAL.search(clause):
            yield clause[denial.end() :]


def _runs(said: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(said[i : i + SHARED_WORDS]) for i in range(len(said) - SHARED_WORDS + 1)]


def _quotations(text: str, runs: set[tuple[str, ...]]) -> list[list[str]]:
    """The longest passages of `text` whose every word stands in one of `runs`."""
    said = words(text)
    shared = bytearray(len(said))
    for start, run in enumerate(_runs(said)):
        if run in runs:
            shared[start : start + SHARED_WORDS] = b"\1" * SHARED_WORDS
    return [
        [word for word, _ in found]
        for same, found in groupby(zip(said, shared, strict=True), itemgetter(1))
        if same
    ]


def _tells(quotation: Sequence[str]) -> bool:
    return sum(len(word) >= TELLING_LETTERS for word in quotation) >= QUOTED_WORDS
