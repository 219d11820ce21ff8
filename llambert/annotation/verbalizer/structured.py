"""Answers in JSON, read by their values: ``{"label": "positive"}``, ``{"positive": false, "negative": true}``."""

import ast
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llambert.annotation.verbalizer.lexicon import words
from llambert.annotation.verbalizer.weighing import Evidence

_MAX_OPENINGS = 64  # brackets at which an object is looked for
_DECODER = json.JSONDecoder()
_KEY_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+|\d+")
_BEGUN = re.compile(r'^[^"]*\{\s*"[^"\\\n]*"\s*:')
_FIELDS = re.compile(
    r'"([^"\\\n]*)"\s*:\s*("(?:[^"\\\n]|\\["\\/bfnrt])*"|true\b|false\b|null\b|-?\d+(?:\.\d+)?(?=\s*[,}\s]))'
)
_ANSWER_KEYS = words(
    """answer answers label labels category categories class classes classification sentiment verdict prediction
    predicted decision result output response rating score grade level stars choice option final value conclusion
    tag tags topic"""
)
_REASON_KEYS = words(
    """reason reasons reasoning rationale explanation explanations justification thought thoughts thinking analysis
    comment comments evidence quote quotes text review summary note notes input question prompt"""
)
_MEASURE_KEYS = words("confidence probability certainty likelihood prob logprob p")
# Beside a category's name these leave a key the name of that category: "is_positive", "positive_score".
_KEY_FRAME = _MEASURE_KEYS | words("is has score label class percent percentage rating value weight flag are")
_TRUE, _FALSE = frozenset({"true", "yes", "y"}), frozenset({"false", "no", "n", "none", "absent"})


@dataclass
class JsonAnswer:
    """What the JSON of a response says.

    ``is_undecided``: a field for the answer holds none. ``text``: the response without its JSON.
    """

    affirmed: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    is_undecided: bool = False
    text: str = ""

    @property
    def evidence(self) -> Evidence:
        """The same as evidence of words."""
        return Evidence(frozenset(self.affirmed), frozenset(self.denied))


