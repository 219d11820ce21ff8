"""Saved answers judge labels where they are about texts drawn at random, and where the corpus has no gold label."""

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers, PersonsAnswer, save
from llambert.evaluation.evidence import read_evidence
from llambert.evaluation.quality import assess
from llambert.evaluation.saved_gold import SavedGold
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.hashing import hash64
from tests.fixtures.synthetic_run import Plan, write_run

NUM = 400


@pytest.fixture
def run(tmp_path):
    """A run without gold whose certification sample is the records 100 to 199, of which nothing was annotated."""
    plan = Plan(num=NUM, num_annotated=50, gold=0.0, num_duplicates=0, copies=((350, 120), (351, 20)))
    return with_sample(write_run(tmp_path, plan), range(100, 200))


def with_sample(run, places):
    run = replace(run, recipe=run.recipe.model_copy(update={"guarantee": GuaranteeRecipe(target=0.9, oracle="people")}))
    corpus, table = run.table("corpus").read().take(list(places)), run.table("certification")
    columns = [*(corpus[name] for name in schema.SAMPLE.names), ["positive"] * len(corpus), [0.9] * len(corpus)]
    rows = pa.table(dict(zip(schema.LABELLED_SAMPLE.names, columns, strict=True))).cast(schema.LABELLED_SAMPLE)
    table.complete("certify", [table.commit_part("part-0.parquet", rows)])
    return run


def tell(run, said: dict[int, str], person: str = "kim") -> None:
    """Save what a person says of the records at these places."""
    texts = hash64(run.table("corpus").read([schema.TEXT])[schema.TEXT]).tolist()
    answers = [PersonsAnswer(texts[place], f"r{place:05d}", answer, person) for place, answer in said.items()]
    table = run.table("people")
    save(table, answers, PeoplesAnswers.read(table, run.task.category_names), datetime.now(UTC))


def test_answers_about_the_certification_sample_judge_the_classifier(run):
    assert assess(read_evidence(run)).whole is None
    labels = dict(zip(*(run.table("labels").read()[name].to_pylist() for name in schema.LABELS.names[:2]), strict=True))
    other = {"positive": "negative", "negative": "positive"}
    said = {place: labels[f"r{place:05d}"] for place in range(100, 190)}
    said |= {place: other[labels[f"r{place:05d}"]] for place in range(190, 198)}
    tell(run, said | {198: "mixed/neutral", 199: "positive"})
    tell(run, {199: "negative"}, "lee")
    evidence = read_evidence(run)
    assert evidence.records.num_gold == evidence.records.num_saved_gold == 98
    found = assess(evidence).whole
    assert found is not None
    assert (found.accuracy.num, found.accuracy.value) == (98, pytest.approx(90 / 98))


def test_a_saved_answer_is_the_gold_label_of_all_copies_of_its_text(run):
    corpus = run.table("corpus").read()
    texts = corpus[schema.TEXT].to_pylist()
    texts[350] = texts[120]
    rewrite_corpus(run, schema.TEXT, texts)
    tell(run, {120: "positive"})
    records = read_evidence(run).records
    assert records.has_gold.nonzero()[0].tolist() == [120, 350]
    assert records.is_evaluated.sum() == 1
    assert records.num_saved_gold == 2


def test_texts_that_were_not_drawn_at_random_judge_nothing(run):
    tell(run, {20: "positive", 300: "negative", 150: "positive"})
    assert read_evidence(run).records.has_gold.nonzero()[0].tolist() == [150]
    without = replace(run, recipe=run.recipe.model_copy(update={"guarantee": None}))
    assert not len(SavedGold.read(without).texts)


def test_the_corpus_own_gold_label_of_a_text_counts_before_peoples_and_differences_are_counted(run):
    gold = [None] * NUM
    gold[150], gold[151], gold[350] = "negative", "positive", "negative"  # 350 is a copy of 120
    rewrite_corpus(run, schema.GOLD_LABEL, gold)
    tell(run, {150: "positive", 151: "positive", 152: "positive", 120: "negative"})
    records = read_evidence(run).records
    categories = run.task.category_names
    judged = {place: categories[records.gold[place]] for place in records.has_gold.nonzero()[0].tolist()}
    assert judged == {120: "negative", 150: "negative", 151: "positive", 152: "positive", 350: "negative"}
    assert (records.num_gold, records.num_saved_gold, records.num_saved_differ) == (4, 1, 1)


def rewrite_corpus(run, column: str, values: list) -> None:
    """The corpus as one part, with other values in a column."""
    corpus, directory = run.table("corpus").read(), run.table("corpus")
    place = corpus.column_names.index(column)
    changed = corpus.set_column(place, corpus.schema.field(place), pa.chunked_array([pa.array(values, pa.string())]))
    for name in directory.part_names():
        directory.filesystem.rm_file(directory.path(name))
    directory.complete("ingest", [directory.commit_part("part-00000.parquet", changed)])
