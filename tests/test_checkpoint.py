"""Stored classifiers: what is loaded, and what is refused in one line."""

import json
import shutil

import pytest
import torch
from own_code import add_own_code
from tiny_classifier import save_tiny_classifier, tiny_texts
from transformers import AutoModelForSequenceClassification

from llambert.checkpoint import load_checkpoint
from llambert.classifier import Classifier
from llambert.errors import InputError


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
    with pytest.raises(InputError, match=r"^[^\n]*no classifier can be loaded[^\n]*$"):
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
    with pytest.raises(InputError, match=r"^[^\n]*code of its own; label.trust_remote_code: true runs it[^\n]*$"):
        Classifier(str(folder))
    assert not mark.exists()
    texts = tiny_texts(50)
    trusted = Classifier(str(folder), device="cpu", trust_remote_code=True).predict(texts)
    assert mark.exists()
    assert trusted.labels == Classifier(str(checkpoint), device="cpu").predict(texts).labels
