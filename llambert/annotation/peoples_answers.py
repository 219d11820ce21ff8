"""What people said of texts, kept once for a task: whoever asks again, of any corpus, finds it.

::

    RUN/people/<task>/part-<content>.parquet     what was new in one import (``schema.PEOPLES_ANSWERS``); never changed
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.storage.manifest import content_of
from llambert.storage.run_directory import TableDirectory

PEOPLES_VERSION = "peoples_answers"
"""In manifests: the ``version`` of the saved answers that something was made of."""
DISPUTED, NO_CATEGORY = "people_disagree", "no_category"
"""Why a text that people have answered has no label: they differ, or say that it fits no single category."""


class PersonsAnswer(NamedTuple):
    """What a person said of a text; ``record_id``: the record in which the person has read it."""

    text: int
    record_id: str
    answer: str
    person: str


@dataclass(frozen=True)
class PeoplesAnswers:
    """The answers in a run's table ``people``, by text."""

    version: str
    """Stands for what is saved: another one where more answers are."""
    last: dict[int, dict[str, str]]
    """Hash of an answered text -> person -> the person's last answer."""
    said: dict[int, tuple[str | None, str | None]]
    """Hash of an answered text -> its category, or None and why it has none."""

    @classmethod
    def read(cls, table: TableDirectory, categories: Sequence[str], until: datetime | None = None) -> "PeoplesAnswers":
        """All that is saved, or was ``until`` then; empty where nothing is.

        Of a person's answers to one text the last one counts. Where people's last answers differ, the text has no
        label.
        """
        names = table.part_names()
        rows = pa.concat_tables([schema.PEOPLES_ANSWERS.empty_table(), *(table.read_part(name) for name in names)])
        if until is not None:
            rows = rows.filter(pc.less_equal(rows[schema.ANSWERED_AT], pa.scalar(until, pa.timestamp("us", tz="UTC"))))
        order = np.argsort(rows[schema.ANSWERED_AT].cast(pa.int64()).to_numpy(), kind="stable")
        texts, people, answers = (rows[name].to_pylist() for name in (schema.TEXT_HASH, schema.PERSON, schema.ANSWER))
        last: dict[int, dict[str, str]] = {}
        for row in order.tolist():
            last.setdefault(texts[row], {})[people[row]] = answers[row]
        said = {text: _agreed(of.values(), categories) for text, of in last.items()}
        version = content_of(table.committed_part(name) for name in names) if names else ""
        return cls(version, last, said)

    def __contains__(self, text: int) -> bool:
        return text in self.said

    def find(self, texts: NDArray[np.uint64]) -> tuple[list[str | None], list[str | None]]:
        """Of each text, by its hash, the category and why it has none; both None where nobody has answered."""
        found = [self.said.get(text, (None, None)) for text in texts.tolist()]
        return [label for label, _ in found], [reason for _, reason in found]


def save(table: TableDirectory, answers: Iterable[PersonsAnswer], saved: PeoplesAnswers, answered_at: datetime) -> int:
    """Save the ``answers`` that are not their person's last one in ``saved`` already, in one part; how many these are.

    ``answered_at``: the time now, with its zone.
    """
    new = [each for each in answers if saved.last.get(each.text, {}).get(each.person) != each.answer]
    if not new:
        return 0
    texts, record_ids, said, people = zip(*sorted(set(new)), strict=True)
    columns = {
        schema.TEXT_HASH: pa.array(texts, pa.uint64()),
        schema.RECORD_ID: record_ids,
        schema.ANSWER: said,
        schema.PERSON: people,
        schema.ANSWERED_AT: pa.array([answered_at] * len(texts), pa.timestamp("us", tz="UTC")),
    }
    rows = pa.table(columns, schema=schema.PEOPLES_ANSWERS)
    return table.commit_part(_name_of(rows), rows).num_rows


def names_answers(name: str, rows: pa.Table) -> bool:
    """Whether a part of this name holds these answers, in this order."""
    return name == _name_of(rows)


def _name_of(rows: pa.Table) -> str:
    times = rows[schema.ANSWERED_AT].cast(pa.int64()).to_pylist()
    columns = [times if name == schema.ANSWERED_AT else rows[name].to_pylist() for name in schema.PEOPLES_ANSWERS.names]
    return f"part-{sha256(json.dumps(columns).encode()).hexdigest()[:12]}.parquet"


def _agreed(answers: Iterable[str], categories: Sequence[str]) -> tuple[str | None, str | None]:
    found = {answer if answer in categories else None for answer in answers}
    if len(found) > 1:
        return None, DISPUTED
    [label] = found
    return (label, None) if label is not None else (None, NO_CATEGORY)
