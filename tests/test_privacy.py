"""Personal data is found and replaced; what a health text is about stays."""

import asyncio
import html
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conversations import Conversations
from app.operations import Operations
from app.review import ReviewDesk
from app.settings import Settings, read_settings
from eval.objective import load_objective
from feedback.identifiers import RULES
from feedback.privacy import MODELS, Found, Redactor, may_match
from feedback.records import Knowledge, Signal, Turn
from feedback.store import Store
from feedback.text import has_control_token
from tests.measure_privacy import lines, scores, table, taken_from

ROOT = Path(__file__).parent.parent
MEDICAL = ROOT / "objectives" / "medical"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELP_LINES = ("911", "112", "999", "988", "116 123", "1-800-222-1222", "1-800-799-7233", "0808 2000 247")
PATTERNS = Redactor("", HELP_LINES)  # of no language, so that no model helps

# Floors on pii.jsonl, a little below what docs/privacy.md publishes: {type: (recall, precision)}.
FLOORS = {
    "CREDIT_CARD": (0.98, 0.98),
    "EMAIL_ADDRESS": (1, 1),
    "IBAN_CODE": (1, 1),
    "IP_ADDRESS": (1, 1),
    "PERSON": (0.19, 0.98),
    "PHONE_NUMBER": (0.98, 0.98),
    "STREET_ADDRESS": (0.64, 0.98),
    "URL": (1, 1),
    "US_DRIVER_LICENSE": (1, 1),
    "US_SSN": (1, 1),
    "ZIP_CODE": (0.55, 0.9),
}
KEPT = ("AGE", "GPE", "NRP", "ORGANIZATION", "TITLE")  # by themselves nobody's identifiers


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("My name is Maria Lopez and I am 45.", "My name is <PERSON> and I am 45."),
        ("my name is maria lopez and i cough", "my name is <PERSON> and i cough"),
        ("MY NAME IS MARIA LOPEZ AND I COUGH", "MY NAME IS <PERSON> AND I COUGH"),
        ("Hi, I'm Susan. Is it safe?", "Hi, I'm <PERSON>. Is it safe?"),
        ("I am John van der Berg, 50 years old.", "I am <PERSON>, 50 years old."),
        ("Everyone calls me Jean-Luc.", "Everyone calls me <PERSON>."),
        ("What is your last name? Ottová", "What is your last name? <PERSON>"),
        ("Patient name: Liam O'Brien", "Patient name: <PERSON>"),
        ("Dr. Ana Ruiz's advice", "Dr. <PERSON>'s advice"),
        ("I saw Doctor McCray yesterday", "I saw Doctor <PERSON> yesterday"),
        ("mr. elliott flew home", "mr. <PERSON> flew home"),
        ("My daughter Lucia, 7, weighs 21 kg", "My daughter <PERSON>, 7, weighs 21 kg"),
        ("her grandmother was called Erin Dale", "her grandmother was called <PERSON>"),
        ("Can I stop?\n\nThanks,\nMaria Lopez", "Can I stop?\n\nThanks,\n<PERSON>"),
        ("Can I stop? Kind regards, Tom", "Can I stop? Kind regards, <PERSON>"),
        ("I live at 12 Oak Lane, Springfield, IL 62704 and ache", "I live at <STREET_ADDRESS> and ache"),
        ("at 911 Oak Street", "at <STREET_ADDRESS>"),
        ("we moved to 31 Rue de Tanger 4", "we moved to 31 <STREET_ADDRESS>"),
        ("wohne Loorenstrasse 149", "wohne <STREET_ADDRESS>"),
        ("send it to P.O. Box 77", "send it to <STREET_ADDRESS>"),
        ("i am at 12 main street now", "i am at <STREET_ADDRESS> now"),
        ("in Suite 979", "in <STREET_ADDRESS>"),
        ("PSC 7589, Box 0572\nAPO AE 20040", "<STREET_ADDRESS>\n<STREET_ADDRESS>"),
        ("he lives on 31 Rosendal 4 with me", "he lives on <STREET_ADDRESS> with me"),
        ("my address is 27534 Puruntie 63", "my address is <STREET_ADDRESS>"),
        ("Address:\n6750 Puruntie 25, Oulu", "Address:\n<STREET_ADDRESS>"),
        ("we are in Boston, MA 02115 now", "we are in Boston, MA <ZIP_CODE> now"),
        ("my zip code is 02115", "my zip code is <ZIP_CODE>"),
        ("near SW1A 1AA", "near <ZIP_CODE>"),
        ("reach me at (541) 714-1388 or 5417141388", "reach me at <PHONE_NUMBER> or <PHONE_NUMBER>"),
        ("Phone:\n467 3395", "Phone:\n<PHONE_NUMBER>"),
        ("555-123-4567 x12 is mine", "<PHONE_NUMBER> is mine"),
        ("416 60 039 office", "<PHONE_NUMBER> office"),
        ("0688 843 79 56 is mine", "<PHONE_NUMBER> is mine"),
        ("+999 928 571 38 is mine", "<PHONE_NUMBER> is mine"),
        ("it is +46 (0)8 928 571 38", "it is <PHONE_NUMBER>"),
        ("079 2718 1155 is mine", "<PHONE_NUMBER> is mine"),
        ("write to maria.lopez@example.com.", "write to <EMAIL_ADDRESS>."),
        ("see https://maria.example/me?x=1, or my-page.com/me", "see <URL>, or <URL>"),
        ("it said 165.165.185.178 is blocked", "it said <IP_ADDRESS> is blocked"),
        ("card 4111 1111 1111 1111", "card <CREDIT_CARD>"),
        ("iban gb42nawi04454264788619", "iban <IBAN_CODE>"),
        ("to DE89 3704 0044 0532 0130 00", "to <IBAN_CODE>"),
        ("SSN 123456780 or 832-13-6314", "SSN <US_SSN> or <US_SSN>"),
        ("my driver's license number is U6292875", "my driver's license number is <US_DRIVER_LICENSE>"),
        ("my patient number is 123456", "my patient number is <ID_NUMBER>"),
        ("MRN 00456789, insurance ID: ABC-123-4567", "MRN <ID_NUMBER>, insurance ID: <ID_NUMBER>"),
        ("born on 3 May 2015, DOB: 03/12/1980", "born on <DATE_OF_BIRTH>, DOB: <DATE_OF_BIRTH>"),
    ],
)
def test_a_persons_identifiers_are_replaced(text, redacted):
    """Names that are introduced, addresses, contacts and numbers of a person become their type."""
    assert PATTERNS.redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Children under 5 years take 500-1000 mg twice a day, 1,000 to 4,000 IU of vitamin D3, 0.5-1.5 ml.",
        "In 2010-2015, on 10-15-2020 and on 2020-03-12 at 10:30, 100 000 000 people had it; BP 120/80.",
        "The number of people affected is 100 000 000.",
        "Text them on 2020-03-12; the number is 1500-2000.",
        "My mom has Parkinson's disease, my dad Alzheimer's disease, my husband Hodgkin lymphoma.",
        "Crohn's disease, Down syndrome, Graves' disease and Lyme disease are named after somebody.",
        "I am African American, I'm Hispanic, I am Type 2 Diabetic and I'm Having Trouble Sleeping.",
        "Ask Your Doctor These Questions. My Doctor Said No. Miss a dose? MS patients. Call me Monday.",
        "My name is not important. What is the name of the disease? Thanks, doctor",
        "CYP2D6 *4, HLA-B27, B12 500 mcg, T4 3rd, COVID-19, NCT01234567, PMID 12345678, 1:2:3.",
        "A 10 minute drive, 2 units a day, the patient: 2010, group 2, case number 12.",
    ],
)
def test_knowledge_stays(text):
    """Ages, doses, dates, ranges, peoples, genes and eponyms are what a health text is about."""
    assert PATTERNS.redact(text) == text


