"""A report as plain blocks, rendered from one source to Markdown and to one HTML page that needs nothing else.

Every text is escaped on the way out: a record with a script tag, a table's pipe or a code fence stays text.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

_TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row, the others hold figures."""

    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    left: frozenset[int] = frozenset()
    """Columns of words, beside the first."""


@dataclass(frozen=True)
class Figure:
    """A picture. ``svg`` is an inline ``<svg>`` element in ``currentColor``, made by ``plots``."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Verbatim:
    """A text to the character: a prompt, a recipe."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    summary: str
    blocks: "list[Block]"


Block = str | Table | Figure | Verbatim | Details


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

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
    environment.filters["visible"] = _visible
    environment.filters["svg"] = Markup
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template("report.html").render(document=document)


def to_markdown(document: Document, plots_folder: str) -> str:
    """The same in Markdown; figures are links to ``plots_folder/NAME.svg``."""
    lines = [f"# {_escape(document.title)}", ""]
    for paragraph in document.answer:
        lines += [_escape(paragraph), ""]
    for section in document.sections:
        lines += [f"## {_escape(section.title)}", ""]
        for block in section.blocks:
            lines += [*_markdown_lines(block, plots_folder), ""]
    return "\n".join(lines)


def _markdown_lines(block: Block, plots_folder: str) -> list[str]:
    match block:
        case Table(header, rows, caption, left):
            alignment = ["---" if column in left | {0} else "---:" for column in range(len(header))]
            body = [[_escape(cell) for cell in row] for row in [header, *rows]]
            body.insert(1, alignment)
            table = ["| " + " | ".join(row) + " |" for row in body]
            return [_escape(caption), "", *table] if caption else table
        case Figure(name, _, caption):
            return [f"![{_escape(caption)}]({plots_folder}/{name}.svg)"]
        case Verbatim(text):
            longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return [f"{fence}text", _visible(text), fence]
        case Details(summary, blocks):
            inner = [line for inside in blocks for line in [*_markdown_lines(inside, plots_folder), ""]]
            return [f"<details><summary>{_escape(summary)}</summary>", "", *inner, "</details>"]
        case str():
            return [_escape(block)]


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    one_line = " ".join(_visible(text).split())
    escaped = re.sub(r"([\\`*\[\]<>|#~])", r"\\\1", one_line).replace("&", "&amp;")
    # Inside a word an underscore is no mark-up, and record_id stays readable.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)


def _visible(text: str) -> str:
    """Control characters that HTML forbids, and marks that turn the reading direction, made visible."""

    def name(match: re.Match[str]) -> str:
        return f"\\u{ord(match.group()):04x}"

    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]", name, text)
