"""The certificate: whom is asked what, what an answer without a category counts, and what may be kept after all."""

import numpy as np
import pytest

from llambert import schema
from llambert.errors import InputError
from llambert.evaluation.certified import ESCALATES, Certified
from llambert.evaluation.guarantee import Population, Promise
from llambert.evaluation.guarantee import certify as certify_all
from llambert.execution.in_process import IN_PROCESS
from llambert.hashing import hash64
from llambert.recipe import load_recipe
from llambert.stages.certify import NUM_UNUSABLE, certify, check
from llambert.stages.certify.draw import draw, read_sample
from llambert.storage.manifest import Manifest
from llambert.storage.part_file import is_part
from tests.fixtures.certified_runs import CERTIFY_RECORDS, MUMBLED, guess, open_labelled, truth
from tests.fixtures.growing_corpora import rows, states, write


def certified(*settings: str) -> tuple:
    run = open_labelled(*settings)
    manifest = certify(run, IN_PROCESS)
    assert isinstance(manifest, Manifest)
    return run, manifest


def test_each_sampled_text_is_asked_once_and_the_certificate_is_that_of_its_answers(films, oracle):
    run, manifest = certified()
    sample = read_sample(run).to_pylist()
    assert len(oracle.calls) == len({row[schema.TEXT] for row in sample})
    assert all(any(row[schema.TEXT] in call for call in oracle.calls) for row in sample)
    table = run.table("certificate").read().to_pylist()
    assert [row[schema.RECORD_ID] for row in table] == [row[schema.RECORD_ID] for row in sample]
    for row, of_sample in zip(table, sample, strict=True):
        text = of_sample[schema.TEXT]
        assert (row[schema.LABEL], row[schema.SCORE]) == pytest.approx((guess(text)[0], guess(text)[1]))
        assert row[schema.ORACLE_LABEL] == row[schema.GOLD_LABEL] == truth(text)
        assert row[schema.REJECT_REASON] is None
    counts = run.table("certification").require_manifest().counts
    score = np.array([row[schema.SCORE] for row in table], np.float32)
    wrong = np.array([row[schema.LABEL] != row[schema.ORACLE_LABEL] for row in table])
    population = Population(counts["num_records"], counts["num_undecided"])
    expected = certify_all(population, score, wrong, Promise(0.95, 0.95, answers_replace=True))
    assert Certified.of(manifest).certificates == {"": expected}
    assert 0 < expected.num_wrong < wrong.sum()  # some are kept and wrong, others are not kept


def test_a_rerun_asks_nothing_and_writes_nothing(films, oracle, capsys):
    run, manifest = certified()
    before = {name: states(run, name) for name in ("certification", "certification_responses", "certificate")}
    oracle.requests.clear()
    capsys.readouterr()
    again, same = certified()
    assert same == manifest
    assert oracle.calls == []
    assert {name: states(again, name) for name in before} == before
    assert capsys.readouterr().out == ""


def test_another_target_and_a_part_of_the_sample_ask_nothing_again_and_are_counted_as_tries(films, oracle):
    _, first = certified()
    oracle.requests.clear()
    _, higher = certified("guarantee.target=0.98")
    assert oracle.calls == []
    _, smaller = certified("guarantee.certify_records=100")
    assert oracle.calls == []
    assert (higher.num_kept, smaller.num_kept) == (CERTIFY_RECORDS, 100)
    assert [made.counts["num_tries"] for made in (first, higher, smaller)] == [1, 2, 3]
    run, _ = certified("guarantee.certify_records=170")
    texts = {row[schema.TEXT] for row in read_sample(run).to_pylist()[CERTIFY_RECORDS:]}
    assert 0 < len(oracle.calls) <= len(texts) <= 20


def test_answers_without_a_category_count_as_disagreement_and_are_counted(films, oracle):
    write(films / "corpus", "m", [f"{text} {MUMBLED}" for text in rows("m")])
    run, manifest = certified()
    table = run.table("certificate").read().to_pylist()
    unusable = [row for row in table if row[schema.ORACLE_LABEL] is None]
    assert len(unusable) == manifest.counts[NUM_UNUSABLE] > 0
    assert {row[schema.REJECT_REASON] for row in unusable} == {"refused"}
    threshold = manifest.measures.get("threshold", np.inf)
    kept = [row for row in table if row[schema.SCORE] >= threshold]
    wrong = [row for row in kept if row[schema.LABEL] != row[schema.ORACLE_LABEL]]
    assert len(wrong) == manifest.counts["num_wrong"]
    assert threshold > np.median([row[schema.SCORE] for row in unusable])