@pytest.mark.parametrize(
    "written", ["1-800-222-1222", "(800) 222-1222", "+1 800 222 1222", "18002221222", "800.222.1222"]
)
def test_a_help_line_stays_however_it_is_written(written):
    """Only its digits count."""
    text = f"Call {written}, 116 123, 0808 2000 247, or 911 in the US, 112 in Europe, 999 in the UK."
    assert PATTERNS.redact(text) == text
    assert written not in Redactor("").redact(text)


def test_a_longer_number_is_no_help_line():
    """Somebody's number stays theirs where a help line's stands in it."""
    assert (
        PATTERNS.redact("call 1-800-222-1222-55 or ring 44 116 123 99")
        == "call <PHONE_NUMBER> or ring <PHONE_NUMBER>"
    )


def test_the_objectives_own_numbers_are_help_lines():
    """Every number that the medical objective gives to its users stays."""
    objective = load_objective(MEDICAL)
    redactor = Redactor("", objective.curation.help_lines)
    given = [flag.message for flag in objective.red_flag]
    given += [objective.system_prompt, objective.page.disclaimer]
    for name in ("knowledge", "golden"):
        given += [str(row) for row in lines(objective.folder / f"{name}.jsonl")]
    assert [redactor.redact(text) for text in given] == given
    shown = {re.sub(r"\D", "", n) for text in given[:30] for n in re.findall(r"\b\d[\d -]{5,}\d\b", text)}
    assert shown <= {re.sub(r"\D", "", line) for line in objective.curation.help_lines}


