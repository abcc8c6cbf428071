"""What personal data looks like: the patterns of each type, which `privacy` looks for.

They are written for the `regex` library: what stands before `\\K` only leads to the piece that is meant.
Repetitions are bounded or possessive, so that no text can make the search slow. None matches a NUL, which no
stored text holds: it covers what must stay.
"""

import re
from dataclasses import dataclass

A_DIGIT = re.compile(r"\d")
SIX_DIGITS = re.compile(r"\d(?:[^\w\n]{0,3}\d){5}")  # as in a number that is written in groups
_A_CODE = re.compile(r"\d(?:[A-Za-z-]{0,3}\d){2}")


@dataclass(frozen=True)
class Rule:
    """What one type of personal data looks like."""

    type: str
    patterns: tuple[str, ...]
    score: float  # how sure a match is, up to 1
    any_case: bool = False
    hint: tuple[str, ...] = ()  # one of them stands, as it is or case-folded, in every text that matches
    needs: re.Pattern[str] | None = None  # found in every text that matches


# Names: in front of "'s" they end. The second word is no name where the first only seems to be one.
_QUOTE = r"['\u2019]"
_WORD = rf"\p{{Lu}}(?:\p{{Ll}}|{_QUOTE}\p{{L}})(?:[\p{{L}}\p{{M}}]|['\u2019-](?!s\b)(?=\p{{L}}))*+"
_NO_NAME = (
    r"(?!(?:I|Is|Has|Had|Was|And|Or|But|Who|The|Said|Says|Got|Type|Stage|Grade|Not|Back|Doctor|Everyone|All"
    r"|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|Mr|Mrs|Ms|Dr|Prof|Apt|Suite|Flat|Unit|Box)\b)"
)
# What follows a name that medicine gave to something: "Crohn's disease".
EPONYM_FOLLOWS = (
    rf"{_QUOTE}?s?+ (?:disease|syndrome|disorder|lymphoma|palsy|sign|test|ana?emia|tumou?r|fracture|contracture"
    r"|phenomenon|o?esophagus|thyroiditis|sarcoma|score|scale|method|criteria|clinic)\b"
)
_PARTICLE = r"(?:\p{Lu}\.?|de|da|dos|del|der|den|di|la|le|van|von|bin|al)"
_MORE = rf"(?: (?:{_PARTICLE} ){{0,2}}{_NO_NAME}{_WORD})"
_NAME = rf"{_NO_NAME}(?>{_WORD}{_MORE}{{0,3}})(?!{EPONYM_FOLLOWS})"
_FULL_NAME = (
    rf"{_NO_NAME}(?!\p{{L}}+ing\b)(?>{_WORD}{_MORE}{{1,3}})(?!{EPONYM_FOLLOWS})"
    r"(?<!American|Asian|Indian|African|European|Hispanic|Latina|Latino|Islander|Jewish|Muslim|Christian)"
)
_TYPED_WORD = (  # of a name in small letters
    r"(?!(?:and|i|im|but|from|my|an?|the|aged?|please|can|could|would|what|is|are|am|have|has|had|with|who|how"
    r"|when|why|where|should|do|does|did|so|or|because|in|on|at|for|to|of|years?|this|that|it|its|was|live"
    r"|living|not|also|we|he|she|they|if|as|spelled|actually|just)\b)\p{L}{2,}+"
)
_KIN = (
    r"(?:wife|husband|spouse|partner|fianc[e\u00e9]e?|girlfriend|boyfriend|friend|mother|father|mom|mum|dad"
    r"|sister|brother|son|daughter|child|kid|baby|toddler|twin|niece|nephew|cousin|aunt|uncle|grandmother"
    r"|grandfather|grandma|grandpa|grandson|granddaughter|neighbou?r|colleague|boss|doctor|gp|nurse|therapist"
    r"|dentist|surgeon|midwife|pediatrician|psychiatrist|psychologist|cardiologist|oncologist)"
)
_THEIR = r"(?:[Mm]y|[Yy]our|[Hh]is|[Hh]er|[Oo]ur)"
_TITLE = (
    r"(?:(?:Mr|Mrs|Ms|Mx|Dr|dr|mrs|Prof)\b\.?|Miss|Professor"
    r"|(?<!\b(?:[Yy]our|[Mm]y|[Hh]is|[Hh]er|[Oo]ur|[Tt]he|[Aa]) )Doctor)"
)
_THANKS = r"(?i:\b(?:regards|sincerely|thanks|thank you|wishes|cheers|yours)\b)"

