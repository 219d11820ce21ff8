"""What the annotator answered, read by rule: a response becomes a category or is rejected with a reason.

Labels rest on this, so a doubtful response is rejected rather than guessed. The rules:

1. *Thoughts* are never evidence: only what follows the last end-of-thought mark counts (reasoning.py).
2. *JSON* is read by its values: an answer field, or a boolean or number for each category (json_answers.py).
3. A *mention* is an answer word or phrase that is a whole word, regardless of case and surrounding punctuation;
   the longest wins ("not related" is one mention, not a denied "related"), with any dash for a hyphen and ``&`` for
   "and". A slip of one edit for exactly one category's words counts as the word: of words of six letters or more
   in an answer, of any other only as the whole response (typos.py). So does a word broken off at the end. A word
   that English uses all the time ("no", "other", "A", "1") is a mention only at the edge of a clause. A number that
   counts, ends a scale or numbers a list is no rating; "4 out of 5" and "4/5" are 4 where 5 is the highest (tokens.py).
4. A mention is *denied* if a negation governs it, nothing but function words, adverbs and words of judging between the
   two ("I do not think this is a positive review"), or if its predicate takes it back ("positive would be wrong",
   "positive: no", "Is it positive? Not really."). With other words between them, a hedge ("not entirely positive"), a
   doubt ("little positive", "the opposite of positive"), a condition ("if it were positive") or a share of half or
   less ("P(positive) = 0.03") the mention is ignored (clauses.py, evidence.py).
5. A *verdict* is a clause of nothing but mentions and words that frame an answer ("The sentiment is negative",
   "Negative."). Verdicts that sum up ("Overall: positive", "The answer is B") take precedence over other verdicts,
   and these over other mentions, so that an explanation may go on to name other categories. What is said before the
   response takes it back ("Wait, no.") is ignored.
6. One category affirmed, and not denied as well, is the label. With none affirmed and all but one denied it is the
   one left: of two categories, the other one. Several affirmed: ``ambiguous``.
7. Without a category: ``refused`` where the LLM says that it cannot or will not, ``truncated`` where it was cut off
   or ended inside its thoughts, else ``no_category``. ``empty`` is a response without letter or digit.

Mentions are found in any script. Negation, doubt and refusal are read in English; of other languages negation words are
known, and a sentence with one says nothing of any category.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from llambert.annotation.verbalizer.json_answers import JsonReader
from llambert.annotation.verbalizer.reasoning import strip_reasoning
from llambert.annotation.verbalizer.tokens import Tokenizer, normalise
from llambert.annotation.verbalizer.weighing import Evidence, find_evidence
from llambert.errors import ErrorKind

RULES_VERSION = 2
"""Part of the fingerprint of what is read: a response that the rules read otherwise than before is another table."""

# An LLM's short responses are a few dozen strings over and over; long ones are not worth keeping.
_MAX_CACHED_CHARS = 24
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_INABILITY = re.compile(
    r"\bi (?:cannot|can not|can't|could not|couldn't|won't|will not|am unable|am not able|don't feel|do not feel)\b"
    r"|\bi'm (?:unable|not able|not comfortable)\b|(?:^|[.!?;:\n]) ?(?:unable|not able) to\b"
)
_REFUSAL = re.compile(
    r"\bas an? (?:\w+ )?(?:ai|language model|llm)\b|\bi(?:'m| am) (?:very |so )?sorry\b|\bi apologi[sz]e\b"
    r"|\bmy apologies\b|\bi(?:'d| would) rather not\b|\bi (?:must )?decline\b|\bagainst my (?:guidelines|programming)\b"
)
# One of them is in every refusal, and quicker to find.
_REFUSAL_TRACES = ("as a", "not", "n't", "unable", "sorry", "apolog", "decline", "against my", "rather not")


class RejectReason(StrEnum):
    """Why a record of the sample has no silver label."""

    EMPTY = "empty"  # the response has neither letter nor digit
    NO_CATEGORY = "no_category"
    AMBIGUOUS = "ambiguous"
    TRUNCATED = "truncated"
    REFUSED = "refused"  # by the LLM, or by an endpoint's moderation
    OVER_LENGTH = "over_length"  # no prompt fits the context
    ENGINE_ERROR = "engine_error"
    LOW_CONFIDENCE = "low_confidence"  # below parse.min_confidence

    @classmethod
    def of_error(cls, kind: str | None) -> "RejectReason":
        """For a record without an answer, by its ``errors.ErrorKind``."""
        return cls(kind) if kind in (ErrorKind.REFUSED, ErrorKind.OVER_LENGTH) else cls.ENGINE_ERROR


@dataclass(frozen=True)
class Reading:
    """A response as read: its ``category`` or, where that is None, the ``reject_reason``."""

    category: str | None = None
    reject_reason: RejectReason | None = None


class Verbalizer:
    """Category <-> answer words of one task; ``InputError`` where two categories cannot be distinguished.

    >>> Verbalizer({"positive": ["positive"], "negative": ["negative"]}).read("Negative.\\n\\nThe reviewer")
    Reading(category='negative', reject_reason=None)
    """

    def __init__(self, answer_words: Mapping[str, Sequence[str]]) -> None:
        self.categories = list(answer_words)
        self._readings = {category: Reading(category) for category in self.categories}  # creating one takes time
        self._tokenizer = Tokenizer(answer_words)
        self._json = JsonReader(
            self._tokenizer.exact_category, lambda text: self._find_evidence(normalise(text), False)
        )
        self._read_cached = lru_cache(maxsize=4_096)(self._read)

    def read(self, response: str | None, finish_reason: str = "stop") -> Reading:
        """The category of a response, or why it has none. ``finish_reason`` ``length``: it was cut off."""
        read = self._read_cached if len(response or "") <= _MAX_CACHED_CHARS else self._read
        return read(response or "", finish_reason == "length")

    def _read(self, response: str, is_cut_off: bool) -> Reading:
        answer = strip_reasoning(response)
        if answer is None:
            return Reading(reject_reason=RejectReason.TRUNCATED)
        said, default_reason = None, RejectReason.TRUNCATED if is_cut_off else RejectReason.NO_CATEGORY
        if "{" in answer or "[" in answer:
            said = self._json.answer(answer)
            if said is not None:
                if said.is_undecided or said.affirmed or said.denied:
                    return self._reading(said, answer, default_reason)
                answer = said.text
        text = normalise(answer)
        if not _LETTER_OR_DIGIT.search(text):
            return Reading(reject_reason=default_reason if is_cut_off or said else RejectReason.EMPTY)
        return self._reading(self._find_evidence(text, is_cut_off), text, default_reason)

    def _find_evidence(self, text: str, is_cut_off: bool) -> Evidence:
        return find_evidence(self._tokenizer.tokens(text, is_cut_off), is_cut_off)

    def _reading(self, evidence: Evidence, text: str, default_reason: RejectReason) -> Reading:
        affirmed, denied = evidence.affirmed, evidence.denied
        if affirmed:
            if len(affirmed) == 1 and not affirmed & denied:
                return self._readings[next(iter(affirmed))]
            return Reading(reject_reason=RejectReason.AMBIGUOUS)
        if denied:
            left = [category for category in self.categories if category not in denied]
            if len(left) == 1:
                return self._readings[left[0]]
        if evidence.is_retracted:
            return Reading(reject_reason=RejectReason.AMBIGUOUS)
        if any(trace in text for trace in _REFUSAL_TRACES) and (_REFUSAL.search(text) or _INABILITY.search(text)):
            return Reading(reject_reason=RejectReason.REFUSED)
        return Reading(reject_reason=default_reason)
