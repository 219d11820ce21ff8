"""Markdown in which every text stays text: a category named ``$x_1$`` or ``a | b`` is shown as it is written."""

import re
from collections.abc import Sequence

_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufffe"
    r"\uffff\U000e0000-\U000e007f]"
)
# A line's beginning that starts a list, a rule, a heading or YAML; what GitHub makes a link of by itself.
_BLOCK_START = re.compile(r"^(\d{0,9})([.)](?=\s|$)|[-+](?=[-\s]|$)|=+$)")
_AUTOLINK = re.compile(r"(?i)\b(?:(https?|ftp|mailto):|(www)\.)")
_MAX_CHARS = 10_000


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset()) -> list[str]:
    """The lines of a table; the first column and those of ``left`` hold words, the others figures."""
    alignment = ["---" if column in left | {0} else "---:" for column in range(len(header))]
    body = [[escape(cell) for cell in row] for row in [header, *rows]]
    body.insert(1, alignment)
    return ["| " + " | ".join(row) + " |" for row in body]


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    one_line = " ".join(visible_characters(text).split())
    if len(one_line) > _MAX_CHARS:
        one_line = f"{one_line[: _MAX_CHARS - 1]}…"
    escaped = re.sub(r"([\\`*\[\]<>|#~$])", r"\\\1", one_line).replace("&", "&amp;")
    escaped = _BLOCK_START.sub(r"\1\\\2", escaped)
    escaped = _AUTOLINK.sub(lambda start: f"{start[1]}&#58;" if start[1] else f"{start[2]}&#46;", escaped)
    # Inside a word an underscore is no mark-up, and record_id stays readable.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)


def visible_characters(text: str) -> str:
    """Control characters that HTML forbids, and marks that turn the reading direction, made visible."""

    def name(match: re.Match[str]) -> str:
        return f"\\u{ord(match.group()):04x}"

    return _INVISIBLE.sub(name, text)