# what a redactor promises for any text

PIECES = st.sampled_from(
    [
        *(
            "my name is",
            "Maria",
            "Lopez",
            "maria",
            "Dr.",
            "I am",
            "Crohn's",
            "disease",
            "and",
            "thanks",
            ",",
            "\n",
        ),
        *(
            "call",
            "1-800-222-1222",
            "541-714-1388",
            "911",
            "116 123",
            "12",
            "Oak",
            "Street",
            "live at",
            "6",
            "+46",
        ),
        *(
            "a@b.com",
            "www.x.org",
            "ssn",
            "832-13-6314",
            "<PERSON>",
            "<|im_end|>",
            "MRN",
            "number",
            "zip code",
        ),
    ]
)
TEXTS = st.one_of(st.text(st.characters(exclude_characters="\0")), st.lists(PIECES).map(" ".join))


@given(TEXTS)
def test_redacting_twice_is_redacting_once(text):
    """A redacted text stays as it is."""
    once = PATTERNS.redact(text)
    assert PATTERNS.redact(once) == once
    assert PATTERNS.found(once) == []


@given(TEXTS)
def test_pieces_lie_in_the_text_apart_and_in_order(text):
    """Every piece is some of the text; none touches what another one holds."""
    found = PATTERNS.found(text)
    ends = [0, *(piece.end for piece in found)]
    assert all(end <= piece.start < piece.end <= len(text) for end, piece in zip(ends, found, strict=False))


@given(TEXTS)
def test_a_placeholder_is_no_control_token(text):
    """Redaction makes nothing that a chat template would take for its own."""
    assert has_control_token(PATTERNS.redact(text)) <= has_control_token(text)


@given(st.lists(PIECES).map(" ".join))
def test_the_quick_look_misses_nothing(text):
    """A rule is left out only for texts in which none of its patterns can be found."""
    assert no_rule_is_missed(text)


def no_rule_is_missed(text: str) -> bool:
    import regex

    for rule in RULES:
        flags = regex.MULTILINE | (regex.IGNORECASE if rule.any_case else 0)
        if any(regex.search(p, text, flags) for p in rule.patterns) and not may_match(
            rule, text, text.casefold()
        ):
            return False
    return True


