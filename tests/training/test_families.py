"""Encoders of every family with a sequence classifier: trained, resumed, saved, and labelling as transformers does."""

import io

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llambert.classifier.inference import Classifier
from llambert.recipe import ClassifierRecipe
from llambert.training.encoder import check_encoder, load_encoder
from llambert.training.loop import FineTuning, Observer, Phase
from llambert.training.training_set import TrainingSet
from tests.fixtures.encoder_families import CONFIGURATIONS, save_family, save_family_classifier
from tests.fixtures.tiny_encoder import NEGATIVE, NEUTRAL, POSITIVE

CATEGORIES = ["negative", "positive"]
pytestmark = pytest.mark.usefixtures("one_thread")
ODD_TEXTS = [
    "good <pad> film <pad> <pad>",
    "<pad> bad plot",
    "the <s> very </s> great </s> film",
    "</s>",
    "fine </s> actor",
    "",
    "film " * 100,
    "never seen words",
]


def texts(num, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=num)
    lengths = random.integers(1, 14, size=num)
    return labels, [
        " ".join([*random.choice(NEUTRAL, size=n), random.choice([NEGATIVE, POSITIVE][label])])
        for label, n in zip(labels, lengths, strict=True)
    ]


def recipe(model, **fields):
    settings = {"epochs": 2, "learning_rate": 5e-3, "dtype": "float32", "max_length": 40, "held_out_share": 0.0}
    return ClassifierRecipe(model=model, **{**settings, **fields})


def tuning(settings, observer=None):
    labels, words = texts(96)
    words = [f"{text} </s>" if n % 7 == 0 else text for n, text in enumerate(words)]
    records = TrainingSet(words, labels, np.eye(2, dtype=np.float32)[labels], np.ones(len(labels), dtype=np.float32))
    phase = Phase("silver", records, records.take(np.arange(20)), settings.epochs, settings.learning_rate)
    return FineTuning(load_encoder(settings, CATEGORIES), [phase], settings, CATEGORIES, observer=observer)


class Keeper(Observer):
    """Keeps the first checkpoint of training."""

    state = None

    def on_checkpoint(self, state):
        if self.state is None:
            torch.save(state(), stored := io.BytesIO())
            self.state = stored.getvalue()


def plain_probabilities(checkpoint, words):
    """transformers alone, one text at a time; a text that it cannot read is NaN."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = []
    with torch.no_grad():
        for text in words:
            given = tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
            try:
                found.append(model(**given).logits.softmax(-1)[0].numpy())
            except (RuntimeError, ValueError):
                found.append(np.full(model.config.num_labels, np.nan))
    return np.array(found)


def assert_labels_as_plain_transformers(checkpoint, words):
    expected = plain_probabilities(checkpoint, words)
    readable = ~np.isnan(expected).any(axis=1)
    assert readable.sum() >= len(words) - 2
    assert len(np.unique(expected[readable].round(6), axis=0)) > len(words) / 3, "the texts must differ for the model"
    for few_texts in (False, True):
        classifier = Classifier(str(checkpoint), device="cpu", num_threads=1, few_texts=few_texts, max_batch_tokens=400)
        found = classifier.predict(words)
        assert found.failures == {}
        np.testing.assert_allclose(found.probabilities[readable], expected[readable], atol=1e-5)
        names = [classifier.categories[best] for best in expected[readable].argmax(axis=1)]
        assert [label for label, is_readable in zip(found.labels, readable, strict=True) if is_readable] == names


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def trained(family, tmp_path_factory):
    """A checkpoint that was trained without an interruption, its encoder, and the first state on the way."""
    folder = tmp_path_factory.mktemp(family)
    settings = recipe(save_family(folder / "encoder", family))
    check_encoder(settings, CATEGORIES)
    keeper = Keeper()
    whole = tuning(settings, keeper)
    whole.run()
    whole.encoder.save(folder / "checkpoint")
    return whole, settings, keeper.state, folder / "checkpoint"


def test_a_checkpoint_of_each_family_labels_as_plain_transformers_does(trained):
    _, _, _, checkpoint = trained
    assert_labels_as_plain_transformers(checkpoint, [*texts(60, seed=1)[1], *ODD_TEXTS])


def test_training_of_each_family_learns_and_resumes_to_the_same_weights(trained):
    whole, settings, state, _ = trained
    losses = [step.loss for step in whole.history.steps]
    assert np.isfinite(losses).all()
    resumed = tuning(settings)
    resumed.restore(torch.load(io.BytesIO(state), weights_only=True))
    resumed.run()
    for name, weights in whole.encoder.model.state_dict().items():
        torch.testing.assert_close(resumed.encoder.model.state_dict()[name], weights, atol=1e-6, rtol=1e-5)


def test_the_loss_of_each_family_is_that_of_its_texts_alone(trained):
    """So padding, and what else is in a batch, changes nothing of what is learned."""
    whole, _, _, checkpoint = trained
    records = whole.phases[0].train
    found = whole.predict(whole.encoder.model, whole.tokenized(records))
    expected = plain_probabilities(checkpoint, records.texts)
    readable = ~np.isnan(expected).any(axis=1)
    np.testing.assert_allclose(found[readable], expected[readable], atol=1e-5)


def test_a_classifier_made_elsewhere_labels_as_plain_transformers_does(family, tmp_path):
    checkpoint = save_family_classifier(tmp_path, family, ("negative", "positive", "mixed"))
    words = [*texts(60, seed=2)[1], *ODD_TEXTS]
    if family in ("gpt2", "qwen3"):
        words.remove("")
    words.remove("film " * 100)
    assert_labels_as_plain_transformers(checkpoint, words)


def test_a_family_whose_weights_transformers_leaves_in_float32_labels_in_bfloat16(tmp_path):
    folder = save_family_classifier(tmp_path, "xlnet", ("negative", "positive"))
    words = texts(20)[1]
    found = Classifier(folder, device="cpu", num_threads=1, dtype="bfloat16").predict(words)
    exact = Classifier(folder, device="cpu", num_threads=1).predict(words)
    assert found.failures == {}
    np.testing.assert_allclose(found.probabilities, exact.probabilities, atol=0.1)
