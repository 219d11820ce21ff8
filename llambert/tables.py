"""The tables of a run, each declared once: whatever goes through all tables reads this list and keeps no other."""

from dataclasses import dataclass

import pyarrow as pa

from llambert import schema


@dataclass(frozen=True)
class TableSpec:
    """One table: who writes it, with what, and what must hold of it.

    ``stage``: the step that writes it, as the report names it. ``schema``: None if it is not one Parquet schema.
    ``written_with``: the table that the same step completes with it: parts of one name in both are of one unit of
    work, and neither table is complete without the other. ``fingerprint_of``: the table under whose fingerprint it
    lives, if that is neither itself nor the table it is written with. ``covers``: the table each of whose records is
    in it, or in a table written with it, exactly once. ``is_required``: a run is not finished without it;
    ``is_of_annotation``: unless its classifier is trained on gold labels alone. ``is_made_whole``: it is made again
    whole, not part by part. ``is_committed_first``: its part is committed before that of the table it is written with.
    ``has_ids``: each of its records has an ID, once. ``may_hold_more``: its folder may hold parts of a larger sample.
    ``is_checked``: ``verify`` reads it. ``is_shown``: ``status`` shows it.
    """

    name: str
    stage: str
    schema: pa.Schema | None = None
    written_with: str | None = None
    fingerprint_of: str | None = None
    covers: str | None = None
    is_required: bool = False
    is_of_annotation: bool = False
    is_made_whole: bool = False
    is_committed_first: bool = False
    has_ids: bool = True
    may_hold_more: bool = False
    is_checked: bool = True
    is_shown: bool = False

    @property
    def fingerprint(self) -> str:
        """The table under whose fingerprint this one lives: the one it is written with, or itself."""
        return self.fingerprint_of or self.written_with or self.name


TABLES = (
    TableSpec("corpus", "ingest", schema.CORPUS, is_required=True, is_shown=True),
    # Rows of the source that are no record may lack an id.
    TableSpec("corpus_rejects", "ingest", schema.SOURCE_REJECTS, "corpus", has_ids=False, is_committed_first=True),
    TableSpec("corpus_keys", "ingest", schema.CORPUS_KEYS, "corpus", is_committed_first=True, is_checked=False),
    TableSpec("duplicates", "ingest", schema.DUPLICATES, "corpus"),
    TableSpec("shots", "sample", schema.SHOTS, "sample", fingerprint_of="shots"),
    TableSpec("sample", "sample", schema.SAMPLE, is_required=True, is_of_annotation=True, is_made_whole=True),
    TableSpec(
        "responses",
        "annotate",
        schema.RESPONSES,
        is_required=True,
        is_of_annotation=True,
        may_hold_more=True,
        is_shown=True,
    ),
    TableSpec("content_free", "annotate", schema.RESPONSES, "responses"),
    TableSpec(
        "silver",
        "parse",
        schema.SILVER,
        covers="sample",
        is_required=True,
        is_of_annotation=True,
        is_made_whole=True,
        is_shown=True,
    ),
    TableSpec("rejects", "parse", schema.REJECTS, "silver"),
    TableSpec("training", "fine-tune", fingerprint_of="checkpoint", is_checked=False),
    TableSpec("checkpoint", "fine-tune", has_ids=False, is_required=True, is_made_whole=True, is_shown=True),
    TableSpec("labels", "label", schema.LABELS, covers="corpus", is_required=True, is_shown=True),
    TableSpec("label_rejects", "label", schema.CORPUS_REJECTS, "labels", is_committed_first=True),
    TableSpec("labels_by_label", "label", covers="labels", fingerprint_of="labels", is_made_whole=True),
    TableSpec("report", "report", is_made_whole=True, is_checked=False, is_shown=True),
)
"""In the order of the method."""

BY_NAME = {table.name: table for table in TABLES}
REQUIRED = tuple(table.name for table in TABLES if table.is_required)


def together(name: str) -> tuple[str, ...]:
    """The tables of ``name``'s step that are complete only together, the leading one first."""
    leader = BY_NAME[name].written_with or name
    return (leader, *(table.name for table in TABLES if table.written_with == leader))
