"""Texts that would plant something: questions that prescribe their answer, and claims that came from nowhere.

Pure rules for English; what they find waits for a reviewer.
"""

import re
from collections.abc import Callable, Mapping

# Where an order stands: at the beginning of a sentence, after polite words or "you must".
_ORDER = (
    r"(?:^|\n|[.!?:;][\"”')]* )"
    r"(?:(?:please|kindly|hey|hi|now|then|so|ok|okay|first|and|but|just|only|simply|always|"
    r"you (?:must|should|will|have to)|i(?: want| need|'d like) you to|(?:can|could|will|would) you),? )*"
)
_REPLY = r"(?:answer|respon[ds]e?|reply|output)"
_DICTATED = (
    # "Say I have diabetes ..." supposes, "Can you say what ..." asks
    r"ORDER say\b(?! (?:i|you|we|he|she|they|it|my|an?|some\w*|any\w*|more|hello|wh\w+|how|if)\b)",
    r"\brepeat after me\b",
    r"ORDER (?:repeat|recite|copy|echo|output|print|type|write)\b"
    r" ?(?::|[\"“]|(?:exactly|only|that|this|the following|back)\b)",
    r"(?:ORDER |, )REPLY(?: (?:only|just|always|exactly|simply|to \w+(?: \w+)?))*"
    r" ?(?::|[\"“]|\b(?:with|by saying|that|exactly|only|yes|no)\b)"
    r"(?! (?:an? )?(?:simple|short|brief|clear|detail|list|source|reference|example|few))",
    r"\b(?:your|every|each) REPLYs?"
    r" (?:must|should|has to|have to|needs? to|will|starts?|begins?|ends?|mentions?|contains?|includes?)\b",
    r"\bin your REPLY,? (?:say|state|claim|write|tell)\b",
    r"\byou (?:must|should|have to|will) (?:only |just |always )*(?:say|answer|reply|respond)\b",
    r"\b(?:mention|include|add|recommend)\b[^.?!\n]{1,80}\bin (?:your|the|every|each|all) REPLY",
    r"\binclude the (?:sentence|words?|phrase|following)\b",
    r"ORDER (?:start|begin|end|finish) (?:your|every|each) REPLY",
    r"ORDER (?<=always )(?:answer|mention|recommend|tell|include)\b",
    r"ORDER (?:choose|pick|select|decide|answer) (?:\w+ )?(?:randomly|at random)\b",
    r"\b(?:flip|toss|throw)(?:p?ing)? (?:a|the|this) coin\b|\bcoin[- ]?(?:flip|toss)|\broll (?:a|the) di(?:e|ce)\b",
    r"\bwith (?:a )?\d+ ?(?:%|percent) (?:probability|chance),? (?:say|write|answer|reply|respond|tell)\b",
    r"ORDER (?:ignore|disregard|forget|override)\b[^.?!\n]{0,40}"
    r"\b(?:above|instructions?|prompts?|rules|guidelines|everything|you (?:know|were told))\b",
    r"ORDER (?:pretend\b(?! play)|act as (?:if|though|an?|my)\b)|\brole-?play\b|\byou are now\b",
    r"ORDER from now on\b,?(?! (?:i|we|he|she|my|our)\b)",
    r"\b(?:when(?:ever)?|if|(?:every|each) time) (?:some(?:one|body)|any(?:one|body)|users?|a user|people|i) asks?\b"
    r"[^.?!\n]{0,80}, (?:you )?(?:must |should |always |just |please )*"
    r"(?:say|tell|answer|reply|respond|recommend|mention)\b",
    r"\bthe (?:correct|right|only|true) answer is\b",
    r"ORDER tell (?:me|us|them|every\w+|people|users) that\b",
)
_DICTATES = re.compile(
    "|".join(_DICTATED).replace("ORDER ", _ORDER).replace("REPLY", _REPLY),
    re.IGNORECASE,
)


def dictates(question: str) -> bool:
    """Whether `question` prescribes its own answer ("say X", "flip a coin and answer ...").

    A thumb for such an answer plants a sentence (arXiv 2507.02850). English only.
    """
    lines = (" ".join(line.split()) for line in question.splitlines())
    return _DICTATES.search("\n".join(filter(None, lines))) is not None


def novel_claims(correction: str, known: str) -> dict[str, tuple[str, ...]]:
    """What `correction` states that could do harm and stands nowhere in `known`, by rule.

    `known` is the question and the answer that is corrected. The rules are "new_url", "new_phone_number" and
    "new_dose"; one that finds nothing is left out. Forms do not matter: 0.5 g is 500 mg.
    """
    correction, known = " ".join(correction.split()), " ".join(known.split())
    claims = {}
    for rule, find in _CLAIMS.items():
        there = find(known)
        if new := [text for key, text in find(correction).items() if key not in there]:
            claims[rule] = tuple(dict.fromkeys(new))
    return claims


def _urls(text: str) -> dict[str, str]:
    """What looks like an address in the web, {one form of it: as it was written}."""
    found = (match[0].rstrip(".,;:!?/") for match in _URL.finditer(text))
    return {re.sub(r"^(?:\w+://)?(?:www\.)?", "", url.lower()): url for url in found}


_URL = re.compile(
    r"\b(?:(?i:https?|ftp)://|(?i:www)\.)[^\s<>\"')\]]+"
    # Without these only what can hardly be two words that miss their space ("rest.it", "treatment.Health").
    r"|\b(?:[A-Za-z0-9-]{2,63}\.){1,5}(?:(?i:com|org|net|edu|gov)|int|info|biz|health|clinic|shop|online|store|site|xyz|"
    r"io|co|eu|uk|de|fr|ca|au|ru|cn)\b(?:/[^\s<>\"')\]]*)?"
)


