"""Error analysis with people: a blind sample of the records whose two labels disagree, and the people's answers.

The classifier's label is compared with gold or, without gold, with the silver label. People see neither: the labels
stay in the run, in ``review/<key>/key.parquet``, by item number.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import markdown, schema
from llambert.annotation.sampling import Purpose, sampling_hashes
from llambert.annotation.splits import TRAIN, is_training_gold
from llambert.corpora.duplicates import first_occurrences, unique_text_positions
from llambert.errors import InputError
from llambert.evaluation.evidence import learned_texts, shot_texts
from llambert.hashing import hash64
from llambert.recipe import digest
from llambert.review.agreement import Agreement, agreements
from llambert.review.items import (
    ITEM,
    KEY,
    MIXED,
    OTHER_ANSWER,
    REFERENCE,
    Sample,
    check_other_answer,
    keys_of,
    number_items,
    read_keys,
    store_key,
)
from llambert.run import Run

Reference = Literal["gold", "silver"]
Order = Literal["random", "hardest"]

DISPUTED = "people disagree"


@dataclass(frozen=True)
class Disagreements(Sample):
    """A sample of disagreements, and how many of them the run has."""

    num_disagreements: int
    reference: Reference


@dataclass(frozen=True)
class CrossTable:
    """Counts of items by reference label, model label (rows) and people's answer (columns)."""

    reference: str
    answers: list[str]
    counts: dict[tuple[str, str], list[int]]
    """(reference label, model label) -> items by answer."""
    num_items: int
    num_answered: int
    agreements: list[Agreement]


def draw(
    run: Run, num: int, order: Order = "random", seed: int = 0, split: str | None = None, mixed: str = MIXED
) -> Disagreements:
    """Draw ``num`` disagreements and store their key in the run; ``InputError`` if there are none.

    ``random``: by hash of seed and record, so a larger sample contains a smaller one, and independent of the annotation
    sample. ``hardest``: the classifier's lowest scores first.
    """
    check_other_answer(run, mixed)
    reference: Reference = "gold" if _has_gold(run) else "silver"
    table = _disagreements(run, reference, split)
    if not table.num_rows:
        raise InputError(f"no record of {run.table('labels').uri} disagrees with its {reference} label")
    hashes = sampling_hashes(table[schema.RECORD_ID], seed, Purpose.REVIEW)
    first = np.zeros(len(hashes)) if order == "random" else table[schema.SCORE].to_numpy()
    chosen = table.take(np.lexsort((hashes, first))[:num])
    made_of = [run.fingerprints[name] for name in ("labels", "corpus")]
    key = digest(made_of, run.generation, Purpose.REVIEW, reference, order, seed, split, mixed)
    items = number_items(key, chosen.num_rows)
    texts = chosen[schema.TEXT].to_pylist()
    columns: dict[str, Any] = {name: chosen[name] for name in chosen.column_names if name in KEY.names}
    columns |= {ITEM: items, schema.TEXT_HASH: hash64(texts), OTHER_ANSWER: [mixed] * len(items)}
    store_key(run, key, pa.table({name: columns[name] for name in KEY.names}).cast(KEY))
    answers = [*run.task.category_names, mixed]
    return Disagreements(items, texts, run.task.question, answers, table.num_rows, reference)


def cross_table(run: Run, answers: dict[str, dict[str, str]]) -> CrossTable:
    """The cross-table of people's ``answers``: person -> item -> answer.

    An item that several people answered counts once: by their answer if they agree, otherwise as ``DISPUTED``.
    ``InputError``: an item of another run, or an answer that was not offered.
    """
    key = _read_key(run, answers)
    written = {name.casefold(): name for name in run.task.category_names}
    answers = {
        person: {item: written.get(said.strip().casefold(), said.strip().casefold()) for item, said in of.items()}
        for person, of in answers.items()
    }
    extra = sorted({given for of in answers.values() for given in of.values()} - set(run.task.category_names))
    if len(extra) > 1:
        offered = ", ".join(run.task.category_names)
        raise InputError(f"the answers {', '.join(map(repr, extra))} are none of {offered} and one word for mixed")
    joint: defaultdict[str, set[str]] = defaultdict(set)
    for item, given in chain.from_iterable(of.items() for of in answers.values()):
        joint[item].add(given)
    is_disputed = any(len(given) > 1 for given in joint.values())
    columns = [*run.task.category_names, *(extra or [MIXED]), *([DISPUTED] if is_disputed else [])]
    counts: dict[tuple[str, str], list[int]] = {}
    for item, said in joint.items():
        row = counts.setdefault(key[item], [0] * len(columns))
        row[columns.index(next(iter(said)) if len(said) == 1 else DISPUTED)] += 1
    names = run.task.category_names
    ordered = dict(sorted(counts.items(), key=lambda row: (names.index(row[0][1]), names.index(row[0][0]))))
    reference = "gold" if _has_gold(run) else "silver"
    return CrossTable(reference, columns, ordered, len(key), len(joint), agreements(answers))


