"""Pages, docs and notebooks: no long sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
MOST_WORDS = 40
BUILT = {"_build", "generated", "tutorials"}
WRITTEN = [
    page
    for pattern in ("*.md", "docs/**/*.md", "notebooks/*.ipynb")
    for page in sorted(ROOT.glob(pattern))
    if not BUILT & set(page.relative_to(ROOT).parts)
]
# Of directives, only the text between them is read.
DIRECTIVE = re.compile(
    r"^ *(:::.*|:[\w-]+:.*|```\{(note|tip|warning)\}|\([\w-]+\)=)$", re.MULTILINE
)
END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[^a-z]|skgate)")


def markdown(page):
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return DIRECTIVE.sub("", text)


def sentences(text):
    """Without code blocks, tables and the targets of links; code in a line is one word."""
    in_table = False
    for token in MarkdownIt().enable("table").parse(text):
        if token.type in ("table_open", "table_close"):
            in_table = token.type == "table_open"
        elif token.type == "inline" and not in_table:
            paragraph = "".join(
                {"text": one.content, "code_inline": "Code", "softbreak": " "}.get(one.type, "")
                for one in token.children
            )
            captions = [one.content for one in token.children if one.type == "image"]
            for prose in [paragraph, *captions]:
                yield from END.split(prose)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("One two. Three (four five). `a b` does [six](seven.md).", [2, 3, 3]),
        ("One\ntwo, e.g. three.\n\n- Four.\n\n```\nfive six\n```\n", [4, 1]),
        ("| one | two |\n| --- | --- |\n| three | four |\n\n![Five six.](seven.png)", [0, 2]),
        (":::{grid}\n:gutter: 2\nOne two.\n:::\n", [2]),
    ],
)
def test_sentences_are_found(text, words):
    assert [len(one.split()) for one in sentences(DIRECTIVE.sub("", text))] == words


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_sentence_is_long(page):
    assert [one for one in sentences(markdown(page)) if len(one.split()) > MOST_WORDS] == []
