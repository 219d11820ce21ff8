r"""Names that are not UTF-8, as text that every table, page and terminal takes.

A file name is bytes. Python gives a byte that is not UTF-8 as a lone surrogate (``os.fsdecode``), which no UTF-8
file, Arrow table or terminal takes.
"""

import re

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair: no character."""

_LOOKS_ESCAPED = re.compile(r"\\x[0-9A-F]{2}|\\uD[89A-F][0-9A-F]{2}")


def escaped(name: str) -> str:
    r"""A name as UTF-8 text; two names never become one.

    A byte that is not UTF-8 becomes ``\xE9``, any other surrogate ``\uD800``, and in such a name each backslash
    ``\x5C``. Other names stay as they are, unless they look like one that was escaped.
    """
    if not SURROGATE.search(name) and not _LOOKS_ESCAPED.search(name):
        return name
    return visible(name.replace("\\", "\\x5C"))


def visible(text: str) -> str:
    r"""A message or a value in which surrogates are written as ``escaped`` does; everything else stays."""
    return SURROGATE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    is_byte = 0xDC80 <= code <= 0xDCFF  # as os.fsdecode makes them
    return f"\\x{code - 0xDC00:02X}" if is_byte else f"\\u{code:04X}"


def shortened(text: str, limit: int = 100) -> str:
    """The beginning of a text, at most ``limit`` characters, with an ellipsis where some are left out."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
