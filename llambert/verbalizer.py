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
    "not no never neither nor non without cannot hardly barely less than nothing lacks lacking"
    " isnt wasnt dont doesnt didnt cant wouldnt couldnt shouldnt"
)
_NEGATING_PHRASES = re.compile(
    r"\b(?:instead of|far from|anything but|as opposed to|by no means|no longer|less than)\b"
)
# After a negation these deny nothing: "not only positive", "no doubt positive", "no idea".
_UNDOING = _words("only just merely simply doubt question idea clue answer information")
_HEDGES = _words("entirely completely totally wholly purely fully necessarily exclusively solely always strictly")
_TURNS = _words("but however although though whereas because since while yet instead")
_JOINTS = _words("and or also so then")  # "or" alone passes a negation on
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
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
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


_Role = Literal["break", "negation", "undoing", "joint", "hedge", "turn", "frame", "other"]


class _Token(NamedTuple):
    """A word or phrase with its part in a clause and the category it mentions; or a break: ``,``, ``?``, ``.``."""

    word: str
    role: _Role
    category: str | None = None


_COMMA, _QUESTION, _STOP = (_Token(sign, "break") for sign in ",?.")


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
        self._word_token = lru_cache(maxsize=65_536)(self._make_word_token)
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
        if not _LETTER_OR_DIGIT.search(text):
            return Reading(reject_reason="truncated" if is_cut_off and response.strip() else "empty")
        is_unable = "not" in text or "n't" in text or "unable" in text  # said by every _INABILITY; cheaper to find
        spoken = _NEGATING_PHRASES.sub("not", _INABILITY.sub(".", text) if is_unable else text)
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
        if _REFUSAL.search(text) or (is_unable and _INABILITY.search(text)):
            return Reading(reject_reason="refused")
        return Reading(reject_reason="truncated" if is_cut_off else "no_category")

    def _tokens(self, text: str, is_cut_off: bool) -> list[_Token]:
        """Words and breaks in order, every mention made one token."""
        pieces = _PIECES.findall(text)
        words = [piece[0] for piece in pieces]  # "" for a break
        if len(words) - words.count("") <= self._longest and (token := self._whole_misspelt(words)):
            return [token]
        # Nothing but white space, quotes or emphasis may follow a word that was broken off.
        may_break_off = words[-1] != "" and (is_cut_off or len(words) <= self._longest)
        tokens: list[_Token] = []
        at = 0
        while at < len(words):
            word, size = words[at], 1
            if not word:
                _, comma, question, _ = pieces[at]
                token = _COMMA if comma else _QUESTION if question else _STOP
            elif phrase := self._phrase_at(words, at, may_break_off):
                size, category = phrase
                token = _Token(" ".join(words[at : at + size]), _role(word) if size == 1 else "other", category)
            else:
                token = self._word_token(word)
            tokens.append(token)
            at += size
        return tokens

    def _phrase_at(self, words: list[str], at: int, may_break_off: bool) -> tuple[int, str] | None:
        """The longest answer phrase that begins here, or is broken off at the end: its words and its category."""
        for phrase in self._starting.get(words[at], ()):
            if tuple(words[at : at + len(phrase)]) == phrase:
                return len(phrase), self._owner[phrase]
        num_left = len(words) - at
        if may_break_off and num_left <= self._longest and (category := self._broken_off(tuple(words[at:]))):
            return num_left, category
        return None

    def _whole_misspelt(self, words: list[str]) -> _Token | None:
        """A response that is one misspelt answer and nothing else."""
        spoken = tuple(word for word in words if word)
        if spoken in self._owner:
            return None
        category = self._misspelt(" ".join(spoken), 2)
        return _Token(" ".join(spoken), "other", category) if category else None

    def _make_word_token(self, word: str) -> _Token:
        is_long = len(word) >= _MIN_LETTERS_MISSPELT - 1
        return _Token(word, _role(word), self._misspelt(word, _MIN_LETTERS_MISSPELT) if is_long else None)

    def _broken_off(self, words: tuple[str, ...]) -> str | None:
        """The only category with a phrase that goes on where ``words`` end, inside its last word."""
        if len(words[-1]) < _MIN_LETTERS_BROKEN_OFF or _is_function_word(words[-1]):
            return None
        return self._only_owner(
            phrase
            for phrase in self._owner
            if len(phrase) == len(words) and phrase[:-1] == words[:-1] and phrase[-1].startswith(words[-1])
        )

    def _misspelt(self, text: str, min_letters: int) -> str | None:
        """The only category with a phrase of ``min_letters`` or more that is one edit from ``text``."""
        if len(text) < 2 or _is_function_word(text):
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


