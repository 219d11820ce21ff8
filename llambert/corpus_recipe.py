"""The recipe's section ``corpus``: where the corpus is, and which of its rows are records."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from llambert.section import Section, Share, inconsistent, placement_field


class Columns(Section):
    """The source columns by role.

    ``record_id`` null: the file's path if each file is a record (``text_files``, ``imdb``), otherwise generated from
    the file's path, the row and its text, regardless of other files of the corpus.
    """

    text: str = "text"
    record_id: str | None = None
    split: str | None = None
    gold_label: str | None = None
    keep: tuple[str, ...] = ()


class UmlsRecipe(Section):
    """Which concepts of a UMLS release are records, and what their text is; defaults are the paper's "regions".

    A concept is kept that has a term in one of ``languages``, one of the ``semantic_types``, and one of the
    ``relations`` to another such concept. Its text is made of its terms in these languages whose type is not
    excluded.
    """

    languages: tuple[str, ...] = Field(("ENG",), min_length=1)
    semantic_types: tuple[str, ...] = Field(
        ("T017", "T021", "T022", "T023", "T024", "T025", "T026", "T029", "T030", "T031", "T125", "T192"), min_length=1
    )
    """Type identifiers (TUI)."""
    excluded_term_types: tuple[str, ...] = (
        "AA", "AB", "ACR", "AM", "CA2", "CA3", "CDA", "CS", "DEV", "DS", "DSV", "ES", "HS", "ID",
        "MTH_ACR", "NS", "OAM", "OA", "OSN", "PS", "QAB", "QEV", "QSV", "RAB", "SSN", "SS", "VAB",
    )  # fmt: skip
    """TTY of abbreviations, obsolete and short forms."""
    suppressed: tuple[Literal["O", "E", "Y"], ...] = ()
    """Terms with these values of SUPPRESS are as if absent: obsolete, by an editor, by the subset."""
    relations: tuple[str, ...] = ("CHD",)
    """Values of REL that keep a concept from being isolated; empty: isolated concepts are kept too."""
    gold: str | None = None
    """A file with the columns record_id (CUI), gold_label and split, for the concepts that a person has labelled."""
    num_threads: PositiveInt | None = placement_field(None)
    """Null: as many as the machine has cores."""


class HuggingFaceDataset(Section):
    """Which rows of a Hugging Face data set, whose name or folder is ``corpus.path``, are the corpus."""

    config: str | None = None
    splits: tuple[str, ...] = ()
    """Empty: all of them. ``columns.split: split`` keeps their names."""
    revision: str | None = placement_field(None)
    """Of a hub name: a commit, branch or tag; null: ``main``. Looked up once, and stored in the run as a commit."""
    streaming: bool = placement_field(True)
    """Read without copying the whole data set to this machine first. Of a copy, record IDs that are made depend on the
    files before theirs."""


class CorpusRecipe(Section):
    """Where the corpus is and which of its rows are records.

    Null and blank texts are rejected (``null_text``, ``empty_text``). A text of more than
    ``max_text_chars`` characters keeps its first ``max_text_chars`` and is counted as truncated.
    """

    path: str
    format: Literal["auto", "parquet", "jsonl", "csv", "tsv", "text", "text_files", "imdb", "huggingface", "umls"] = (
        "auto"
    )
    """``text``: a record a line; ``text_files``: a record a file; ``imdb``: the review data set, in any layout."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """Of csv and tsv, where it is neither comma nor tab."""
    header: tuple[str, ...] = ()
    """Names of the columns of csv and tsv files that have no line with them."""
    encoding: str | None = None
    """Of csv, tsv, jsonl, text and text_files: any text codec of Python, such as ``gb18030``, ``cp1252`` or
    ``utf-16``; null: UTF-8. A byte-order mark takes precedence."""
    columns: Columns = Columns()
    gold_labels: dict[str, str | None] = Field(default_factory=dict)
    """Source value -> category, or null for no label; empty: the values are the categories. Values match
    as ``corpora/gold.py`` says; those without a match are reported, and end the run if no value has one."""
    exclude: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> values whose rows are no records of this corpus (counted as ``excluded``)."""
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> values whose rows are records of this corpus; all others count as ``excluded``."""
    max_text_chars: PositiveInt = 100_000
    umls: UmlsRecipe | None = None
    """Null unless ``format`` is ``umls``."""
    huggingface: HuggingFaceDataset = HuggingFaceDataset()
    rows_per_part: PositiveInt = 50_000
    max_malformed_share: Share = placement_field(0.01, ge=0, le=1)
    """Share of the source's rows that may be malformed; they are kept in ``corpus_rejects``. More end the run."""
    max_undecodable_share: Share = placement_field(0.01, ge=0, le=1)
    """Share of the rows that may hold bytes that are not text in ``encoding`` (they become U+FFFD)."""

    @property
    def record_id(self) -> str | None:
        """The column that record IDs are read from; null: they are generated."""
        return self.columns.record_id or ("record_id" if self.format in ("text_files", "imdb") else None)

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str | None) -> str | None:
        try:
            if encoding is not None:
                "a".encode(encoding).decode(encoding, "replace")  # fails with hex, rot13 and the like
        except (LookupError, ValueError):
            raise ValueError("should be a text encoding that Python knows, such as utf-16 or gb18030") from None
        return encoding

    @model_validator(mode="after")
    def _decoded(self) -> Self:
        if self.encoding is not None and self.format in ("parquet", "huggingface", "umls", "imdb"):
            raise inconsistent(f"format {self.format} has its own encoding; remove this key", "encoding")
        return self
