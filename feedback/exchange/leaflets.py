"""Texts about a topic into questions with answers: folders of Markdown or plain text, and MedQuAD's XML.

A leaflet's headings ask, the text below answers. MedQuAD's shape is that of abachaa/MedQuAD, for example
`4_MPlus_Health_Topics_QA/0000003.xml`: Document (source, url), Focus, QAPair, Question (qid, qtype), Answer.
"""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from feedback.text import normalised

Pair = dict[str, str]

# What a heading of one or two words asks about the title. Other headings are quoted, not guessed at.
_ASKED = {
    "about": "What is {title}?",
    "overview": "What is {title}?",
    "what it is": "What is {title}?",
    "definition": "What is {title}?",
    "symptoms": "What are the symptoms of {title}?",
    "signs and symptoms": "What are the signs and symptoms of {title}?",
    "causes": "What causes {title}?",
    "risk factors": "What are the risk factors for {title}?",
    "diagnosis": "How is {title} diagnosed?",
    "treatment": "How is {title} treated?",
    "treatments": "How is {title} treated?",
    "prevention": "How can {title} be prevented?",
    "complications": "What are the complications of {title}?",
    "outlook": "What is the outlook for {title}?",
    "prognosis": "What is the outlook for {title}?",
    "when to see a doctor": "When should I see a doctor about {title}?",
    "when to get help": "When should I get help for {title}?",
}
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?^(?:---|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)


def leaflet_pairs(text: str, name: str) -> list[Pair]:
    """The questions and answers of one leaflet; `name` is its title where it has no heading of its own.

    A heading begins a pair when it stands as high as the highest below the title, or is a question; lower
    ones stay in the answer above them, and so do lists, as they are written.
    """
    text = _FRONT_MATTER.sub("", text, count=1)
    headings = _headings(text)
    title = headings[0][1] if headings and [level for level, *_ in headings].count(1) == 1 else None
    title = title if title and headings[0][0] == 1 else None
    sections = headings[1:] if title else headings
    highest = min((level for level, *_ in sections), default=0)
    asking = [h for h in sections if h[0] == highest or h[1].endswith("?")]
    lines = text.splitlines()
    topic = title or name
    begin = headings[0][3] if title else 0
    pairs = []
    for heading, start, (_, _, end, _) in zip(
        [None, *(h[1] for h in asking)],
        [begin, *(h[3] for h in asking)],
        [*asking, (0, "", len(lines), 0)],
        strict=True,
    ):
        if answer := "\n".join(lines[start:end]).strip():
            pairs.append({"question": _question(heading, topic), "answer": answer, "topic": topic})
    return pairs


def _headings(text: str) -> list[tuple[int, str, int, int]]:
    """Each heading outside of quotes and lists: level, text, its first line and the line after it."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().parse(text)
    return [
        (int(token.tag[1:]), tokens[i + 1].content.strip().rstrip("#").strip(), *token.map)
        for i, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0 and tokens[i + 1].content.strip()
    ]


def _question(heading: str | None, title: str) -> str:
    if heading is None:
        return title if title.endswith("?") else f"What should I know about {title}?"
    if heading.endswith("?"):
        return heading
    asked = _ASKED.get(normalised(heading)) or "What should I know about {title}: {heading}?"
    return asked.format(title=title, heading=heading.rstrip(".:! "))


def medquad_pairs(document: bytes) -> Iterator[Pair]:
    """The questions and answers of one MedQuAD document; ValueError when it is none."""
    try:
        root = ElementTree.fromstring(document)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"not XML: {error}") from None
    if root.tag != "Document" or root.find("QAPairs") is None:
        raise ValueError("no document of MedQuAD: a Document with QAPairs")
    about = {"topic": root.findtext("Focus"), "source": root.get("source"), "url": root.get("url")}
    for pair in root.iterfind("QAPairs/QAPair"):
        question = pair.find("Question")
        yield {
            "question": (pair.findtext("Question") or "").strip(),
            "answer": (pair.findtext("Answer") or "").strip(),
            **{name: value.strip() for name, value in about.items() if value},
            **(
                {}
                if question is None
                else {"id": question.get("qid", ""), "qtype": question.get("qtype", "")}
            ),
        }
