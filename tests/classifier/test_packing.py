"""Texts end to end give what each gives alone, in every kind of model that is packed."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llambert.classifier.batching import pack_batch, plan_sorted_packs
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


def test_a_gpus_packs_have_the_probabilities_of_padded_batches(bert):
    """Sorted packs, in which neighbours of one length attend together; packs are alike on any device, a CPU too."""
    classifier = Classifier(str(bert), device="cpu", num_threads=1, few_texts=True)
    texts = tiny_texts(200, seed=5)
    ids = [np.array(encoding.ids) for encoding in classifier.tokenizer.encode_batch(texts)]
    packs = plan_sorted_packs(np.arange(len(ids)), np.array([len(row) for row in ids]), 500)
    found = np.zeros((len(ids), len(CATEGORIES)))
    for rows in packs:
        batch = pack_batch(rows, [ids[row] for row in rows], None)
        assert len(batch.inputs["text_runs"]) < len(rows) / 2
        with torch.inference_mode():
            found[rows] = classifier.model(**batch.inputs).logits.softmax(-1).numpy()
    assert len(packs) > 1
    expected = Classifier(str(bert), device="cpu", num_threads=1).predict(texts)
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("few_texts", [True, False])
def test_a_compiled_model_gives_the_same_labels_and_is_compiled_for_few_shapes(few_texts, bert):
    """The loop over the lengths of a pack is one operator to the compiler, or each batch would compile anew."""
    texts = [tiny_texts(num, seed=num) for num in (40, 1, 23, 64, 7, 31)]
    plain = Classifier(str(bert), device="cpu", num_threads=1, few_texts=few_texts)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = Classifier(str(bert), device="cpu", num_threads=1, few_texts=few_texts, compile=True)
    for part in texts:
        expected, found = plain.predict(part), compiled.predict(part)
        assert found.labels == expected.labels
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6