def test_each_category_has_a_threshold_of_its_own(films):
    run, manifest = certified("guarantee.per_category=true", "guarantee.certify_records=300")
    found = Certified.of(manifest)
    assert set(found.certificates) == set(run.task.category_names) == {"positive", "negative"}
    labels = run.table("certificate").read()[schema.LABEL].to_pylist()
    for name, certificate in found.certificates.items():
        assert certificate.num_sampled == labels.count(name) > 100
        assert certificate.threshold is not None
        assert found.populations[name].num_records == manifest.counts[f"num_records.{name}"]
    assert found.figures()[0].items() <= manifest.counts.items()
    assert found.figures()[1].items() <= manifest.measures.items()


def test_a_record_that_failed_for_a_passing_reason_is_asked_again_and_the_certificate_follows(films, oracle):
    run = open_labelled()
    draw(run)
    oracle.fails_on = frozenset({read_sample(run)[schema.TEXT][0].as_py().split()[-1]})  # a word of this text alone
    settings = ("annotator.limits.max_attempts=3",)
    run, manifest = certified(*settings)
    failed = run.table("certification_responses").require_manifest().counts["num_passing"]
    assert failed == manifest.counts[NUM_UNUSABLE] > 0
    oracle.fails_on = frozenset()
    oracle.requests.clear()
    again, follows = certified(*settings)
    assert 0 < len(oracle.calls) <= failed
    assert follows.counts[NUM_UNUSABLE] == 0
    assert follows.content != manifest.content
    assert {name for name in again.table("certificate").file_names() if is_part(name)} == {
        part.name for part in follows.parts
    }


@pytest.mark.parametrize(
    ("is_contrary", "wanted", "escalates"),
    [(False, "auto", 1), (True, "auto", 0), (True, "always", 1), (False, "never", 0)],
)
def test_who_judges_better_decides_whether_to_escalate_if_the_recipe_leaves_it_open(
    films, oracle, is_contrary, wanted, escalates, monkeypatch
):
    monkeypatch.setattr(oracle, "is_contrary", is_contrary)
    # A model of another name is another annotator, which has answered nothing yet; its sample has the same records.
    run, manifest = certified(f"guarantee.escalate={wanted}", "annotator.model=other")
    assert manifest.counts[ESCALATES] == escalates
    num, annotator, classifier = (
        manifest.counts[f"judges.{name}"] for name in ("num", "num_annotator_right", "num_classifier_right")
    )
    table = run.table("certificate").read().to_pylist()
    below = [row for row in table if row[schema.SCORE] < manifest.measures.get("threshold", np.inf)]
    assert num == len(below)
    assert classifier == sum(row[schema.LABEL] == row[schema.GOLD_LABEL] for row in below)
    assert annotator == (0 if is_contrary else num)


@pytest.mark.parametrize("regime", ["gold", "combined"])
def test_gold_labels_that_training_learned_do_not_judge(films, regime):
    run, manifest = certified(f"classifier.regime={regime}", "guarantee.certify_records=300")
    learned = run.table("learned").read().to_pylist()
    gold = {row[schema.TEXT_HASH] for row in learned if row[schema.LABELS_OF] == "gold"}
    sample, threshold = read_sample(run), manifest.measures.get("threshold", np.inf)
    below = sample[schema.SCORE].to_numpy() < threshold
    is_learned = np.isin(hash64(sample[schema.TEXT]), np.array(list(gold), np.uint64))
    assert (below & is_learned).any()
    assert manifest.counts["judges.num"] == (below & ~is_learned).sum()


def test_people_who_have_not_answered_are_waited_for(films, oracle, capsys):
    run = open_labelled("guarantee.oracle=people")
    assert certify(run, IN_PROCESS) is None
    num = len(set(read_sample(run)[schema.TEXT].to_pylist()))
    assert (
        f"{num:,} texts of the certification sample ({CERTIFY_RECORDS:,} records) have no answer"
        in capsys.readouterr().out
    )
    assert oracle.calls == []
    assert run.table("certificate").read_manifest() is None


def test_without_a_guarantee_nothing_is_certified(films, oracle):
    with pytest.raises(InputError, match="guarantee: the recipe has no such section"):
        certify(open_labelled("guarantee=null"), IN_PROCESS)
    assert oracle.calls == []


def test_a_stratified_sample_is_refused(films):
    with pytest.raises(InputError, match=r"annotator.stratify_by: .* stratified; remove stratify_by"):
        check(open_labelled("annotator.stratify_by=split"))
    check(open_labelled("annotator.stratify_by=split", "guarantee=null"))


@pytest.mark.parametrize("target", ["1", "1.0", "1.5"])
def test_a_target_of_one_is_refused_with_what_to_do(films, target):
    with pytest.raises(
        InputError, match=r"guarantee.target: must be below 1, .*: choose 0.99, for example, or"
    ) as error:
        load_recipe("recipe.yaml", [f"guarantee.target={target}"])
    assert "\n" not in str(error.value)
