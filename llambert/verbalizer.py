"""What the annotator answered, read by rule: a response becomes a category or is rejected with a reason.

Labels rest on this, so a doubtful response is rejected rather than guessed. The rules:

1. A *mention* is an answer word or phrase standing as a whole word, whatever its case and the punctuation
   around it; the longest wins ("not related" is one mention, not a denied "related"). A misspelling within
   one edit (Damerau-Levenshtein) of exactly one category's words counts as the word: of words of six
   letters or more anywhere, of any other only as the whole response. So does a word broken off at the end.
   A word that English uses all the time ("no", "other", "A") is a mention only at the edge of a clause.
2. A mention is *denied* if a negation governs it, nothing but function words, adverbs and words of judging
   between the two ("I do not think this is a positive review"). With other words between them, or a hedge
   ("not entirely positive"), the mention counts for nothing.
3. A *verdict* is a clause of nothing but mentions and words that frame an answer ("The sentiment is
   negative", "Negative."). Verdicts, where there are any, are the only evidence, so that an explanation
   may go on to name other categories; otherwise every mention is. Questions count only if all else is silent.
4. One category affirmed, and not denied as well, is the label. With none affirmed and all but one denied it
   is the one left: of two categories, the other one. Several affirmed: ``ambiguous``.
5. Without a category: ``refused`` where the LLM says that it cannot or will not, ``truncated`` where it was
   cut off, else ``no_category``. ``empty`` is a response without letter or digit.

Mentions are found in any script; negation and refusal know English.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from llambert.errors import InputError

RejectReason = Literal["empty", "no_category", "ambiguous", "truncated", "refused", "over_length", "engine_error"]

# Shorter words have too many neighbours among ordinary words: "would" is one edit from "world".
_MIN_LETTERS_MISSPELT = 6
_MIN_LETTERS_BROKEN_OFF = 3
# An LLM's short responses are a few dozen strings over and over; long ones are not worth keeping.
_MAX_CHARS_REMEMBERED = 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _words(
    "not no never neither nor non without cannot hardly barely than nothing lacks lacking"
    " isnt wasnt dont doesnt didnt cant wouldnt couldnt shouldnt"
)
_NEGATING_PHRASES = re.compile(r"\b(?:instead of|far from|anything but|as opposed to|by no means|no longer)\b")
# After a negation these deny nothing: "not only positive", "no doubt positive".
_UNDOING = _words("only just merely simply doubt question")
_HEDGES = _words("entirely completely totally wholly purely fully necessarily exclusively solely always strictly")
_TURNS = _words("but however although though whereas because since while yet instead")
_JOINTS = _words("and so then")
# Words that may stand around a mention in a verdict, and between a negation and what it denies.
_FRAME = _words(
    """a an the this that these it its it's that's is are was were be been being am as of to in on at for by with or
    i i'd i'm i'll my me you your we our would will should could can may might must do does did has have had
    very really quite at all too rather any either even single one both more most
    answer label category class classification classified classify sentiment review text opinion tone verdict option
    choice rating result response output prediction conclusion word statement sentence concept document article
    topic passage overall final correct best believe think say said consider considered call called describe
    described find found rate rated seem seems appear appears sound sounds express expresses convey conveys
    show shows indicate indicates suggest suggests reflect reflects contain contains give assign choose select
    evidence sign signs indication indications here here's sure certainly okay ok well conclude mark
    belongs belong falls fall under into therefore thus hence"""
)
_EVERYDAY = _words("no none not other others all any both either neither some one it an the and or never nothing")
# Those of them with which an answer may open: "No it is not".
_OPENING = _words("no none")

_CJK = "぀-ヿ㐀-䶿一-鿿豈-﫿"
_PIECES = re.compile(
    rf"(?P<word>[{_CJK}]|[^\W_{_CJK}]+(?:'[^\W_{_CJK}]+)*)"  # scripts without blanks: a character is a word
    r"|(?P<comma>,)|(?P<question>\?)|(?P<stop>\.(?!\w)|[!;:()\[\]{}\n|<>=–—]|\s-+\s)"
)
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "`": "'", "…": ".", "​": None, "﻿": None})
# What a reasoning model thinks aloud comes before its answer, and is none.
_THOUGHT = re.compile(r"\s*<think>(?:.*?</think>|.*)", re.DOTALL)
_INABILITY = re.compile(
    r"(?:\bi (?:cannot|can not|can't|could not|couldn't|won't|will not|am unable|am not able|don't feel|do not feel)\b"
    r"|\bi'm (?:unable|not able|not comfortable)\b|(?:^|[.!?;:\n]) ?(?:unable|not able) to\b)"
    r"(?:(?!\b(?:but|however|although|though)\b)[^.!?;:\n])*"  # what it takes back with it, up to a turn
)
_REFUSAL = re.compile(
    r"\bas an? (?:\w+ )?(?:ai|language model|llm)\b|\bi(?:'m| am) (?:very |so )?sorry\b|\bi apologi[sz]e\b"
    r"|\bmy apologies\b|\bi(?:'d| would) rather not\b|\bi (?:must )?decline\b|\bagainst my (?:guidelines|programming)\b"
)


@dataclass(frozen=True)
class Reading:
    """A response as read: its ``category`` or, where that is None, the ``reject_reason``."""

    category: str | None = None
    reject_reason: RejectReason | None = None


class _Token(NamedTuple):
    """A word or phrase, with the category it mentions; or a break: ``,``, ``?`` or ``.`` (any other)."""

    word: str
    category: str | None = None
    is_break: bool = False


@dataclass
class _Clause:
    """What the words up to a break say of the categories."""

    affirmed: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    is_framed: bool = True
    is_question: bool = False

    @property
    def is_evidence(self) -> bool:
        return bool(self.affirmed or self.denied)

    @property
    def is_verdict(self) -> bool:
        return self.is_framed and self.is_evidence and len(self.affirmed) <= 1


class Verbalizer:
    """Category <-> answer words of one task; ``InputError`` where two categories cannot be told apart.

    >>> Verbalizer({"positive": ["positive"], "negative": ["negative"]}).read("Negative.\\n\\nThe reviewer")
    Reading(category='negative', reject_reason=None)
    """

    def __init__(self, answer_words: Mapping[str, Sequence[str]]) -> None:
        self.categories = list(answer_words)
        self._owner: dict[tuple[str, ...], str] = {}
        for category, words in answer_words.items():
            for word in words:
                phrase = tuple(piece[0] for piece in _PIECES.findall(_normalise(word)) if piece[0])
                if not phrase:
                    raise InputError(f"category {category!r}: answer word {word!r} has neither letter nor digit")
                if self._owner.setdefault(phrase, category) != category:
                    raise InputError(f"answer word {word!r} of {category!r} reads like one of {self._owner[phrase]!r}")
        self._starting: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for phrase in sorted(self._owner, key=len, reverse=True):
            self._starting[phrase[0]].append(phrase)
        self._longest = max(map(len, self._owner))
        self._misspelt = lru_cache(maxsize=65_536)(self._find_misspelt)
        self._read_remembered = lru_cache(maxsize=65_536)(self._read)

    def read(self, response: str | None, finish_reason: str = "stop") -> Reading:
        """The category of a response, or why it has none. ``finish_reason`` ``length``: it was cut off."""
        if response is None:
            return Reading(reject_reason="empty")
        read = self._read_remembered if len(response) <= _MAX_CHARS_REMEMBERED else self._read
        return read(response, finish_reason == "length")

    def _read(self, response: str, is_cut_off: bool) -> Reading:
        thought = _THOUGHT.match(response)
        text = _normalise(response[thought.end() :] if thought else response)
        if not any(character.isalnum() for character in text):
            return Reading(reject_reason="truncated" if is_cut_off and response.strip() else "empty")
        spoken = _NEGATING_PHRASES.sub("not", _INABILITY.sub(".", text))
        clauses = _clauses(self._tokens(spoken, is_cut_off), is_cut_off)
        evidence = (
            [clause for clause in clauses if clause.is_verdict and not clause.is_question]
            or [clause for clause in clauses if clause.is_evidence and not clause.is_question]
            or clauses
        )
        affirmed = {category for clause in evidence for category in clause.affirmed}
        denied = {category for clause in evidence for category in clause.denied}
        if affirmed:
            if len(affirmed) == 1 and not affirmed & denied:
                return Reading(affirmed.pop())
            return Reading(reject_reason="ambiguous")
        left = [category for category in self.categories if category not in denied]
        if denied and len(left) == 1:
            return Reading(left[0])
        if _REFUSAL.search(text) or _INABILITY.search(text):
            return Reading(reject_reason="refused")
        return Reading(reject_reason="truncated" if is_cut_off else "no_category")

    def _tokens(self, text: str, is_cut_off: bool) -> list[_Token]:
        """Words and breaks in order, every mention made one token."""
        pieces = list(_PIECES.finditer(text))
        words = [piece["word"] for piece in pieces]
        spoken = [word for word in words if word is not None]
        if len(spoken) <= self._longest:
            whole = " ".join(spoken)
            category = None if tuple(spoken) in self._owner else self._misspelt(whole, 2)
            if category:
                return [_Token(whole, category)]
        # Nothing but white space, quotes or emphasis may follow a word that was broken off.
        may_break_off = words[-1] is not None and (is_cut_off or len(words) <= self._longest)
        tokens: list[_Token] = []
        at = 0
        while at < len(words):
            word = words[at]
            if word is None:
                tokens.append(_Token({",": ",", "?": "?"}.get(pieces[at][0], "."), is_break=True))
                at += 1
                continue
            size, category = 1, None
            for phrase in self._starting.get(word, ()):
                if tuple(words[at : at + len(phrase)]) == phrase:
                    size, category = len(phrase), self._owner[phrase]
                    break
            else:
                if may_break_off and len(words) - at <= self._longest and None not in words[at:]:
                    category = self._broken_off(tuple(words[at:]))
                    size = len(words) - at if category else 1
                if not category and len(word) >= _MIN_LETTERS_MISSPELT - 1:
                    category = self._misspelt(word, _MIN_LETTERS_MISSPELT)
            tokens.append(_Token(" ".join(words[at : at + size]), category))
            at += size
        return tokens

    def _broken_off(self, words: tuple[str, ...]) -> str | None:
        """The only category with a phrase that goes on where ``words`` end, inside its last word."""
        if len(words[-1]) < _MIN_LETTERS_BROKEN_OFF or _is_function_word(words[-1]):
            return None
        return self._only_owner(
            phrase
            for phrase in self._owner
            if len(phrase) == len(words) and phrase[:-1] == words[:-1] and phrase[-1].startswith(words[-1])
        )

    def _find_misspelt(self, text: str, min_letters: int) -> str | None:
        """The only category with a phrase of ``min_letters`` or more that is one edit from ``text``."""
        if _is_function_word(text):
            return None
        return self._only_owner(
            phrase
            for phrase in self._owner
            if len(joined := " ".join(phrase)) >= min_letters and _is_one_edit_apart(text, joined)
        )

    def _only_owner(self, phrases: Iterable[tuple[str, ...]]) -> str | None:
        owners = {self._owner[phrase] for phrase in phrases}
        return owners.pop() if len(owners) == 1 else None


def _normalise(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY))
    return text.replace("`", "'").casefold()


def _is_negation(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")


def _is_function_word(word: str) -> bool:
    return word in _FRAME or word in _EVERYDAY or word in _TURNS or word in _JOINTS or _is_negation(word)


def _is_one_edit_apart(a: str, b: str) -> bool:
    """Whether one insertion, deletion, substitution or swap of neighbours (Damerau-Levenshtein) makes a of b.

    A leading "a" is no slip but a negation: "moral", "amoral".
    """
    if len(a) < len(b):
        a, b = b, a
    if len(a) - len(b) > 1 or a == b or a == "a" + b:
        return False
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(b))
    if len(a) > len(b):
        return a[same + 1 :] == b[same:]
    return a[same + 1 :] == b[same + 1 :] or (
        a[same : same + 2] == b[same : same + 2][::-1] and a[same + 2 :] == b[same + 2 :]
    )


def _clauses(tokens: list[_Token], is_cut_off: bool) -> list[_Clause]:
    """The tokens clause by clause, each read for what it affirms and denies.

    A comma ends a clause unless a list of categories goes on behind it: "positive, negative".
    """
    clauses: list[_Clause] = []
    current: list[_Token] = []
    sentence_start = 0

    def close(at_end: bool = False) -> None:
        if current:
            clauses.append(_read_clause(current, is_cut_off and at_end))
            current.clear()

    for at, token in enumerate(tokens):
        is_in_list = token.word == "," and any(word.category for word in current) and _list_goes_on(tokens, at + 1)
        if is_in_list or not (token.is_break or token.word in _TURNS):
            current.append(token)
        else:
            close()
        if token.is_break and token.word != ",":
            if token.word == "?":
                for clause in clauses[sentence_start:]:
                    clause.is_question = True
            sentence_start = len(clauses)
    close(at_end=True)
    return clauses


def _list_goes_on(tokens: list[_Token], at: int) -> bool:
    while at < len(tokens) and (tokens[at].word in ("and", "or", "also") or _is_negation(tokens[at].word)):
        if tokens[at].category:
            break
        at += 1
    return at < len(tokens) and tokens[at].category is not None


def _read_clause(tokens: list[_Token], is_cut_off: bool) -> _Clause:
    clause = _Clause()
    is_list = all(category or is_break or word in ("and", "or") for word, category, is_break in tokens)
    governed: Literal["", "denied", "unclear"] = ""  # by a negation, at this point
    for at, (word, category, is_break) in enumerate(tokens):
        is_everyday = len(word) == 1 or word in _EVERYDAY
        if category and (is_list or not is_everyday or _stands_out(tokens, at, is_cut_off)):
            if governed != "unclear":
                (clause.denied if governed else clause.affirmed).add(category)
            if word == "no" and not is_list:
                governed = "denied"  # "no related findings"
        elif is_break or (word in _UNDOING and governed == "denied"):
            governed = ""
        elif _is_negation(word):
            governed = "" if governed == "denied" and word != "nor" else "denied"
        elif word in _JOINTS:
            governed = ""
        elif word in _HEDGES:
            governed = "unclear" if governed else ""
        elif word not in _FRAME and word != "or" and not (word.endswith("ly") and len(word) > 4):
            governed = "unclear" if governed else ""
            clause.is_framed = False
    return clause


def _stands_out(tokens: list[_Token], at: int, is_cut_off: bool) -> bool:
    """Whether an everyday word of a clause stands where an answer does: opening it ("no") or at its end."""
    word = tokens[at].word
    follower = tokens[at + 1] if at + 1 < len(tokens) else None
    if follower is not None and not follower.is_break:
        return at == 0 and word in _OPENING and follower.word not in _UNDOING
    # What was cut off behind "The review is a" ended there by chance.
    return not is_cut_off and (len(word) > 1 or all(token.category or token.word in _FRAME for token in tokens))
