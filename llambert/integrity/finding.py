"""What is wrong with a run's tables, as ``verify`` says it and ``repair`` reads it."""

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What is wrong. All decisions are made on it; a finding's ``problem`` is for people."""

    INCOMPLETE = "incomplete"  # a table without a manifest
    MANIFEST = "manifest"  # damaged, or it contradicts itself or its parts' sums
    MISSING_PART = "missing_part"
    UNEXPECTED_PART = "unexpected_part"  # or another file; nothing has to be made again
    ALTERED = "altered"  # by its checksum
    UNREADABLE = "unreadable"
    MISCOUNTED = "miscounted"  # a part's rows or counts are not those of the manifest
    SCHEMA = "schema"
    NULL_ID = "null_id"
    VALUE = "value"  # a label that is no category, a score that is no probability
    OTHER_COMPANION = "other_companion"  # not the one that the table was completed with, or is a copy of
    DUPLICATE = "duplicate"
    MISSING_RECORD = "missing_record"
    UNEXPECTED_RECORD = "unexpected_record"
    OTHER_CHECKPOINT = "other_checkpoint"  # not the one that made the labels


Location = tuple[str, str]
"""A table and a part of it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; ``part`` is the part's name, None where it is not one part's fault.

    ``redo``: the (table, part)s that have to be made again; empty: the one named.
    """

    kind: FindingKind
    table: str
    part: str | None
    problem: str
    redo: tuple[Location, ...] = ()

    def __str__(self) -> str:
        return f"{self.table}/{self.part}: {self.problem}" if self.part else f"{self.table}: {self.problem}"
