"""The tables of a run, each declared once: all code that goes through the tables reads this graph."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from llambert import schema
from llambert.recipe import Recipe


def _always(*_: object) -> bool:
    return True


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True)
class TableSpec:
    """One table: who writes it, from what, with what, and what must hold of it.

    ``stage``: the step that writes it. ``schema``: None if it is not one Parquet schema. ``upstream``: the tables it
    is made from; ``is_upstream`` tells which of them a recipe really reads. ``reads_gold``: whether a recipe lets gold
    labels of the corpus decide its rows. ``section``: the section of the recipe that its manifest keeps. ``model``: the
    section that names the model it is made with; ``model_files``: the table whose files are that model as trained.

    ``written_with``: the leading table that the same step completes with it: neither is complete without the other.
    ``fingerprint_of``: the table under whose fingerprint it lives, if that is neither itself nor the leading one.
    ``is_by_part``: each part of the leading table has one here of the same name, committed before it; ``is_rejects``:
    it holds the records that the leading table rejects. ``covers``: the table each of whose records is in it, or in a
    table written with it, exactly once.

    ``grows``: it lives in one folder through all generations of the corpus: its fingerprint does not cover what the
    source holds, the names of its parts do, and its manifest says of which generation it is.

    ``is_required``: a run is not finished without it, if anything is made from it. ``is_made_whole``: it is made again
    whole, not part by part. ``is_files``: its parts are files of any kind, not Parquet. ``has_ids``: each of its
    records has an ID, once. ``holds_rejected``: records that count as rejected are rows of it too. ``may_hold_more``:
    its folder may hold parts that it was made of before. ``texts``: the table whose texts the annotator was
    asked about, of which it has a row for each. ``refers_to``: the store in whose parts the rest of its rows is; its
    manifest lists these parts. ``copy_of``: the table whose parts are copied into it. ``is_asked_for``: a
    recipe's run is not finished without it either. ``is_description``: it says something of all others, and is made
    again whenever one of them is. ``is_checked``: it has a manifest and ``verify`` reads it. ``is_store``: it has none:
    its parts are kept, whatever becomes of the tables that refer to them. ``is_shown``: ``status`` shows it.
    """

    name: str
    stage: str
    schema: pa.Schema | None = None
    upstream: tuple[str, ...] = ()
    is_upstream: Callable[[str, Recipe], bool] = _always
    reads_gold: Callable[[Recipe], bool] = _never
    section: str | None = None
    model: str | None = None
    model_files: str | None = None
    written_with: str | None = None
    fingerprint_of: str | None = None
    is_by_part: bool = False
    is_rejects: bool = False
    covers: str | None = None
    grows: bool = False
    is_required: bool = False
    is_made_whole: bool = False
    is_files: bool = False
    texts: str = ""
    has_ids: bool = True
    holds_rejected: bool = False
    may_hold_more: bool = False
    refers_to: str | None = None
    copy_of: str | None = None
    is_asked_for: Callable[[Recipe], bool] = _never
    is_description: bool = False
    is_checked: bool = True
    is_store: bool = False
    is_shown: bool = False

    @property
    def fingerprint(self) -> str:
        """The table under whose fingerprint this one lives: the one it is written with, or itself."""
        return self.fingerprint_of or self.written_with or self.name


class TableGraph:
    """Declared tables in the order of the method, each after those that it is made from."""

    def __init__(self, *tables: TableSpec) -> None:
        self._tables = {table.name: table for table in tables}
        assert len(self._tables) == len(tables), "two tables have one name"

    def __getitem__(self, name: str) -> TableSpec:
        return self._tables[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[TableSpec]:
        return iter(self._tables.values())

    def grows(self, name: str) -> bool:
        """Whether ``name``, or the table under whose fingerprint it lives, grows."""
        return self[self[name].fingerprint].grows

    def leader(self, name: str) -> TableSpec:
        """The table that the step of ``name`` completes last: itself, or the one it is written with."""
        return self[self[name].written_with or name]

    def together(self, name: str) -> tuple[TableSpec, ...]:
        """The tables of ``name``'s step that are complete only together, the leading one first."""
        leader = self.leader(name)
        return (leader, *(table for table in self if table.written_with == leader.name))

    def upstream(self, name: str, recipe: Recipe) -> tuple[str, ...]:
        """The tables that ``name`` is made from with this recipe."""
        leader = self.leader(name)
        return tuple(table for table in leader.upstream if leader.is_upstream(table, recipe))

    def needed(self, recipe: Recipe) -> set[str]:
        """The required tables that others are made from with this recipe, and those that no other is made from.

        With them, those that the recipe asks for.
        """
        required = [table for table in self if table.is_required]
        found = {one.name for one in required} - {name for one in required for name in one.upstream}
        for table in reversed(required):
            if table.name in found:
                found.update(self.upstream(table.name, recipe))
        return found | {table.name for table in self if table.is_asked_for(recipe)}

    def downstream(self, name: str) -> tuple[TableSpec, ...]:
        """``name`` and the leading tables that are made from it, whatever the recipe."""
        found = {name}
        for table in self:
            if found.intersection(table.upstream):
                found.add(table.name)
        return tuple(table for table in self if table.name in found)


