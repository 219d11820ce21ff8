"""What people said of texts, kept once for a task: whoever asks again, of any corpus, finds it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llambert import schema
from llambert.storage.manifest import content_of
from llambert.storage.run_directory import TableDirectory

DISPUTED, NO_CATEGORY = "people_disagree", "no_category"
"""Why a text that people have answered has no label: they differ, or say that it fits no single category."""


@dataclass(frozen=True)
class PeoplesAnswers:
    """The answers in a run's table ``people``, by text."""

    version: str
    """Stands for what is saved: another one where more answers are."""
    said: dict[int, tuple[str | None, str | None]]
    """Hash of an answered text -> its category, or None and why it has none."""

    @classmethod
    def read(cls, table: TableDirectory, categories: Sequence[str]) -> "PeoplesAnswers":
        """All that is saved; empty where nothing is. Of a person's answers to one text the last one counts."""
        names = table.part_names()
        rows = pa.concat_tables([schema.PEOPLES_ANSWERS.empty_table(), *(table.read_part(name) for name in names)])
        order = np.argsort(rows[schema.ANSWERED_AT].cast(pa.int64()).to_numpy(), kind="stable")
        texts, people, answers = (rows[name].to_pylist() for name in (schema.TEXT_HASH, schema.PERSON, schema.ANSWER))
        by_person: dict[int, dict[str, str]] = {}
        for row in order.tolist():
            by_person.setdefault(texts[row], {})[people[row]] = answers[row]
        said = {text: _agreed(set(of.values()), categories) for text, of in by_person.items()}
        version = content_of(table.committed_part(name) for name in names) if names else ""
        return cls(version, said)

    def __contains__(self, text: int) -> bool:
        return text in self.said

    def find(self, texts: NDArray[np.uint64]) -> tuple[list[str | None], list[str | None]]:
        """Of each text, by its hash, the category and why it has none; both None where nobody has answered."""
        found = [self.said.get(text, (None, None)) for text in texts.tolist()]
        return [label for label, _ in found], [reason for _, reason in found]


def _agreed(answers: set[str], categories: Sequence[str]) -> tuple[str | None, str | None]:
    if len(answers) > 1:
        return None, DISPUTED
    [answer] = answers
    return (answer, None) if answer in categories else (None, NO_CATEGORY)
