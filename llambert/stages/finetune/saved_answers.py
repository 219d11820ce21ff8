"""Answers that people gave and that were saved: which of them the recipe has the classifier learn."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.annotation.splits import TEST
from llambert.errors import InputError
from llambert.hashing import hash64
from llambert.run import Run

NUM_LEARNED_ANSWERS = "num_learned_answers"
"""In the counts of a checkpoint's manifest: its gold records whose label is a saved answer of people."""
_COLUMNS = [schema.RECORD_ID, schema.TEXT, schema.GOLD_LABEL]


def learned_answers(run: Run) -> pa.Table:
    """record_id, text and people's label, as gold label, of the records that ``classifier.learn_answers_until`` names.

    Those of split ``test`` are left out, and so is a text to which the corpus itself gives a gold label, in any copy.
    Another time would be another fingerprint, and what is saved later is not learned: the checkpoint stays, and the
    certification sample, from which ``learned`` texts are excluded, is drawn among the others. ``InputError``: a time
    in the future, until which more may be saved, or one until which nothing was.
    """
    none = schema.CORPUS.empty_table().select(_COLUMNS)
    until = run.recipe.classifier.learn_answers_until
    if until is None:
        return none
    if until > datetime.now(UTC):
        raise InputError(
            f"classifier.learn_answers_until: {until.isoformat()} is in the future; choose an earlier time"
        )
    said = PeoplesAnswers.read(run.table("people"), run.task.category_names, until).said
    labels = {text: label for text, (label, _) in said.items() if label is not None}
    if not labels:
        raise InputError(
            f"classifier.learn_answers_until: no label that people gave was saved by {until.isoformat()}; `llambert "
            "review import --save` saves them, and says when"
        )
    found = [none.append_column(schema.SPLIT, pa.array([], pa.string()))]
    for part in run.table("corpus").iter_tables([*_COLUMNS, schema.SPLIT]):
        is_answered = np.isin(hash64(part[schema.TEXT]), np.array(list(labels), np.uint64))
        found.append(part.filter(pa.array(is_answered)).cast(found[0].schema))
    rows = pa.concat_tables(found)
    texts = hash64(rows[schema.TEXT])
    has_own = np.isin(texts, texts[np.asarray(pc.is_valid(rows[schema.GOLD_LABEL]))])
    is_learned = ~has_own & np.asarray(pc.not_equal(rows[schema.SPLIT], TEST))
    gold = pa.array([labels[text] for text in texts[is_learned].tolist()], pa.string())
    kept = rows.filter(pa.array(is_learned))
    return pa.table([kept[schema.RECORD_ID], kept[schema.TEXT], gold], schema=none.schema)


def count_learned_answers(run: Run, learned: pa.Table) -> dict[str, int]:
    """``num_learned_answers``: the gold texts of ``learned`` (``schema.LEARNED``) whose label is people's saved answer.

    Empty where the recipe has none learned.
    """
    if run.recipe.classifier.learn_answers_until is None:
        return {}
    gold = learned.filter(pc.equal(learned[schema.LABELS_OF], "gold"))[schema.TEXT_HASH].to_numpy()
    return {NUM_LEARNED_ANSWERS: len(np.intersect1d(gold, hash64(learned_answers(run)[schema.TEXT])))}
