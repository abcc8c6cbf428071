"""Personal data in what people write: found, and replaced by its type.

What is looked for follows the identifiers of the HIPAA safe harbour (45 CFR 164.514(b)(2)), so far as they can be
told from knowledge: dates, ages, peoples, organisations and places by themselves stay, because in health
information they are what the text is about. Names are found by the words that introduce them, and by a spaCy
model of the language where one is installed.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from feedback.identifiers import A_DIGIT, EPONYM_FOLLOWS, RULES, SIX_DIGITS, Rule

MODELS = tuple(f"{{}}_core_{kind}_{size}" for kind in ("web", "news") for size in ("lg", "md", "sm"))
_LEAST_SCORE, _MODEL_SCORE = 0.4, 0.85
_COVER = "\0"  # over what must stay: in no stored text, and part of no pattern
_PLACEHOLDER = r"<[A-Z][A-Z_]{2,30}>"
_SHORTEST_NUMBER = 6  # digits; no rule takes a shorter one for somebody's
_ADDRESS_OF_A_MACHINE = re.compile(r"\d\.\d+\.\d|:[0-9A-Fa-f]{0,4}:")
_CHECKED = (  # what Presidio knows how to check, in the order of `_checking`
    Rule("CREDIT_CARD", (), 1, needs=SIX_DIGITS),
    Rule("US_SSN", (), 1, needs=SIX_DIGITS),
    Rule("PHONE_NUMBER", (), 1, needs=SIX_DIGITS),
    Rule("IBAN_CODE", (), 1, needs=A_DIGIT),
    Rule("IP_ADDRESS", (), 1, needs=_ADDRESS_OF_A_MACHINE),
)
_CARD = r"(?<![\w.-])\d(?:[ -]?\d){11,18}(?![\w-])"  # Presidio's own pattern misses the cards of 12 digits
_PHONE_REGIONS = ("US", "GB")  # whose numbers are known when they stand without sign or space


@dataclass(frozen=True)
class Found:
    """One piece of personal data in a text."""

    type: str  # such as "PHONE_NUMBER"
    start: int  # in characters
    end: int
    score: float  # how sure its rule is; 1 is a number whose check digits are right


class Redactor:
    """Finds and replaces personal data in texts of one language (a code such as "en").

    `keep` are telephone numbers that stay, however they are written: an objective's help lines.
    """

    def __init__(self, language: str, keep: Collection[str] = ()):
        numbers = {re.sub(r"\D", "", number) for number in keep}
        kept = [_written(number) for number in sorted(numbers) if len(number) >= _SHORTEST_NUMBER]
        self._stays = re.compile("|".join([_PLACEHOLDER, *kept]))
        self._model = installed_model(language)

    @property
    def method(self) -> str:
        """What finds names here: what a dataset was redacted with belongs to what it is."""
        return f"patterns and {self._model} {version(self._model)}" if self._model else "patterns"

    def found(self, text: str) -> list[Found]:
        """The personal data in `text`, in order and without overlap."""
        covered = self._stays.sub(lambda match: _COVER * len(match[0]), text)
        pieces = [*self._by_pattern(covered), *self._by_model(covered)]
        return _united(piece for piece in pieces if piece.score >= _LEAST_SCORE)

    def redact(self, text: str) -> str:
        """`text` with a placeholder such as <PHONE_NUMBER> for each piece of personal data.

        Redacted again, the text stays as it is.
        """
        while found := self.found(text):
            for piece in reversed(found):
                text = f"{text[: piece.start]}<{piece.type}>{text[piece.end :]}"
        return text

    def _by_pattern(self, text: str) -> Iterator[Found]:
        folded = text.casefold()
        for place, rule in enumerate((*RULES, *_CHECKED)):
            if may_match(rule, text, folded):
                recognizer = self._recognizers[place]
                for result in recognizer.analyze(text, recognizer.supported_entities):
                    yield Found(rule.type, result.start, result.end, result.score)

    def _by_model(self, text: str) -> Iterator[Found]:
        if self._model is None:
            return
        for entity in self._named(text).ents:
            if entity.label_ in ("PERSON", "PER") and not self._eponym_follows(text, entity.end_char):
                yield Found("PERSON", entity.start_char, entity.end_char, _MODEL_SCORE)

    @cached_property
    def _recognizers(self) -> list[Any]:
        """Presidio's recognizers of every rule, in the order of the rules; built when a text first needs one."""
        import regex
        from presidio_analyzer import Pattern, PatternRecognizer

        return [
            PatternRecognizer(
                rule.type,
                patterns=[Pattern(rule.type, pattern, rule.score) for pattern in rule.patterns],
                global_regex_flags=regex.MULTILINE | (regex.IGNORECASE if rule.any_case else 0),
            )
            for rule in RULES
        ] + _checking()

    @cached_property
    def _named(self) -> Any:
        import spacy

        return spacy.load(self._model)

    @cached_property
    def _eponym_follows(self) -> Any:
        import regex

        return regex.compile(EPONYM_FOLLOWS).match


def installed_model(language: str) -> str | None:
    """The largest of spaCy's models of `language` that is installed here."""
    for name in (model.format(language) for model in MODELS):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return name
    return None


def may_match(rule: Rule, text: str, folded: str) -> bool:
    """Whether `text`, also given case-folded, holds what every match of `rule` needs: a quick look."""
    if rule.hint and not any(hint in folded or hint in text for hint in rule.hint):
        return False
    return rule.needs is None or rule.needs.search(text) is not None


def _checking() -> list[Any]:
    from presidio_analyzer import Pattern
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UsSsnRecognizer,
    )

    return [
        CreditCardRecognizer([Pattern("CREDIT_CARD", _CARD, 0.3)]),
        UsSsnRecognizer(),
        PhoneRecognizer(supported_regions=_PHONE_REGIONS),
        IbanRecognizer(),
        IpRecognizer(),
    ]


def _written(number: str) -> str:
    """A pattern of the ways to write the telephone number of these digits, standing alone."""
    national = number[1:] if len(number) == 11 and number.startswith("1") else number
    country = r"(?:(?:\+\d{1,3}|1)[ .-]?)?"
    digits = "[ ().-]{0,2}".join(national)
    return rf"(?<![\w+])(?<!\d[ .-])\(?{country}\(?{digits}(?![ .-]?\d)(?!\w)"


def _united(pieces: Iterable[Found]) -> list[Found]:
    """`pieces` in order, where they overlap as one, of the type that is surest."""
    united: list[Found] = []
    for piece in sorted(pieces, key=lambda piece: (piece.start, -piece.end, piece.type)):
        if united and piece.start < united[-1].end:
            last = united.pop()
            surest = max(last, piece, key=lambda one: (one.score, one.end - one.start))
            piece = Found(surest.type, last.start, max(last.end, piece.end), surest.score)
        united.append(piece)
    return united
