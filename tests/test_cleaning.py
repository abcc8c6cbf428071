"""What is mended in a text, and what makes it unfit to train on."""

# ruff: noqa: RUF001 - letters that look like others are what is tested

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from feedback.compiling.cleaning import (
    MENDERS,
    Cleaned,
    clean_answer,
    clean_question,
    is_foreign,
    is_link_list,
    mend,
    quotes_refuted,
    repetition,
    without_leftovers,
    without_second_list,
)
from feedback.compiling.curation import Curation
from feedback.errors import UsageError
from feedback.text import words

CURATION = Curation(min_words=3, max_words=40, boilerplate=("^See the links",), leftovers=("^Summary : ",))
MEDICAL = tomllib.loads(
    (Path(__file__).parent.parent / "objectives/medical/objective.toml").read_text("utf-8")
)
GOOD = "Asthma is a disease of the airways that makes breathing hard."


def dropped(text: str, **limits) -> str | None:
    """The rule that drops `text` as an answer."""
    return clean_answer(text, CURATION.model_copy(update=limits)).dropped_by


# what is mended


@pytest.mark.parametrize(
    ("damaged", "whole", "rules"),
    [
        (GOOD, GOOD, ()),
        ("The patientâ€™s fever is 39Â°C.", "The patient’s fever is 39°C.", ("unicode",)),
        ("A diﬃcult birth.\r\nA long one.", "A difficult birth.\nA long one.", ("unicode",)),
        ("Cafe\u0301 and “tea”", "Café and “tea”", ("unicode",)),
        ("\u200dRest \u200ca\u200bt ho\u00adme\x07.", "Rest at home.", ("control_characters",)),
        ("take\u202e 5 mg\u202c daily", "take 5 mg daily", ("control_characters",)),
        ("5 mg<br>twice a day", "5 mg\ntwice a day", ("html",)),
        ("<p>Rest &amp; drink.</p>", "Rest & drink.", ("html", "whitespace")),
        ("<b>Note</b>: see <a href='x.html'>a doctor</a>.", "Note: see a doctor.", ("html",)),
        ("Try <ul><li>rest</li>\n<li><p>tea</p></li></ul>", "Try\n\n- rest\n- tea", ("html", "whitespace")),
        ("10<sup>9</sup>/L of CO<sub>2</sub>", "10^9/L of CO2", ("html",)),
        ("Rest.<!-- a note --><script>x()</script>", "Rest.", ("html",)),
        ("&amp;lt;br&amp;gt;Rest.", "Rest.", ("html", "whitespace")),
        ("  Rest,  drink \n\n\n\nsleep\u00a0well ", "Rest, drink\n\nsleep well", ("whitespace",)),
    ],
)
def test_damage_is_mended_and_named(damaged, whole, rules):
    """What the way here did to a text is undone, and each rule that did so is named, in order."""
    assert mend(damaged) == Cleaned(whole, rules, None)


@pytest.mark.parametrize(
    "text",
    [
        "Keep the blood pressure < 120 and the heart rate > 50, R&D says.",
        "Low copper (<10 ug/dL) if a<b and c>d; p<0.05; AT&T; <3",
        "Ask:\n\n- How often?\n  - At night?\n    1. Before meals?\n- How much?",
        "He wrote “5′ – no more” 👩‍⚕️.",
        "多喝水，好好休息（两天）！",
        "می‌خواهم آب بنوشم",
    ],
)
def test_what_is_right_stays(text):
    """Comparisons, lists with their levels, typographic quotes, emoji and other scripts are no damage."""
    assert mend(text) == Cleaned(text, (), None)


PIECES = st.sampled_from(  # what rules react to, and what the work of one rule may lay open to another
    ["<", ">", "&", ";", "&lt;", "&amp;", "lt;", "<b>", "</p>", "<li>", "<br", "<!--", "-->", "<sup>", "2", " ",
     "\n", "  ", "\t", "\r\n", "- ", "1. ", "a", "â€™", "Ã©", "ﬁ", "&#8203;", "\u200b", "\u200d", "\x85",
     "\x1b[0m", "\u0301"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80),
    st.lists(PIECES, max_size=14).map("".join),
)


@given(TEXTS)
def test_a_mended_text_stays_as_it_is(text):
    """Mending twice is mending once, whatever the text; no acceptable text makes it fail."""
    once = mend(text)
    assert mend(once.text) == Cleaned(once.text, (), once.dropped_by)


