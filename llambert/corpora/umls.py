"""Concepts of a UMLS release (MRCONSO, MRSTY, MRREL) as records: record_id, the CUI, and text, its synonyms.

The rules are the paper's (arXiv 2403.15938) unless ``corpus.umls`` says otherwise. Each file is read once, in
threads. Each concept takes one byte in arrays of a fixed size, and terms wait on disk until MRREL, which decides
which concepts are kept, has been read. So memory does not depend on the release.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.corpora import files, rrf
from llambert.corpora.rows import Malformed, RowFault, Rows, SourceFile, Sources, malformed_rows, require_columns
from llambert.corpus_recipe import CorpusRecipe, UmlsRecipe
from llambert.errors import InputError
from llambert.recipe import digest

NUM_SOURCE_ROWS = "num_source_rows"
SEMANTIC_TYPES = "semantic_types"
COLUMNS = [schema.RECORD_ID, schema.TEXT, schema.SPLIT, schema.GOLD_LABEL, SEMANTIC_TYPES]

_SEPARATOR = "; "
_ESCAPED_BAR = r"(?i)&#x7c;"  # how a release writes "|" inside a term
_NO_GOLD_SPLIT = "all"
CODES_PER_RANGE = 1 << 17  # some hundred thousand terms: sorted in memory, a few ranges at a time
_ROWS_PER_READ = 8192
_Gold = tuple[str | None, str | None]  # label, split
_TERMS = pa.schema([("code", pa.int64()), ("term", pa.string())])


def find(corpus: CorpusRecipe) -> Sources:
    """The release as one unit of work: which concepts are kept depends on all three files."""
    tables = rrf.find_tables(corpus.path)
    if corpus.columns.record_id is None:
        raise InputError("corpus.columns.record_id: is missing; of a UMLS release it is record_id, the CUI")
    return Sources(
        [SourceFile(digest(corpus.format), corpus.path, "umls", sum(table.num_bytes for table in tables.values()))]
    )


def uris(corpus: CorpusRecipe) -> list[str]:
    """The files that are read: of the release, and of the gold labels."""
    release = [uri for table in rrf.find_tables(corpus.path).values() for uri in table.uris]
    gold = corpus.umls.gold if corpus.umls else None
    return [*release, *([gold] if gold else [])]


def read(source: SourceFile, corpus: CorpusRecipe, columns: list[str]) -> Iterator[Rows]:
    """The concepts in the order of their CUIs, after the malformed rows.

    Beside the columns of every corpus there is ``semantic_types``, those of the recipe that the concept has.
    A concept all of whose terms are of excluded types has an empty text. ``InputError`` for a table that is
    missing or cannot be read to its end.
    """
    require_columns(columns, COLUMNS, source.uri)
    recipe, tables = corpus.umls or UmlsRecipe(), rrf.find_tables(source.uri)
    none = pa.table({name: pa.array([], pa.string()) for name in columns})
    with tempfile.TemporaryDirectory(prefix="llambert-umls-") as folder:
        release = _Release(recipe, _TermRanges(Path(folder)))
        for done in release.read_tables(tables):
            yield Rows(none, malformed_rows(done.malformed), {**done.counts, NUM_SOURCE_ROWS: done.num_rows})
        gold = _read_gold(recipe.gold) if recipe.gold else {}
        num_gold = 0
        for found in release.concepts():
            yield Rows(none, counts=found.counts)
            for start in range(0, len(found.codes), _ROWS_PER_READ):
                codes = found.codes[start : start + _ROWS_PER_READ]
                values = _columns(codes, found.texts.slice(start, len(codes)), gold)
                num_gold += sum(record_id in gold for record_id in values[schema.RECORD_ID].to_pylist())
                if SEMANTIC_TYPES in columns:
                    values[SEMANTIC_TYPES] = pa.array(release.semantic_types(codes), pa.string())
                yield Rows(pa.table({name: values[name] for name in columns}))
        if gold:
            yield Rows(none, counts={"num_gold_of_concepts_left_out": len(gold) - num_gold})


def _columns(codes: np.ndarray, texts: pa.Array, gold: dict[str, _Gold]) -> dict[str, pa.Array]:
    ids = rrf.concept_ids(codes)
    labelled = [gold.get(record_id, (None, _NO_GOLD_SPLIT)) for record_id in ids]
    return {
        schema.RECORD_ID: pa.array(ids, pa.string()),
        schema.TEXT: texts,
        schema.GOLD_LABEL: pa.array([label for label, _ in labelled], pa.string()),
        schema.SPLIT: pa.array([split for _, split in labelled], pa.string()),
    }


@dataclass(frozen=True)
class _BlockResult:
    """The result of one block. ``terms``: those of concepts that may be kept, in the order of their concepts."""

    num_rows: int
    malformed: list[Malformed]
    counts: dict[str, int] = field(default_factory=dict)
    terms: pa.Table | None = None


class _Release:
    """Which concepts are kept. Threads share its arrays: they only ever set bytes to True."""

    def __init__(self, recipe: UmlsRecipe, terms: "_TermRanges") -> None:
        self.recipe, self._terms = recipe, terms
        self._num_threads = recipe.num_threads or os.cpu_count() or 1
        self._typed = np.zeros(rrf.NUM_CODES, bool)  # has a semantic type
        self._wanted = np.zeros(rrf.NUM_CODES, bool)  # has one of the recipe's
        self._known = np.zeros(rrf.NUM_CODES, bool)  # has a term
        self._named = np.zeros(rrf.NUM_CODES, bool)  # has one in the recipe's languages
        self._linked = np.full(rrf.NUM_CODES, not recipe.relations)
        self._types: list[np.ndarray] = []

    def read_tables(self, tables: dict[str, rrf.RrfTable]) -> Iterator[_BlockResult]:
        """Read the three tables, each once; MRSTY again only if it names concepts that MRCONSO does not have."""
        yield from rrf.map_in_threads(self._mark_types, rrf.read_blocks(tables["MRSTY"]), self._num_threads)
        for done in rrf.map_in_threads(self._collect_terms, rrf.read_blocks(tables["MRCONSO"]), self._num_threads):
            if done.terms is not None:
                self._terms.add(done.terms)
            yield done
        if (self._typed & ~self._known).any():
            yield from rrf.map_in_threads(
                self._reject_types_of_unknown_concepts, rrf.read_blocks(tables["MRSTY"]), self._num_threads
            )
        if self.recipe.relations:
            yield from rrf.map_in_threads(self._mark_linked, rrf.read_blocks(tables["MRREL"]), self._num_threads)

    def concepts(self) -> Iterator["_ConceptTexts"]:
        """The kept concepts with their texts, in the order of their codes."""
        return self._terms.texts(self._wanted & self._named & self._linked, self._num_threads)

    def semantic_types(self, codes: np.ndarray) -> list[str]:
        """The recipe's semantic types that each of some concepts has, joined like synonyms."""
        concepts, types = self._sorted_types
        first, after = (np.searchsorted(concepts, codes, side=side) for side in ("left", "right"))
        return [_SEPARATOR.join(types[start:end]) for start, end in zip(first, after, strict=True)]

    @cached_property
    def _sorted_types(self) -> tuple[np.ndarray, list[str]]:
        pairs = np.unique(np.concatenate([np.empty((0, 2), np.int32), *self._types]), axis=0)
        names = sorted(self.recipe.semantic_types)
        return pairs[:, 0], [names[place] for place in pairs[:, 1]]

    def _mark_types(self, block: rrf.Block) -> _BlockResult:
        rows = rrf.RrfRows(block, ["CUI", "TUI"])
        codes = rows.concept_codes("CUI")
        self._typed[codes[rows.valid]] = True
        wanted = rows.valid & rows.is_in("TUI", self.recipe.semantic_types)
        self._wanted[codes[wanted]] = True
        names = pa.array(sorted(self.recipe.semantic_types), pa.string())
        places = pc.index_in(rows.strings("TUI", wanted), names).to_numpy(zero_copy_only=False)
        self._types.append(np.stack([codes[wanted], places], axis=1).astype(np.int32))
        return _BlockResult(rows.num_lines, rows.malformed)

    def _reject_types_of_unknown_concepts(self, block: rrf.Block) -> _BlockResult:
        rows = rrf.RrfRows(block, ["CUI"])
        codes = rows.concept_codes("CUI")
        rows.malformed.clear()  # reported at the first reading
        rows.reject(~self._known[codes], RowFault.UNKNOWN_CONCEPT)
        return _BlockResult(0, rows.malformed)

    def _collect_terms(self, block: rrf.Block) -> _BlockResult:
        recipe, rows, counts = self.recipe, rrf.RrfRows(block, ["CUI", "LAT", "TTY", "STR", "SUPPRESS"]), Counter[str]()
        codes = rows.concept_codes("CUI")
        self._known[codes[rows.valid]] = True
        rows.reject(~self._typed[codes], RowFault.UNKNOWN_CONCEPT)

        def without(left: np.ndarray, rule: str, left_out: np.ndarray) -> np.ndarray:
            counts[f"num_terms_{rule}"] += int((left & left_out).sum())
            return left & ~left_out

        left = without(rows.valid, "other_language", ~rows.is_in("LAT", recipe.languages))
        left = without(left, "suppressed", rows.is_in("SUPPRESS", recipe.suppressed))
        self._named[codes[left]] = True
        left = without(left, "other_semantic_type", ~self._wanted[codes])
        left = without(left, "excluded_type", rows.is_in("TTY", recipe.excluded_term_types))
        terms = pa.table([codes[left], _normalize_terms(rows.strings("STR", left))], schema=_TERMS)
        blank = pc.equal(pc.utf8_trim_whitespace(terms["term"]), "")
        counts["num_terms_blank"] = pc.sum(blank).as_py() or 0
        terms = terms.filter(pc.invert(blank))
        return _BlockResult(rows.num_lines, rows.malformed, dict(counts), terms.take(np.argsort(terms["code"])))

    def _mark_linked(self, block: rrf.Block) -> _BlockResult:
        rows = rrf.RrfRows(block, ["CUI1", "REL", "CUI2"])
        first, second = rows.concept_codes("CUI1"), rows.concept_codes("CUI2")
        rows.reject(~(self._known[first] & self._known[second]), RowFault.UNKNOWN_CONCEPT)
        related = np.flatnonzero(rows.valid & rows.is_in("REL", self.recipe.relations) & (first != second))
        for codes in (first, second):
            related = related[self._wanted[codes[related]] & self._named[codes[related]]]
        self._linked[first[related]] = self._linked[second[related]] = True
        return _BlockResult(rows.num_lines, rows.malformed)


