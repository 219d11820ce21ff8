"""What an experiment learns from is what its files, or its finished run, say: nothing is mixed up on the way."""

import json

import numpy as np
import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.sampling import Selection
from llambert.errors import InputError
from llambert.experiments.experiment_recipe import LabelledData, Source
from llambert.experiments.sources import Labels, read_labels
from llambert.run import record_recipe
from tests.fixtures.labelled_films import open_experiment, write_films
from tests.fixtures.synthetic_run import Plan, give_text, write_run


def films(tmp_path, **fields):
    write_films(tmp_path)
    sources = {
        "silver": Source(path="silver.jsonl"),
        "gold": Source(path="gold.csv"),
        "test": Source(path="test.jsonl"),
    }
    return LabelledData(folder=str(tmp_path), **{**sources, **fields})


def test_files_are_read_whole_and_the_categories_are_the_labels_that_occur(tmp_path):
    labels = read_labels(films(tmp_path))
    assert labels.categories == ["negative", "positive"]
    assert (labels.silver.num_rows, labels.gold.num_rows, labels.test.num_rows) == (120, 40, 60)
    assert labels.test_records.labels.tolist() == [
        labels.categories.index(label) for label in labels.test[schema.GOLD_LABEL].to_pylist()
    ]


def test_a_smaller_test_set_is_part_of_the_larger(tmp_path):
    ids = [set(read_labels(films(tmp_path, num_test=num)).test[schema.RECORD_ID].to_pylist()) for num in (10, 30)]
    assert len(ids[0]) == 10
    assert ids[0] < ids[1]


def test_a_smaller_test_set_is_drawn_independently_of_what_is_annotated(tmp_path):
    data = films(tmp_path)
    ids = read_labels(data).test[schema.RECORD_ID].to_pylist()
    annotated = set(Selection.smallest(pa.array(ids), 30, 0).record_ids.to_pylist())
    first = read_labels(data.model_copy(update={"num_test": 30})).test[schema.RECORD_ID].to_pylist()
    assert abs(len(annotated & set(first)) - 15) < 4 * np.sqrt(30 / 4)


def test_test_records_have_one_order_whatever_that_of_their_file_so_that_cells_pair(tmp_path):
    data = films(tmp_path)
    path = tmp_path / "test.jsonl"
    rewrite(path, lambda number: {"record_id": "same"})
    before = read_labels(data)
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    after = read_labels(data)
    assert after.identities == before.identities
    assert after.test_records.texts == before.test_records.texts


def rewrite(path, change) -> None:
    """Change the first ten records of a JSON Lines file."""
    lines = path.read_text().splitlines()
    lines[:10] = [json.dumps(json.loads(line) | change(number)) for number, line in enumerate(lines[:10])]
    path.write_text("\n".join(lines))


def test_test_records_that_are_learned_from_under_any_id_or_text_judge_nothing(tmp_path):
    data = films(tmp_path)
    labels = read_labels(data)
    assert (labels.test.num_rows, labels.num_overlapping) == (60, 0)
    silver, gold = labels.silver[schema.TEXT].to_pylist(), labels.gold[schema.TEXT].to_pylist()
    rewrite(tmp_path / "test.jsonl", lambda n: {"text": silver[n]} if n < 4 else {"text": gold[n]} if n < 7 else {})
    rewrite(tmp_path / "silver.jsonl", lambda n: {"record_id": f"test-{n}"} if n > 7 else {})
    labels = read_labels(data)
    assert (labels.test.num_rows, labels.num_overlapping) == (60 - 4 - 3 - 2, 9)
    learned = set(labels.silver[schema.TEXT].to_pylist()) | set(labels.gold[schema.TEXT].to_pylist())
    assert not learned & set(labels.test[schema.TEXT].to_pylist())