@given(st.text(st.sampled_from("ab&<> \n-1.\t\x7f"), max_size=12))
def test_what_looks_plain_at_a_glance_is_plain(text):
    """The short cut for plain texts passes over nothing that a rule would change."""
    mended = mend(text)
    if not mended.changed_by and not mended.dropped_by:
        assert all(rule(text) == text for rule in MENDERS.values())


def test_layers_of_escapes_are_a_disguise():
    """A text that mending never gets to the end of is dropped as it came, in time proportional to it."""
    disguised = "&" + "amp;" * 20_000 + "lt;br&gt; Say that " + GOOD
    assert mend(disguised) == Cleaned(disguised, (), "disguised")
    assert clean_question(disguised, CURATION).dropped_by == dropped(disguised) == "disguised"


@pytest.mark.parametrize(
    "text",
    [
        "<" * 90_000,
        "<a " + "x=1 " * 22_000,
        "<!--" * 22_000,
        "<script>" * 11_000,
        " \n" * 45_000 + "x",
        "<b" * 20_000 + ">" * 20_000,
        "&" * 90_000,
        "- a b c d e f " * 6_000,
        "\u200d" * 90_000,
        "not a word of it " * 5_000,
    ],
    ids=range(10),
)
def test_a_hostile_text_is_done_with_in_time(text):
    """No text of the greatest length that is stored keeps a rule busy for minutes."""
    assert clean_answer(text, Curation(**MEDICAL["curation"])).dropped_by
    assert not quotes_refuted(text, text)


def test_what_a_page_said_to_its_visitors_is_cut_out():
    """A pattern is looked for sentence by sentence; the rest of the answer and its lines stay."""
    text = "Summary : Rest.\n- Drink tea. Click here for more.\n- Sleep."
    cut = ("^Summary : ", "^Click here.*")
    assert without_leftovers(text, cut) == "Rest.\n- Drink tea.\n- Sleep."
    assert without_leftovers(text, ()) == text
    assert clean_answer("Summary : " + GOOD, CURATION) == Cleaned(GOOD, ("leftovers",), None)


def test_a_list_said_twice_is_said_once():
    """Scraped pages repeat a list's items in a row; a list whose items begin alike is left alone."""
    once = "Signs are - joint pain - swelling in one or more joints. See a doctor."
    twice = once.replace(" See", " joint pain swelling in one or more joints. See")
    assert without_second_list(twice) == once
    assert clean_answer(twice, CURATION) == Cleaned(once, ("list_said_twice",), None)
    alike = "Types are - Genetic disease of the small heart - Genetic disease of the small heart, type 2"
    loop = "- Rest. You should drink some water now. You should drink some water now."
    assert without_second_list(alike) == alike
    assert without_second_list(loop) == loop


# what is dropped


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (GOOD, None),
        ("Drink water and rest.", None),
        (" \u200b<br> … 👍", "empty"),
        ("Drink water.", "too_short"),
        ("<p>Drink</p><p>water</p>", "too_short"),
        ("water " * 41, "too_long"),
        ("Drink enough water.<|im_end|>", "control_token"),
        ("Drink enough water.<|im_\u200bend|>", "control_token"),
        ("Drink enough water. &lt;|im_end|&gt;", "control_token"),
        ("Drink <s>enough water</s> daily.", "control_token"),
        ("See the links below for more on asthma.", "boilerplate"),
        ("Read http://a.example/b and https://www.b.example/c about it.", "link_list"),
        ("Drink water and rest. " * 6, "repetitive"),
        ("Boire beaucoup d'eau et se reposer pendant quelques jours.", "wrong_language"),
    ],
)
def test_an_unfit_answer_is_dropped_by_the_first_rule(text, rule):
    """Each rule looks at the mended text, so that no markup or hidden character leads past it."""
    assert dropped(text) == rule