def _normalize_terms(terms: pa.StringArray) -> pa.Array:
    """Lower-cased as ``str.lower`` does it, which for ASCII is what Arrow does; the escaped bar unescaped."""
    if pc.any(pc.match_substring(terms, "&#")).as_py():
        terms = pc.replace_substring_regex(terms, _ESCAPED_BAR, "|")
    lower, is_ascii = pc.ascii_lower(terms), pc.string_is_ascii(terms)
    others = [term.lower() for term in terms.filter(pc.invert(is_ascii)).to_pylist()]
    return pc.replace_with_mask(lower, pc.invert(is_ascii), pa.array(others, pa.string())) if others else lower


@dataclass(frozen=True)
class _ConceptTexts:
    """Concepts, their texts, and counts of their terms."""

    codes: np.ndarray
    texts: pa.Array
    counts: dict[str, int]


class _TermRanges:
    """Terms on disk, a file for each range of concepts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}

    def add(self, terms: pa.Table) -> None:
        """Store terms that are in the order of their concepts."""
        codes = terms["code"].to_numpy()
        ranges, starts = np.unique(codes // CODES_PER_RANGE, return_index=True)
        ends = np.searchsorted(codes, (ranges + 1) * CODES_PER_RANGE)
        for number, start, end in zip(ranges.tolist(), starts, ends, strict=True):
            if number not in self._writers:
                self._writers[number] = pa.ipc.new_stream(self._folder / str(number), _TERMS)
            self._writers[number].write_table(terms.slice(start, end - start))

    def texts(self, kept: np.ndarray, num_threads: int) -> Iterator[_ConceptTexts]:
        """The texts of the concepts where ``kept`` holds, range by range."""
        for writer in self._writers.values():
            writer.close()
        numbers = sorted({*self._writers, *np.unique(np.flatnonzero(kept) // CODES_PER_RANGE).tolist()})
        yield from rrf.map_in_threads(lambda number: self._texts_of_range(number, kept), numbers, num_threads)

    def _texts_of_range(self, number: int, kept: np.ndarray) -> _ConceptTexts:
        stored = _TERMS.empty_table()
        if number in self._writers:
            with pa.OSFile(str(self._folder / str(number))) as file:
                stored = pa.ipc.open_stream(file).read_all()
        first = number * CODES_PER_RANGE
        codes = first + np.flatnonzero(kept[first : first + CODES_PER_RANGE])
        wanted = stored.filter(pa.array(kept[stored["code"].to_numpy()]))
        distinct = wanted.group_by(["code", "term"], use_threads=False).aggregate([])
        distinct = distinct.append_column("length", pc.utf8_length(distinct["term"]))
        distinct = distinct.sort_by([(name, "ascending") for name in ("code", "length", "term")])
        offsets = np.searchsorted(distinct["code"].to_numpy(), np.append(codes, first + CODES_PER_RANGE))
        terms = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), distinct["term"].combine_chunks())
        counts = {
            "num_terms_isolated": stored.num_rows - wanted.num_rows,
            "num_terms_repeated": wanted.num_rows - distinct.num_rows,
            "num_terms_kept": distinct.num_rows,
        }
        return _ConceptTexts(codes, pc.binary_join(terms, _SEPARATOR), counts)


def _read_gold(path: str) -> dict[str, _Gold]:
    """record_id -> gold label, split."""
    try:
        table = files.read_columns(path, [schema.RECORD_ID, schema.GOLD_LABEL, schema.SPLIT])
    except InputError as error:
        raise InputError(f"corpus.umls.gold: {error}") from error
    gold: dict[str, _Gold] = {}
    for record_id, label, split in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if gold.setdefault(record_id, (label, split)) != (label, split):
            raise InputError(f"corpus.umls.gold: {path} gives {record_id} two labels or splits")
    return gold