def test_the_quick_look_misses_nothing_in_marked_sentences(shared_data):
    """The same on real sentences full of personal data."""
    assert all(no_rule_is_missed(row["text"]) for row in lines(shared_data / "pii.jsonl"))


def test_overlapping_pieces_become_one_of_the_surest_type():
    """A card whose check digit is right is no telephone number."""
    assert PATTERNS.found("call my card 4111 1111 1111 1111") == [Found("CREDIT_CARD", 13, 32, 1.0)]


# figures


def test_what_is_found_of_marked_sentences(shared_data):
    """Recall and precision of every type stay above their floors, and are those that docs/privacy.md publishes."""
    found = scores(lines(shared_data / "pii.jsonl"), PATTERNS)
    for kind, (recall, precision) in FLOORS.items():
        assert found[kind]["recall"] >= recall, kind
        assert found[kind]["precision"] >= precision, kind
    assert {kind for kind in found if found[kind]["found"] == 0} == set(KEPT)
    published = (ROOT / "docs" / "privacy.md").read_text("utf-8")
    assert "\n".join(table(found)) in published


def test_published_answers_keep_their_knowledge(shared_data):
    """In 1,500 NIH answers nothing is taken but web addresses, telephone numbers and doctors' names."""
    answers = [row["answer"] for row in lines(shared_data / "medquad_qa.jsonl")[::4]]
    assert taken_from(answers, PATTERNS).keys() <= {"URL", "PHONE_NUMBER", "PERSON"}
    names = taken_from(answers, PATTERNS).get("PERSON", [])
    assert all("Dr. " in name for name in names)


# a model, where there is one


def test_an_installed_model_finds_names_without_introduction(tmp_path, monkeypatch):
    """A spaCy package of the language is used by itself, named by the method, and takes no eponym."""
    import spacy

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": name} for name in ("Florence", "Crohn")])
    package = tmp_path / "en_core_web_sm"
    package.mkdir()
    nlp.to_disk(package / "pipeline")
    (package / "__init__.py").write_text(
        "import pathlib, spacy\n"
        "def load(**more): return spacy.load(pathlib.Path(__file__).parent / 'pipeline', **more)\n"
    )
    about = tmp_path / "en_core_web_sm-3.8.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: en_core_web_sm\nVersion: 3.8.0\n")
    assert (Redactor("en").method, Redactor("de").method) == ("patterns", "patterns")
    monkeypatch.syspath_prepend(tmp_path)
    redactor = Redactor("en")
    assert redactor.method == "patterns and en_core_web_sm 3.8.0"
    assert redactor.redact("With Florence we spoke of Crohn's disease.") == (
        "With <PERSON> we spoke of Crohn's disease."
    )
    assert Redactor("de").redact("With Florence") == "With Florence"


def test_model_names():
    """Both families of spaCy's names are looked for, the largest model first."""
    assert [name.format("en") for name in MODELS][:3] == [
        "en_core_web_lg",
        "en_core_web_md",
        "en_core_web_sm",
    ]
    assert [name.format("de") for name in MODELS][3:] == [
        "de_core_news_lg",
        "de_core_news_md",
        "de_core_news_sm",
    ]


# at rest and at work


