"""What a guarantee would cost, forecast from a pilot whose classifier's errors are known."""

from dataclasses import replace

import numpy as np
import pytest

from llambert.evaluation.guarantee import Population, Promise, certify
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.planning.costs import load_prices
from llambert.planning.forecast import CurvePoint, Pilot, Timing, forecast
from llambert.planning.guarantee_forecast import forecast_guarantees, num_judged
from llambert.planning.plan import Plan, render
from tests.fixtures.recipes import make_recipe

NUM_CORPUS, NUM_ANNOTATED = 100_000, 2_000
ANNOTATE = Timing(num=400, work_seconds=40, num_prompt_tokens=40_000, num_response_tokens=400)


def drawn(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores from 0.5 to 1, and labels that are wrong as often as calibrated scores say."""
    score = rng.beta(5, 1.2, num) / 2 + 0.5
    return score.astype(np.float32), rng.random(num) > score


def pilot_of(score: np.ndarray, is_wrong: np.ndarray, **fields) -> Pilot:
    half = len(score) // 2
    wrong = [is_wrong[:half].tolist(), is_wrong[half:].tolist()]
    fields = {"num_corpus": NUM_CORPUS, "num_annotated": NUM_ANNOTATED, "stages": {"annotate": ANNOTATE}, **fields}
    return Pilot(
        num_pilot_records=len(score),
        num_annotatable=NUM_CORPUS,
        num_steps=1,
        curve=[CurvePoint(num_labels=half, wrong=[wrong, wrong])],
        scores=[score[:half].tolist(), score[half:].tolist()],
        **fields,
    )


def recipe_of(**guarantee):
    return make_recipe().model_copy(update={"guarantee": GuaranteeRecipe(**guarantee) if guarantee else None})


def test_the_forecast_share_is_what_certify_then_keeps():
    """Of 40 pilots the interval of 95 % holds the share kept by a certificate of the corpus in most."""
    rng, num_held = np.random.default_rng(0), 0
    population = Population(NUM_CORPUS, NUM_CORPUS - NUM_ANNOTATED)
    recipe = recipe_of(target=0.95, certify_records=600)
    for _ in range(40):
        score, is_wrong = drawn(rng, 600)
        threshold = certify(population, score, is_wrong, Promise(0.95, answers_replace=True)).threshold
        kept = (drawn(rng, 20_000)[0] >= threshold).mean()
        found = next(one for one in forecast_guarantees(recipe, pilot_of(*drawn(rng, 400))) if one.target == 0.95)
        num_held += found.share_kept.low <= kept <= found.share_kept.high
    assert num_held >= 34


def test_records_to_ask_and_their_price_follow_from_the_share_kept():
    pilot = pilot_of(*drawn(np.random.default_rng(1), 400))
    found = forecast_guarantees(recipe_of(), pilot)
    assert [one.target for one in found] == [0.9, 0.95, 0.98]
    kept = [one.share_kept.value for one in found]
    assert kept == sorted(kept, reverse=True)
    for one in found:
        num_open = NUM_CORPUS - NUM_ANNOTATED - one.num_certified
        assert one.num_escalated.value == pytest.approx((1 - one.share_kept.value) * num_open, abs=1)
        assert one.num_escalated.low <= one.num_escalated.value <= one.num_escalated.high
        assert one.annotator.num == one.num_certified + one.num_escalated.value
        assert one.annotator.num_prompt_tokens == 100 * one.annotator.num
    capped = forecast_guarantees(recipe_of(target=0.98, max_records=50), pilot)
    assert capped[-1].num_escalated.value == max(one.num_escalated.high for one in capped) == 50


def test_a_pilot_without_a_wrong_label_does_not_promise_that_there_are_none():
    score, _ = drawn(np.random.default_rng(2), 100)
    pilot = pilot_of(score, np.zeros(100, bool))
    strict = recipe_of(target=0.999, certify_records=8_000)
    found = next(one for one in forecast_guarantees(strict, pilot) if one.target == 0.999)
    assert found.share_kept.low < 0.9


def test_unusable_answers_keep_less():
    score, is_wrong = drawn(np.random.default_rng(3), 400)
    usable, others = (forecast_guarantees(recipe_of(), pilot_of(score, is_wrong, usable_share=s))[1] for s in (1, 0.96))
    assert others.share_kept.value < usable.share_kept.value


def test_too_few_records_to_certify_keep_nothing_and_the_plan_says_how_many_would_do():
    found = forecast_guarantees(
        recipe_of(target=0.98, certify_records=100), pilot_of(*drawn(np.random.default_rng(4), 400))
    )
    strict = found[-1]
    assert strict.share_kept.high == 0
    assert strict.num_escalated.value == NUM_CORPUS - NUM_ANNOTATED - 100
    assert 100 < strict.smallest < 160


def test_nothing_is_forecast_without_a_learning_curve_or_records_to_decide():
    pilot = pilot_of(*drawn(np.random.default_rng(5), 100))
    assert forecast_guarantees(recipe_of(), pilot.model_copy(update={"scores": [], "curve": []})) == []
    assert forecast_guarantees(recipe_of(), pilot.model_copy(update={"num_corpus": NUM_ANNOTATED})) == []


def plan_of(pilot: Pilot, **guarantee) -> Plan:
    recipe = recipe_of(**guarantee)
    return Plan(recipe, pilot, forecast(recipe, pilot), load_prices(), None)


def test_the_plan_shows_a_row_for_each_target_and_marks_the_recipes():
    pilot = pilot_of(*drawn(np.random.default_rng(6), 400))
    lines = list(render(plan_of(pilot, target=0.97)))
    rows = [line for line in lines if line.startswith(("90 %", "95 %", "97 %", "98 %"))]
    assert len(rows) == 4
    assert [row for row in rows if row.endswith("the recipe's")] == [row for row in rows if row.startswith("97 %")]
    assert any(
        f"By {num_judged(pilot)} pilot records, judged by classifiers trained on 200 others" in line for line in lines
    )
    assert any("are decided by people" in line for line in render(plan_of(pilot, target=0.97, oracle="people")))


def test_a_plan_without_a_curve_says_that_the_guarantees_cost_is_unknown():
    plan = plan_of(pilot_of(*drawn(np.random.default_rng(7), 100)), target=0.9)
    bare = replace(plan, pilot=plan.pilot.model_copy(update={"scores": [], "curve": []}))
    assert "What the guarantee will cost is unknown" in "\n".join(render(bare))
    assert "guarantee" not in "\n".join(render(replace(bare, recipe=recipe_of())))