# Numbers: no dates, no ranges, no amounts.
_BEFORE = r"(?<![\w.,/+:-])"
_AFTER = (
    r"(?![\w/%])(?![.,:-]\d)(?! ?(?:mg|mcg|g|ml|iu|units|k?cal|calories|steps|people|percent|days|times)\b)"
)
_EXTENSION = r"(?: ?(?:x|ext\.?) ?\d{1,5})?"
_NO_DATE = r"(?!\d{4}-\d\d-\d\d|\d\d?[.-]\d\d?[.-]\d{2,4}(?![.-]?\d)|\d{4}-\d{4}(?![ .-]?\d))"
_GROUPS = rf"{_NO_DATE}(?=(?:[ ().-]{{0,3}}\d){{7,15}}(?!\d))\(?\d{{1,4}}\)?(?:[ .-]?\(?\d{{1,4}}\)?){{1,7}}"
_CALL = (
    r"(?i:\b(?:phone|telephone|tel|call(?:ed|ing)?|fax|mobile|cell|text(?:ed|ing)?|ring|reach|contact"
    r"|number(?! of)|sms|whats ?app|dial|office|desk|messages?|registered|answering)\b[^\0\d]{0,40}?)"
)
_HOLDER = (
    r"(?:patient|medical record|mrn|chart|health (?:card|plan)|insurance|member(?:ship)?|subscriber|policy|group"
    r"|medicare|medicaid|nhs|hospital|account|claim|case|file|passport|student|employee|identity card"
    r"|national (?:id|insurance))"
)
_NUMBER = r"(?: (?:number|no|num|id|nr)\b\.?| ?[#:=]){1,3}(?: (?:is|was))? ?[:=]? {0,4}"
_CODE = r"(?!(?:19|20)\d\ds?\b)[A-Z-]{0,5}\d(?:[A-Z-]{0,3}\d){2,16}[A-Z]?\b"

# Addresses
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Pl|Square|Sq|Way|Terrace"
    r"|Close|Crescent|Highway|Hwy|Parkway|Pkwy|Circle|Cir|Trail|Gardens|Mews)\b\.?"
)
_STREET_OF = r"(?:Rue|Via|Viale|Calle|Avenida|Rua|Piazza|Plaza|Corso|Boulevard|Avenue|Ulica)"
_STREET_END = r"(?i:stra(?:\u00df|ss)e|gasse|weg|gatan?|v\u00e4gen|vegen|vej|straat|laan|plein|katu)"
_ROOM = r"\b(?:Apt|Apartment|Suite|Ste|Flat|Unit)\b\.? ?#?\d{1,5}[A-Za-z]?\b"
_CITY = r"(?:,? \p{Lu}[\p{L}.'\u2019-]+(?: \p{Lu}[\p{L}.'\u2019-]+){0,3})?(?:,? [A-Z]{2} \d{5}(?:-\d{4})?)?"
_PART = r"(?:[\p{Lu}\d#][\p{L}\p{M}\d.'\u2019#-]*+(?<!\.)|de|del|la|of|the)"
_PARTS = rf"(?=[^\n\0]{{0,30}}\d){_PART}(?:[,.]? {_PART}){{1,11}}"