def _role(word: str) -> _Role:
    if word in _NEGATIONS or word.endswith("n't"):
        return "negation"
    if word in _UNDOING:
        return "undoing"
    if word in _JOINTS:
        return "joint"
    if word in _HEDGES:
        return "hedge"
    if word in _TURNS:
        return "turn"
    is_adverb = word.endswith("ly") and len(word) > 4
    return "frame" if is_adverb or word in _FRAME else "other"


def _is_function_word(word: str) -> bool:
    return word in _EVERYDAY or _role(word) in ("negation", "joint", "turn", "frame")


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
        if token.role == "turn" or (
            token.role == "break" and not (token is _COMMA and _is_in_list(current, tokens, at))
        ):
            close()
        else:
            current.append(token)
        if token.role == "break" and token is not _COMMA:
            if token is _QUESTION:
                for clause in clauses[sentence_start:]:
                    clause.is_question = True
            sentence_start = len(clauses)
    close(at_end=True)
    return clauses


def _is_in_list(before: list[_Token], tokens: list[_Token], comma: int) -> bool:
    """Whether categories stand before the comma, and one right behind it: "positive, negative"."""
    if not any(token.category for token in before):
        return False
    at = comma + 1
    while at < len(tokens) and not tokens[at].category and tokens[at].role in ("negation", "joint"):
        at += 1
    return at < len(tokens) and tokens[at].category is not None


def _read_clause(tokens: list[_Token], is_cut_off: bool) -> _Clause:
    clause = _Clause()
    if not any(token.category for token in tokens):
        return clause
    is_list = all(token.category or token.role in ("break", "joint") for token in tokens)
    is_framed = all(token.category or token.role in ("break", "frame", "undoing") for token in tokens)
    governed: Literal["", "denied", "unclear"] = ""  # by a negation, at this point
    for at, (word, role, category) in enumerate(tokens):
        is_everyday = len(word) == 1 or word in _EVERYDAY
        if category and (not is_everyday or is_list or _stands_out(tokens, at, is_framed, is_cut_off)):
            if governed != "unclear":
                (clause.denied if governed else clause.affirmed).add(category)
            if word == "no" and not is_list:
                governed = "denied"  # "no related findings"
        elif role == "negation":
            governed = "" if governed == "denied" and word != "nor" else "denied"
        elif role in ("break", "joint") or (role == "undoing" and governed == "denied"):
            governed = governed if word == "or" else ""
        elif role == "hedge":
            governed = "unclear" if governed else ""
        elif role == "other":
            governed = "unclear" if governed else ""
            clause.is_framed = False
    return clause


def _stands_out(tokens: list[_Token], at: int, is_framed: bool, is_cut_off: bool) -> bool:
    """Whether an everyday word stands where an answer does: opening its clause ("no") or at its end."""
    word = tokens[at].word
    follower = tokens[at + 1] if at + 1 < len(tokens) else None
    if follower is not None and follower.role != "break":
        return at == 0 and word in _OPENING and follower.word not in _UNDOING
    # What was cut off behind "The review is a" ended there by chance.
    return not is_cut_off and (len(word) > 1 or is_framed)
