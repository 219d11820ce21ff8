"""Saved answers of people as gold labels.

Only answers about texts of the certification sample judge labels: it is drawn at random. Texts that people were given
since the classifier is unsure of them, or since two labels disagree, would make it look worse than it is.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.hashing import hash64
from llambert.run import Run


class SavedGold(NamedTuple):
    """The label that people gave a text. ``texts``: ascending hashes; ``codes``: categories in task order."""

    texts: NDArray[np.uint64]
    codes: NDArray[np.int16]

    @classmethod
    def read(cls, run: Run) -> "SavedGold":
        """Of the texts of the certification sample; empty where none is drawn.

        Texts that people disagree about, or that fit no single category, have no label.
        """
        found: dict[int, int] = {}
        if run.recipe.guarantee is not None and run.table("certification").read_manifest() is not None:
            categories = run.task.category_names
            people = PeoplesAnswers.read(run.table("people"), categories)
            texts = hash64(run.table("certification").read([schema.TEXT])[schema.TEXT])
            pairs = zip(texts.tolist(), people.find(texts)[0], strict=True)
            found = {text: categories.index(label) for text, label in pairs if label is not None}
        ordered = sorted(found)
        return cls(np.array(ordered, np.uint64), np.array([found[text] for text in ordered], np.int16))

    def find(self, texts: NDArray[np.uint64]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Of each text, by its hash, the code, and whether it has one; 0 where it has none."""
        if not len(self.texts):
            return np.zeros(len(texts), np.int16), np.zeros(len(texts), bool)
        places = np.minimum(np.searchsorted(self.texts, texts), len(self.texts) - 1)
        is_found = self.texts[places] == texts
        return np.where(is_found, self.codes[places], 0).astype(np.int16), is_found


def take_saved_gold(whole: dict[str, NDArray], first_copy: NDArray[np.uint64]) -> int:
    """Give each record of a text that has no gold label in the corpus the one that people gave the text.

    ``whole``: ``gold`` and ``has_gold`` of each record, which are changed, and ``saved_gold`` and ``has_saved_gold``,
    for which ``is_saved_gold`` comes; ``first_copy``: the id hash of the first record with its text. Returns how many
    texts have a gold label in the corpus that differs from people's.
    """
    saved, has_saved = whole.pop("saved_gold"), whole.pop("has_saved_gold")
    gold, has_gold = whole["gold"], whole["has_gold"]
    differs = has_gold & has_saved & (gold != saved)
    taken = has_saved & ~np.isin(first_copy, first_copy[has_gold])
    gold[taken], has_gold[taken] = saved[taken], True
    whole["is_saved_gold"] = taken
    return len(np.unique(first_copy[differs]))
