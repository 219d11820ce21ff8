"""Stored classifiers: what is loaded, and what is refused in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForTokenClassification,
    ModernBertConfig,
    ModernBertForTokenClassification,
)

from llambert.classifier.checkpoint import load_checkpoint, load_config_and_tokenizer
from llambert.classifier.inference import Classifier
from llambert.errors import InputError
from tests.fixtures.own_code import add_own_code
from tests.fixtures.tiny_classifier import save_tiny_classifier, tiny_texts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_classifier(tmp_path_factory.mktemp("checkpoint"), ("positive", "negative", "mixed"))


def test_a_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^[^\n]*no such file or folder[^\n]*$"):
        load_checkpoint(str(tmp_path / "none"), torch.float32)


def test_a_folder_that_holds_no_model_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"^[^\n]*no classifier can be loaded[^\n]*$"):
        load_checkpoint(str(tmp_path), torch.float32)


def test_weights_cut_short_are_one_line(checkpoint, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(checkpoint, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"^[^\n]*its model.safetensors cannot be read[^\n]*$"):
        load_checkpoint(str(folder), torch.float32)


def test_an_encoder_that_was_never_fine_tuned_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(checkpoint, folder)
    AutoModelForSequenceClassification.from_pretrained(folder).bert.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    with pytest.raises(InputError, match="not fine-tuned to classify"):
        load_checkpoint(str(folder), torch.float32)


def test_code_that_comes_with_a_checkpoint_is_run_only_if_it_is_trusted(checkpoint, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(checkpoint, folder)
    mark = add_own_code(folder, "AutoModelForSequenceClassification", "BertForSequenceClassification")
    with pytest.raises(InputError, match=r"^[^\n]*custom code; label.trust_remote_code: true runs it[^\n]*$"):
        Classifier(str(folder))
    assert not mark.exists()
    texts = tiny_texts(50)
    trusted = Classifier(str(folder), device="cpu", trust_remote_code=True).predict(texts)
    assert mark.exists()
    assert trusted.labels == Classifier(str(checkpoint), device="cpu").predict(texts).labels


# Heads that give no label


def changed(checkpoint, folder, **values):
    """A copy of the checkpoint with other values in its config.json; null takes one out."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )
    return str(folder)


def with_tokenizer_values(checkpoint, folder, **values):
    shutil.copytree(checkpoint, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return str(folder)


def named(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (named("score"), "one output"),
        ({**named("score"), "problem_type": "regression"}, "problem_type is regression"),
        ({"problem_type": "regression"}, "problem_type is regression"),
        ({"problem_type": "multi_label_classification"}, "problem_type is multi_label_classification"),
        ({"id2label": {"0": "good", "2": "bad", "3": "mixed"}}, r"must name the outputs 0 to 2, and names \[0, 2, 3\]"),
        ({"id2label": {"0": "good", "1": "bad", "2": "bad"}}, "gives the name 'bad' to several outputs"),
        ({"id2label": {"0": "good", "1": "", "2": "bad"}}, "gives no name to output 1"),
        ({"id2label": {"0": "good", "1": None, "2": "bad"}}, "gives no name to output 1"),
        (named("good", "bad"), r"have the shape \(3,.*\), and its config.json \(id2label names 2 outputs"),
        (
            {"id2label": None, "label2id": None},
            r"have the shape \(3,.*\), and its config.json \(id2label names 2 outputs",
        ),
        (named("a", "b", "c", "d"), r"have the shape \(3,.*\), and its config.json \(id2label names 4 outputs"),
        (
            {"architectures": ["BertForTokenClassification"]},
            "BertForTokenClassification, .* not fine-tuned to classify",
        ),
        ({"pad_token_id": 999}, "no classifier can be loaded from it: AssertionError"),
        ({"model_type": "mamba"}, "transformers has no classifier of texts of model type 'mamba'"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM, .* not fine-tuned to classify"),
    ],
)
def test_a_head_that_gives_a_text_no_single_category_is_refused_in_one_line(checkpoint, tmp_path, values, says):
    folder = changed(checkpoint, tmp_path / "changed", **values)
    with pytest.raises(InputError, match=says) as refusal:
        Classifier(folder, device="cpu")
    assert "\n" not in str(refusal.value)
    assert folder in str(refusal.value)


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_a_classifier_of_one_category_a_text_is_taken(checkpoint, tmp_path, problem_type):
    folder = changed(checkpoint, tmp_path / "changed", problem_type=problem_type)
    assert Classifier(folder, device="cpu").categories == ["positive", "negative", "mixed"]


def test_a_checkpoint_without_its_tokenizer_is_refused(checkpoint, tmp_path):
    folder = changed(checkpoint, tmp_path / "changed")
    for file in [*(tmp_path / "changed").glob("*token*"), tmp_path / "changed/vocab.txt"]:
        file.unlink()
    with pytest.raises(InputError, match="its tokenizer knows no token"):
        load_config_and_tokenizer(folder)


@pytest.mark.parametrize("stated", [-1, 0, None, 1e30])
def test_a_tokenizer_that_states_no_limit_leaves_it_to_the_positions(checkpoint, tmp_path, stated):
    folder = with_tokenizer_values(checkpoint, tmp_path / "changed", model_max_length=stated)
    expected = load_checkpoint(str(checkpoint), torch.float32)[0].config.max_position_embeddings
    assert Classifier(folder, device="cpu").max_length == expected


def test_a_limit_that_the_special_tokens_fill_is_refused(checkpoint, tmp_path):
    folder = with_tokenizer_values(checkpoint, tmp_path / "changed", model_max_length=2)
    with pytest.raises(InputError, match=r"model_max_length in its tokenizer_config\.json: 2 leaves no room"):
        Classifier(folder, device="cpu")


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "changed")
    description = json.loads((tmp_path / "changed" / "tokenizer.json").read_text())
    vocabulary = description["model"]["vocab"]
    vocabulary |= {f"more{number}": len(vocabulary) + number for number in range(50)}
    (tmp_path / "changed" / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"its tokenizer has \d+ tokens, its model has embeddings for \d+"):
        Classifier(str(tmp_path / "changed"), device="cpu")


def test_weights_that_give_no_number_are_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "changed")
    weights = load_file(tmp_path / "changed" / "model.safetensors")
    weights["classifier.bias"][:] = float("nan")
    save_file(weights, tmp_path / "changed" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="changed: BertForSequenceClassification returns logits that are not finite"):
        Classifier(str(tmp_path / "changed"), device="cpu")


def test_twelve_categories_keep_the_order_of_their_numbers(tmp_path):
    names = tuple(f"kind {number}" for number in range(12))
    assert Classifier(str(save_tiny_classifier(tmp_path, names)), device="cpu").categories == list(names)


def test_a_token_classifier_is_refused_even_where_its_weights_have_the_same_names(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = ModernBertConfig(vocab_size=len(tokenizer), **shape, pad_token_id=0, cls_token_id=2, sep_token_id=3)
    ModernBertForTokenClassification(config).save_pretrained(tmp_path / "modern")
    BertForTokenClassification.from_pretrained(checkpoint).save_pretrained(tmp_path / "bert")
    for name in ("modern", "bert"):
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(InputError, match="TokenClassification, a model that was not fine-tuned to classify texts"):
            load_config_and_tokenizer(str(tmp_path / name))