def _has_gold_shots(recipe: Recipe) -> bool:
    return recipe.annotator.gold_shots is not None


def _trains_on_gold(recipe: Recipe) -> bool:
    return recipe.classifier.learns_gold


def _is_trained_on(upstream: str, recipe: Recipe) -> bool:
    """Of silver labels and the corpus' gold labels, those that the regime trains on."""
    return recipe.classifier.learns_gold if upstream == "corpus" else recipe.classifier.learns_silver


def _keeps_gold_labels(recipe: Recipe) -> bool:
    return schema.GOLD_LABEL in recipe.label.keep


def _is_by_label(recipe: Recipe) -> bool:
    """Of a recipe with a guarantee the final labels are published, and no others."""
    return recipe.label.by_label and recipe.guarantee is None


def _is_decided_by_label(recipe: Recipe) -> bool:
    return recipe.label.by_label and _annotator_is_oracle(recipe)


def _has_guarantee(recipe: Recipe) -> bool:
    return recipe.guarantee is not None


def _annotator_is_oracle(recipe: Recipe) -> bool:
    return recipe.guarantee is not None and recipe.guarantee.oracle == "annotator"


def _is_oracles(upstream: str, recipe: Recipe) -> bool:
    """People's answers are in a store, whose content no fingerprint covers."""
    return upstream != "certification_responses" or _annotator_is_oracle(recipe)


