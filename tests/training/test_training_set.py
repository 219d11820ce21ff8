import numpy as np
import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.sampling import Selection
from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe
from llambert.training.training_set import select_gold, select_silver

CATEGORIES = ["no", "maybe", "yes"]


def silver(num=200, with_probabilities=True, seed=0):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([1, 1, 1], size=num)
    best = probabilities.argmax(axis=1)
    rows = schema.encode_probabilities(CATEGORIES, probabilities) if with_probabilities else [None] * num
    return pa.table(
        {
            schema.RECORD_ID: [f"r{i}" for i in range(num)],
            schema.TEXT: [f"text {i}" for i in range(num)],
            schema.SPLIT: ["train"] * num,
            schema.LABEL: [CATEGORIES[b] for b in best],
            schema.LABEL_PROBABILITIES: rows,
            schema.CONFIDENCE: probabilities.max(axis=1) if with_probabilities else [None] * num,
        },
        schema=schema.SILVER,
    )


def recipe(**fields):
    return ClassifierRecipe(model="m", **{"held_out_share": 0.1, **fields})


def test_nothing_vanishes_and_held_out_is_not_trained_on():
    chosen = select_silver(silver(), CATEGORIES, recipe(num_records=50, min_confidence=0.5))
    assert len(chosen.train) == 50
    assert not set(chosen.train.texts) & set(chosen.held_out.texts)
    assert len(chosen.train) + len(chosen.held_out) + sum(chosen.num_left_out.values()) == chosen.num_in == 200
    assert set(chosen.num_left_out) == {"low_confidence", "beyond_num_records"}


def test_subsets_are_nested_and_independent_of_the_tables_order():
    small, large = (select_silver(silver(), CATEGORIES, recipe(num_records=n)) for n in (30, 90))
    assert small.train.texts == large.train.texts[:30]
    assert small.held_out.texts == large.held_out.texts
    reversed_table = silver().take(list(range(199, -1, -1)))
    assert select_silver(reversed_table, CATEGORIES, recipe(num_records=30)).train.texts == small.train.texts


def gold(num=1_000):
    ids = [f"r{i}" for i in range(num)]
    labels = [CATEGORIES[i % 3] for i in range(num)]
    return pa.table([ids, [f"text {i}" for i in range(num)], labels], [*schema.CORPUS.names[:2], schema.GOLD_LABEL])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gold_subsets_are_nested_and_say_nothing_about_what_is_annotated(seed):
    settings = recipe(regime="gold", seed=seed, held_out_share=0.0)
    small, large = (select_gold(gold(), CATEGORIES, settings, num).train.texts for num in (50, 200))
    assert large[:50] == small
    annotated = set(Selection.smallest(pa.array([f"r{i}" for i in range(1_000)]), 400, seed).record_ids.to_pylist())
    num = sum(text.replace("text ", "r") in annotated for text in large)
    assert abs(num - 80) < 4 * np.sqrt(200 * 0.4 * 0.6)


def test_silver_subsets_are_the_first_of_the_sample_where_the_seeds_are_equal():
    # What training on fewer labels shows is what fewer annotations would have given.
    first = Selection.smallest(pa.array([f"r{i}" for i in range(200)]), 30, 7).record_ids.to_pylist()
    train = select_silver(silver(), CATEGORIES, recipe(seed=7, num_records=30, held_out_share=0.0)).train
    assert train.texts == [record_id.replace("r", "text ") for record_id in first]


def test_soft_targets_are_the_annotators_probabilities_in_task_order_and_hard_ones_its_label():
    table = silver()
    by_text = dict(zip(table[schema.TEXT].to_pylist(), table[schema.LABEL_PROBABILITIES].to_pylist(), strict=True))
    train = select_silver(table, CATEGORIES, recipe(loss="soft")).train
    for text, target in zip(train.texts, train.targets, strict=True):
        assert target.tolist() == pytest.approx([entry["probability"] for entry in by_text[text]], abs=1e-6)
    hard = select_silver(table, CATEGORIES, recipe()).train
    assert np.array_equal(hard.targets, np.eye(3, dtype=np.float32)[hard.labels])


def test_mislabelling_changes_exactly_its_share_to_other_categories_and_is_nested():
    plain = select_silver(silver(), CATEGORIES, recipe()).train
    changed = {}
    for share in (0.1, 0.3):
        train = select_silver(silver(), CATEGORIES, recipe(mislabel_share=share)).train
        changed[share] = np.flatnonzero(train.labels != plain.labels)
        assert len(changed[share]) == round(share * len(plain))
        assert np.array_equal(train.targets.argmax(1), train.labels)
    assert set(changed[0.1]) < set(changed[0.3])
    labels = select_silver(silver(), CATEGORIES, recipe(mislabel_share=1.0)).train.labels
    assert (labels != plain.labels).all()


def test_held_out_labels_stay_as_they_are_whatever_is_done_to_the_training_labels():
    plain = select_silver(silver(), CATEGORIES, recipe()).held_out
    bent = select_silver(silver(), CATEGORIES, recipe(mislabel_share=0.4, label_smoothing=0.2)).held_out
    assert np.array_equal(plain.targets, bent.targets)


def test_confidence_and_class_weights_keep_a_mean_of_one():
    train = select_silver(silver(), CATEGORIES, recipe(confidence_weights=True, class_weights=True)).train
    assert train.weights.mean() == pytest.approx(1, abs=1e-6)
    assert train.weights.std() > 0.1


@pytest.mark.parametrize(
    ("table", "fields", "message"),
    [
        (silver(0), {}, "silver table is empty"),
        (silver(40).set_column(3, schema.LABEL, pa.array(["yes"] * 40)), {}, "have one label"),
        (silver(40).set_column(3, schema.LABEL, pa.array(["ja"] * 40)), {}, "no category of the task.*'ja'"),
        (silver(40, with_probabilities=False), {"loss": "soft"}, "classifier.loss: soft needs label_probabilities"),
        (silver(40, with_probabilities=False), {"confidence_weights": True}, "confidence_weights needs confidence"),
        (silver(40), {"min_confidence": 1.0}, "no silver record reaches 1.0"),
        (silver(40), {"held_out_share": 0.0, "early_stop_patience": 1}, "no records are held out"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused_in_one_line(table, fields, message):
    with pytest.raises(InputError, match=message) as refusal:
        select_silver(table, CATEGORIES, recipe(**fields))
    assert "\n" not in str(refusal.value)


def test_gold_without_a_label_is_refused_with_the_setting_to_mend():
    empty = schema.CORPUS.empty_table()
    with pytest.raises(InputError, match=r"corpus\.columns\.gold_label"):
        select_gold(empty, CATEGORIES, recipe(regime="gold"), None)
