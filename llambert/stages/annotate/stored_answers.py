"""The committed parts of ``responses``, the missing ranges of ranks, and the records to ask about again.

All of it is read from listings and parts, so that every start, and every driver, finds the same.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pyarrow as pa

from llambert import schema
from llambert.annotation.part_names import is_part_name, part_name, rank_range
from llambert.annotation.responses import AMENDMENTS, amendment_name, by_part, is_transient, read_amended
from llambert.errors import ErrorKind
from llambert.storage.manifest import Part
from llambert.storage.run_directory import TableDirectory

BUSY_MILLISECONDS = "busy_milliseconds"  # in the counts of each part, so that a kill loses none of it
NUM_PASSING = f"num_{ErrorKind.PASSING}"


@dataclass
class StoredAnswers:
    """The parts of ``responses`` that hold the ranks 0 to ``num_records`` once each, as far as they are committed.

    ``missing``: ranges of ranks that none holds. ``known``: parts that need not be read to know what they hold.
    """

    responses: TableDirectory
    num_records: int
    records_per_part: int
    known: dict[str, Part] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    amendments: list[Part] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Read from storage what is committed now."""
        names, self.missing = select_parts(self.responses.part_names(), self.num_records, self.records_per_part)
        amendments = by_part(self.responses.part_names(AMENDMENTS))
        self.parts = [self._part(name) for name in names]
        self.amendments = [self._part(amendment) for name in names for amendment in amendments.get(name, ())]

    def _part(self, name: str) -> Part:
        if name not in self.known:
            self.known[name] = self.responses.committed_part(name)
        return self.known[name]

    @property
    def all_parts(self) -> list[Part]:
        """Amendments too."""
        return [*self.parts, *self.amendments]

    def retry_units(self) -> list[dict[str, Any]]:
        """Units of work: parts with records that failed for a passing reason, and how many those are."""
        amendments = by_part(part.name for part in self.amendments)
        units: list[dict[str, Any]] = []
        for part in self.parts:
            if not part.counts.get(NUM_PASSING):
                continue
            num = unanswered(self.responses, part.name, amendments.get(part.name, []), self.num_records).num_rows
            if not num:
                continue
            if not units or units[-1]["num_records"] + num > self.records_per_part:
                units.append({"again": [], "num_records": 0, "end": self.num_records})
            units[-1]["again"].append(part.name)
            units[-1]["num_records"] += num
        return units


def unanswered(responses: TableDirectory, name: str, amendments: list[str], end: int) -> pa.Table:
    """The sampled records below rank ``end`` that a part and its amendments leave without a final answer."""
    columns = [*schema.SAMPLE.names, schema.ERROR_KIND]
    rows = read_amended(responses, name, amendments, columns).slice(0, max(0, end - rank_range(name)[0]))
    return rows.filter(is_transient(rows)).select(schema.SAMPLE.names)


def free_amendment_name(name: str, amendments: list[str]) -> str:
    """The first name of an amendment to a part that is not taken."""
    return next(free for number in count() if (free := amendment_name(name, number)) not in amendments)


def select_parts(names: list[str], num_records: int, size: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Committed parts that hold the ranks 0 to ``num_records`` once each, and the ranges that none holds.

    Missing ranges end at multiples of ``size``. Drivers with different ``num_records`` may have committed
    parts that overlap, [768, 1000) beside [768, 1024): of two that begin together the longer one counts, and a
    part that begins within another does not.
    """
    committed = sorted((rank_range(name) for name in names if is_part_name(name)), key=lambda r: (r[0], -r[1]))
    used: list[str] = []
    missing: list[tuple[int, int]] = []
    position = 0
    for start, end in [*committed, (num_records, num_records)]:
        start = min(start, num_records)
        while position < start:
            stop = min((position // size + 1) * size, start)
            missing.append((position, stop))
            position = stop
        if start == position < num_records:
            used.append(part_name(start, end))
            position = end
    return used, missing
