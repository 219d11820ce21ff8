"""What people say of the classifier's mistakes: model label by person's label, the paper's Table 3."""

import pyarrow as pa
import pyarrow.compute as pc

from llambert.corpora.files import read_columns
from llambert.errors import InputError
from llambert.experiments.experiment_recipe import Answers
from llambert.review import disagreements as review
from llambert.review import formats as review_files
from llambert.run import open_run

RECORD_ID, GOLD, MODEL, PERSON = "record_id", "gold_label", "model_label", "person_label"
COLUMNS = [RECORD_ID, GOLD, MODEL, PERSON]


def count_answers(answers: Answers) -> dict[str, dict[str, int]]:
    """Model label -> person's label -> number of records, from a file or a review."""
    if answers.review is None:
        return cross_table(read_answers(answers))
    run = open_run(answers.review.recipe, list(answers.review.settings)).last_read()
    reviewed = review.cross_table(run, review_files.read(answers.review.answers).given)
    counts: dict[str, dict[str, int]] = {}
    for (_, model), nums in reviewed.counts.items():
        row = counts.setdefault(model, dict.fromkeys(reviewed.answers, 0))
        for person, num in zip(reviewed.answers, nums, strict=True):
            row[person] += num
    return counts


def cross_table(answers: pa.Table) -> dict[str, dict[str, int]]:
    """Model label -> person's label -> number of records, of a table with ``COLUMNS``.

    Records without an answer are left out. Every label of the table that a person or the model gave has its
    column, in alphabetical order, those that only people use (mixed, neutral) last.
    """
    answered = answers.filter(pc.is_valid(answers[PERSON]))
    by_model = sorted(set(answered[MODEL].to_pylist()))
    of_task = sorted({*by_model, *answered[GOLD].to_pylist()})
    others = sorted(set(answered[PERSON].to_pylist()) - set(of_task))
    counts = {model: dict.fromkeys([*of_task, *others], 0) for model in by_model}
    for model, person in zip(answered[MODEL].to_pylist(), answered[PERSON].to_pylist(), strict=True):
        counts[model][person] += 1
    return counts


def read_answers(answers: Answers) -> pa.Table:
    """A file of answers with ``COLUMNS``; ``InputError`` if it cannot be read or holds none."""
    assert answers.path is not None, "checked when the experiment was read"
    columns = [answers.record_id, answers.gold, answers.model, answers.person]
    rows = read_columns(answers.path, columns)
    table = pa.table([_without_blanks(rows[column]) for column in columns], names=COLUMNS)
    if table[PERSON].null_count == table.num_rows:
        raise InputError(f"{answers.path}: no record has an answer in column {answers.person!r}")
    for name, column in zip(COLUMNS[:3], columns[:3], strict=True):
        if table.filter(pc.is_valid(table[PERSON]))[name].null_count:
            raise InputError(f"{answers.path}: a record with an answer has nothing in column {column!r}")
    return table


def _without_blanks(column: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
