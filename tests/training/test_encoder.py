"""Loading encoders: the families that have recipes, with random weights; and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5EncoderModel,
)

from llambert.classifier.architecture import require_length
from llambert.classifier.checkpoint import load_checkpoint
from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe, LabelRecipe
from llambert.training import encoder as module
from llambert.training.encoder import check_encoder, load_encoder
from llambert.training.loop import FineTuning, Phase
from llambert.training.training_set import TrainingSet
from tests.fixtures.encoder_families import configuration, save_family, save_tokenizer
from tests.fixtures.own_code import add_own_code
from tests.fixtures.panicking_tokenizer import PANIC_TEXT, make_tokenizer_panic
from tests.fixtures.tiny_encoder import NEGATIVE, POSITIVE, save_tiny_encoder

CATEGORIES = ["negative", "positive"]
BERT_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DISTIL_SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}


def rewrite(file, **values):
    """Other values in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


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


def test_a_text_that_a_regular_expression_panics_on_is_one_line(tmp_path):
    folder = save_tiny_encoder(tmp_path)
    make_tokenizer_panic(tmp_path)
    encoder = load_encoder(recipe(folder), CATEGORIES)
    with pytest.raises(InputError, match="its tokenizer fails on one of 2 texts to train on: a fault"):
        encoder.tokenize(["a film", PANIC_TEXT])


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
        with pytest.raises(InputError, match=r"cannot be (loaded|found out)") as refusal:
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


@pytest.mark.parametrize("lacking", ["model.safetensors", "config.json"])
def test_pickled_weights_are_advised_only_where_they_would_help(tmp_path, lacking):
    folder = tmp_path / "safetensors"  # a name that says nothing of the fault
    save_tiny_encoder(folder)
    (folder / lacking).unlink()
    may_be_pickled = lacking == "model.safetensors"  # then the recipe has allowed it already
    with pytest.raises(InputError, match=r"^classifier.model: .*cannot be loaded") as refusal:
        load_encoder(recipe(str(folder), pickled_weights=may_be_pickled), CATEGORIES)
    assert "classifier.pickled_weights" not in str(refusal.value)


# What differs between families, and is found before anything is spent


