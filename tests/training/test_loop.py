import copy
import dataclasses
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert import schema
from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe
from llambert.training.encoder import load_encoder
from llambert.training.loop import SOUP_PHASE, FineTuning, Observer, Phase
from llambert.training.training_set import select_silver
from tests.fixtures.tiny_encoder import NEGATIVE, NEUTRAL, POSITIVE, save_tiny_encoder

CATEGORIES = ["negative", "positive"]
pytestmark = pytest.mark.usefixtures("one_thread")


def silver(num=200, seed=0):
    """Texts of 3 to 24 words, one of which tells their category; probabilities 0.9 to 0.1."""
    random = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(num):
        label = int(random.integers(2))
        words = [str(word) for word in random.choice(NEUTRAL, size=random.integers(2, 24))]
        words.insert(int(random.integers(len(words))), str(random.choice([NEGATIVE, POSITIVE][label])))
        texts.append(" ".join(words))
        labels.append(label)
    probabilities = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    rows = {
        schema.RECORD_ID: [f"r{i}" for i in range(num)],
        schema.TEXT: texts,
        schema.SPLIT: ["train"] * num,
        schema.LABEL: [CATEGORIES[label] for label in labels],
        schema.LABEL_PROBABILITIES: schema.encode_probabilities(CATEGORIES, probabilities),
        schema.CONFIDENCE: [0.9] * num,
    }
    return pa.table(rows, schema=schema.SILVER)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def recipe(encoder_folder):
    return ClassifierRecipe(
        model=encoder_folder, epochs=2, learning_rate=3e-3, held_out_share=0.1, dtype="float32", batch_size=16
    )


def fine_tuning(recipe, observer=None, phases=None):
    selected = select_silver(silver(), CATEGORIES, recipe)
    phases = phases or [Phase("silver", selected.train, selected.held_out, recipe.epochs, recipe.learning_rate)]
    return FineTuning(load_encoder(recipe, CATEGORIES), phases, recipe, CATEGORIES, observer=observer)


def weights(tuning):
    return torch.cat([value.flatten().float() for value in tuning.encoder.model.state_dict().values()])


class Recorder(Observer):
    def __init__(self):
        self.states = []

    def on_checkpoint(self, state):
        self.states.append(copy.deepcopy(state()))


