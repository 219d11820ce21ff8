import csv
import io
import json
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.annotation.sampling import Selection
from llambert.errors import InputError
from llambert.review.disagreements import MIXED, cross_table, draw, render
from llambert.review.formats import read, write
from tests.fixtures.synthetic_run import Plan, give_text, write_run

NUM = 127
TABLE_3 = json.loads(files("llambert.experiments").joinpath("paper.json").read_text())["imdb"]["error_analysis"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """2,000 records with gold, a tenth of them labelled otherwise."""
    return write_run(tmp_path_factory.mktemp("review"), Plan(num=2_000, splits=("train", "test")))


@pytest.fixture
def sample(run):
    return draw(run, NUM)


def key_of(run, sample) -> dict[str, dict]:
    folder = run.directory.table("review", sample.items[0].rpartition("-")[0])
    rows = pq.read_table(folder.path(folder.require_manifest().parts[0].name)).to_pylist()
    return {row["item"]: row for row in rows}


def papers_answers(run, sample, regime: str) -> dict[str, str]:
    """Answers to a hundred of the items, so that they come to the paper's Table 3."""
    key, answers = key_of(run, sample), {}
    for label in ("positive", "negative"):
        items = iter(item for item in sample.items if key[item]["label"] == label)
        counts = TABLE_3[regime][f"model_{label}"]
        for given, num in zip(("positive", "negative", MIXED), counts, strict=True):
            answers |= {next(items): given for _ in range(num)}
    return answers


def answered_csv(text: str, answers: dict[str, str]) -> str:
    """The exported CSV with a person's answers filled in, as a spreadsheet saves it again."""
    sink = io.StringIO(newline="")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    out = csv.DictWriter(sink, rows[0].keys(), delimiter=";")
    out.writeheader()
    out.writerows([row | {"answer": answers.get(row["item"], "")} for row in rows])
    return sink.getvalue()


@pytest.mark.parametrize("regime", ["silver", "combined"])
def test_a_sample_of_127_comes_back_as_the_papers_table_3(run, sample, tmp_path, regime):
    write(sample, str(tmp_path))
    answers = papers_answers(run, sample, regime)
    assert len(sample.items) == NUM
    (tmp_path / "kim.csv").write_text(answered_csv((tmp_path / "review.csv").read_text("utf-8"), answers))
    table = cross_table(run, read([str(tmp_path / "kim.csv")]).given)
    assert table.answers == ["positive", "negative", MIXED]
    assert table.counts == {
        ("negative", "positive"): TABLE_3[regime]["model_positive"],
        ("positive", "negative"): TABLE_3[regime]["model_negative"],
    }
    assert (table.num_answered, table.num_items) == (100, NUM)
    lines = render(table)
    assert "100 of 127 items were answered." in lines
    positive = " | ".join(map(str, TABLE_3[regime]["model_positive"]))
    assert f"| negative | positive | {positive} | {sum(TABLE_3[regime]['model_positive'])} |" in lines


def test_exports_show_neither_gold_nor_the_models_label_nor_the_record(run, sample, tmp_path):
    write(sample, str(tmp_path))
    with (tmp_path / "review.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["item", "text", "choices", "answer", "comment", "annotator"]
    assert {row["choices"] for row in rows} == {f"positive | negative | {MIXED}"}
    key = key_of(run, sample)
    for name in ("review.csv", "label_studio_tasks.json", "argilla_records.json"):
        content = (tmp_path / name).read_text("utf-8")
        assert not any(row["record_id"] in content for row in key.values()), name
    # Whatever is written of an item is the same for each: number aside, and text.
    tasks = json.loads((tmp_path / "label_studio_tasks.json").read_text())
    assert all(set(task) == {"data"} and set(task["data"]) == {"item", "text"} for task in tasks)


def test_every_item_is_a_disagreement_and_each_text_comes_once(run, sample):
    rows = key_of(run, sample).values()
    assert all(row["reference"] != row["label"] for row in rows)
    assert len({row["record_id"] for row in rows}) == NUM
    assert sample.reference == "gold"


def test_random_samples_are_nested_and_another_seed_draws_others(run):
    def records(num, seed=0):
        drawn = draw(run, num, seed=seed)
        key = key_of(run, drawn)
        return [key[item]["record_id"] for item in drawn.items]

    assert records(40) == records(90)[:40]
    assert set(records(40)) != set(records(40, seed=1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reviewed_records_are_annotated_ones_as_often_as_others_are(run, seed):
    # Of all records 60 % are annotated: those that a sample with the same seed holds.
    ids = [f"r{n:05d}" for n in range(2_000)]
    annotated = set(Selection.smallest(pa.array(ids), 1_200, seed).record_ids.to_pylist())
    everything = key_of(run, draw(run, 10_000, seed=seed)).values()
    share = len(annotated & {row["record_id"] for row in everything}) / len(everything)
    drawn = draw(run, 100, seed=seed)
    num = sum(key_of(run, drawn)[item]["record_id"] in annotated for item in drawn.items)
    assert abs(num - 100 * share) < 4 * np.sqrt(100 * share * (1 - share))


@pytest.mark.parametrize("split", [None, "test"])
def test_records_whose_text_was_learned_from_in_another_split_are_not_reviewed(tmp_path, split):
    # Records 301 and 331 are of split test, 330 and 300 of train: a later train copy, then a later test copy.
    copies = ((330, 301), (331, 300))
    made = Plan(num=600, splits=("train", "test"), num_duplicates=0, regime="combined", classifier_accuracy=0.0)

    def reviewed(folder, **changes):
        run = write_run(folder, Plan(**{**vars(made), **changes}))
        return {row["record_id"] for row in key_of(run, draw(run, 10_000, split=split)).values()}

    alone = reviewed(tmp_path / "alone")
    assert len(alone) == 300
    assert reviewed(tmp_path / "twice", copies=copies) == alone - {"r00301", "r00331"}


@pytest.mark.parametrize("gold", [1.0, 0.0])
def test_the_prompts_shots_are_not_reviewed(tmp_path, gold):
    plan = Plan(num=600, num_annotated=600, gold=gold, classifier_accuracy=0.0)
    run = write_run(tmp_path / "alone", plan)
    before = {row["record_id"] for row in key_of(run, draw(run, 10_000)).values()}
    assert "r00301" in before
    run = write_run(tmp_path / "shot", plan)
    shot = f" {run.task.prompt('completion').shots[0].text}\n"
    give_text(run, 301, shot)
    silver = run.table("silver")
    table = silver.read()
    rows = zip(table["record_id"].to_pylist(), table["text"].to_pylist(), strict=True)
    texts = pa.array([shot if record_id == "r00301" else text for record_id, text in rows])
    silver.complete("parse", [silver.commit_part("part-99999.parquet", table.set_column(1, "text", texts))])
    assert {row["record_id"] for row in key_of(run, draw(run, 10_000)).values()} == before - {"r00301"}


@pytest.mark.parametrize("regime", ["silver", "combined"])
def test_a_text_whose_first_copy_has_no_gold_label_is_reviewed_in_the_copy_that_has(tmp_path, regime):
    made = Plan(num=600, splits=("extra", "test"), num_duplicates=0, classifier_accuracy=0.0, regime=regime)
    run = write_run(tmp_path, Plan(**{**vars(made), "copies": ((331, 300), (333, 300))}))
    table, corpus = run.table("corpus").read(), run.table("corpus")
    gold = [
        None if split == "extra" else label
        for split, label in zip(table["split"].to_pylist(), table["gold_label"].to_pylist(), strict=True)
    ]
    for name in corpus.part_names():
        corpus.filesystem.rm_file(corpus.path(name))
    place = table.column_names.index("gold_label")
    part = corpus.commit_part("part-00000.parquet", table.set_column(place, "gold_label", pa.array(gold, pa.string())))
    manifest = corpus.require_manifest().model_copy(update={"parts": [part]})
    corpus.filesystem.pipe_file(corpus.path("manifest.json"), manifest.model_dump_json().encode())
    reviewed = {row["record_id"] for row in key_of(run, draw(run, 10_000)).values()}
    assert reviewed == {f"r{n:05d}" for n in range(1, 600, 2)} - {"r00333"}


def test_hardest_first_begins_with_the_least_sure_label(run):
    drawn = draw(run, 30, "hardest")
    scores = [key_of(run, drawn)[item]["score"] for item in drawn.items]
    assert scores == sorted(scores)
    everything = draw(run, 10_000, "hardest")
    assert scores[0] == min(row["score"] for row in key_of(run, everything).values())


def test_without_gold_the_silver_labels_are_held_against_the_classifier(tmp_path):
    run = write_run(tmp_path, Plan(gold=0.0, num=400))
    assert draw(run, 5).reference == "silver"


def test_a_cell_cannot_become_a_formula(run, sample, tmp_path):
    texts = ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", " =cmd|' /C calc'!A0", "\r=2", "a=1", 'say "x";=1', "null\x00"]
    hostile = type(sample)(sample.items[:10], texts, "Which?", ["positive", "negative", MIXED], 10, "gold")
    write(hostile, str(tmp_path))
    with (tmp_path / "review.csv").open(encoding="utf-8-sig", newline="") as stream:
        cells = [row["text"] for row in csv.DictReader(stream)]
    assert all(cell.startswith("'") for cell in cells[:7])
    assert cells[7:9] == texts[7:9]
    # The other formats are no spreadsheets: the text stays what it is.
    assert json.loads((tmp_path / "argilla_records.json").read_text())[0]["fields"]["text"] == "=1+1"


def label_studio_export(sample, answers: dict[str, dict[int, str]]) -> list[dict]:
    """Label Studio's JSON export, cut to what it has for every task."""

    def annotation(person, given):
        result = {"from_name": "answer", "to_name": "text", "type": "choices", "value": {"choices": [given]}}
        return {"id": 7, "completed_by": person, "result": [result], "was_cancelled": False}

    tasks = zip(sample.items, sample.texts, strict=True)
    return [
        {
            "id": number,
            "data": {"item": item, "text": text},
            "annotations": [annotation(person, given) for person, given in answers.get(item, {}).items()],
            "predictions": [],
        }
        for number, (item, text) in enumerate(tasks)
    ]


def test_label_studio_and_argilla_answers_come_to_the_same_table(run, sample, tmp_path):
    answers = papers_answers(run, sample, "silver")
    studio = label_studio_export(sample, {item: {1: given} for item, given in answers.items()})
    studio[0]["annotations"].append({"completed_by": 2, "was_cancelled": True, "result": []})
    (tmp_path / "studio.json").write_text(json.dumps(studio))
    argilla = [
        {"id": item, "fields": {}, "responses": {"answer": [{"value": given, "user_id": "u-1"}]}, "metadata": {}}
        for item, given in answers.items()
    ]
    (tmp_path / "argilla.json").write_text(json.dumps(argilla))
    flat = [{"item": item, "answer": given, "annotator": 3} for item, given in answers.items()]
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    tables = [cross_table(run, read([str(tmp_path / f"{name}.json")]).given) for name in ("studio", "argilla", "flat")]
    assert tables[0].counts[("negative", "positive")] == TABLE_3["silver"]["model_positive"]
    assert tables[0].counts == tables[1].counts == tables[2].counts


def test_the_label_studio_interface_offers_the_answers_and_no_more(sample, tmp_path):
    write(sample, str(tmp_path))
    view = ElementTree.parse(tmp_path / "label_studio_config.xml").getroot()
    assert view.tag == "View"
    assert [choice.get("value") for choice in view.iter("Choice")] == ["positive", "negative", MIXED]
    (choices,) = view.iter("Choices")
    assert choices.get("toName") == next(view.iter("Text")).get("name")


def test_two_people_have_a_kappa_and_what_they_differ_about_is_disputed(run, sample):
    items = sample.items[:10]
    first = dict.fromkeys(items, "positive") | dict.fromkeys(items[5:], "negative")
    second = first | {items[0]: "negative", items[9]: "positive"}
    table = cross_table(run, {"kim": first, "lee": second})
    (agreement,) = table.agreements
    # 8 of 10 equal, 5 of 10 by chance: (0.8 - 0.5) / (1 - 0.5).
    assert (agreement.num_equal, agreement.num, agreement.kappa) == (8, 10, pytest.approx(0.6))
    assert sum(counts[-1] for counts in table.counts.values()) == 2
    assert "kim and lee: 8 of 10 answers equal, Cohen's kappa 0.600." in render(table)


def test_answers_are_taken_whatever_their_case_and_another_word_for_mixed(run, sample):
    table = cross_table(run, {"kim": {sample.items[0]: "POSITIVE", sample.items[1]: "Neutral "}})
    assert table.answers == ["positive", "negative", "neutral"]
    assert table.num_answered == 2


def test_answers_to_what_was_never_exported_are_refused(run, sample):
    item = sample.items[0]
    for answers, message in (
        ({}, "no item has an answer"),
        ({item[:-4] + "9999": "positive"}, "was never exported"),
        ({"other-0001": "positive"}, "no sample of this run"),
        ({item: "maybe", sample.items[1]: "neutral"}, "'maybe', 'neutral' are none of positive, negative"),
    ):
        with pytest.raises(InputError, match=message):
            cross_table(run, {"kim": answers})