def render(table: CrossTable) -> list[str]:
    """Lines of Markdown, as the paper's Table 3: a row for each model label, the answers across."""
    header = [table.reference, "model", *table.answers, "in all"]
    rows = [[*pair, *map(str, counts), str(sum(counts))] for pair, counts in table.counts.items()]
    sums = [sum(column) for column in zip(*table.counts.values(), strict=True)]
    rows.append(["in all", "", *map(str, sums), str(sum(sums))])
    lines = [f"{table.num_answered} of {table.num_items} items were answered.", ""]
    lines += markdown.table(header, rows, left=frozenset({1}))
    right = Counter({"model": 0, table.reference: 0})
    for (reference, model), counts in table.counts.items():
        right["model"] += counts[table.answers.index(model)]
        right[table.reference] += counts[table.answers.index(reference)]
    total = max(sum(sums), 1)
    lines += ["", *(f"People agree with the {who} label of {num} ({num / total:.1%})." for who, num in right.items())]
    return [*lines, *(one.sentence for one in table.agreements)]


# Which records disagree


def _has_gold(run: Run) -> bool:
    columns = run.table("corpus").iter_tables([schema.GOLD_LABEL])
    return any(table[schema.GOLD_LABEL].null_count < table.num_rows for table in columns)


def _disagreements(run: Run, reference: Reference, split: str | None) -> pa.Table:
    """record_id, text, reference, label and score of the records whose two labels differ; each text once."""
    known = _references(run, reference, split)
    labels = run.table("labels").iter_tables([schema.RECORD_ID, schema.LABEL, schema.SCORE])
    found = [known.join(part, schema.RECORD_ID, join_type="inner") for part in labels]
    if not found:
        return known.slice(0, 0)
    table = pa.concat_tables(found)
    return table.filter(pc.not_equal(table[REFERENCE], table[schema.LABEL]))


def _references(run: Run, reference: Reference, split: str | None) -> pa.Table:
    """record_id, text and reference label of the records that have one, each text once.

    Gold labels that the classifier was trained on are not used: records of split ``train`` are left out unless
    ``split`` asks for them, and so are records of other splits with the same text, or with that of a record which the
    corpus had when the classifier was trained. The prompt's shots are left out too:
    their labels were given away.
    """
    name, label = ("silver", schema.LABEL) if reference == "silver" else ("corpus", schema.GOLD_LABEL)
    learned = reference == "gold" and run.recipe.classifier.learns_gold
    copies = pa.array(_learned_texts(run) if learned else [], pa.string())
    gold_texts = learned_texts(run)[1] if learned else np.zeros(0, np.uint64)
    shots = pa.array(shot_texts(run), pa.string())
    found = []
    for part in run.table(name).iter_tables([schema.RECORD_ID, schema.TEXT, schema.SPLIT, label]):
        rows = part.rename_columns([schema.RECORD_ID, schema.TEXT, schema.SPLIT, REFERENCE])
        is_shot = pc.is_in(pc.utf8_trim_whitespace(rows[schema.TEXT]), shots)
        kept = pc.and_(pc.is_valid(rows[REFERENCE]), pc.invert(is_shot))
        if split is not None:
            kept = pc.and_(kept, pc.equal(rows[schema.SPLIT], split))
        elif learned:
            kept = pc.and_(kept, pc.not_equal(rows[schema.SPLIT], TRAIN))
        rows = rows.filter(kept)
        first = pa.array(first_occurrences(run.table("duplicates"), rows[schema.RECORD_ID]), pa.string())
        is_learned = pc.or_(pc.is_in(first, copies), pa.array(np.isin(hash64(rows[schema.TEXT]), gold_texts)))
        is_unseen = pc.or_(pc.equal(rows[schema.SPLIT], TRAIN), pc.invert(is_learned))
        found.append(rows.append_column("first", first).filter(is_unseen))
    rows = pa.concat_tables(found)
    once = unique_text_positions(rows[schema.RECORD_ID], rows["first"])
    return rows.take(once).select([schema.RECORD_ID, schema.TEXT, REFERENCE])


def _learned_texts(run: Run) -> np.ndarray:
    """Ids of the first records with the texts of the records of split ``train`` that have a gold label."""
    found = [np.array([], dtype=object)]
    for part in run.table("corpus").iter_tables([schema.RECORD_ID, schema.SPLIT, schema.GOLD_LABEL]):
        ids = part[schema.RECORD_ID].filter(is_training_gold(part))
        found.append(first_occurrences(run.table("duplicates"), ids))
    return np.concatenate(found)


def _read_key(run: Run, answers: dict[str, dict[str, str]]) -> dict[str, tuple[str, str]]:
    """Item -> its reference label and the model's; all answered items must belong to one sample of this run."""
    items = {item for of in answers.values() for item in of}
    if len(keys := keys_of(items)) > 1:
        raise InputError(
            f"the answers are of {len(keys)} samples ({', '.join(sorted(keys)[:3])}); import one at a time"
        )
    return {item: (row[REFERENCE], row[schema.LABEL]) for item, row in read_keys(run, items).items()}
