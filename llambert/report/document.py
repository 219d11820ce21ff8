"""A report as plain blocks, rendered from one source to Markdown and to one HTML page that needs nothing else.

Every text is escaped on the way out: a record with a script tag, a table's pipe or a code fence stays text.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from llambert import markdown
from llambert.markdown import escape, visible_characters

_TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row, the others hold figures."""

    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    left: frozenset[int] = frozenset()
    """Columns of words, in addition to the first."""


@dataclass(frozen=True)
class Figure:
    """A picture. ``svg`` is an inline ``<svg>`` element in ``currentColor``, made by ``plots``."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Verbatim:
    """A text shown unchanged: a prompt, a recipe."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that are collapsed by default."""

    summary: str
    blocks: "list[Block]"


Block = str | Table | Figure | Verbatim | Details


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A report: the answer in plain words, then the evidence."""

    title: str
    answer: list[str]
    sections: list[Section]

    def figures(self) -> list[Figure]:
        """Every figure, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


def to_html(document: Document) -> str:
    """One self-contained page: style and pictures inline, no script, no request to anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible_characters
    environment.filters["svg"] = Markup
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template("report.html").render(document=document)


def to_markdown(document: Document, plots_folder: str) -> str:
    """The same in Markdown; figures are links to ``plots_folder/NAME.svg``."""
    lines = [f"# {escape(document.title)}", ""]
    for paragraph in document.answer:
        lines += [escape(paragraph), ""]
    for section in document.sections:
        lines += [f"## {escape(section.title)}", ""]
        for block in section.blocks:
            lines += [*_markdown_lines(block, plots_folder), ""]
    return "\n".join(lines)


def _markdown_lines(block: Block, plots_folder: str) -> list[str]:
    match block:
        case Table(header, rows, caption, left):
            lines = markdown.table(header, rows, left)
            return [escape(caption), "", *lines] if caption else lines
        case Figure(name, _, caption):
            return [f"![{escape(caption)}]({plots_folder}/{name}.svg)"]
        case Verbatim(text):
            longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return [f"{fence}text", visible_characters(text), fence]
        case Details(summary, blocks):
            inner = [line for inside in blocks for line in [*_markdown_lines(inside, plots_folder), ""]]
            return [f"<details><summary>{escape(summary)}</summary>", "", *inner, "</details>"]
        case str():
            return [escape(block)]
