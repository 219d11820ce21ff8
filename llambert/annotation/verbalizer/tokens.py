"""A response as tokens: words with their roles, answer phrases as one token each, numbers, and breaks."""

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import NamedTuple

from llambert.annotation.verbalizer.lexicon import PHRASES, Role, is_function_word, role_of
from llambert.annotation.verbalizer.ratings import strip_non_ratings
from llambert.annotation.verbalizer.typos import is_typo
from llambert.errors import InputError

_MIN_LETTERS_MISSPELLED = 6  # of an answer word that is misspelt inside a longer response
_MIN_LETTERS_TRUNCATED = 3
_MAX_CACHED_TOKENS = 16_384


class Token(NamedTuple):
    """A word, phrase, number or break.

    ``category``: the one it mentions. ``is_typo``: by a misspelling.
    """

    word: str
    role: Role
    category: str | None = None
    is_typo: bool = False

    @property
    def number(self) -> float | None:
        """The value of a number, without what it is out of."""
        digits = _DIGITS.match(self.word)
        text = digits[0].replace(",", ".") if digits else ""
        return float(text) if _is_decimal(text) else None

    @property
    def share(self) -> float | None:
        """Of a number that is a share of something ("12 %", "2/10", "0.3"), that share."""
        number, exact_category = self.number, _WHOLE.search(self.word)
        if number is None:
            return None
        if self.word.endswith("%"):
            return number / 100
        if exact_category:
            return number / float(exact_category[1]) if float(exact_category[1]) else None
        return number if 0 <= number <= 1 and ("." in self.word or "," in self.word) else None


_DIGITS = re.compile(r"[+-]?\d+(?:[.,]\d+)*")
_PLAIN = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:[.,]\d+)?")  # "01" is no name of a category
_WHOLE = re.compile(r"(?:/|\bout\s+of)\s*(\d+)$")


_NUMBER = r"\d+(?:[.,]\d+)*(?:\s?%|\s?/\s?\d+(?![\d/])|\s+out\s+of\s+\d+)?(?![^\W_])"
_SIGNED = rf"(?:(?<![^\s(\[{{:=]))[+-]{_NUMBER}|{_NUMBER}"
_BOX = r"\[\s?\]|\[[xX✓✔]\]|[✓✔✅☑✗✘❌☐✖]"
_BREAK = r"[,?!;:()\[\]{}\n|<>=→。।–—−、،؟]|\.(?!\w)|(?<=\s)-+>?(?=\s)"
_CJK = "぀-ヿ㐀-䶿一-鿿豈-﫿"  # scripts without blanks: a character is a word
_TYPOGRAPHY = str.maketrans(
    {"’": "'", "‘": "'", "`": "'", "´": "'", "…": ".", "‐": "-", "‑": "-", "‒": "–", "―": "—", "﹣": "-", "－": "-",
     "﹘": "–", "⁃": "-", "＆": "&"}
    | dict.fromkeys("\u200b\ufeff\u00ad\u2060\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufe0f")
)  # fmt: skip
_NUMBERED = re.compile(r"\bno\.\s*(?=\d)")  # "No. 2 in the list" says no "no"
_PREFIX = re.compile(r"\b(un|in|im|ir|il|dis)-(?=[^\W\d_])")  # "in-formal" is "informal"
_BREAKS = {
    **dict.fromkeys(",،、", ","),
    **dict.fromkeys("?؟", "?"),
    **dict.fromkeys(":=→", ":"),
    "|": "|",
    **dict.fromkeys("()[]{}<>", "("),
    **dict.fromkeys("–—−-", "-"),
    **dict.fromkeys(".!;。।", "."),
    "\n": "\n",
}
_IN_PHRASES = frozenset("–—−-\n")  # any dash is a hyphen, and a line may be wrapped
_CONJUNCTIONS = frozenset({",", "and", "or"})
_TICKED = frozenset("✓✔✅☑")
_BOXES = _TICKED | frozenset("[✗✘❌☐✖")  # "[" alone is a break, met before