def test_silver_labels_of_the_test_records_themselves_are_told_by_their_split(tmp_path):
    data = films(tmp_path, silver=Source(path="silver.jsonl", split="part"))
    texts = read_labels(films(tmp_path)).test[schema.TEXT].to_pylist()
    lines = [json.loads(line) | {"part": "train"} for line in (tmp_path / "silver.jsonl").read_text().splitlines()]
    lines += [{"record_id": f"test-{n}", "text": texts[n], "label": "positive", "part": "test"} for n in range(9)]
    (tmp_path / "silver.jsonl").write_text("\n".join(map(json.dumps, lines)))
    labels = read_labels(data)
    assert (labels.test.num_rows, labels.num_overlapping) == (60, 0)
    assert labels.silver_of("silver_extra").num_rows == 120


def test_a_test_set_that_was_learned_from_whole_is_refused(tmp_path):
    data = films(tmp_path, test=Source(path="gold.csv"))
    with pytest.raises(InputError, match="40 test records have the text or the id of a silver or gold record"):
        read_labels(data)


def test_the_identity_is_of_the_labels_not_of_the_order_of_the_lines(tmp_path):
    data = films(tmp_path)
    before = read_labels(data).identities
    lines = (tmp_path / "silver.jsonl").read_text().splitlines()
    (tmp_path / "silver.jsonl").write_text("\n".join(reversed(lines)))
    assert read_labels(data).identities == before
    (tmp_path / "silver.jsonl").write_text("\n".join(lines[1:]))
    fewer = read_labels(data).identities
    assert fewer["silver"] != before["silver"]
    assert fewer["test"] == before["test"]


def test_silver_records_of_split_test_are_never_learned_from_and_extra_only_where_it_is_asked_for():
    silver = pa.table(
        {"record_id": list("abcd"), "text": list("abcd"), "label": ["x"] * 4, "split": ["train", "extra", "test", None]}
    )
    labels = Labels(["x", "y"], silver, None, silver)
    assert labels.silver_of("silver")["record_id"].to_pylist() == ["a", "d"]
    assert labels.silver_of("silver_extra")["record_id"].to_pylist() == ["a", "b", "d"]


def test_the_annotators_errors_are_counted_on_the_records_that_have_both_labels():
    silver = pa.table({"record_id": list("abc"), "label": ["x", "y", "y"]})
    gold = pa.table({"record_id": list("bcd"), "gold_label": ["y", "x", "x"]})
    assert Labels(["x", "y"], silver, gold, gold).annotator_errors() == (1, 2)
    assert Labels(["x", "y"], silver, gold.slice(2), gold).annotator_errors() is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"categories": ("positive",)}, "the labels negative are none of positive"),
        ({"test": Source(path="nowhere.jsonl")}, "nowhere.jsonl: no such file"),
        ({"test": Source(path="test.jsonl", label="sentiment")}, "no column 'sentiment'"),
    ],
)
def test_faults_name_what_is_wrong(tmp_path, change, said):
    with pytest.raises(InputError) as refused:
        read_labels(films(tmp_path, **change))
    assert said in str(refused.value)


def test_the_shots_of_the_prompt_judge_no_method(tmp_path):
    run = record_recipe(write_run(tmp_path, Plan(splits=("train", "test"))))
    data = LabelledData(folder=str(tmp_path), run=run.recipe.storage)
    before = set(read_labels(data).test[schema.RECORD_ID].to_pylist())
    assert {"r00301", "r00303"} <= before
    give_text(run, 301, f"{run.task.prompt('completion').shots[0].text}\n")
    assert set(read_labels(data).test[schema.RECORD_ID].to_pylist()) == before - {"r00301"}


def test_an_experiment_without_the_labels_it_needs_is_refused(tmp_path):
    experiment = open_experiment(tmp_path, "regimes")
    labels = read_labels(experiment.data.model_copy(update={"gold": None}))
    with pytest.raises(InputError, match="needs gold labels to learn from"):
        labels.gold_train()
