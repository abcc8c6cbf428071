"""What a text looks like on a page: Markdown, without raw HTML, images or diagrams.

The store keeps the exact text; only what a browser is shown goes through here. Gradio's own sanitising and
the page's content security policy stand behind it.
"""

import re

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_IMAGE = re.compile(r"!+(?=\[)")
_DIAGRAM = re.compile(r"^([ \t>]*(?:`{3,}|~{3,}))[ \t]*mermaid", re.IGNORECASE | re.MULTILINE)


def safe_markdown(text: str) -> str:
    """`text` with raw HTML escaped, images turned into links and diagrams into code."""
    return _DIAGRAM.sub(r"\1", _IMAGE.sub("", _TAG.sub("&lt;", text)))
