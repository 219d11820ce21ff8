"""Checks of a whole corpus by the counts of its readers: what ends the run, and what is worth a warning."""

import itertools
from collections.abc import Iterable, Mapping

from llambert.corpora import files
from llambert.corpora.chunks import read_chunks
from llambert.corpora.encodings import likely_encodings
from llambert.corpora.gold import NUM_GOLD, NUM_UNKNOWN_GOLD, UNKNOWN_GOLD, unknown_values
from llambert.corpora.opening import undecodable_sample
from llambert.corpora.rows import (
    FILES_MISSING_COLUMN,
    UNDECODABLE,
    SourceFile,
    quoted_names,
    require_columns,
    require_in_some_row,
)
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError

Counts = Mapping[str, int]
_ALSO_CALLED = {"gb18030": "GBK", "cp949": "EUC-KR", "cp1252": "Latin-1", "shift_jis": "CP932"}
_EXAMPLES_SHOWN = 5
_MAX_SAMPLED_FILES = 100
_MAX_EARLY_FILES = 20
_HEAD_ROWS = 1_000
_NAMES_COLUMNS = {"parquet", "csv", "tsv", "text"}  # formats


def require_decodable(
    counts: Counts, corpus: CorpusRecipe, undecodable: Iterable[SourceFile], rows: str = "the corpus'"
) -> None:
    """``InputError`` if more rows than the recipe allows, and more than one, hold bytes that are not text.

    ``undecodable``: the units of work with such rows, opened again to guess their encoding. ``rows``: whose rows
    ``counts`` describes.
    """
    num, num_rows = counts.get(UNDECODABLE, 0), counts.get("num_read", 0)
    if num <= max(1, corpus.max_undecodable_share * num_rows):  # one row may be damaged, however few there are
        return
    sources = list(itertools.islice(undecodable, _MAX_SAMPLED_FILES))
    source, likely = next(((one, names) for one in sources if (names := _guess_encodings(one))), (sources[0], []))
    named = ", or ".join(f"{name} ({_ALSO_CALLED[name]})" if name in _ALSO_CALLED else name for name in likely)
    if source.format in ("parquet", "huggingface", "imdb"):
        advice = "convert them to UTF-8"
    elif named:
        advice = f"probably {named}: set corpus.encoding"
    else:
        advice = "set corpus.encoding to the one they have" if corpus.encoding is None else "change corpus.encoding"
    raise InputError(
        f"{source.uri}: {num:,} of {rows} {num_rows:,} rows are not text in {corpus.encoding or 'UTF-8'}, "
        f"which is more than corpus.max_undecodable_share ({corpus.max_undecodable_share:.1%}); {advice}"
    )


def require_decodable_head(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> None:
    """``InputError`` if most of the first thousand rows of a file are not text; called before any row is labelled."""
    head = corpus.model_copy(update={"rows_per_part": _HEAD_ROWS})
    chunk = next(read_chunks(source, head, columns), None)
    if chunk is not None and chunk.counts.get(UNDECODABLE, 0) > chunk.num_rows / 2:
        counts = {UNDECODABLE: chunk.counts[UNDECODABLE], "num_read": chunk.num_rows}
        require_decodable(counts, corpus, [source], "its first")


def _guess_encodings(source: SourceFile) -> list[str]:
    uris = [f"{source.uri}/{member}" for member in source.members] or [source.uri]
    for uri in uris[:_MAX_SAMPLED_FILES]:
        try:
            sample = undecodable_sample(uri)
        except InputError:  # a unit that is not made of files
            continue
        if sample:
            return likely_encodings(sample)
    return []


def require_columns_early(sources: list[SourceFile], corpus: CorpusRecipe, columns: list[str]) -> None:
    """``InputError`` for a column missing in all of a few files, if their columns are known without reading a row."""
    if len(sources) > _MAX_EARLY_FILES or not {source.format for source in sources} <= _NAMES_COLUMNS:
        return
    names = {source.uri: files.column_names(source, corpus) for source in sources}
    for column in columns:
        if not any(column in present for present in names.values()):
            require_columns([column], names[sources[0].uri], sources[0].uri)


def require_columns_somewhere(
    counts: Counts, corpus: CorpusRecipe, sources: list[SourceFile], columns: list[str]
) -> None:
    """``InputError`` for a column that is missing in every row of the corpus."""
    num_rows = counts.get("num_read", 0) - counts.get("num_malformed", 0)
    try:
        require_in_some_row(columns, counts, num_rows, corpus.path)
    except InputError as error:
        if sources[0].format == "huggingface":
            raise
        names = files.column_names(sources[0], corpus)
        raise InputError(f"{error}; the first ones have {quoted_names(names)}") from error


def require_gold(counts: Counts, corpus: CorpusRecipe, categories: list[str]) -> None:
    """``InputError`` if gold labels are named and none of the values is one."""
    if counts.get(NUM_UNKNOWN_GOLD, 0) and not counts.get(NUM_GOLD, 0):
        expected = f"a {_gold_key(corpus)} ({', '.join(corpus.gold_labels or categories)})"
        raise InputError(
            f"corpus.columns.gold_label: none of the {counts[NUM_UNKNOWN_GOLD]:,} values of column "
            f"{corpus.columns.gold_label!r} is {expected}: found {_examples(counts)}; map the values to categories in "
            "corpus.gold_labels, or set corpus.columns.gold_label to null"
        )


def unmatched_gold(counts: Counts, corpus: CorpusRecipe) -> str | None:
    """A sentence on the gold values that are no label, with examples; None if all are labels."""
    if not (num := counts.get(NUM_UNKNOWN_GOLD, 0)):
        return None
    whole = num + counts.get(NUM_GOLD, 0)
    return (
        f"{num:,} of {whole:,} gold values ({num / whole:.1%}) in column {corpus.columns.gold_label!r} match no "
        f"{_gold_key(corpus)} and count as no label: {_examples(counts)}. If they are labels, map them in "
        "corpus.gold_labels; if not, map them to null there."
    )


def warnings(counts: Counts, corpus: CorpusRecipe) -> list[str]:
    """What a user should know about a corpus that was read, one sentence each."""
    found: list[str] = []
    if about_gold := unmatched_gold(counts, corpus):
        found.append(about_gold)
    elif corpus.columns.gold_label and counts.get(NUM_GOLD) == 0:
        column = corpus.columns.gold_label
        found.append(f"No gold label was found: column {column!r} is empty, or mapped to null, in every record.")
    if num := counts.get(UNDECODABLE, 0):
        found.append(
            f"Rows with bytes that are not text in the encoding of their file: {num:,}; these bytes became U+FFFD. If "
            f"the source is not {corpus.encoding or 'UTF-8'}, set corpus.encoding."
        )
    for key, num in counts.items():
        if key.startswith(FILES_MISSING_COLUMN) and num:
            found.append(
                f"Rows of files without a column {key.removeprefix(FILES_MISSING_COLUMN)!r}: {num:,}; it is null there."
            )
    return found


def _gold_key(corpus: CorpusRecipe) -> str:
    return "key of corpus.gold_labels" if corpus.gold_labels else "category"


def _examples(counts: Counts) -> str:
    shown = unknown_values(counts, _EXAMPLES_SHOWN)
    return ", ".join(f"{key.removeprefix(UNKNOWN_GOLD)!r} ({num:,})" for key, num in shown.items())