RULES = (
    Rule(
        "PERSON",
        (
            rf"(?i:\b{_THEIR} (?:[\w'\u2019]+ ){{0,2}}?name(?:{_QUOTE}s| is| was|[:?])? )\K{_NAME}",
            rf"(?i:^[ \t>]*(?:\w+ )?name ?[:=] *)\K{_NAME}",
            rf"(?i:\bmy (?:full |first |last )?name(?:{_QUOTE}s| is| was) )\K(?i:{_TYPED_WORD}(?: {_TYPED_WORD})?)",
            rf"\b(?:[Ii](?: am|{_QUOTE}m)|[Tt]his is) \K{_FULL_NAME}",
            rf"(?i:\b(?:hi|hello|hey)\b[^\n\0]{{0,20}}?\b(?:i am|i{_QUOTE}m|this is) )\K{_NAME}",
            rf"(?i:\bcalls? me )\K{_NAME}",
            rf"\b{_THEIR} (?:\p{{Ll}}+ ){{0,3}}?{_KIN},?(?: is| was)? (?:named|called) \K{_NAME}",
            rf"\b[Mm]y (?:\p{{Ll}}+ )?{_KIN},? \K{_NAME}",
            rf"{_THANKS}[,!.]? *\n\s*[\u2013-]? *\K{_NAME}(?=[ .]*(?:\n|\Z))",
            rf"{_THANKS} ?, \K{_NAME}(?=[ .]*\Z)",
        ),
        score=0.6,
        hint=(
            *("name", "called ", "i am ", "i'm ", "i\u2019m ", "this is ", "call me ", "calls me ", "my "),
            *("regards", "sincerely", "thank", "wishes", "cheers", "yours"),
        ),
    ),
    Rule(
        "PERSON",
        (rf"\b{_TITLE} \K(?:\p{{Lu}}\. ?)*+{_NAME}", r"\b(?:mr|mrs)\. \K\p{Ll}{3,}+"),
        score=0.7,
        hint=("Mr", "Ms", "Mx", "Dr", "dr ", "dr. ", "mr. ", "mrs", "Prof", "Miss", "Doctor"),
    ),
    Rule(
        "STREET_ADDRESS",
        (
            rf"{_BEFORE}\d{{1,6}}[A-Za-z]? (?:{_PART} ){{1,5}}?{_STREET}(?:,? {_ROOM})?{_CITY}",
            r"\b\d{2,6} (?:\p{Ll}+ |\d+(?:st|nd|rd|th) ){1,2}(?:street|avenue|boulevard)\b",
            _ROOM,
            r"\b(?i:p\.? ?o\.? ?box) #?\d+",
            r"\b(?:PSC|Unit|CMR) \d{1,5},? Box \d{1,5}\b",
            r"\b[ADF]PO A[AEP] \d{5}\b",
            rf"\b(?i:live[sd]? (?:at|on)) \K{_PARTS}",
            rf"(?i:\b(?:my|his|her|our|home|mailing|billing|postal|new) address\b[^\d\n\0.]{{0,16}}?)\K{_PARTS}",
            rf"(?i:^[ \t>]*address ?:)\s*\K{_PARTS}",
        ),
        score=0.6,
        needs=A_DIGIT,
    ),
    Rule(
        "STREET_ADDRESS",
        (
            rf"\b{_STREET_OF} (?:[\p{{L}}'\u2019]+ ){{1,4}}?\d{{1,5}}\b",
            rf"\b(?:\d{{2,6}} )?\p{{Lu}}[\p{{L}}\p{{M}}]*?[ -]?{_STREET_END} \d{{1,5}}[a-z]?\b{_CITY}",
        ),
        score=0.6,
        hint=(
            *(
                "rue",
                "via",
                "viale",
                "calle",
                "avenida",
                "rua",
                "piazza",
                "plaza",
                "corso",
                "boulevard",
                "avenue",
            ),
            *("ulica", "strasse", "gasse", "weg", "gata", "v\u00e4gen", "vegen", "vej", "straat", "laan"),
            *("plein", "katu"),
        ),
        needs=A_DIGIT,
    ),
    Rule(
        "ZIP_CODE",
        (
            r"(?i:\b(?:zip(?: ?code)?|post(?:al)? ?code)(?: is| ?:)? )\K"
            r"(?=[A-Z\d -]*\d)[A-Z\d]{2,6}(?:[ -][A-Z\d]{2,4})?\b",
            r",\s[A-Z]{2} \K\d{5}(?:-\d{4})?\b",
            r"\b[A-Z]{1,2}\d[A-Z\d]? \d[ABD-HJLNP-UW-Z]{2}\b",  # British
        ),
        score=0.6,
        needs=A_DIGIT,
    ),
    Rule(
        "PHONE_NUMBER",
        (
            rf"{_BEFORE}(?:1[ .-])?\(?\d{{3}}\)?[ .-]?\d{{3}}[ .-]\d{{4}}{_EXTENSION}{_AFTER}",
            rf"(?<![\w./:-])(?:\+|00) ?{_GROUPS}{_EXTENSION}{_AFTER}",
            rf"{_BEFORE}\(?(?=0){_GROUPS}{_AFTER}(?<=(?:\d[ ()-]*){{9}})",
            rf"{_CALL}{_BEFORE}\K{_GROUPS}{_EXTENSION}{_AFTER}",
            rf"{_BEFORE}{_GROUPS}{_EXTENSION}(?=[ -](?i:office|fax|mobile|home|cell|work)\b)",
        ),
        score=0.6,
        needs=SIX_DIGITS,
    ),
    Rule(
        "EMAIL_ADDRESS",
        (r"(?<![\w.%+'-])[\w.%+'-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",),
        score=0.9,
        hint=("@",),
    ),
    Rule(
        "URL",
        (
            r"(?:https?://|\bwww\.)[^\s<>\"'\0]{2,500}(?<![.,;:!?)\]])",
            r"(?<![\w@.-])(?:[\w-]{1,63}\.){1,5}(?:com|org|net|info|io|me)\b"
            r"(?:/[^\s<>\"'\0]{0,500}(?<![.,;:!?)\]]))?",
        ),
        score=0.8,
        any_case=True,
        hint=("://", "www.", ".com", ".org", ".net", ".info", ".io", ".me"),
    ),
    Rule(
        "US_SSN",
        (r"\b(?:ssn|social security)(?: number| no\.?)?(?: is)? ?[:#]? \K\d{3}[ .-]?\d{2}[ .-]?\d{4}\b",),
        score=0.9,
        any_case=True,
        hint=("ssn", "social security"),
        needs=SIX_DIGITS,
    ),
    Rule(
        "US_DRIVER_LICENSE",
        (
            rf"\b(?:driver|driving){_QUOTE}?s? licen[cs]e(?:{_NUMBER}| (?:is )?)\K(?=[A-Z\d-]*\d)[A-Z\d-]{{5,20}}\b",
        ),
        score=0.9,
        any_case=True,
        hint=("licen",),
        needs=A_DIGIT,
    ),
    Rule(
        "IBAN_CODE",
        (rf"\biban(?:{_NUMBER}| (?:is )?)\K[A-Z]{{2}}\d{{2}}(?: ?[A-Z\d]{{2,4}}){{3,8}}\b",),
        score=0.9,
        any_case=True,
        hint=("iban",),
        needs=A_DIGIT,
    ),
    Rule(
        "ID_NUMBER",  # of a patient, an insured person, a customer
        (rf"\b(?:{_HOLDER}{_NUMBER}|mrn )\K{_CODE}",),
        score=0.6,
        any_case=True,
        hint=(" number", " no", " num", " id", " nr", "#", ":", "=", "mrn "),
        needs=_A_CODE,
    ),
    Rule(
        "DATE_OF_BIRTH",
        (
            r"\b(?:born on|d\.o\.b\.?|dob|date of birth|birth ?da(?:y|te))(?: is| was| ?:| -)?(?: on)? \K"
            r"(?:\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{1,2}(?:st|nd|rd|th)? (?:of )?\p{L}{3,9}\.?,?(?: \d{4})?"
            r"|\p{L}{3,9}\.? \d{1,2}(?:st|nd|rd|th)?(?:,? \d{4})?)\b",
        ),
        score=0.7,
        any_case=True,
        hint=("born on", "d.o.b", "dob", "birth"),
        needs=A_DIGIT,
    ),
)
