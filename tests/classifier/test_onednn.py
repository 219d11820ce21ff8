"""Linear layers in the layout of oneDNN."""

from llambert.classifier import onednn
from llambert.classifier.inference import Classifier
from tests.fixtures.tiny_classifier import save_tiny_classifier


def test_onednn_is_in_this_build_of_pytorch_and_replaces_every_linear_layer(tmp_path):
    # Without it the classifier still works, at half the speed: an upgrade must not lose it unseen.
    assert onednn.available()
    classifier = Classifier(str(save_tiny_classifier(tmp_path)), device="cpu")
    kinds = [type(layer).__name__ for layer in classifier.model.modules()]
    assert "Linear" not in kinds
    assert kinds.count("ReorderedLinear") == 2 * 6 + 2
