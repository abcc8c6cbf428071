"""Leaflets ask by their headings, and MedQuAD's XML comes in as it is published."""

import json
from pathlib import Path

import pytest

from feedback.errors import RatchetError
from feedback.exchange.importers import examine
from feedback.exchange.leaflets import leaflet_pairs, medquad_pairs
from feedback.exchange.readers import files_in, read_rows

ASTHMA = """---
author: somebody
---
# Asthma

Asthma narrows the airways.

## Symptoms

- wheezing
- a tight chest

### At night

Coughing.

## Can children have asthma?

Yes, many do.

## Living with it:

Know your triggers.

```
# no heading
```
"""


def asked(text: str, name: str = "a leaflet") -> dict[str, str]:
    """Each question with its answer."""
    return {pair["question"]: pair["answer"] for pair in leaflet_pairs(text, name)}


def test_headings_ask_and_the_text_below_answers():
    """Known headings become a question, unknown ones are quoted, questions stay; lists stay lists."""
    assert asked(ASTHMA) == {
        "What should I know about Asthma?": "Asthma narrows the airways.",
        "What are the symptoms of Asthma?": "- wheezing\n- a tight chest\n\n### At night\n\nCoughing.",
        "Can children have asthma?": "Yes, many do.",
        "What should I know about Asthma: Living with it?": "Know your triggers.\n\n```\n# no heading\n```",
    }
    assert {pair["topic"] for pair in leaflet_pairs(ASTHMA, "file")} == {"Asthma"}


def test_a_text_without_headings_is_one_pair_by_its_name():
    """The file's name is the title then, and nothing of the text is lost."""
    assert asked("Rest and drink.\n\nSee a doctor.", "common cold") == {
        "What should I know about common cold?": "Rest and drink.\n\nSee a doctor."
    }
    assert leaflet_pairs(" \n", "empty") == []


def test_a_lower_heading_asks_only_when_it_is_a_question():
    """A FAQ under a heading is asked question by question, and the heading has no text of its own."""
    text = "# Flu\n## Questions\n### Is it a virus?\nYes.\n### Is it mild?\nSometimes.\n## Causes\nA virus."
    assert asked(text) == {
        "Is it a virus?": "Yes.",
        "Is it mild?": "Sometimes.",
        "What causes Flu?": "A virus.",
    }


def test_several_titles_are_sections_of_the_file():
    """Where every heading is a title none is, and the file gives the topic."""
    (first, second) = leaflet_pairs("# Causes\nA virus.\n# Treatment\nRest.", "flu")
    assert first == {"question": "What causes flu?", "answer": "A virus.", "topic": "flu"}
    assert second["question"] == "How is flu treated?"


def test_a_title_that_asks_is_the_question():
    """A leaflet may be one question with its answer."""
    assert asked("# What is a cold?\nAn infection.") == {"What is a cold?": "An infection."}


def test_underlined_headings_are_headings():
    """Plain text underlines its headings; Markdown knows that way too."""
    assert asked("Asthma\n======\n\nSymptoms\n--------\nWheezing.\n") == {
        "What are the symptoms of Asthma?": "Wheezing."
    }


DOCUMENT = b"""<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000003" source="MPlusHealthTopics" url="https://example.org/flu.html">
<Focus>Flu</Focus>
<FocusAnnotations><Category>Disease</Category></FocusAnnotations>
<QAPairs>
  <QAPair pid="1">
    <Question qid="0000003-1" qtype="information">What is (are) Flu ?</Question>
    <Answer>An infection &amp; more.   It spreads.</Answer>
  </QAPair>
  <QAPair pid="2"><Question qid="0000003-2" qtype="symptoms">Symptoms?</Question><Answer></Answer></QAPair>
</QAPairs>
</Document>
"""


def test_medquad_comes_in_as_it_is_published():
    """The focus is the topic; source, address, id and type of the question are kept."""
    first, second = medquad_pairs(DOCUMENT)
    assert first == {
        "question": "What is (are) Flu ?",
        "answer": "An infection & more.   It spreads.",
        "topic": "Flu",
        "source": "MPlusHealthTopics",
        "url": "https://example.org/flu.html",
        "id": "0000003-1",
        "qtype": "information",
    }
    assert second["answer"] == ""


@pytest.mark.parametrize(
    "content", [b"", b"<Document>", b"<a/>", b"\xff", b'<?xml version="1.0" encoding="x"?><a/>']
)
def test_what_is_no_document_says_so(content):
    """Broken XML and other documents are refused with a reason, not a traceback."""
    with pytest.raises(ValueError, match=r"not XML|no document of MedQuAD"):
        list(medquad_pairs(content))


def test_a_folder_of_leaflets_is_one_import(tmp_path: Path):
    """Texts in folders below count, named by their path; what is no text of its own is counted by its reason."""
    (tmp_path / "lungs").mkdir()
    (tmp_path / "lungs" / "asthma.md").write_text(ASTHMA)
    (tmp_path / "common_cold.txt").write_bytes(b"\xef\xbb\xbfRest.")
    (tmp_path / "README.md").write_text("# About this folder\n")
    (tmp_path / ".hidden.md").write_text("x")
    (tmp_path / "broken.md").write_bytes(b"\xff\xfe")
    (tmp_path / "empty.md").write_text("")
    assert files_in(tmp_path) == [tmp_path]
    rows = list(read_rows(tmp_path))
    assert [(r.place, r.value if isinstance(r.value, str) else r.value["source"]) for r in rows] == [
        ("broken.md", "not UTF-8"),
        ("common_cold.txt", "common_cold.txt"),
        ("empty.md", "a leaflet without text"),
        *[("lungs/asthma.md", "lungs/asthma.md")] * 4,
    ]
    assert rows[1].value["question"] == "What should I know about common cold?"
    assert [r.after for r in rows] == [(1, 1), (2, 2), (3, 3), None, None, None, (4, 4)]
    assert list(read_rows(tmp_path, (3, 3))) == rows[3:]
    form, total = examine(tmp_path, False, print)
    assert (form.name, total) == ("knowledge", 7)


def test_a_folder_of_xml_and_one_document_alone(tmp_path: Path):
    """MedQuAD may be given as its folders or as one of its files; a broken document is counted."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.xml").write_bytes(DOCUMENT)
    (tmp_path / "a" / "2.xml").write_bytes(b"<Document")
    assert [row.place for row in read_rows(tmp_path)] == ["a/1.xml", "a/1.xml", "a/2.xml"]
    assert examine(tmp_path, False, print)[0].name == "knowledge"
    alone = tmp_path / "a" / "1.xml"
    assert [row.place for row in read_rows(alone)] == ["pair 1", "pair 2"]
    assert [row.place for row in read_rows(alone, (1, 1))] == ["pair 2"]


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path):
    """One line says what would be read."""
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(RatchetError, match="holds nothing to import"):
        files_in(tmp_path)


def test_data_files_are_taken_each_for_itself(tmp_path: Path):
    """In a folder of data files, its card and what describes it are no leaflets and no rows."""
    for name in ("README.md", "dataset_info.json", "state.json", "data/train.jsonl", "data/validation.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"question": "a", "answer": "b"}))
    assert files_in(tmp_path) == [tmp_path / "data/train.jsonl", tmp_path / "data/validation.jsonl"]
