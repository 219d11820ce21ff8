"""What a table's ``manifest.json`` says: its parts, what was counted, and where it comes from."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llambert import __version__
from llambert.recipe import digest
from llambert.storage.part_file import Footer

MANIFEST = "manifest.json"
_PLURAL = {"file": "files", "group of files": "groups of files"}
COMPUTED_ON = "computed_on."
"""Begins the count of the records that a model was computed for on one kind of chip; the chip's name follows."""


class Part(BaseModel):
    """One committed file of a table, with what was counted when it was made; the manifest has the sums.

    ``counts``: the stage's own figures. ``labels``: rows by their label. ``rejected``: by reason, records of the same
    unit of work that are in the table of rejects instead. ``sha256``: of a Parquet part that of its footer, which
    holds the digest of the rest; of any other file its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    num_rows: int
    num_bytes: int
    sha256: str
    counts: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    rejected: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def from_footer(cls, name: str, footer: Footer, num_bytes: int) -> Self:
        """The Parquet part of this footer, whose file has ``num_bytes``."""
        return cls(name=name, num_rows=footer.num_rows, num_bytes=num_bytes, sha256=footer.sha256, **footer.counts)

    @classmethod
    def of_file(cls, name: str, content: bytes) -> Self:
        """A file that is not Parquet."""
        return cls(name=name, num_rows=0, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    @property
    def num_in(self) -> int:
        """Records that were read for it: its rows, and those rejected."""
        return self.num_rows + sum(self.rejected.values())


def total(parts: Iterable[Part], of: Literal["counts", "labels", "rejected"] = "counts") -> Counter[str]:
    """The sums over ``parts``, sorted by name."""
    sums: Counter[str] = Counter()
    for part in parts:
        sums.update(getattr(part, of))
    return Counter(dict(sorted(sums.items())))


def content_of(parts: Iterable[Part]) -> str:
    """A digest of the names and checksums of ``parts``: the same for the same rows."""
    return digest(sorted((part.name, part.sha256) for part in parts))


class SourceUnit(BaseModel):
    """A unit of work of ingest that a corpus is made of: a file, a span of one, or some hundred small ones.

    ``key`` and ``content`` are those of its parts' names; ``name``: of its first file, within the corpus.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    content: str
    name: str
    num_records: int


class Growth(BaseModel):
    """What is new in a table since its manifest of another generation, ``since``.

    Files and records are each new, changed, removed or the same as before. A record is changed if it has the ID of one
    that was there, and another text; of labels, records are new whose parts are new. ``num_files_new`` and the like
    count units of work where these are made of many small files (``files`` says what to call them).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    since: str
    files: Literal["file", "group of files"] = "file"
    num_files_new: int = 0
    num_files_changed: int = 0
    num_files_removed: int = 0
    num_files_same: int = 0
    num_records_new: int = 0
    num_records_changed: int = 0
    num_records_removed: int = 0
    num_records_same: int = 0

    @property
    def of_files(self) -> str:
        """For example ``1 file is new, 2 were removed``."""
        numbers = (self.num_files_new, self.num_files_changed, self.num_files_removed)
        verbs = (("is new", "are new"), ("has changed", "have changed"), ("was removed", "were removed"))
        said: list[str] = []
        for num, (one, many) in zip(numbers, verbs, strict=True):
            if num:
                what = "" if said else f" {self.files if num == 1 else _PLURAL[self.files]}"
                said.append(f"{num:,}{what} {one if num == 1 else many}")
        return ", ".join(said) or "no file is new or was removed"

    @property
    def of_records(self) -> str:
        """For example ``1,000 records are new, 9,000 are as before``."""
        counts = {
            "new": self.num_records_new,
            "changed": self.num_records_changed,
            "gone": self.num_records_removed,
            "as before": self.num_records_same,
        }
        said = [f"{num:,} {what}" for what, num in counts.items() if num]
        return f"records: {', '.join(said) or 'none'}"


class Manifest(BaseModel):
    """Completion mark, provenance and the input of the cost report of one table.

    ``num_in == num_kept + sum(num_rejected.values())``, checked when it is made. ``busy_seconds`` is the time
    models or readers worked, summed over workers; ``accelerator_seconds`` the time GPUs were held for it.
    ``answers``: the parts of the answer store that the rows of ``responses`` refer to. ``labels``: rows by their label.
    ``notes`` say where the stage could not do as the recipe says. ``files`` are those of the folder that are not parts.
    ``generation``: of a table that grows, the content of the source that its parts were read from; ``sources`` are what
    a corpus was read from, ``growth`` what is new since the manifest that this one replaced.
    ``belongs_with``: the ``content`` of the tables that it was completed with, or is a copy of. ``seal``: a digest of
    all the rest, empty in what earlier versions wrote.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    stage: str
    fingerprint: str
    upstream: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    code_version: str = __version__
    model: str | None = None
    model_identity: str | None = None
    num_in: int
    num_kept: int
    num_rejected: dict[str, int] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    measures: dict[str, float] = Field(default_factory=dict)
    wall_seconds: float = 0.0
    busy_seconds: float = 0.0
    accelerator_seconds: float = 0.0
    completed_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    parts: list[Part] = Field(default_factory=list)
    answers: list[Part] = Field(default_factory=list)
    files: list[Part] = Field(default_factory=list)
    belongs_with: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    generation: str = ""
    sources: list[SourceUnit] = Field(default_factory=list)
    growth: Growth | None = None
    seal: str = ""

    @property
    def content(self) -> str:
        """``content_of`` its parts."""
        return content_of(self.parts)

    @property
    def summary(self) -> str:
        """The last line of a stage's own job."""
        rejected = ", ".join(f"{num:,} {reason}" for reason, num in self.num_rejected.items()) or "none"
        kept = f"{self.num_kept:,} of {self.num_in:,} records"
        return f"{self.stage}: complete, {kept}, rejected: {rejected}, {self.wall_seconds:.0f} s"

    def sealed(self) -> Self:
        """This manifest with the seal of what it says."""
        read_again = type(self).model_validate_json(self.model_dump_json())  # no copy validates its changes
        return self.model_copy(update={"seal": digest(read_again.model_dump(mode="json", exclude={"seal"}))})

    @model_validator(mode="after")
    def _nothing_vanished(self) -> Self:
        rejected = sum(self.num_rejected.values())
        if self.num_in != self.num_kept + rejected:
            raise ValueError(f"{self.stage}: {self.num_in} in, but {self.num_kept} kept and {rejected} rejected")
        return self
