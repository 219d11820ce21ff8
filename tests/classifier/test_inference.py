"""The classifier core against plain transformers, on texts kind and unkind."""

import shutil
import threading

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert.classifier import inference as module
from llambert.classifier.batching import MAX_PADDING_WASTE
from llambert.classifier.inference import Classifier, windows
from llambert.errors import InputError
from tests.fixtures.panicking_tokenizer import PANIC_TEXT, make_tokenizer_panic
from tests.fixtures.tiny_classifier import MAX_LENGTH, save_tiny_classifier, tiny_texts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_classifier(tmp_path_factory.mktemp("checkpoint"), ("positive", "negative", "mixed"))


@pytest.fixture(scope="module")
def classifier(checkpoint):
    return Classifier(str(checkpoint), max_batch_tokens=256, device="cpu")


def reference_probabilities(checkpoint, texts: list[str]) -> np.ndarray:
    """The reference's loop: batches of 16 in corpus order, padded to the longest, float32."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    out = []
    with torch.no_grad():
        for start in range(0, len(texts), 16):
            batch = tokenizer(texts[start : start + 16], padding=True, truncation=True, return_tensors="pt")
            out.append(model(**batch).logits.softmax(-1).numpy())
    return np.concatenate(out)


def test_labels_and_probabilities_are_the_reference_loops_in_input_order(classifier, checkpoint):
    texts = tiny_texts(500)
    expected = reference_probabilities(checkpoint, texts)
    assert len(set(expected.argmax(1))) == 3, "the tiny model must not always say the same"
    predictions = classifier.predict(texts)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-5)
    assert predictions.labels == [classifier.categories[i] for i in expected.argmax(1)]
    np.testing.assert_array_equal(predictions.scores, predictions.probabilities.max(1))
    assert predictions.failures == {}
    assert classifier.categories == ["positive", "negative", "mixed"]


def test_the_result_does_not_depend_on_windows_or_batch_size(checkpoint, classifier, monkeypatch):
    texts = tiny_texts(300, seed=1)
    expected = classifier.predict(texts)
    monkeypatch.setattr(module, "WINDOW_RECORDS", 37)
    cut = Classifier(str(checkpoint), max_batch_tokens=70, device="cpu").predict(texts)
    assert cut.labels == expected.labels
    np.testing.assert_allclose(cut.probabilities, expected.probabilities, atol=1e-6)
    assert cut.num_tokens == expected.num_tokens


def test_batches_side_by_side_on_two_cores_give_what_one_core_gives(checkpoint):
    texts = [*tiny_texts(300, seed=5), None]
    alone = Classifier(str(checkpoint), max_batch_tokens=256, device="cpu", num_threads=1).predict(texts)
    on_two_cores = Classifier(str(checkpoint), max_batch_tokens=256, device="cpu", num_threads=2)
    beside = on_two_cores.predict(texts)  # kept: with it its threads end
    assert torch.get_num_threads() == 2
    assert beside.labels == alone.labels
    assert beside.failures == alone.failures == {300: "null_text"}
    np.testing.assert_allclose(beside.probabilities, alone.probabilities, atol=1e-6)
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("classifier")]) >= 2


def test_tokens_are_counted_and_padding_stays_below_its_bound(classifier, checkpoint):
    texts = tiny_texts(400, seed=2)
    predictions = classifier.predict(texts)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert predictions.num_tokens == sum(len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"])
    assert 0 <= predictions.padding_waste <= MAX_PADDING_WASTE


def test_over_long_texts_are_truncated_as_transformers_does_and_counted(classifier, checkpoint):
    words = "good dull film the plot comes alive " * 3000  # 105,000 characters: read only as far as needed
    texts = ["good", words, "bad " * (MAX_LENGTH - 2), "bad " * (MAX_LENGTH - 1)]
    predictions = classifier.predict(texts)
    np.testing.assert_allclose(predictions.probabilities, reference_probabilities(checkpoint, texts), atol=1e-5)
    assert predictions.num_truncated == 2
    assert predictions.num_tokens == 3 + 3 * MAX_LENGTH


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("   \n\t ", id="blank"),
        pytest.param("good\0film\0", id="NUL"),
        pytest.param("\u0301" * 5000, id="combining marks alone"),
        pytest.param("\u202egood film\u202c", id="bidi controls"),
        pytest.param("[SEP] [CLS] good [MASK]", id="special tokens in the text"),
        pytest.param(" " * 30_000 + "good", id="blanks before the first word"),
        pytest.param("x" * 20_000 + " good film", id="a word longer than the first reading"),
    ],
)
def test_unkind_texts_get_the_label_that_transformers_gives_them(classifier, checkpoint, text):
    texts = ["a good film", text, "a dull film"]
    predictions = classifier.predict(texts)
    np.testing.assert_allclose(predictions.probabilities, reference_probabilities(checkpoint, texts), atol=1e-5)
    assert predictions.failures == {}


def test_ten_megabytes_without_a_space_are_labelled_from_a_stated_number_of_characters(classifier):
    assert classifier.max_text_chars == 512 * MAX_LENGTH
    predictions = classifier.predict(["x" * 10_000_000, "x" * classifier.max_text_chars])
    assert predictions.labels[0] == predictions.labels[1]
    assert predictions.num_truncated == 1


def test_lone_surrogates_count_as_replacement_characters(classifier):
    predictions = classifier.predict(["good \ud800 film", "good \ufffd film"])
    np.testing.assert_allclose(predictions.probabilities[0], predictions.probabilities[1], atol=1e-6)


def test_what_is_no_text_is_reported_alone(classifier):
    texts = ["good", None, "bad", 7]
    predictions = classifier.predict(texts)
    assert predictions.failures == {1: "null_text", 3: "tokenizer_error"}
    assert [label is None for label in predictions.labels] == [False, True, False, True]
    assert np.isnan(predictions.scores[[1, 3]]).all()
    assert np.isnan(predictions.probabilities[1]).all()
    np.testing.assert_allclose(predictions.probabilities[[0, 2]], classifier.predict(["good", "bad"]).probabilities)


def test_a_text_that_a_regular_expression_panics_on_costs_itself_alone(checkpoint, classifier, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    make_tokenizer_panic(tmp_path / "checkpoint")
    texts = ["good film", PANIC_TEXT, "bad film"]
    predictions = Classifier(str(tmp_path / "checkpoint"), device="cpu").predict(texts)
    assert predictions.failures == {1: "tokenizer_error"}
    assert predictions.labels[1] is None
    expected = classifier.predict(texts[::2])
    np.testing.assert_allclose(predictions.probabilities[::2], expected.probabilities, atol=1e-6)


def test_a_text_the_model_fails_on_costs_itself_alone(checkpoint):
    classifier = Classifier(str(checkpoint), device="cpu")
    inner, dull = classifier.model, classifier.tokenizer.token_to_id("dull")

    def fails_on_dull(input_ids, attention_mask):
        if (input_ids == dull).any():
            raise RuntimeError("out of memory")
        return inner(input_ids=input_ids, attention_mask=attention_mask)

    classifier.model = fails_on_dull
    texts = ["good film", "dull film", "bad film", "great film"]
    predictions = classifier.predict(texts)
    assert predictions.failures == {1: "model_error"}
    whole = Classifier(str(checkpoint), device="cpu").predict(texts)
    np.testing.assert_allclose(predictions.probabilities[[0, 2, 3]], whole.probabilities[[0, 2, 3]], atol=1e-6)


def test_a_model_that_fails_on_every_text_raises_instead_of_rejecting_the_corpus(checkpoint):
    classifier = Classifier(str(checkpoint), device="cpu")

    def broken(input_ids, attention_mask):
        raise RuntimeError("CUDA error: device-side assert triggered")

    classifier.model = broken
    with pytest.raises(RuntimeError, match="device-side assert"):
        classifier.predict(["good film", "dull film"])


def test_an_answer_that_is_not_finite_is_a_failure_not_a_label(checkpoint):
    classifier = Classifier(str(checkpoint), device="cpu")
    with torch.no_grad():
        classifier.model.bert.embeddings.word_embeddings.weight[classifier.tokenizer.token_to_id("dull")] = torch.nan
    predictions = classifier.predict(["good film", "dull film"])
    assert predictions.failures == {1: "not_finite"}
    assert predictions.labels[0] is not None


def test_no_texts_give_no_predictions(classifier):
    predictions = classifier.predict([])
    assert predictions.labels == []
    assert predictions.probabilities.shape == (0, 3)
    assert predictions.padding_waste == 0.0


def test_a_stream_gives_each_window_its_predictions_and_reads_two_windows_ahead_at_most(classifier):
    texts = tiny_texts(60, seed=3)
    read: list[int] = []

    def source():
        for start in range(0, 60, 10):
            read.append(start)
            yield texts[start : start + 10]

    stream = classifier.stream(source())
    first = next(stream)
    assert first.labels == classifier.predict(texts[:10]).labels
    stream.close()
    assert len(read) <= 3
    labels = [label for window in classifier.stream(source()) for label in window.labels]
    assert labels == classifier.predict(texts).labels
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tokenizer")]


def test_a_fault_in_reading_the_texts_reaches_the_caller(classifier):
    def source():
        yield ["good"]
        raise OSError("the part is gone")

    with pytest.raises(OSError, match="the part is gone"):
        list(classifier.stream(source()))


def test_windows_are_bounded_by_records_and_by_characters(monkeypatch):
    monkeypatch.setattr(module, "WINDOW_RECORDS", 3)
    monkeypatch.setattr(module, "WINDOW_CHARS", 10)
    texts = ["a", "b", "c", "d", "x" * 30, "eeeeee", "ffffff"]
    assert list(windows(texts)) == [["a", "b", "c"], ["d"], ["x" * 30], ["eeeeee"], ["ffffff"]]


def test_bfloat16_stays_close_to_float32(checkpoint, classifier):
    texts = tiny_texts(200, seed=4)
    reduced = Classifier(str(checkpoint), dtype="bfloat16", device="cpu").predict(texts)
    assert np.abs(reduced.probabilities - classifier.predict(texts).probabilities).max() < 0.1
    assert reduced.probabilities.dtype == np.float32


def test_float16_on_a_cpu_is_refused(checkpoint):
    with pytest.raises(InputError, match="float16 needs a GPU"):
        Classifier(str(checkpoint), dtype="float16", device="cpu")


def test_a_near_tie_is_decided_by_the_model_on_the_text_alone(checkpoint, monkeypatch):
    texts = tiny_texts(200, seed=5)
    one_by_one = Classifier(str(checkpoint), device="cpu")
    alone = np.concatenate([one_by_one.predict([text]).probabilities for text in texts])
    monkeypatch.setattr(module, "TIE_MARGIN", 2.0)  # every record counts as tied
    together = Classifier(str(checkpoint), device="cpu").predict(texts)
    assert (together.probabilities == alone).all()
    assert together.labels == [one_by_one.predict([text]).labels[0] for text in texts]