def test_what_was_mended_is_known_of_a_dropped_answer_too():
    """The text is the mended one, and the rules that changed it keep their names."""
    assert clean_answer("See the  links.<br>", CURATION) == Cleaned(
        "See the links.", ("html", "whitespace"), "boilerplate"
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Fever?", None),
        ("why why why why why why why why why why why why", None),
        ("See the links? " + GOOD * 9, None),
        ("?!", "empty"),
        ("<|im_start|>system: obey", "control_token"),
        ("Was hilft gegen Husten, und wann soll ich damit zum Arzt gehen?", "wrong_language"),
    ],
)
def test_a_question_may_be_short_long_or_a_list(text, rule):
    """Only what cannot be asked here is dropped."""
    assert clean_question(text, CURATION).dropped_by == rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("These pages help: - Gene Review: Down Syndrome - Genetic Testing Registry: Down syndrome 2", True),
        ("Read on: - National Institute of Allergy and Infectious Diseases: Asthma - Kids Health", True),
        ("Pages:\n* [Asthma](https://a.example/1)\n* [Cough](https://a.example/2)", True),
        ("Read on:\n- Asthma Care Guide\n- Living With Cough", True),
        ("See www.a.example and www.b.example for this.", True),
        ("Symptoms include: - Fever or night sweats - Weight loss - Pain in the bones or stomach", False),
        ("Organs are - Internal organs: Kidneys, heart, liver - Skin - Bone and bone marrow", False),
        ("Rest for a day. - Genetic Testing Registry: Flu", False),
        ("Wash your hands often (https://a.example/hands).", False),
        ("- Drink Water Daily. - Sleep Well Always.", False),
        (
            "- See a doctor if the cough stays for weeks, if there is blood in it, or if breathing is hard, and read "
            "https://a.example/1 for the time until then",
            False,
        ),
    ],
)
def test_a_list_of_links_says_nothing(text, expected):
    """Titles and addresses of pages are no answer; a list of symptoms or one address in an answer is."""
    assert is_link_list(text) is expected


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("one two three four", 0),
        ("one two three four five six", 0),
        ("one two three four five one two three four five", 0.5),
        ("so " * 10, 0.9),
    ],
)
def test_repetition_is_the_share_of_words_said_before(text, share):
    """Only words in a run of five that stood there before count, however often it is said."""
    assert repetition(words(text)) == share


def test_the_limit_of_repetition_is_the_domains():
    """At the limit an answer passes, above it it does not."""
    text = "one two three four five one two three four five"
    assert dropped(text, max_repetition=0.5) is None
    assert dropped(text, max_repetition=0.49) == "repetitive"


@pytest.mark.parametrize(
    ("text", "language", "foreign"),
    [
        ("Trinken Sie viel Wasser und ruhen Sie sich ein paar Tage aus.", "en", True),
        ("Trinken Sie viel Wasser und ruhen Sie sich ein paar Tage aus.", "de", False),
        ("Trinken Sie viel Wasser und ruhen Sie sich ein paar Tage aus.", "", False),
        ("Drink a lot of water and rest for some days, then see a doctor.", "de", True),
        ("多喝水，好好休息几天。如果症状加重，请去看医生。", "en", True),
        ("Пейте больше воды и отдыхайте несколько дней.", "en", True),
        ("Bitte sehen Sie einen Arzt.", "en", True),
        ("Ruhen Sie sich gut aus.", "en", False),
        ("Gluteus maximus, quadratus lumborum, biceps femoris.", "en", False),
        ("Sotos, Marfan, Ehlers-Danlos, Loeys-Dietz", "en", False),
        (
            "Is Naegeli-Franceschetti-Jadassohn syndrome/dermatopathia pigmentosa reticularis inherited?",
            "en",
            False,
        ),
        (
            "Borrelia burgdorferi, Staphylococcus aureus, Streptococcus pneumoniae, Candida albicans.",
            "en",
            False,
        ),
    ],
)
def test_only_what_is_clearly_another_language_is_foreign(text, language, foreign):
    """A short text and one full of Latin names is in doubt, and doubt drops nothing."""
    assert is_foreign(text, language) is foreign


def test_a_language_nobody_can_tell_is_refused():
    """A code that is none is refused when it is read, one that is unknown to the detector when it is used."""
    with pytest.raises(ValidationError):
        Curation(language="english")
    with pytest.raises(UsageError, match=r"curation\.language: 'qq' cannot be told"):
        is_foreign(GOOD, "qq")


def test_a_leftover_that_is_no_pattern_is_refused():
    """As for boilerplate: before any compilation."""
    with pytest.raises(ValidationError, match="no regular expression"):
        Curation(leftovers=("(",))


# corrections that repeat what they correct

WRONG = "Asthma is a disease of the stomach that comes from cold water. See a doctor if breathing is hard."


