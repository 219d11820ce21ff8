"""Loading encoders: the families that have recipes, with random weights; and what is refused."""

import numpy as np
import pytest
import torch
from own_code import add_own_code
from tiny_encoder import NEGATIVE, POSITIVE, save_tiny_encoder
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from llambert.checkpoint import load_checkpoint
from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe
from llambert.training.loop import FineTuning, Phase
from llambert.training.model import load_encoder
from llambert.training.records import TrainingSet

CATEGORIES = ["negative", "positive"]
BERT_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DISTIL_SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}


@pytest.fixture(scope="module", params=["distilbert", "bert", "roberta"])
def family(request, tmp_path_factory):
    """A folder with an encoder of the family and the tiny tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny_encoder(folder)
    torch.manual_seed(0)
    if request.param == "distilbert":
        DistilBertModel(DistilBertConfig(vocab_size=18, max_position_embeddings=40, **DISTIL_SHAPE)).save_pretrained(
            folder
        )
    elif request.param == "bert":
        BertModel(BertConfig(vocab_size=18, max_position_embeddings=40, **BERT_SHAPE)).save_pretrained(folder)
    else:
        config = RobertaConfig(
            vocab_size=18, max_position_embeddings=42, pad_token_id=1, type_vocab_size=1, **BERT_SHAPE
        )
        RobertaModel(config).save_pretrained(folder)
    return str(folder)


def recipe(model, **fields):
    return ClassifierRecipe(model=model, epochs=8, learning_rate=3e-3, dtype="float32", **fields)


def training_set(num=120):
    random = np.random.default_rng(0)
    labels = random.integers(2, size=num)
    texts = [f"the film was very {random.choice([NEGATIVE, POSITIVE][label])}" for label in labels]
    return TrainingSet(texts, labels, np.eye(2, dtype=np.float32)[labels], np.ones(num, dtype=np.float32))


def train(settings):
    encoder = load_encoder(settings, CATEGORIES)
    records = training_set()
    nothing = records.take(np.arange(0))
    phases = [Phase("silver", records, nothing, settings.epochs, settings.learning_rate)]
    return encoder, FineTuning(encoder, phases, settings, CATEGORIES).run()


@pytest.mark.parametrize("fields", [{}, {"gradient_checkpointing": True}, {"dropout": 0.0}])
def test_each_family_learns_and_its_folder_loads_without_llambert(family, fields, tmp_path):
    encoder, history = train(recipe(family, **fields))
    assert history.steps[-1].loss < 0.4 < history.steps[0].loss
    encoder.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    inputs = AutoTokenizer.from_pretrained(tmp_path)(["the film was very awful"], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    assert model(**inputs).logits.argmax(-1).tolist() == [0]


def test_a_frozen_encoder_of_each_family_trains_its_head_alone(family):
    settings = recipe(family, freeze_encoder=True)
    before = load_encoder(settings, CATEGORIES).model.state_dict()
    encoder, _ = train(settings)
    changed = {name for name, value in encoder.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"classifier"} <= {name.split(".")[0] for name in changed}
    assert not any(part in name for name in changed for part in ("embeddings", "encoder.layer", "transformer.layer"))


def test_texts_are_cut_where_each_familys_positions_end(family):
    encoder = load_encoder(recipe(family), CATEGORIES)
    assert encoder.max_length == 40
    assert len(encoder.tokenize(["film " * 100])[0]) == 40


def test_no_dropout_means_none_in_any_family(family):
    inputs = {"input_ids": torch.tensor([[2, 4, 5, 3]])}
    for dropout, equal in ((0.0, True), (0.3, False)):
        model = load_encoder(recipe(family, dropout=dropout), CATEGORIES).model.train()
        assert torch.equal(model(**inputs).logits, model(**inputs).logits) == equal


def test_new_weights_are_drawn_by_the_seed(family):
    heads = [load_encoder(recipe(family, seed=seed), CATEGORIES).model.state_dict() for seed in (0, 0, 1)]
    name = next(name for name in heads[0] if name.startswith("classifier") and name.endswith("weight"))
    assert torch.equal(heads[0][name], heads[1][name])
    assert not torch.equal(heads[0][name], heads[2][name])


@pytest.mark.parametrize(
    ("names", "task", "says"),
    [
        (
            ["negative", "positive"],
            ["yes", "no"],
            "a classifier of negative, positive, the task's categories are yes, no",
        ),
        (
            ["negative", "positive"],
            ["positive", "negative"],
            "a classifier of negative, positive, the task's categories",
        ),
        (["negative", "positive"], ["negative", "neutral", "positive"], "a classifier of negative, positive"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["negative", "positive"], "a classifier of 3 categories"),
    ],
)
def test_a_classifier_that_does_not_match_the_task_is_refused_in_one_line(tmp_path, names, task, says):
    load_encoder(recipe(save_tiny_encoder(tmp_path)), names).save(tmp_path)
    assert load_encoder(recipe(str(tmp_path)), names).max_length == 64
    with pytest.raises(InputError, match=says) as refusal:
        load_encoder(recipe(str(tmp_path)), task)
    assert "\n" not in str(refusal.value)


def test_a_missing_encoder_is_one_line(tmp_path):
    for model in (str(tmp_path), "no-such/encoder"):
        with pytest.raises(InputError, match="cannot be loaded") as refusal:
            load_encoder(recipe(model), CATEGORIES)
        assert "\n" not in str(refusal.value)


def test_code_that_comes_with_an_encoder_is_run_only_if_the_recipe_says_so_and_goes_with_its_checkpoint(tmp_path):
    save_tiny_encoder(tmp_path / "encoder")
    mark = add_own_code(tmp_path / "encoder", "AutoModelForSequenceClassification", "BertForSequenceClassification")
    encoder = recipe(str(tmp_path / "encoder"))
    with pytest.raises(InputError, match=r"^classifier.model: .*classifier.trust_remote_code: true runs it"):
        load_encoder(encoder, CATEGORIES)
    assert not mark.exists()
    loaded = load_encoder(encoder.model_copy(update={"trust_remote_code": True}), CATEGORIES)
    loaded.save(tmp_path / "checkpoint")
    model, _ = load_checkpoint(str(tmp_path / "checkpoint"), torch.float32, trust_remote_code=True)
    assert type(model).__name__ == type(loaded.model).__name__ == "OwnModel"
    for name, weights in loaded.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights)


def test_pickled_weights_are_loaded_only_if_the_recipe_says_so(tmp_path):
    save_tiny_encoder(tmp_path)
    weights = AutoModel.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no file named model.safetensors .*classifier.pickled_weights: true"):
        load_encoder(recipe(str(tmp_path)), CATEGORIES)
    loaded = load_encoder(recipe(str(tmp_path), pickled_weights=True), CATEGORIES).model.base_model.state_dict()
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(loaded[name], weights[name])
