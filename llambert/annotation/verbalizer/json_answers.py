"""Answers in JSON, read by their values: ``{"label": "positive"}``, ``{"positive": false, "negative": true}``."""

import ast
import contextlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llambert.annotation.verbalizer.lexicon import words
from llambert.annotation.verbalizer.weighing import Evidence

_MAX_OPENINGS = 64  # brackets at which an object is looked for
_DECODER = json.JSONDecoder()
_KEY_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+|\d+")
_PARTIAL = re.compile(r'^[^"]*\{\s*"[^"\\\n]*"\s*:')
_FIELDS = re.compile(
    r'"([^"\\\n]*)"\s*:\s*("(?:[^"\\\n]|\\["\\/bfnrt])*"|true\b|false\b|null\b|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?=\s*[,}\s]))'
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


@dataclass(slots=True)
class JsonAnswer(Evidence):
    """What the JSON of a response says.

    ``is_undecided``: a field for the answer holds none. ``text``: the response without its JSON.
    """

    is_undecided: bool = False
    text: str = ""


class JsonReader:
    """``whole``: the category that a text names and does nothing else; ``find_evidence``: the evidence of any text."""

    def __init__(self, whole: Callable[[str], str | None], find_evidence: Callable[[str], Evidence]) -> None:
        self._exact_category, self._find_evidence = whole, find_evidence

    def answer(self, response: str) -> JsonAnswer | None:
        """What the objects and lists of a response say; None if it holds none."""
        values, rest = _extract_json(response)
        if not values and response.lstrip("` \n\tjson").startswith("{") and _PARTIAL.search(response):
            values, rest = [_complete_fields(response)], ""
        if not values:
            return None
        answer = JsonAnswer(text=rest)
        for value in values:
            self._read_value(value, answer, False)
        return answer

    def _read_value(self, value: Any, answer: JsonAnswer, is_answer: bool) -> None:
        match value:
            case dict():
                self._read_object(value, answer)
            case list():
                if scored := self._list_scores(value):
                    self._apply_scores(scored, answer)
                else:
                    for item in value:
                        self._read_value(item, answer, is_answer)
            case str() if is_answer:
                said = self._find_evidence(value)
                answer.affirmed |= said.affirmed
                answer.denied |= said.denied
                answer.is_undecided |= not (said.affirmed or said.denied)
            case None if is_answer:
                answer.is_undecided = True
            case bool() | str() | int() | float():
                if category := self._category_of_value(value):
                    answer.affirmed |= {category}
                else:
                    answer.is_undecided |= is_answer

    def _read_object(self, fields: dict[str, Any], answer: JsonAnswer) -> None:
        words = {key: [word.casefold() for word in _KEY_WORDS.findall(str(key))] for key in fields}
        scores = {
            category: value
            for key, value in fields.items()
            if (category := self._category_of_key(str(key), words[key])) and _parse_score(value) is not None
        }
        if scores:
            self._apply_scores(scores, answer)
            return
        answering = [
            key for key in fields if not _ANSWER_KEYS.isdisjoint(words[key]) and _MEASURE_KEYS.isdisjoint(words[key])
        ]
        final = [key for key in answering if "final" in words[key]]
        for key in final or answering:
            self._read_value(fields[key], answer, True)
        if answer.affirmed or answer.denied:
            return
        for key, value in fields.items():
            if _REASON_KEYS.isdisjoint(words[key]) and _MEASURE_KEYS.isdisjoint(words[key]):
                self._read_value(value, answer, False)

    def _apply_scores(self, scores: dict[str, Any], answer: JsonAnswer) -> None:
        """Booleans say it; of numbers the largest does, and one alone if it is more than half."""
        values = {category: _parse_score(value) for category, value in scores.items()}
        if any(isinstance(value, bool) for value in values.values()):
            answer.affirmed |= {category for category, value in values.items() if value is True}
            answer.denied |= {category for category, value in values.items() if value is False}
            return
        numbers = {category: float(value) for category, value in values.items() if value is not None}
        if not numbers:
            answer.is_undecided = True
            return
        top = max(numbers.values())
        best = [category for category, value in numbers.items() if value == top]
        if len(numbers) > 1 or 0.5 < top <= 1:
            answer.denied |= {category for category, value in numbers.items() if value < top}
            answer.affirmed |= set(best)
        elif top == 0:
            answer.denied |= set(best)
        else:
            answer.is_undecided = True

    def _list_scores(self, items: list[Any]) -> dict[str, Any]:
        """A list of categories with a score each, as classification endpoints give it."""
        scored: dict[str, Any] = {}
        for item in items:
            if not isinstance(item, dict):
                return {}
            names = [self._category_of_value(value) for value in item.values() if isinstance(value, str)]
            numbers = [v for v in item.values() if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(names) != 1 or names[0] is None or len(numbers) != 1:
                return {}
            scored[names[0]] = numbers[0]
        return scored if len(scored) > 1 else {}

    def _category_of_key(self, key: str, words: list[str]) -> str | None:
        if category := self._exact_category(key.replace("_", " ")):
            return category
        return self._exact_category(" ".join(word for word in words if word not in _KEY_FRAME)) if words else None

    def _category_of_value(self, value: str | float) -> str | None:
        if isinstance(value, bool):
            return self._exact_category("yes" if value else "no") or self._exact_category("true" if value else "false")
        return self._exact_category(value if isinstance(value, str) else repr(value))


def _parse_score(value: Any) -> bool | float | None:
    if isinstance(value, str):
        text = value.strip().casefold().rstrip("%")
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        with contextlib.suppress(ValueError):
            return float(text)
    return value if isinstance(value, bool | int | float) else None


def _extract_json(text: str) -> tuple[list[Any], str]:
    """The JSON objects and lists of objects in a text, and the text without them."""
    found: list[Any] = []
    rest, at = [], 0
    for opening in itertools.islice(re.finditer(r"[{\[]", text), _MAX_OPENINGS):
        start = opening.start()
        if start < at or (parsed := _parsed(text, start)) is None:
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


def _complete_fields(text: str) -> dict[str, Any]:
    """The complete fields of an object that was cut off, or is not quite JSON."""
    fields = _FIELDS.findall(text)  # strings may hold tabs
    return {json.loads(f'"{key}"', strict=False): json.loads(value, strict=False) for key, value in fields}
