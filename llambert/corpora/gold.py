"""Gold labels: which category a value of the corpus' gold column means.

A value matches a key of ``corpus.gold_labels`` (or a category) exactly. Otherwise these differences are ignored, as
long as the value has one meaning: upper and lower case, spaces at the ends, the way Unicode composes an accent; how a
number is written (``1``, ``1.0``, ``+1``, ``1e0``; but ``01`` may be a code and ``1,0`` two labels, so they are not 1);
``true`` and ``false`` for 1 and 0, where no other numbers or truth values are keys. A value that may mean two
categories means neither.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError

NUM_GOLD = "num_gold"
NUM_UNKNOWN_GOLD = "num_unknown_gold"
UNKNOWN_GOLD = "unknown_gold."
"""Begins the count of the records with one gold value that has no meaning; the value, shortened, follows."""

_MAX_EXAMPLES = 20
_MAX_EXAMPLE_CHARS = 40
_NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:e[+-]?[0-9]{1,2})?", re.IGNORECASE)
_TRUTH = {"true": "1", "false": "0"}
_UNLABELLED = "-1"  # of a ClassLabel column: a record without a class


class Meaning(NamedTuple):
    """What a value that is a key means: a category, or null where it is meant to have none."""

    label: str | None


class GoldLabels(NamedTuple):
    """The labels of some rows, and where a value has no meaning."""

    labels: list[str | None]
    is_unknown: list[bool]


class GoldReader:
    """Reads gold values by a recipe; ``InputError`` if it maps a value to what is not a category."""

    def __init__(self, corpus: CorpusRecipe, categories: Sequence[str]) -> None:
        keys = dict(corpus.gold_labels) or {name: name for name in categories}
        for key, label in keys.items():
            if label is not None and label not in categories:
                raise InputError(
                    f"corpus.gold_labels: {key!r} is mapped to {label!r}, which is not a category of the task "
                    f"({', '.join(categories)})"
                )
        self._column = corpus.columns.gold_label
        self._meanings = {key: Meaning(label) for key, label in keys.items()}
        self._by_text = _unambiguous([(_normalized(key), meaning) for key, meaning in self._meanings.items()])
        self._by_number = _unambiguous(
            [(number, meaning) for key, meaning in self._meanings.items() if (number := _number(key)) is not None]
        )
        truths = _TRUTH.keys() & self._by_text.keys()
        self._is_truth_a_number = self._by_number.keys() == {"0", "1"} and not truths
        self._is_number_a_truth = not self._by_number and truths == _TRUTH.keys()

    def meaning(self, value: str) -> Meaning | None:
        """What one value means; None: nothing, or nothing certain."""
        if exact := self._meanings.get(value):
            return exact
        folded = _normalized(value)
        if folded in self._by_text:
            return self._by_text[folded]
        if (number := _number(value)) is not None:
            if self._is_number_a_truth:
                return next((self._by_text[word] for word, one in _TRUTH.items() if one == number), None)
            return self._by_number.get(number)
        if folded in _TRUTH and self._is_truth_a_number:
            return self._by_number[_TRUTH[folded]]
        return None

    def read(self, values: Sequence[str | None], class_names: Sequence[str] = ()) -> GoldLabels:
        """The labels of some values. ``class_names``: what integers of a ClassLabel column stand for."""
        meanings = self._meanings_of_classes(class_names) if class_names else {}
        for value in set(values) - meanings.keys():
            meanings[value] = self.meaning(value) if value and value.strip() else Meaning(None)
        found = [meanings[value] for value in values]
        return GoldLabels([one.label if one else None for one in found], [one is None for one in found])

    def _meanings_of_classes(self, names: Sequence[str]) -> dict[str | None, Meaning | None]:
        """Of each class, by its integer, what its name or, where the recipe maps integers, its integer means."""
        by_name = [self.meaning(name) for name in names]
        by_integer = [self.meaning(str(number)) for number in range(len(names))]
        integers = {_UNLABELLED, *map(str, range(len(names)))}
        are_names = set(map(_normalized, self._meanings)) <= set(map(_normalized, names))
        are_integers = {_number(key) for key in self._meanings} <= integers
        if are_names != are_integers:
            by_name, by_integer = (by_name, []) if are_names else ([], by_integer)
        meanings: dict[str | None, Meaning | None] = {_UNLABELLED: self.meaning(_UNLABELLED) or Meaning(None)}
        for number, name in enumerate(names):
            found = {found[number] for found in (by_name, by_integer) if found and found[number]}
            if len(found) > 1:
                raise InputError(
                    f"corpus.gold_labels: class {number} of column {self._column!r} is named {name!r}, and the keys "
                    "do not say whether they are names or integers; map the names of all classes"
                )
            meanings[str(number)] = next(iter(found), None)
        return meanings


def check(corpus: CorpusRecipe, categories: Sequence[str]) -> None:
    """``InputError`` if the recipe maps a gold value to what is not a category of the task."""
    GoldReader(corpus, categories)


def unknown_values(counts: Mapping[str, int], num: int = 10) -> dict[str, int]:
    """Of a corpus' counts, those of its most frequent gold values that mean nothing, under their own keys."""
    found = sorted((key for key in counts if key.startswith(UNKNOWN_GOLD)), key=lambda key: (-counts[key], key))
    return {key: counts[key] for key in found[:num]}


def _unambiguous(pairs: list[tuple[str, Meaning]]) -> dict[str, Meaning | None]:
    """First of each pair -> its meaning; None if it has several."""
    found: dict[str, Meaning | None] = {}
    for form, meaning in pairs:
        found[form] = meaning if found.get(form, meaning) == meaning else None
    return found


def _normalized(value: str) -> str:
    return unicodedata.normalize("NFC", value.strip()).casefold()


def _number(value: str) -> str | None:
    """A decimal number in canonical form; None for anything else."""
    value = value.strip()
    if not _NUMBER.fullmatch(value):
        return None
    number = Decimal(value)
    return str(int(number)) if number == number.to_integral_value() else f"{number:f}".rstrip("0")


def most_frequent(values: Sequence[str], class_names: Sequence[str] = ()) -> dict[str, int]:
    """The most frequent of some values, shortened, with their counts; classes by name."""
    named = {str(number): name for number, name in enumerate(class_names)}
    shown = Counter(named.get(value, value) for value in values)
    return {
        value if len(value) <= _MAX_EXAMPLE_CHARS else f"{value[: _MAX_EXAMPLE_CHARS - 1]}…": num
        for value, num in shown.most_common(_MAX_EXAMPLES)
    }