class JsonReader:
    """``whole``: the category that a text names and does nothing else; ``weigh``: the evidence of any text."""

    def __init__(self, whole: Callable[[str], str | None], weigh: Callable[[str], Evidence]) -> None:
        self._whole, self._weigh = whole, weigh

    def answer(self, response: str) -> JsonAnswer | None:
        """What the objects and lists of a response say; None if it holds none."""
        values, rest = _objects(response)
        if (
            not values
            and response.lstrip("` \n\tjson").startswith("{")
            and (begun := _begun_object(response)) is not None
        ):
            values, rest = [begun], ""
        if not values:
            return None
        answer = JsonAnswer(text=rest)
        for value in values:
            self._take(value, answer, False)
        return answer

    def _take(self, value: Any, answer: JsonAnswer, is_answer: bool) -> None:
        match value:
            case dict():
                self._take_object(value, answer)
            case list():
                scored = self._scored(value)
                if scored:
                    self._decide(scored, answer)
                else:
                    for item in value:
                        self._take(item, answer, is_answer)
            case str() if is_answer:
                said = self._weigh(value)
                answer.affirmed |= said.affirmed
                answer.denied |= said.denied
                answer.is_undecided |= not (said.affirmed or said.denied)
            case None if is_answer:
                answer.is_undecided = True
            case bool() | str() | int() | float():
                if category := self._named(value):
                    answer.affirmed.add(category)
                else:
                    answer.is_undecided |= is_answer

    def _take_object(self, fields: dict[str, Any], answer: JsonAnswer) -> None:
        words = {key: [word.casefold() for word in _KEY_WORDS.findall(str(key))] for key in fields}
        scores = {
            category: value
            for key, value in fields.items()
            if (category := self._category_of_key(str(key), words[key])) and _is_value(value)
        }
        if scores:
            self._decide(scores, answer)
            return
        answering = [
            key for key in fields if not _ANSWER_KEYS.isdisjoint(words[key]) and _MEASURE_KEYS.isdisjoint(words[key])
        ]
        final = [key for key in answering if "final" in words[key]]
        for key in final or answering:
            self._take(fields[key], answer, True)
        if answer.affirmed or answer.denied:
            return
        for key, value in fields.items():
            if _REASON_KEYS.isdisjoint(words[key]) and _MEASURE_KEYS.isdisjoint(words[key]):
                self._take(value, answer, False)

    def _decide(self, scores: dict[str, Any], answer: JsonAnswer) -> None:
        """Booleans say it; of numbers the largest does, and one alone if it is more than half."""
        told = {category: _truth(value) for category, value in scores.items()}
        if any(isinstance(value, bool) for value in told.values()):
            answer.affirmed |= {category for category, value in told.items() if value is True}
            answer.denied |= {category for category, value in told.items() if value is False}
            return
        numbers = {category: float(value) for category, value in told.items() if value is not None}
        if not numbers:
            answer.is_undecided = True
            return
        top = max(numbers.values())
        best = [category for category, value in numbers.items() if value == top]
        if len(numbers) > 1:
            answer.denied |= {category for category, value in numbers.items() if value < top}
            answer.affirmed |= set(best)
        elif 0.5 < top <= 1:
            answer.affirmed |= set(best)
        elif top == 0:
            answer.denied |= set(best)
        else:
            answer.is_undecided = True

    def _scored(self, items: list[Any]) -> dict[str, Any]:
        """A list of categories with a score each, as classification endpoints give it."""
        scored: dict[str, Any] = {}
        for item in items:
            if not isinstance(item, dict):
                return {}
            names = [self._named(value) for value in item.values() if isinstance(value, str)]
            numbers = [v for v in item.values() if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(names) != 1 or names[0] is None or len(numbers) != 1:
                return {}
            scored[names[0]] = numbers[0]
        return scored if len(scored) > 1 else {}

    def _category_of_key(self, key: str, words: list[str]) -> str | None:
        if category := self._whole(key.replace("_", " ")):
            return category
        return self._whole(" ".join(word for word in words if word not in _KEY_FRAME)) if words else None

    def _named(self, value: str | float) -> str | None:
        if isinstance(value, bool):
            return self._whole("yes" if value else "no") or self._whole("true" if value else "false")
        return self._whole(value if isinstance(value, str) else repr(value))


def _is_value(value: Any) -> bool:
    return _truth(value) is not None


def _truth(value: Any) -> bool | float | None:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        text = value.strip().casefold().rstrip("%")
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        try:
            return float(text)
        except ValueError:
            return None
    return None


def _objects(text: str) -> tuple[list[Any], str]:
    """The JSON objects and lists of objects in a text, and the text without them."""
    found: list[Any] = []
    rest, at = [], 0
    for opening in itertools.islice(re.finditer(r"[{\[]", text), _MAX_OPENINGS):
        start = opening.start()
        if start < at:
            continue
        parsed = _parsed(text, start)
        if parsed is None:
            continue
        value, end = parsed
        if isinstance(value, dict) or (value and isinstance(value, list) and isinstance(value[0], dict | str)):
            found.append(value)
            rest.append(text[at:start])
            at = end
    return found, "\n".join([*rest, text[at:]])


def _parsed(text: str, start: int) -> tuple[Any, int] | None:
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    end = text.find("}" if text[start] == "{" else "]", start) + 1
    if not end or "'" not in text[start:end]:
        return None
    try:  # as Python writes it
        return ast.literal_eval(text[start:end]), end
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _begun_object(text: str) -> dict[str, Any] | None:
    """The complete fields of an object that was cut off, or is not quite JSON; None if it does not begin as one."""
    if not _BEGUN.search(text):
        return None
    return {json.loads(f'"{key}"'): json.loads(value) for key, value in _FIELDS.findall(text)}