def normalise(text: str) -> str:
    """The text as it is compared: compatibility forms, typographic signs and case folded, ``&`` as "and"."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY)).casefold().replace("i\u0307", "i")
    else:
        text = text.lower()
    if "&" in text:
        text = text.replace("&amp;", "&").replace("&", " and ")
    if "-" in text:
        text = _PREFIX.sub(r"\1", text.replace("-\n", "-"))  # a word that was divided
    return text.replace("`", "'")


@cache
def _pattern(is_ascii: bool, has_signs: bool) -> re.Pattern[str]:
    """Words, numbers and breaks. ``has_signs``: a plus or hash after a word belongs to it: "C++", "C#".

    Combining marks belong to the letter before them, which ``\\w`` does not know.
    """
    sign = r"(?:\+\+?|#)?" if has_signs else ""
    if is_ascii:
        word = rf"[a-z][a-z0-9]*(?:'[a-z0-9]+)*{sign}"
        return re.compile(rf"{word}|{_SIGNED}|[0-9]\w*|{_BOX}|{_BREAK}", re.ASCII)
    marks = "".join(sign for sign in map(chr, range(0x300, 0x1F000)) if unicodedata.category(sign).startswith("M"))
    letter = rf"(?:[^\W_{_CJK}]|[{marks}\u200c\u200d])"
    return re.compile(rf"{_BOX}|{_SIGNED}|[{_CJK}][{marks}]*|{letter}+(?:'{letter}+)*{sign}|{_BREAK}")


def _function_phrases() -> dict[tuple[str, ...], list[tuple[list[str], Token]]]:
    """The lexicon's phrases by their first two words, the longest first."""
    found: dict[tuple[str, ...], list[tuple[list[str], Token]]] = defaultdict(list)
    for phrase in sorted(PHRASES, key=len, reverse=True):
        found[phrase[:2]].append((list(phrase), Token(" ".join(phrase), PHRASES[phrase])))
    return dict(found)


_FUNCTION_PHRASES = _function_phrases()
_FUNCTION_PAIRS = frozenset(_FUNCTION_PHRASES)