def decoder(folder, **tokens):
    """A GPT-2 without a padding token whose tokenizer names these special tokens."""
    save_family(folder, "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokens).save_pretrained(folder)
    return str(folder)


def test_a_decoder_without_a_padding_token_pads_with_its_end_of_text_and_its_checkpoint_says_so(tmp_path):
    encoder = load_encoder(recipe(decoder(tmp_path / "encoder", eos_token="</s>")), CATEGORIES)
    encoder.save(tmp_path / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert tokenizer.pad_token == "</s>"
    assert model.config.pad_token_id == tokenizer.pad_token_id == 2


def test_a_decoder_with_no_token_to_pad_with_is_refused(tmp_path):
    folder = decoder(tmp_path)
    config = configuration("gpt2")
    config.eos_token_id = None
    config.save_pretrained(folder)
    with pytest.raises(InputError, match=r"^classifier.model: .*neither a padding token nor an end-of-text token"):
        check_encoder(recipe(folder), CATEGORIES)


@pytest.mark.parametrize("family", ["t5", "mt5", "xlnet", "deberta-v2"])
@pytest.mark.parametrize("max_length", [7, 40])
def test_where_positions_have_no_limit_the_recipes_length_is_the_limit(family, max_length, tmp_path):
    encoder = load_encoder(recipe(save_family(tmp_path, family), max_length=max_length), CATEGORIES)
    assert encoder.max_length == max_length
    assert len(encoder.tokenize(["film " * 100])[0]) == max_length


def test_a_t5_whose_tokenizer_ends_no_text_reads_each_at_an_end_that_is_added(tmp_path):
    folder = save_family(tmp_path, "t5")
    save_tokenizer(tmp_path, "gpt2")  # no frame around a text
    encoder = load_encoder(recipe(folder, max_length=4), CATEGORIES)
    assert [ids.tolist() for ids in encoder.tokenize(["good film", "good </s> film", "", "film " * 9])] == [
        [4, 10, 2],
        [4, 2, 10],
        [2],
        [10, 10, 10, 2],
    ]


def test_big_bird_attends_to_everything_so_that_no_text_depends_on_those_before_it(tmp_path):
    encoder = load_encoder(recipe(save_family(tmp_path, "big_bird")), CATEGORIES)
    assert encoder.model.config.attention_type == "original_full"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("no weights", "cannot be loaded: .*no file named model.safetensors"),
        ("weights cut short", "its model.safetensors cannot be read"),
        ("weights of another model", "it lacks weights of the model that its config.json describes"),
        ("other shapes", "its weights do not have the shapes that its config.json states"),
        ("no tokenizer", "its tokenizer knows no token"),
        ("more tokens than embeddings", "its tokenizer has token 17, its model has embeddings for 10 tokens"),
        ("no classifier of its kind", "transformers has no classifier of texts of model type 'clip_text_model'"),
        ("a token added beyond the embeddings", "its tokenizer has token 18, its model has embeddings for 18 tokens"),
        ("weights that are no number", "BertForSequenceClassification returns logits that are not finite"),
        ("a value of the wrong type", "cannot be loaded: .*classifier_dropout"),
        ("a padding token beyond the embeddings", "cannot be loaded: AssertionError"),
    ],
)
def test_an_encoder_that_cannot_be_trained_is_refused_in_one_line(fault, says, tmp_path):
    folder = save_tiny_encoder(tmp_path)
    weights = tmp_path / "model.safetensors"
    match fault:
        case "no weights":
            weights.unlink()
        case "weights cut short":
            weights.write_bytes(weights.read_bytes()[:-500])
        case "weights of another model":
            save_file({"layer.weight": torch.zeros(3, 3)}, weights, {"format": "pt"})
        case "other shapes":
            BertConfig(vocab_size=18, **{**BERT_SHAPE, "hidden_size": 64}).save_pretrained(folder)
        case "no tokenizer":
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (tmp_path / name).unlink()
        case "more tokens than embeddings":
            BertModel(BertConfig(vocab_size=10, **BERT_SHAPE)).save_pretrained(folder)
        case "no classifier of its kind":
            CLIPTextModel(CLIPTextConfig(vocab_size=18, **BERT_SHAPE)).save_pretrained(folder)
        case "a token added beyond the embeddings":
            tokenizer = AutoTokenizer.from_pretrained(folder)
            tokenizer.add_tokens(["new"])
            tokenizer.save_pretrained(folder)
        case "weights that are no number":
            weights_by_name = load_file(weights)
            weights_by_name["embeddings.LayerNorm.weight"][0] = float("nan")
            save_file(weights_by_name, weights, {"format": "pt"})
        case "a value of the wrong type":
            rewrite(tmp_path / "config.json", model_type="led", classifier_dropout=None)
        case "a padding token beyond the embeddings":
            rewrite(tmp_path / "config.json", pad_token_id=99)
    with pytest.raises(InputError, match=rf"^classifier.model: {folder}:? {says}") as refusal:
        check_encoder(recipe(folder), CATEGORIES)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("stated", [-1, 0, None, 10**30])
def test_a_tokenizer_that_states_no_limit_leaves_it_to_the_positions(stated, tmp_path):
    folder = save_tiny_encoder(tmp_path)
    rewrite(tmp_path / "tokenizer_config.json", model_max_length=stated)
    encoder = load_encoder(recipe(folder, max_length=100), CATEGORIES)
    assert encoder.max_length == 64
    assert [len(ids) for ids in encoder.tokenize(["film " * 200])] == [64]


@pytest.mark.parametrize("family", ["ibert", "mra", "yoso"])
def test_positions_are_counted_where_a_family_has_more_embeddings_than_positions(family, tmp_path):
    save_tokenizer(tmp_path, family)
    positions = {"max_position_embeddings": 130}
    config = AutoConfig.for_model(family, vocab_size=24, bos_token_id=0, pad_token_id=1, **BERT_SHAPE, **positions)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    settings = recipe(str(tmp_path), max_length=512)
    check_encoder(settings, CATEGORIES)
    encoder = load_encoder(settings, CATEGORIES)
    assert encoder.max_length == (128 if family == "ibert" else 130)
    encoder.model(**encoder.input_format.model_inputs(encoder.tokenize(["film " * 200])))