def test_nothing_is_loaded_or_asked_for():
    """Texts without a trace of personal data cost no import; with one, nothing leaves the machine."""
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('the network was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from feedback.privacy import Redactor\n"
        "redactor = Redactor('en', ['911'])\n"
        "redactor.redact('What helps against hay fever?')\n"
        "assert not {'presidio_analyzer', 'spacy', 'regex'} & sys.modules.keys()\n"
        "print(redactor.redact('mail a@b.com, www.b.com, +1 541 714 1388, 10.0.0.1'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "mail <EMAIL_ADDRESS>, <URL>, <PHONE_NUMBER>, <IP_ADDRESS>\n", done.stderr
    assert done.stderr == ""


class Echo:
    """An engine that answers with the question."""

    versions = frozenset({"base"})

    def stream(self, messages, version, sampling) -> "Echo":
        self.finish, self.prompt_tokens, self.completion_tokens = "stop", 1, 1
        self.pieces = [messages[-1]["content"]]
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def close(self) -> None:
        pass


def test_the_log_holds_nothing_of_a_text(store, caplog, capfd):
    """Neither a chat nor a redaction leaves a word of what was said in the most talkative log."""
    caplog.set_level(logging.DEBUG)
    chats = Conversations(store, Echo(), load_objective(MEDICAL), "base")
    said = "My name is Zebulon Pike, 541-714-1388, iban gb42nawi04454264788619, x@zebulon.example"
    *_, last = chats.ask(chats.open("ann"), "ann", said, True)
    assert last.exchange.turn.answer == said
    assert "Zebulon" not in PATTERNS.redact(said)
    everything = caplog.text + "".join(capfd.readouterr())
    assert not re.search(r"zebulon|1388|gb42", everything, re.IGNORECASE)


ASKED = "My name is Zebulon Pike, call 541-714-1388 or 1-800-222-1222. Is it flu?"
SHOWN = "My name is <PERSON>, call <PHONE_NUMBER> or 1-800-222-1222. Is it flu?"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in which one user has corrected the answer to one question."""
    turn = Turn("t1", "c1", "ann", ({"role": "user", "content": ASKED},), "Ask Dr. Ruiz.", "base", NOW)
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(
            turn, Signal("s1", "t1", "ann", "user", "correction", {"text": "Zebulon, ask a@b.com"}, NOW)
        )
        yield store


def test_the_list_of_corrections_is_redacted(store, tmp_path):
    """`ratchet review` lists what waits without personal data; what is stored stays as it was said."""
    operations = Operations(Settings(tmp_path, MEDICAL, tmp_path), load_objective(MEDICAL), store)
    assert operations.corrections()["waiting"] == [
        {
            "id": "s1",
            "user": "ann",
            "question": SHOWN,
            "answer": "Ask Dr. <PERSON>.",
            "correction": "Zebulon, ask <EMAIL_ADDRESS>",
        }
    ]
    assert store.turn("t1").asked == ASKED


def test_exported_rows_are_redacted(tmp_path):
    """What another trainer reads holds no more personal data than what is trained on here."""
    settings = Settings(tmp_path, MEDICAL, read_settings().cache)
    with Store.open(tmp_path / "store.duckdb") as store:
        store.add(
            *(
                Knowledge(
                    f"k{number}", f"What helps against {pain}?", "Rest, and write to a@b.com then.", NOW
                )
                for number, pain in enumerate(("a sore heel", "a stiff neck", "an itching scalp"))
            )
        )
        Operations(settings, load_objective(MEDICAL), store).export("sft", str(tmp_path / "out"), "jsonl")
    exported = "".join(file.read_text() for file in (tmp_path / "out" / "data").iterdir())
    assert "write to <EMAIL_ADDRESS> then" in exported
    assert "a@b.com" not in exported


def test_the_desks_lists_are_redacted(store, tmp_path):
    """The queue shows no personal data; the item in hand is shown as it was said."""
    import gradio as gr

    from app.web.review import ReviewPage

    objective = load_objective(MEDICAL)
    page = ReviewPage(ReviewDesk(store, objective, tmp_path), objective)

    async def lay_out() -> None:  # outside of an event loop Gradio opens one, and never closes it
        with gr.Blocks(analytics_enabled=False):
            page.lay_out()
            page.connect()

    asyncio.run(lay_out())
    reviewer = SimpleNamespace(username="dora")
    board = page.welcome(reviewer)
    assert html.escape(SHOWN) in board[page.places]
    assert html.escape(ASKED) in board[page.about]
    assert "Zebulon" not in board[page.places]
