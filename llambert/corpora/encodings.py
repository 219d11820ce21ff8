"""Which bytes of a file are which characters: byte-order marks, the recipe's encoding, and guesses for an error."""

import codecs
import re
from collections.abc import Callable, Iterable

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ESCAPE = "llambert-escape"
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_MAX_SAMPLE_CHARS = 2000
_MIN_SCORE = 0.6
_MAX_ZERO_SHARE = 0.2
_MAX_PLANE = 0x10
_MIN_NARROW_BYTES = 32  # from this many valid UTF-8 bytes without a zero on, it is not UTF-16
_MIN_UTF8_EXCESS = 8  # bytes more than characters
_ESCAPE_SEQUENCES = {b"\x1b$B": "iso2022_jp", b"\x1b$@": "iso2022_jp", b"\x1b$)C": "iso2022_kr"}

# ``surrogateescape`` handles only single bytes from 0x80 on; a faulty code unit of UTF-16 is longer.
codecs.register_error(_ESCAPE, lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


def codec_of(start: bytes, encoding: str | None) -> tuple[str, int]:
    """The codec of a text that begins with ``start``, and the length of its byte-order mark.

    A mark says more than the recipe's ``encoding`` (null: UTF-8), as in a browser. UTF-16 and UTF-32 without a mark
    are of the byte order in which the zeros of ASCII characters lie.
    """
    for mark, codec in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return codec, len(mark)
    codec = codecs.lookup(encoding or "utf-8").name
    if codec == "utf-8-sig":
        return "utf-8", 0
    if codec in ("utf-16", "utf-32"):
        return f"{codec}-{_byte_order(start)}", 0
    mark = "\ufeff".encode(codec, errors="ignore")
    return codec, len(mark) if mark and start.startswith(mark) else 0


def is_wide(codec: str) -> bool:
    """Whether zero bytes are usual in it."""
    return codec.startswith(("utf-16", "utf-32"))


def _byte_order(start: bytes) -> str:
    return "be" if start[0::2].count(0) > start[1::2].count(0) else "le"


def other_encoding(start: bytes, codec: str) -> str | None:
    """The encoding that a text without a byte-order mark has, where its start says that it is not ``codec``.

    Zeros between the bytes are UTF-16 or UTF-32, the escape sequences of ISO 2022 are that. What is not UTF-8 is
    hardly ever valid UTF-8 as well, beyond a few characters.
    """
    if escape := next((name for sequence, name in _ESCAPE_SEQUENCES.items() if sequence in start), None):
        return None if codec.startswith("iso2022") else escape
    if start.count(0) > _MAX_ZERO_SHARE * len(start):
        wide = _wide(start)
        return None if wide == codec else wide
    if codec == "utf-8":
        return None
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    if not is_wide(codec):
        return "utf-8" if len(start) - len(text) >= _MIN_UTF8_EXCESS else None
    # The upper bytes of some scripts in UTF-16 are control characters.
    num_controls = sum(character < " " for character in text)
    return "utf-8" if len(start) >= _MIN_NARROW_BYTES and 4 * num_controls < len(text) else None


def _wide(start: bytes) -> str:
    """UTF-16 or UTF-32, recognized by the zeros: no code point is above U+10FFFF."""
    if start[3::4].count(0) == len(start) // 4 and max(start[2::4], default=0) <= _MAX_PLANE:
        return "utf-32-le"
    if start[0::4].count(0) == -(-len(start) // 4) and max(start[1::4], default=0) <= _MAX_PLANE:
        return "utf-32-be"
    return f"utf-16-{_byte_order(start)}"


def error_handler(codec: str) -> str:
    """What makes lone surrogates from U+DC80 to U+DCFF of the bytes that are no characters of ``codec``."""
    return "surrogateescape" if codec == "utf-8" else _ESCAPE


def decode(content: bytes, encoding: str | None) -> str:
    """A whole text; the bytes that are no characters as lone surrogates."""
    codec, num_mark = codec_of(content[:4096], encoding)
    return content[num_mark:].decode(codec, errors=error_handler(codec))


def is_undecodable(text: str) -> bool:
    """Whether bytes of a text that was read here were no characters."""
    return not text.isascii() and _UNDECODABLE.search(text) is not None


def likely_encodings(sample: bytes) -> list[str]:
    """At most three encodings that make sense of text that is not UTF-8, the likeliest first.

    ``sample``: lines of it, or the beginning of a file where it holds zeros. An encoding is judged by how many of the
    characters beyond ASCII are usual ones of the languages it was made for.
    """
    if b"\0" in sample:
        return [_wide(sample)]
    scores: dict[str, float] = {}
    for name, score in _CANDIDATES.items():
        scores[name] = score(sample.decode(name, errors="replace")[:_MAX_SAMPLE_CHARS])
    found = sorted((name for name in scores if scores[name] >= _MIN_SCORE), key=lambda name: -scores[name])
    return found[:3]


def _mean_weight(text: str, weight: Callable[[str, str, str], float]) -> float:
    """Mean weight of the characters beyond ASCII, each given with the one before and the one after it."""
    weights = [weight(*three) for three in _triples(text) if not three[1].isascii()]
    return sum(weights) / len(weights) if weights else 0.0


def _triples(text: str) -> Iterable[tuple[str, str, str]]:
    return zip(" " + text, text, text[1:] + " ", strict=False)


def _is_in(character: str, charset: str, first: int, last: int) -> bool:
    """Whether the first byte of a character in a double-byte character set is in a range: that of its common ones."""
    try:
        encoded = character.encode(charset)
    except UnicodeEncodeError:
        return False
    return len(encoded) == 2 and first <= encoded[0] <= last


def _east_asian(charset: str, first: int, last: int) -> Callable[[str], float]:
    """Judge by the common ideographs or syllables of a character set."""

    def weight(_before: str, character: str, _after: str) -> float:
        if _is_in(character, charset, first, last):
            return 1.0
        return 0.8 if "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uff60" else 0.0

    return lambda text: _mean_weight(text, weight)


def _korean(text: str) -> float:
    """Words of common syllables, with spaces between them; without, it is as likely to be Chinese."""
    has_words = any(before > "\x7f" and after > "\x7f" for before, space, after in _triples(text) if space == " ")
    return _east_asian("euc_kr", 0xB0, 0xC8)(text) * (1.0 if has_words else 0.95)


def _japanese(text: str) -> float:
    """Hardly a Japanese sentence is without hiragana; single-byte katakana are what other encodings look like."""
    others = [character for character in text if not character.isascii()]
    num_hiragana = sum("\u3040" <= character <= "\u309f" for character in others)
    usual = sum("\u3000" <= c <= "\u30ff" or _is_in(c, "euc_jp", 0xB0, 0xCF) for c in others)
    return usual / len(others) if others and num_hiragana > 0.1 * len(others) else 0.0


def _alphabet(first: str, last: str) -> Callable[[str], float]:
    """Judge by the letters of a script: no ASCII letter is next to one, and few are in upper case."""

    def weight(before: str, character: str, after: str) -> float:
        beside_ascii = any(other.isascii() and other.isalpha() for other in (before, after))
        if not first <= character <= last or beside_ascii or (character.isupper() and before.islower()):
            return 0.0
        return 0.5 if character.isupper() and before.isupper() else 0.98

    return lambda text: _mean_weight(text, weight)


def _latin(text: str) -> float:
    """Letters with accents are next to letters without."""

    def weight(before: str, character: str, after: str) -> float:
        is_usual = character.isalpha() and not (character.isupper() and before.islower())
        if not is_usual and character not in "“”‘’„–—…€£«»°":
            return 0.0
        return 0.9 if any(other.isascii() and other.isalnum() for other in (before, after)) else 0.5

    return _mean_weight(text, weight)


# In the order in which equals are named: Korean is all common Chinese to a decoder, but not the other way round.
_CANDIDATES: dict[str, Callable[[str], float]] = {
    "cp949": _korean,
    "gb18030": _east_asian("gb2312", 0xB0, 0xD7),
    "big5": _east_asian("big5", 0xA4, 0xC6),
    "shift_jis": _japanese,
    "euc_jp": _japanese,
    "cp1251": _alphabet("Ѐ", "ӿ"),
    "koi8_r": _alphabet("Ѐ", "ӿ"),
    "cp1253": _alphabet("Ά", "ώ"),
    "cp1255": _alphabet("ְ", "ת"),
    "cp1256": _alphabet("،", "ے"),
    "cp874": _alphabet("ก", "๛"),
    "cp1252": _latin,
    "cp1250": _latin,
}