def test_a_length_that_a_model_has_no_positions_for_is_refused_when_it_is_tried(tmp_path):
    save_tokenizer(tmp_path, "gpt2")
    AutoModel.from_config(configuration("gpt2", n_positions=20)).save_pretrained(tmp_path)
    encoder = load_encoder(recipe(str(tmp_path), max_length=30), CATEGORIES)
    assert encoder.max_length == 20
    require_length(encoder.model, encoder.tokenizer, encoder.input_format, 20)
    with pytest.raises(InputError, match=r"^GPT2.* fails on a text of 30 tokens: IndexError"):
        require_length(encoder.model, encoder.tokenizer, encoder.input_format, 30)


@pytest.mark.parametrize("max_length", [1, 2])
def test_a_length_that_the_special_tokens_fill_is_refused(max_length, tmp_path):
    with pytest.raises(InputError, match=f"^classifier.max_length: {max_length} leaves no room for a text"):
        check_encoder(recipe(save_tiny_encoder(tmp_path), max_length=max_length), CATEGORIES)


def test_a_family_that_cannot_be_trained_is_refused_in_one_line(tmp_path):
    """Reformer takes no gradient outside of training, and says so by an assertion."""
    save_tokenizer(tmp_path, "reformer")
    shape = {"attn_layers": ["local", "local"], "attention_head_size": 16, "hidden_size": 32, "feed_forward_size": 64}
    axes = {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "is_decoder": False}
    tokens = {"vocab_size": 24, "pad_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model("reformer", **tokens, num_attention_heads=2, **shape, **axes)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="ReformerForSequenceClassification cannot be trained: AssertionError"):
        check_encoder(recipe(str(tmp_path)), CATEGORIES)


def test_a_large_encoder_is_checked_without_loading_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FULL_CHECK_MAX_BYTES", 1000)
    folder = save_tiny_encoder(tmp_path)
    check_encoder(recipe(folder), CATEGORIES)
    save_file({"layer.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="it lacks weights of the model"):
        check_encoder(recipe(folder), CATEGORIES)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no file named"):
        check_encoder(recipe(folder), CATEGORIES)


def test_a_checkpoint_of_a_multi_label_encoder_gives_one_label_a_text(tmp_path):
    load_encoder(recipe(save_tiny_encoder(tmp_path / "encoder")), CATEGORIES).save(tmp_path / "multi")
    config = json.loads((tmp_path / "multi/config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "multi/config.json").write_text(json.dumps(config))
    load_encoder(recipe(str(tmp_path / "multi")), CATEGORIES).save(tmp_path / "checkpoint")
    model, _ = load_checkpoint(str(tmp_path / "checkpoint"), torch.float32)
    assert model.config.problem_type == "single_label_classification"


def test_weights_that_no_answer_depends_on_are_not_trained(tmp_path):
    """Workers that train together would wait for their gradients."""
    model = load_encoder(recipe(save_family(tmp_path, "xlnet")), CATEGORIES).model
    assert [name for name, weights in model.named_parameters() if not weights.requires_grad] == ["transformer.mask_emb"]


@pytest.mark.parametrize(
    ("family", "dtype", "says"),
    [
        ("bert", "float16", "^label.dtype: float16 needs a GPU"),
        ("fnet", "bfloat16", "^label.dtype: .* cannot label in bfloat16: FNetForSequenceClassification fails"),
    ],
)
def test_a_label_stage_that_could_not_compute_is_refused_before_training(family, dtype, says, tmp_path):
    settings = recipe(save_family(tmp_path, family))
    check_encoder(settings, CATEGORIES, LabelRecipe())
    with pytest.raises(InputError, match=says):
        check_encoder(settings, CATEGORIES, LabelRecipe(dtype=dtype, gpus_per_actor=0))


def test_an_encoder_whose_decoder_would_be_drawn_at_random_is_refused(tmp_path):
    folder = save_family(tmp_path, "t5")
    T5EncoderModel.from_pretrained(folder).save_pretrained(folder)
    configuration("t5").save_pretrained(folder)
    with pytest.raises(InputError, match=r"it lacks weights of the model .* for example transformer.decoder"):
        check_encoder(recipe(folder), CATEGORIES)