TABLES = TableGraph(
    TableSpec(
        "corpus",
        "ingest",
        schema.CORPUS,
        reads_gold=_always,
        section="corpus",
        grows=True,
        is_required=True,
        is_shown=True,
    ),
    TableSpec(
        "corpus_rejects",
        "ingest",
        schema.SOURCE_REJECTS,
        written_with="corpus",
        is_by_part=True,
        is_rejects=True,
        has_ids=False,  # rows of the source that are no record may lack one
    ),
    TableSpec("corpus_keys", "ingest", schema.CORPUS_KEYS, written_with="corpus", is_by_part=True, has_ids=False),
    TableSpec("duplicates", "ingest", schema.DUPLICATES, written_with="corpus"),
    TableSpec("shots", "sample", schema.SHOTS, reads_gold=_always, written_with="sample", fingerprint_of="shots"),
    TableSpec(
        "sample",
        "sample",
        schema.SAMPLE,
        upstream=("corpus",),
        reads_gold=_has_gold_shots,
        is_required=True,
        is_made_whole=True,
    ),
    TableSpec("answers", "annotate", schema.ANSWERS, has_ids=False, is_checked=False, is_store=True),
    TableSpec(
        "responses",
        "annotate",
        schema.RESPONSES,
        upstream=("sample",),
        reads_gold=_has_gold_shots,
        section="annotator",
        model="annotator",
        is_required=True,
        is_made_whole=True,
        texts="sample",
        holds_rejected=True,
        may_hold_more=True,
        refers_to="answers",
        is_shown=True,
    ),
    TableSpec("content_free", "annotate", schema.RESPONSES, written_with="responses", refers_to="answers"),
    TableSpec(
        "silver",
        "parse",
        schema.SILVER,
        upstream=("responses",),
        section="parse",
        covers="sample",
        is_required=True,
        is_made_whole=True,
        is_shown=True,
    ),
    TableSpec("rejects", "parse", schema.REJECTS, written_with="silver", is_by_part=True, is_rejects=True),
    TableSpec("training", "finetune", fingerprint_of="checkpoint", is_checked=False),
    TableSpec("learned", "finetune", schema.LEARNED, written_with="checkpoint", has_ids=False),
    TableSpec(
        "checkpoint",
        "finetune",
        upstream=("silver", "corpus"),
        is_upstream=_is_trained_on,
        reads_gold=_trains_on_gold,
        section="classifier",
        model="classifier",
        is_required=True,
        is_made_whole=True,
        is_files=True,
        has_ids=False,
        is_shown=True,
    ),
    TableSpec(
        "labels",
        "label",
        schema.LABELS,
        upstream=("corpus", "checkpoint"),
        reads_gold=_keeps_gold_labels,
        section="label",
        model="classifier",
        model_files="checkpoint",
        covers="corpus",
        grows=True,
        is_required=True,
        is_shown=True,
    ),
    TableSpec("label_rejects", "label", schema.CORPUS_REJECTS, written_with="labels", is_by_part=True, is_rejects=True),
    TableSpec(
        "labels_by_label",
        "label",
        upstream=("labels",),
        fingerprint_of="labels",
        covers="labels",
        is_made_whole=True,
        copy_of="labels",
        is_asked_for=_is_by_label,
    ),
    TableSpec("people", "review", schema.PEOPLES_ANSWERS, has_ids=False, is_checked=False, is_store=True),
    TableSpec(
        "certification",
        "certify",
        schema.LABELLED_SAMPLE,
        upstream=("labels", "sample"),
        section="guarantee",
        is_made_whole=True,
        may_hold_more=True,
        is_asked_for=_has_guarantee,
    ),
    TableSpec(
        "certification_responses",
        "certify",
        schema.RESPONSES,
        upstream=("certification", "responses"),
        section="annotator",
        model="annotator",
        texts="certification",
        is_made_whole=True,
        holds_rejected=True,
        may_hold_more=True,
        refers_to="answers",
        is_asked_for=_annotator_is_oracle,
    ),
    TableSpec(
        "certificate",
        "certify",
        schema.CERTIFICATE,
        upstream=("certification", "certification_responses", "silver", "corpus"),
        is_upstream=_is_oracles,
        reads_gold=_always,
        section="guarantee",
        covers="certification",
        is_made_whole=True,
        may_hold_more=True,
        is_asked_for=_annotator_is_oracle,
        is_shown=True,
    ),
    TableSpec(
        "deferred",
        "escalate",
        schema.LABELLED_SAMPLE,
        upstream=("labels", "certificate"),
        section="guarantee",
        is_made_whole=True,
        may_hold_more=True,
    ),
    TableSpec(
        "escalated",
        "escalate",
        schema.RESPONSES,
        upstream=("deferred", "certification_responses", "responses"),
        is_upstream=_is_oracles,
        section="annotator",
        model="annotator",
        texts="deferred",
        is_made_whole=True,
        holds_rejected=True,
        may_hold_more=True,
        refers_to="answers",
    ),
    TableSpec(
        "decisions",
        "escalate",
        schema.DECISIONS,
        upstream=("labels", "certificate"),
        section="guarantee",
        covers="labels",
        may_hold_more=True,
        is_asked_for=_annotator_is_oracle,
        is_shown=True,
    ),
    TableSpec(
        "decisions_by_label",
        "escalate",
        upstream=("decisions",),
        fingerprint_of="decisions",
        covers="decisions",
        is_made_whole=True,
        may_hold_more=True,
        copy_of="decisions",
        is_asked_for=_is_decided_by_label,
    ),
    TableSpec("plan", "plan", is_made_whole=True, is_files=True, has_ids=False),
    TableSpec(
        "report",
        "report",
        upstream=("corpus", "sample", "responses", "silver", "checkpoint", "labels"),
        reads_gold=_always,
        is_made_whole=True,
        is_files=True,
        has_ids=False,
        is_description=True,
        is_shown=True,
    ),
)
"""In the order of the method."""