class Tokenizer:
    """Splits responses for one task's answer words; ``InputError`` where two categories cannot be distinguished."""

    def __init__(self, answer_words: Mapping[str, Sequence[str]]) -> None:
        self._phrases: dict[tuple[str, ...], str] = {}
        has_signs = any(re.search(r"[^\W\d_][+#]", word) for words in answer_words.values() for word in words)
        self._find_ascii, self._find = _pattern(True, has_signs).findall, _pattern(False, has_signs).findall
        self._in_phrases = set(_IN_PHRASES)
        for category, words in answer_words.items():
            for word in words:
                phrase = self._phrase_of(word)
                if not phrase:
                    raise InputError(f"category {category!r}: answer word {word!r} has neither letter nor digit")
                if self._phrases.setdefault(phrase, category) != category:
                    raise InputError(
                        f"answer word {word!r} of {category!r} reads like one of {self._phrases[phrase]!r}"
                    )
        self._knows_no = ("no",) in self._phrases
        self._longest = max(map(len, self._phrases))
        self._numbers = {float(p[0]): owner for p, owner in self._phrases.items() if len(p) == 1 and _is_decimal(p[0])}
        self._starting: dict[str, list[tuple[tuple[str, ...], Token]]] = defaultdict(list)
        own = {phrase: Token(" ".join(phrase), _phrase_role(phrase), owner) for phrase, owner in self._phrases.items()}
        for phrase in sorted(own, key=len, reverse=True):
            if len(phrase) > 1:
                self._starting[phrase[0]].append((phrase, own[phrase]))
        self._starters = frozenset({*self._starting, *(first for first, _ in _FUNCTION_PHRASES)})
        self._tokens: dict[str, Token] = {phrase[0]: token for phrase, token in own.items() if len(phrase) == 1}
        self._tokens |= {sign: Token(kind, "break") for sign, kind in _BREAKS.items()}
        self._num_fixed = len(self._tokens)
        self._coordinates = {
            (word,): frozenset(phrase) - {word, "and", "or"}
            for phrase in self._phrases
            if not {"and", "or"}.isdisjoint(phrase[1:-1]) and not all((w,) in self._phrases for w in phrase[::2])
            for word in phrase
            if (word,) in self._phrases
        }

    def _phrase_of(self, answer_word: str) -> tuple[str, ...]:
        pieces = self._pieces(normalise(answer_word).strip())
        self._in_phrases |= {piece for piece in pieces if piece in _BREAKS}
        return tuple(piece for piece in pieces if piece not in _BREAKS)

    def _pieces(self, text: str) -> list[str]:
        return (self._find_ascii if text.isascii() else self._find)(text)

    def tokens(self, text: str, is_cut_off: bool) -> list[Token]:
        """Words, phrases, numbers and breaks of a normalised text, in order."""
        if self._numbers:
            text = strip_non_ratings(text, max(self._numbers))
        if self._knows_no and "no." in text:
            text = _NUMBERED.sub("number ", text)
        pieces = self._pieces(text)
        known = self._tokens
        if len(pieces) <= 2 * self._longest and (token := self._misspelled_response(pieces)):
            return [token]
        # Nothing but white space, quotes or emphasis may follow a word that was broken off.
        if pieces and (is_cut_off or len(pieces) <= self._longest) and (found := self._truncated_phrase(pieces)):
            size, token = found
            return [*self._join_phrases(pieces[:-size]), token]
        if self._starting.keys().isdisjoint(pieces) and _FUNCTION_PAIRS.isdisjoint(itertools.pairwise(pieces)):
            return [known.get(piece) or self._new_token(piece) for piece in pieces]
        tokens = self._join_phrases(pieces)
        return self._without_partial_phrases(tokens) if self._coordinates else tokens

    def _without_partial_phrases(self, tokens: list[Token]) -> list[Token]:
        """Half of "science and technology" is not "science" where the other half is there too, in any order."""
        words = {token.word for token in tokens}
        return [
            Token(token.word, "other") if words >= self._coordinates.get((token.word,), {""}) else token
            for token in tokens
        ]

    def exact_category(self, text: str) -> str | None:
        """The category of a text that is nothing but an answer word, as written or as a number like ``1.0``."""
        pieces = [piece for piece in self._pieces(normalise(text).strip()) if piece not in _BREAKS]
        if category := self._phrases.get(tuple(pieces)):
            return category
        return self._number_token(pieces[0]).category if len(pieces) == 1 and pieces[0][0].isdigit() else None

    def _join_phrases(self, pieces: list[str]) -> list[Token]:
        """The tokens of pieces some of which may be phrases."""
        tokens = []
        at, end = 0, len(pieces)
        while at < end:
            piece = pieces[at]
            if piece in self._starters and (found := self._phrase_at(pieces, at)):
                at, token = found
            else:
                at, token = at + 1, self._tokens.get(piece) or self._new_token(piece)
            tokens.append(token)
        return tokens

    def _phrase_at(self, pieces: list[str], at: int) -> tuple[int, Token] | None:
        """The longest phrase that begins here: where it ends, and its token."""
        answers = self._starting.get(pieces[at], ())
        for phrase, token in answers:
            if end := _phrase_end(phrase, pieces, at, self._in_phrases):
                return end, token
        if answers and (found := self._phrase_with_other_conjunctions(pieces, at)):
            return found
        for words, token in _FUNCTION_PHRASES.get((pieces[at], *pieces[at + 1 : at + 2]), ()):
            if pieces[at : at + len(words)] == words:
                return at + len(words), token
        return None

    def _phrase_with_other_conjunctions(self, pieces: list[str], at: int) -> tuple[int, Token] | None:
        """A longer answer phrase of which only the joints are written otherwise: "science, technology"."""
        for phrase, token in self._starting[pieces[at]]:
            words = [word for word in phrase if word not in ("and", "or")]
            if len(words) == len(phrase) or all((word,) in self._phrases for word in words):
                continue
            if end := _phrase_end(tuple(words), pieces, at, self._in_phrases | _CONJUNCTIONS):
                return end, token
        return None

    def _new_token(self, piece: str) -> Token:
        first = piece[0]
        if first.isdigit() or (first in "+-" and piece[1:2].isdigit()):
            return self._number_token(piece)
        if first in _BOXES:
            is_ticked = first in _TICKED or (first == "[" and piece.strip("[] ") != "")
            token = Token("✅", "agreement") if is_ticked else Token("❌", "negation")
        elif kind := _BREAKS.get(first):
            token = Token(kind, "break")
        else:
            category = self._misspelled_category(piece, _MIN_LETTERS_MISSPELLED)
            token = Token(piece, role_of(piece), category, is_typo=category is not None)
        if len(self._tokens) > _MAX_CACHED_TOKENS + self._num_fixed:
            for key in list(self._tokens)[self._num_fixed :]:
                del self._tokens[key]
        self._tokens[piece] = token
        return token

    # Numbers

    def _number_token(self, piece: str) -> Token:
        """A number, and the category that it is the name of: "4", "4.0"."""
        number = Token(piece, "number")
        if not self._numbers:
            return number
        is_name = (piece[0] not in "+-" or (piece,) in self._phrases) and _PLAIN.fullmatch(piece)
        if not is_name or number.number is None:
            return number
        return number._replace(category=self._numbers.get(number.number))

    # Misspellings

    def _misspelled_response(self, pieces: list[str]) -> Token | None:
        """A response that is one misspelt answer and nothing else."""
        spoken = tuple(piece for piece in pieces if piece not in _BREAKS)
        if not spoken or len(spoken) > self._longest or spoken in self._phrases:
            return None
        category = self._misspelled_category(" ".join(spoken), 2)
        return Token(" ".join(spoken), "other", category) if category else None

    def _truncated_phrase(self, pieces: list[str]) -> tuple[int, Token] | None:
        """The only category with a phrase that the last pieces begin, the last of them broken off: their number."""
        for size in range(min(self._longest - 1, len(pieces)), 1, -1):  # "science and"
            beginning = tuple(pieces[-size:])
            if category := self._unique_category(p for p in self._phrases if len(p) > size and p[:size] == beginning):
                return size, Token(" ".join(beginning), "other", category)
        last = pieces[-1]
        is_word = len(last) >= _MIN_LETTERS_TRUNCATED and last[0].isalpha() and not is_function_word(last)
        if not is_word or (last,) in self._phrases:
            return None
        for size in range(min(self._longest, len(pieces)), 0, -1):
            words = tuple(pieces[-size:])
            category = self._unique_category(
                phrase
                for phrase in self._phrases
                if len(phrase) == size and phrase[:-1] == words[:-1] and phrase[-1].startswith(last)
            )
            if category:
                return size, Token(" ".join(words), "other", category)
        return None

    def _misspelled_category(self, text: str, min_letters: int) -> str | None:
        """The only category with a phrase of ``min_letters`` or more for which ``text`` is a slip."""
        if len(text) < 2 or is_function_word(text) or any(map(str.isdigit, text)):
            return None
        return self._unique_category(
            phrase
            for phrase in self._phrases
            if len(joined := " ".join(phrase)) >= min_letters and is_typo(text, joined)
        )

    def _unique_category(self, phrases: Iterable[tuple[str, ...]]) -> str | None:
        owners = {self._phrases[phrase] for phrase in phrases}
        return owners.pop() if len(owners) == 1 else None


def _phrase_end(phrase: tuple[str, ...], pieces: list[str], at: int, ignored: Set[str]) -> int:
    """Where an answer phrase ends in ``pieces`` from ``at`` on; 0 if it is not there.

    Inside it the pieces ``ignored`` do not count, nor does a comma before "and".
    """
    place = at
    for number, word in enumerate(phrase):
        while number and place < len(pieces) and pieces[place] != word:
            if pieces[place] not in ignored and (pieces[place], word) != (",", "and"):
                return 0
            place += 1
        if place >= len(pieces) or pieces[place] != word:
            return 0
        place += 1
    return place


def _phrase_role(phrase: tuple[str, ...]) -> Role:
    if len(phrase) > 1:
        return "other"
    return "number" if _is_decimal(phrase[0]) else role_of(phrase[0])


def _is_decimal(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text) is not None