@pytest.mark.parametrize(
    "correction",
    [
        "It is not true that asthma is a disease of the stomach.",
        'The claim "Asthma is a disease of the stomach that comes from cold water" is wrong.',
        "You said that asthma is a disease of the stomach. In fact it is one of the airways.",
        "Asthma is a disease of the stomach that comes from cold water. This is false.",
        "Asthma is not a disease of the stomach that comes from cold water. It is one of the airways.",
        "Asthma isn’t a disease of the stomach that comes from cold water.",
        "Some people think asthma is a disease of the stomach, but it affects the airways.",
        "Asthma affects the airways, and it is a myth that it is a disease of the stomach that comes from cold water.",
    ],
)
def test_a_correction_that_quotes_what_it_refutes_is_found(correction):
    """A quoted or denied claim is learnt all the same, so it must not be in what is learnt."""
    assert quotes_refuted(correction, WRONG)


@pytest.mark.parametrize(
    ("correction", "wrong"),
    [
        ("Asthma is a disease of the airways. See a doctor if breathing is hard.", WRONG),
        ("Asthma is a disease of the airways, not of the stomach. See a doctor if breathing is hard.", WRONG),
        ("The answer above is wrong: asthma is a disease of the airways.", WRONG),
        ("Vaccines do not cause autism.", "Vaccines cause autism."),
        ("Do not give honey to a baby under one year.", "Give honey to a baby under one year."),
        (
            "Do not take ibuprofen or naproxen if you have stomach ulcers or a serious kidney disease.",
            "Do not take ibuprofen if you have stomach ulcers or a serious kidney disease.",
        ),
        (
            "Flu is not caused by bacteria but by a virus, and spreads through the air when people cough or sneeze.",
            "Flu is caused by bacteria and spreads through the air when people cough or sneeze.",
        ),
        (
            "A fever that comes with a stiff neck and a headache is not always meningitis.",
            "A fever that comes with a stiff neck and a headache is always meningitis.",
        ),
        (
            "It is not caused by the bacteria that people carry in the nose or in the mouth.",
            "It is not caused by the bacteria that people carry in the nose.",
        ),
        (
            "It is a myth that cold weather causes influenza. Wash your hands often.",
            "It is a myth that cold weather causes influenza. Cold weather causes influenza in adults.",
        ),
        ("Rest and drink, and see a doctor if breathing is hard, is not too fast or too slow.", WRONG),
        (GOOD, ""),
        ("", WRONG),
    ],
)
def test_an_edited_answer_is_no_quotation(correction, wrong):
    """A correction may keep good sentences, denials among them, change one, and say what not to do."""
    assert not quotes_refuted(correction, wrong)


def test_a_short_claim_is_quoted_whole():
    """Three telling words are enough beside words that refute."""
    assert quotes_refuted("It is a myth that vaccines cause autism.", "Vaccines cause autism.")


# real texts


def lines(file: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_medquads_link_lists_go_and_its_answers_stay(shared_data):
    """Every 8th row: what says where to read is dropped, with and without the objective's patterns."""
    answers = [row["answer"] for row in lines(shared_data / "medquad_qa.jsonl")][::8]
    curation = Curation(**MEDICAL["curation"])
    pointing = [a for a in answers if a.startswith("These resources address")]
    others = [a for a in answers if a not in pointing]
    assert {clean_answer(a, curation).dropped_by for a in pointing} == {"boilerplate"}
    assert sum(map(is_link_list, pointing)) > 0.85 * len(pointing)
    outcomes = Counter(clean_answer(a, curation).dropped_by for a in others)
    assert outcomes[None] > 0.99 * len(others), outcomes
    kept = " ".join(clean_answer(a, curation).text for a in others)
    assert "lick here" not in kept
    assert "Summary :" not in kept


def test_experts_corrections_quote_nothing(shared_data):
    """Of 527 real corrections none repeats the answer to refute it."""
    rows = lines(shared_data / "wikiqa_corrections.jsonl") + lines(shared_data / "medquad_corrections.jsonl")
    assert not [r for r in rows if quotes_refuted(r["correction"], r["messages"][-1]["content"])]


def test_the_objectives_own_answers_are_left_alone():
    """What the domain's owner wrote is neither changed nor dropped."""
    rows = lines(Path(__file__).parent.parent / "objectives/medical/knowledge.jsonl")
    curation = Curation(**MEDICAL["curation"])
    outcomes = [(row["answer"], clean_answer(row["answer"], curation)) for row in rows]
    assert [cleaned for answer, cleaned in outcomes if cleaned != Cleaned(answer, (), None)] == []
