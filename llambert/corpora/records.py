"""Source rows -> records and rejects, each reject with its reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.corpora.chunks import Chunk
from llambert.corpora.gold import NUM_GOLD, NUM_UNKNOWN_GOLD, UNKNOWN_GOLD, GoldReader, most_frequent
from llambert.corpora.rows import RowFault, SourceFile
from llambert.corpus_recipe import CorpusRecipe

_DEFAULT_SPLIT = "all"  # the split of a corpus that names none


@dataclass(frozen=True)
class SeparatedRows:
    """``records`` (``schema.CORPUS`` and the kept columns) and ``rejects`` (``schema.SOURCE_REJECTS``) of a chunk.

    ``counts``: ``num_read`` (the rows of both tables) and other ``num_…`` counts.
    ``rejected``: how many are rejects, by reason.
    """

    records: pa.Table
    rejects: pa.Table
    counts: dict[str, int]
    rejected: dict[str, int]


def source_columns(recipe: CorpusRecipe) -> list[str]:
    """The columns of the source that a recipe asks for."""
    columns = recipe.columns
    named = [
        columns.text,
        recipe.record_id,
        columns.split,
        columns.gold_label,
        *columns.keep,
        *recipe.exclude,
        *recipe.only,
    ]
    return list(dict.fromkeys(name for name in named if name))


def separate(source: SourceFile, chunk: Chunk, corpus: CorpusRecipe, categories: Sequence[str]) -> SeparatedRows:
    """Records, rejects and counts of one chunk of source rows."""
    columns, table = corpus.columns, chunk.records(source_columns(corpus))
    text = table[columns.text].combine_chunks()
    ids = _record_ids(source, table, chunk.first_row, corpus)
    splits = _splits(table, chunk, corpus)
    reasons = _reject_reasons(table, chunk, [ids, text, splits], corpus)
    too_long = pc.greater(pc.utf8_length(text), corpus.max_text_chars)
    kept = pc.is_null(reasons)
    gold_values = table[columns.gold_label].to_pylist() if columns.gold_label else [None] * table.num_rows
    class_names = chunk.class_names.get(columns.gold_label or "", ())
    gold = GoldReader(corpus, categories).read(gold_values, class_names)
    records = pa.table(
        {
            schema.RECORD_ID: ids,
            schema.TEXT: pc.utf8_slice_codeunits(text, 0, corpus.max_text_chars),
            schema.SPLIT: splits,
            schema.GOLD_LABEL: pa.array(gold.labels, pa.string()),
            **{name: table[name] for name in columns.keep},
        }
    ).filter(kept)
    malformed = chunk.malformed_rejects(source)
    refused = _rejects(pa.table([ids, text, reasons], schema.CORPUS_REJECTS.names))
    rejected = pa.concat_tables([refused, malformed])
    counts = Counter({"num_read": table.num_rows + malformed.num_rows})
    counts["num_malformed"] = malformed.num_rows
    counts.update(chunk.counts)
    counts["num_truncated"] = pc.sum(pc.and_(pc.fill_null(too_long, False), kept)).as_py() or 0
    counts[NUM_GOLD] = len(records) - records[schema.GOLD_LABEL].null_count
    if columns.gold_label:
        unknown = table[columns.gold_label].filter(pc.and_(pa.array(gold.is_unknown, pa.bool_()), kept)).to_pylist()
        counts[NUM_UNKNOWN_GOLD] = len(unknown)
        counts.update({f"{UNKNOWN_GOLD}{value}": num for value, num in most_frequent(unknown, class_names).items()})
    return SeparatedRows(records, rejected, dict(counts), Counter(rejected[schema.REJECT_REASON].to_pylist()))


def _record_ids(source: SourceFile, table: pa.Table, first_row: int, corpus: CorpusRecipe) -> pa.Array:
    """The ID column; or unit, row and a hash of the text, which are the same whenever the same file is read."""
    columns = corpus.columns
    if corpus.record_id:
        return table[corpus.record_id].combine_chunks()
    texts = table[columns.text].to_pylist()
    ids = (
        f"{source.key}-{row:09d}-{blake2b((text or '').encode(), digest_size=4).hexdigest()}"
        for row, text in enumerate(texts, start=first_row)
    )
    return pa.array(ids, pa.string())


def _reject_reasons(table: pa.Table, chunk: Chunk, required: list[pa.Array], corpus: CorpusRecipe) -> pa.Array:
    """Why a row is rejected (the first reason that holds), null for records. ``required``: ids, texts, splits."""
    ids, text, splits = required
    excluded = pa.array([False] * table.num_rows, pa.bool_())
    for column, values in corpus.exclude.items():
        excluded = pc.or_(excluded, _is_one_of(table, chunk, column, values))
    for column, values in corpus.only.items():
        excluded = pc.or_(excluded, pc.invert(_is_one_of(table, chunk, column, values)))
    blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(text, "")), "")
    cases = pc.make_struct(excluded, pc.is_null(ids), pc.is_null(text), blank, pc.is_null(splits))
    faults = (RowFault.EXCLUDED, RowFault.NULL_RECORD_ID, RowFault.NULL_TEXT, RowFault.EMPTY_TEXT, RowFault.NULL_SPLIT)
    return pc.case_when(cases, *faults)


def _is_one_of(table: pa.Table, chunk: Chunk, column: str, values: Sequence[str]) -> pa.Array:
    """Where a column has one of some values; those of a ClassLabel column are named, or else given as integers."""
    names = chunk.class_names.get(column, ())
    is_named = bool(names) and set(values) <= set(names)
    column_values = _with_class_names(table, chunk, column) if is_named else table[column].combine_chunks()
    return pc.is_in(column_values, pa.array(values, pa.string()))


def _with_class_names(table: pa.Table, chunk: Chunk, column: str) -> pa.Array:
    """A column, that of a ClassLabel by the names of its classes; a value that is no class stays as it is."""
    if not (names := chunk.class_names.get(column)):
        return table[column].combine_chunks()
    integers = pa.array([str(number) for number in range(len(names))], pa.string())
    values = table[column].combine_chunks()
    return pc.coalesce(pa.array(names, pa.string()).take(pc.index_in(values, integers)), values)


def _splits(table: pa.Table, chunk: Chunk, corpus: CorpusRecipe) -> pa.Array:
    column = corpus.columns.split
    return (
        _with_class_names(table, chunk, column) if column else pa.array([_DEFAULT_SPLIT] * table.num_rows, pa.string())
    )


def _rejects(rows: pa.Table) -> pa.Table:
    """The ``SOURCE_REJECTS`` among ``rows`` (record_id, text, reject_reason or null)."""
    rows = rows.filter(pc.is_valid(rows[schema.REJECT_REASON]))
    reasons, nowhere = rows[schema.REJECT_REASON], pa.nulls(rows.num_rows)
    # The text of an excluded row stays in the source.
    texts = pc.if_else(pc.equal(reasons, RowFault.EXCLUDED), None, rows[schema.TEXT])
    columns = [pc.fill_null(rows[schema.RECORD_ID], ""), texts, reasons, nowhere, nowhere]
    return pa.table(columns, schema.SOURCE_REJECTS.names).cast(schema.SOURCE_REJECTS)
