"""Which certificate belongs to what is served, and what it says of a label."""

import math

import pytest

from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.run import Run
from llambert.serving.deployment import find_checkpoint
from llambert.serving.review_thresholds import needs_review
from llambert.stages.certify import certify
from tests.fixtures.certified_runs import Oracle, in_folder, open_labelled, write_folder
from tests.fixtures.openai_endpoint import serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """In the folder of a labelled run, whose annotator answers."""
    folder = tmp_path_factory.mktemp("served") / "films"
    with serve(Oracle()) as oracle:
        write_folder(folder, oracle.base_url)
        with in_folder(folder):
            yield folder


def certified(*settings: str) -> tuple[Run, float | None]:
    run = open_labelled(*settings)
    certificate = certify(run, IN_PROCESS)
    assert certificate is not None
    return run, certificate.measures.get("threshold")


def test_a_run_directory_and_its_recipe_know_the_certificate_and_a_checkpoint_folder_does_not(folder):
    run, threshold = certified()
    assert 0.5 < threshold < 1
    assert find_checkpoint("recipe.yaml", []).review_thresholds == {"": threshold}
    assert find_checkpoint("run", []).review_thresholds == {"": threshold}
    assert find_checkpoint(run.table("checkpoint").uri, []).review_thresholds is None
    assert needs_review({"": threshold}, "positive", threshold) is False
    assert needs_review({"": threshold}, "positive", math.nextafter(threshold, 0)) is True


def test_of_several_certificates_it_is_that_of_the_recipe_that_was_started_last(folder):
    settings = ["guarantee.target=0.98"]
    _, lower = certified()
    _, higher = certified(*settings)
    assert lower < higher
    assert find_checkpoint("run", []).review_thresholds == {"": higher}
    assert find_checkpoint("recipe.yaml", settings).review_thresholds == {"": higher}
    assert find_checkpoint("recipe.yaml", []).review_thresholds == {"": lower}


def test_a_certificate_per_category_is_looked_up_by_the_label(folder):
    settings = ["guarantee.per_category=true"]
    run, _ = certified(*settings)
    measures = run.table("certificate").require_manifest().measures
    expected = {name: measures.get(f"threshold.{name}", math.inf) for name in run.task.category_names}
    assert find_checkpoint("recipe.yaml", settings).review_thresholds == expected
    assert find_checkpoint("run", []).review_thresholds == expected
    for name, threshold in expected.items():
        assert needs_review(expected, name, threshold - 0.01)


def test_where_no_label_may_be_kept_every_label_needs_review():
    assert needs_review({"": math.inf}, "positive", 1.0)


@pytest.mark.parametrize("settings", [["guarantee=null"], ["guarantee.oracle=people"]])
def test_a_run_without_a_certificate_has_no_thresholds(folder, settings):
    open_labelled(*settings)
    assert find_checkpoint("recipe.yaml", settings).review_thresholds is None
    assert find_checkpoint("run", []).review_thresholds is None


def test_a_certificate_of_another_classifier_is_refused_in_one_line(folder):
    run, _ = certified()
    checkpoint = run.table("checkpoint")
    before = checkpoint.require_manifest()
    run.complete("checkpoint", [checkpoint.write_file("config.json", b'{"other": 1}')], num_kept=1)
    try:
        for source in ("recipe.yaml", "run"):
            with pytest.raises(InputError, match=r"its certificate is of the labels of another classifier") as error:
                find_checkpoint(source, [])
            assert "\n" not in str(error.value)
    finally:
        checkpoint.write_file("config.json", b"{}")
        checkpoint.write_manifest(before)
    assert find_checkpoint("run", []).review_thresholds is not None
