"""Which saved answers are learned as gold labels."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers, PersonsAnswer, save
from llambert.errors import InputError
from llambert.hashing import hash64
from llambert.stages.finetune.saved_answers import learned_answers
from llambert.stages.finetune.selection import select
from tests.fixtures.synthetic_run import Plan, give_text, write_run

MORNING = datetime(2026, 3, 1, 9, tzinfo=UTC)
NO_GOLD = Plan(num=90, num_annotated=20, gold=0.0, num_duplicates=0, splits=("train", "test", "extra"))


def told(run, said: dict[int, str], person: str = "kim", at: datetime = MORNING) -> None:
    texts, table = run.table("corpus").read([schema.TEXT])[schema.TEXT].to_pylist(), run.table("people")
    answers = [PersonsAnswer(int(hash64([texts[n]])[0]), f"r{n:05d}", answer, person) for n, answer in said.items()]
    save(table, answers, PeoplesAnswers.read(table, run.task.category_names), at)


def learning(run, until: datetime | None = MORNING, **classifier):
    changed = {"learn_answers_until": until, "regime": "gold", **classifier}
    return replace(
        run, recipe=run.recipe.model_copy(update={"classifier": run.recipe.classifier.model_copy(update=changed)})
    )


def learned(run) -> dict[str, str]:
    rows = learned_answers(run)
    return dict(zip(rows[schema.RECORD_ID].to_pylist(), rows[schema.GOLD_LABEL].to_pylist(), strict=True))


def test_answers_with_a_category_that_were_saved_by_then_are_learned(tmp_path):
    run = write_run(tmp_path, NO_GOLD)
    told(run, {0: "positive", 2: "negative", 3: "mixed/neutral", 6: "positive"})
    told(run, {6: "negative"}, "lee")
    told(run, {2: "positive", 9: "positive"}, at=MORNING + timedelta(hours=1))
    assert learned(learning(run)) == {"r00000": "positive", "r00002": "negative"}
    assert learned(learning(run, MORNING + timedelta(hours=1))) == {
        "r00000": "positive", "r00002": "positive", "r00009": "positive",
    }  # fmt: skip
    assert learned(learning(run, None)) == {}


def test_texts_of_split_test_are_not_learned(tmp_path):
    run = write_run(tmp_path, NO_GOLD)
    told(run, {0: "positive", 1: "positive", 2: "negative"})
    assert set(learned(learning(run))) == {"r00000", "r00002"}


@pytest.mark.parametrize("copy", [(30, 2), (31, 2)])  # of split train and of split test
def test_the_corpus_own_gold_label_of_a_text_in_any_copy_counts_before_peoples(tmp_path, copy):
    plan = replace(NO_GOLD, gold=1.0, copies=(copy,))
    run = write_run(tmp_path, plan)
    told(run, {2: "negative", 0: "negative"})
    assert learned(learning(run)) == {}
    bare = write_run(tmp_path / "bare", replace(plan, gold=0.0))
    give_text(bare, copy[0], bare.table("corpus").read()[schema.TEXT][2].as_py())
    told(bare, {2: "negative", 0: "negative"})
    found = learned(learning(bare))
    assert set(found) == {"r00000", "r00002"} | ({"r00030"} if copy[0] == 30 else set())


def test_training_takes_each_text_once_beside_the_gold_labels_of_the_corpus(tmp_path):
    plan = replace(NO_GOLD, gold=0.5, copies=((33, 2),))
    run = write_run(tmp_path, plan)
    corpus = run.table("corpus").read().to_pylist()
    own = {row["text"] for row in corpus if row["split"] == "train" and row["gold_label"]}
    bare = [n for n, row in enumerate(corpus) if row["split"] != "test" and not row["gold_label"]][:6]
    told(run, dict.fromkeys(bare, "positive"))
    texts = {
        text
        for phase in select(learning(run)).values()
        for part in (phase.train, phase.held_out)
        for text in part.texts
    }
    assert texts == own | {corpus[n]["text"] for n in bare}
    assert {
        text for phase in select(learning(run, None)).values() for text in (*phase.train.texts, *phase.held_out.texts)
    } == own


def test_a_time_without_labels_is_refused(tmp_path):
    run = write_run(tmp_path, NO_GOLD)
    with pytest.raises(InputError, match="no label that people gave was saved by 2026-03-01"):
        learned_answers(learning(run))
    told(run, {3: "mixed/neutral"})
    with pytest.raises(InputError, match="no label that people gave"):
        learned_answers(learning(run))
    with pytest.raises(InputError, match="is in the future; choose an earlier time"):
        learned_answers(learning(run, datetime.now(UTC) + timedelta(minutes=1)))