def test_it_learns_and_its_folder_loads_without_llambert(recipe, tmp_path):
    tuning = fine_tuning(recipe.model_copy(update={"epochs": 6}))
    history = tuning.run()
    assert history.epochs[-1]["accuracy"] > 0.9
    assert history.steps[-1].loss < 0.5 * history.steps[0].loss
    tuning.encoder.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert tokenizer.model_max_length == 64
    logits = model(**tokenizer(["the film was great", "the film was awful"], return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [1, 0]


def test_same_seed_same_weights_and_another_seed_others(recipe):
    runs = [fine_tuning(recipe.model_copy(update={"seed": seed})) for seed in (0, 0, 1)]
    for run in runs:
        run.run()
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert not torch.allclose(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"averaging": "ema"},
        {"averaging": "tail", "bucketing": False},
        {"early_stop_patience": 1, "epochs": 3},
        {"soup_members": 2, "epochs": 1},
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(recipe, fields):
    recipe = recipe.model_copy(update=fields)
    recorder = Recorder()
    whole = fine_tuning(recipe, recorder)
    whole.run()
    assert {"optimizer" in state for state in recorder.states} == {True, False}
    assert {state["phase"] for state in recorder.states} == set(range(len(whole.phases) + 1))
    for state in recorder.states:  # in mid-epoch and after the last step
        resumed = fine_tuning(recipe)
        resumed.restore(state)
        resumed.run()
        assert torch.allclose(weights(resumed), weights(whole), atol=1e-6)
        assert resumed.history == whole.history


def test_gradient_accumulation_leaves_the_curve_as_it_is(encoder_folder, recipe):
    recipe = recipe.model_copy(update={"dropout": 0.0})
    whole, pieces = fine_tuning(recipe), fine_tuning(recipe.model_copy(update={"micro_batch_size": 5}))
    losses = [[step.loss for step in tuning.run().steps] for tuning in (whole, pieces)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_bucketed_and_unbucketed_curves_agree_in_the_mean(recipe):
    recipe = recipe.model_copy(update={"epochs": 4, "learning_rate": 1e-3})
    ends = []
    for bucketing in (True, False):
        history = fine_tuning(recipe.model_copy(update={"bucketing": bucketing})).run()
        ends.append([figures["training_loss"] for figures in history.epochs])
    assert ends[0] == pytest.approx(ends[1], abs=0.08)


def test_a_frozen_encoder_stays_as_it_was_and_the_head_learns(recipe):
    tuning = fine_tuning(recipe.model_copy(update={"freeze_encoder": True}))
    before = {name: value.clone() for name, value in tuning.encoder.model.state_dict().items()}
    tuning.run()
    changed = {
        name for name, value in tuning.encoder.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}


@pytest.mark.parametrize(
    ("when", "message", "last"),
    [
        ("before it is stored", "the weights is not finite at step 20 of", 12),
        ("after it is stored", "the loss is not finite at step 21 of", 20),
    ],
)
def test_loss_or_weights_that_are_not_finite_stop_at_their_step_with_the_last_good_checkpoint(
    recipe, when, message, last
):
    class Poison(Recorder):
        def on_steps(self, steps):
            if when == "before it is stored":
                self.poison()

        def on_checkpoint(self, state):
            super().on_checkpoint(state)
            self.poison()

        def poison(self):
            if tuning.num_steps_done == 20:
                with torch.no_grad():
                    next(tuning.encoder.model.parameters()).fill_(float("nan"))

    poison = Poison()
    tuning = fine_tuning(recipe, poison)
    with pytest.raises(InputError, match=message):
        tuning.run()
    assert poison.states[-1]["step"] == last
    for state in poison.states:
        assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_early_stop_ends_before_the_last_epoch_and_keeps_the_best(recipe):
    fields = {"epochs": 40, "early_stop_patience": 2, "mislabel_share": 0.4, "learning_rate": 3e-3}
    tuning = fine_tuning(recipe.model_copy(update=fields))
    history = tuning.run()
    assert len(history.epochs) < 40
    losses = [figures["loss"] for figures in history.epochs]
    held_out = tuning.phases[0].held_out
    probabilities = tuning.predict(tuning.encoder.model, tuning.tokenized(held_out))
    loss = -(held_out.targets * np.log(probabilities)).sum(1).mean()
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_a_soup_is_the_mean_of_its_members_which_start_alike_and_differ_in_order(recipe):
    recipe = recipe.model_copy(update={"soup_members": 3, "epochs": 1})
    recorder = Recorder()
    soup = fine_tuning(recipe, recorder)
    history = soup.run()
    assert [figures["phase"] for figures in history.epochs] == ["silver", "silver 2", "silver 3", SOUP_PHASE]
    assert history.result_epoch()["phase"] == SOUP_PHASE
    ends = [state for state in recorder.states if "optimizer" not in state]
    members = [torch.cat([v.flatten().float() for v in state["model"].values()]) for state in ends]
    assert torch.allclose(weights(soup), torch.stack(members).mean(0), atol=1e-6)
    first = fine_tuning(recipe.model_copy(update={"soup_members": 1}))
    first.run()
    assert torch.equal(members[0], weights(first))
    assert not torch.allclose(members[0], members[1], atol=1e-3)
    assert history.steps[0].loss == pytest.approx(history.steps[-len(history.steps) // 3].loss, abs=0.3)


@pytest.mark.parametrize(
    "fields", [{"gradient_checkpointing": True}, pytest.param({"compile": True}, marks=pytest.mark.slow)]
)
def test_saving_memory_or_compiling_leaves_the_curve_as_it_is(recipe, fields):
    if "compile" in fields and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    recipe = recipe.model_copy(update={"dropout": 0.0, "epochs": 1})
    plain, other = fine_tuning(recipe), fine_tuning(recipe.model_copy(update=fields))
    losses = [[step.loss for step in tuning.run().steps] for tuning in (plain, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert set(other.encoder.model.state_dict()) == set(plain.encoder.model.state_dict())


def test_the_gold_phase_goes_on_from_the_silver_weights_with_its_own_rate(recipe):
    selected = select_silver(silver(), CATEGORIES, recipe)
    phases = [
        Phase("silver", selected.train, selected.held_out, 5, 3e-3),
        Phase("gold", selected.train.take(np.arange(40)), selected.held_out, 2, 1e-5),
    ]
    recorder = Recorder()
    history = fine_tuning(recipe, recorder, phases).run()
    assert [step.phase for step in history.steps] == ["silver"] * 60 + ["gold"] * 6
    assert max(step.learning_rate for step in history.steps[60:]) <= 1e-5
    assert history.steps[60].loss < 0.8 * history.steps[0].loss
    in_gold = next(state for state in recorder.states if state["phase"] == 1 and "optimizer" in state)
    resumed = fine_tuning(recipe, None, phases)
    resumed.restore(in_gold)
    assert resumed.run() == history


def _worker(rank, num_workers, port, recipe, file):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_workers)
    tuning = fine_tuning(recipe)
    history = tuning.run()
    if rank == 0:
        torch.save({"history": history.to_dict(), "weights": weights(tuning)}, file)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [16, 3])  # 3 over 2 workers: uneven; last batch of 1: an empty share
def test_two_workers_take_the_curve_of_one(recipe, tmp_path, batch_size):
    recipe = recipe.model_copy(update={"dropout": 0.0, "batch_size": batch_size, "num_records": 163, "epochs": 1})
    assert 163 % batch_size in (1, 3)
    one = fine_tuning(recipe)
    one.run()
    port = 29_500 + os.getpid() % 1000
    torch.multiprocessing.spawn(_worker, (2, port, recipe, tmp_path / "two.pt"), nprocs=2)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    losses = [step["loss"] for step in two["history"]["steps"]]
    assert losses[:20] == pytest.approx([step.loss for step in one.history.steps][:20], abs=1e-4)
    assert torch.allclose(two["weights"], weights(one), atol=1e-3)
    assert two["history"]["epochs"][0]["accuracy"] == pytest.approx(one.history.epochs[0]["accuracy"], abs=0.06)


def test_steps_are_plain_values(recipe):
    step = fine_tuning(recipe).run().steps[0]
    assert {type(value) for value in dataclasses.asdict(step).values()} == {str, int, float}