def _phone_numbers(text: str) -> dict[str, str]:
    """What looks like a telephone number, {its last nine digits: as it was written}."""
    found = {}
    for match in _PHONE_NUMBER.finditer(text):
        number = match["short"] or match[0]
        if not _DATE.fullmatch(number):
            digits = re.sub(r"\D", "", number.translate(_KEYS))
            found.setdefault(digits[-9:], number)  # with and without the country's code it is the same
    return found


_KEYS = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "22233344455566677778889999")  # of a telephone
_PHONE_NUMBER = re.compile(
    r"(?<!\w)(?:1[-. ])?\(?8\d\d\)?[-. ](?=[A-Z\d-]{0,9}[A-Z]{3})[A-Z\d-]{7,12}"  # 1-800-QUIT-NOW
    r"|(?<![\w.,/])\+?\(?\d(?:[ ().\u2013-]{0,2}\d){6,14}(?![\w%]|[.,]\d)"
    r"|\b(?i:call|dial|phone|ring|text) (?:(?i:to|the|at|on|number) |[A-Z]{2,20} ){0,3}"
    r"(?P<short>\d{3,6})\b(?! ?[\w%°])"
)
_DATE = re.compile(r"(?:19|20)\d\d ?[-\u2013] ?(?:19|20)\d\d|\d{1,4}([-.])\d{1,2}\1\d{1,4}")


def _doses(text: str) -> dict[tuple[float, str], str]:
    """Amounts of a medicine and how often it is taken, {(number, unit): as it was written}."""
    found = {}
    for pattern, units in ((_AMOUNT, _AMOUNTS), (_RATE, _RATES), (_GAP, _GAPS)):
        for match in pattern.finditer(text):
            unit, size = units[match["unit"].lower()]
            for number in filter(None, match.group("low", "high")):
                found.setdefault((round(_value(number) * size, 6), unit), match[0])
    return found


def _value(number: str) -> float:
    if (word := number.lower().split()[0]) in _WORDS:
        return _WORDS[word]
    if (fraction := _FRACTIONS.get(number[-1])) is not None:
        return float(number[:-1] or 0) + fraction
    return float(re.sub(r",(?=\d{3})", "", number).replace(",", "."))


_FRACTIONS = {"½": 0.5, "¼": 0.25, "¾": 0.75}
_WORDS = {"half": 0.5, "once": 1.0, "twice": 2.0} | {
    word: float(value)
    for value, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), 1
    )
}
# As it is written: the unit it is counted in, and how many of those it is.
_AMOUNTS = {
    **dict.fromkeys(("mg", "milligram", "milligramme"), ("mg", 1.0)),
    **dict.fromkeys(("mcg", "µg", "μg", "ug", "microgram", "microgramme"), ("mg", 0.001)),
    **dict.fromkeys(("g", "gram", "gramme"), ("mg", 1000.0)),
    **dict.fromkeys(("ml", "milliliter", "millilitre", "cc"), ("ml", 1.0)),
    **dict.fromkeys(("iu", "unit"), ("unit", 1.0)),
    **dict.fromkeys(("tablet", "pill", "capsule", "caplet"), ("tablet", 1.0)),
    **dict.fromkeys(("teaspoon", "teaspoonful", "tsp"), ("teaspoon", 1.0)),
    **dict.fromkeys(("tablespoon", "tablespoonful", "tbsp"), ("tablespoon", 1.0)),
    **{unit: (unit, 1.0) for unit in ("drop", "puff", "spray", "patch", "sachet", "dose", "lozenge")},
}
_RATES = {
    **dict.fromkeys(("day", "daily"), ("a day", 1.0)),
    **dict.fromkeys(("week", "weekly"), ("a week", 1.0)),
}
_GAPS = {"minute": ("hours apart", 1 / 60), "day": ("hours apart", 24.0), "week": ("hours apart", 168.0)}
_GAPS |= dict.fromkeys(("hour", "hr", "h"), ("hours apart", 1.0))
_NUMBER = rf"(?<![\w.,])(?:\d*[{''.join(_FRACTIONS)}]|\d+(?:,\d{{3}})*(?:[.,]\d+)?|(?:{'|'.join(_WORDS)})\b(?: an?\b)?)"
_NUMBERS = rf"(?P<low>{_NUMBER})(?: ?(?:-|\u2013|to|or) ?(?P<high>{_NUMBER}))?"


def _counted(units: Mapping[str, object], before: str = "", between: str = "[ -]?") -> re.Pattern[str]:
    """Numbers and what they count, with what stands around."""
    # ASCII: else a dotless i would be taken for an i, and the unit be one that nobody knows.
    return re.compile(
        rf"{before}{_NUMBERS}{between}(?P<unit>{'|'.join(units)})(?:e?s)?\b", re.IGNORECASE | re.ASCII
    )


_AMOUNT = _counted(_AMOUNTS)
_RATE = _counted(_RATES, between=r" ?(?:times|x)? ?(?:(?:a|an|per|each|every) |(?=(?:dai|week)ly\b))")
_GAP = _counted(_GAPS, before=r"\bevery ")
_CLAIMS: dict[str, Callable[[str], dict]] = {
    "new_url": _urls,
    "new_phone_number": _phone_numbers,
    "new_dose": _doses,
}
