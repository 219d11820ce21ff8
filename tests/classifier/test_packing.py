"""Texts end to end give what each gives alone, in every kind of model that is packed."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llambert.classifier.inference import Classifier
from llambert.classifier.packing import PACKABLE_FAMILIES
from tests.fixtures.tiny_classifier import MAX_LENGTH, VOCABULARY, save_tiny_classifier, tiny_texts

CATEGORIES = {0: "positive", 1: "negative", 2: "neutral"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_classifier(tmp_path_factory.mktemp("model") / "bert", tuple(CATEGORIES.values()))


def checkpoint_of(family, bert, folder):
    """A tiny classifier of another family, with the tokenizer of ``bert``."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        embedding_size=24,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        type_vocab_size=2,
        initializer_range=0.4,
        pad_token_id=0,
        max_position_embeddings=MAX_LENGTH + 1,
        id2label=CATEGORIES,
        label2id={name: i for i, name in CATEGORIES.items()},
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", sorted(PACKABLE_FAMILIES))
@pytest.mark.parametrize("num_threads", [1, 2])
def test_packed_texts_have_the_probabilities_of_padded_ones(family, num_threads, bert, tmp_path):
    checkpoint = str(bert if family == "bert" else checkpoint_of(family, bert, tmp_path))
    texts = [*tiny_texts(40), None, "", "good " * 200]
    expected = Classifier(checkpoint, device="cpu", num_threads=1).predict(texts)
    found = Classifier(checkpoint, device="cpu", num_threads=num_threads, few_texts=True).predict(texts)
    assert found.labels == expected.labels
    assert found.failures == expected.failures == {40: "null_text"}
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert found.num_padded_tokens == found.num_tokens == expected.num_tokens


def test_a_text_alone_has_the_same_last_bits_packed_or_not(bert):
    """So near-ties are decided alike."""
    padded = Classifier(str(bert), device="cpu", num_threads=1)
    packed = Classifier(str(bert), device="cpu", num_threads=1, few_texts=True)
    for text in tiny_texts(20, seed=3):
        np.testing.assert_array_equal(packed.predict([text]).probabilities, padded.predict([text]).probabilities)


def test_another_kind_of_model_is_padded(bert, tmp_path):
    config = AutoConfig.for_model(
        "distilbert",
        vocab_size=len(VOCABULARY),
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=2,
        id2label=CATEGORIES,
        label2id={name: i for i, name in CATEGORIES.items()},
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    texts = tiny_texts(40)
    found = Classifier(str(tmp_path), device="cpu", few_texts=True).predict(texts)
    expected = Classifier(str(tmp_path), device="cpu").predict(texts)
    assert found.labels == expected.labels
    assert found.num_padded_tokens > found.num_tokens
