"""What a table's ``manifest.json`` says: its parts, what was counted, and where it comes from."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llambert import __version__
from llambert.storage.part_file import Footer

MANIFEST = "manifest.json"


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


class Manifest(BaseModel):
    """Completion mark, provenance and the input of the cost report of one table.

    ``num_in == num_kept + sum(num_rejected.values())``, checked when it is made. ``busy_seconds`` is the time
    models or readers worked, summed over workers; ``accelerator_seconds`` the time GPUs were held for it.
    ``amendments`` are parts whose rows take the place of the rows of ``parts`` with the same record_id
    (``responses.py``); ``num_in`` does not count them again, ``counts`` do. ``labels``: rows by their label. ``notes``
    say where the stage could not do as the recipe says.
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
    amendments: list[Part] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _nothing_vanished(self) -> Self:
        rejected = sum(self.num_rejected.values())
        if self.num_in != self.num_kept + rejected:
            raise ValueError(f"{self.stage}: {self.num_in} in, but {self.num_kept} kept and {rejected} rejected")
        return self
