import json
from importlib.resources import files

import pytest

from llambert.errors import InputError
from llambert.planning.costs import format_duration, load_prices
from llambert.planning.forecast import Pilot, Timing, forecast, parse_timings, relative_deviation, usd
from tests.fixtures.recipes import make_recipe

PAPER = json.loads(files("llambert.experiments").joinpath("paper.json").read_text())["imdb"]
NUM_REVIEWS = PAPER["num_reviews_total"]


def make_pilot(num_corpus=10_000, num_annotated=1_000, num_steps=100, ray_seconds=0.0, **stages) -> Pilot:
    return Pilot(
        num_pilot_records=100,
        num_corpus=num_corpus,
        num_annotated=num_annotated,
        num_annotatable=num_corpus,
        num_steps=num_steps,
        ray_seconds=ray_seconds,
        stages={name: Timing(**values) for name, values in stages.items()},
    )


def seconds_of(recipe, pilot) -> dict[str, float]:
    return {stage.stage: stage.seconds.value for stage in forecast(recipe, pilot).stages}


def test_the_papers_times_follow_from_the_papers_rates():
    # 558 s for 25,000 reviews with roberta-large; 4.057 s a review with Llama-2-70b-chat.
    pilot = make_pilot(
        NUM_REVIEWS,
        label={"num": 25_000, "work_seconds": PAPER["roberta_large_label_seconds_25k"]},
        annotate={"num": 25_000, "work_seconds": 4.057 * 25_000},
    )
    planned = forecast(make_recipe(), pilot)
    assert format_duration(planned.stages[-1].seconds.value) == "48 h 28 min"
    assert format_duration(planned.llm_on_everything.seconds.value) == "367 days"


def test_a_stage_takes_its_start_and_the_work_that_the_pilot_left():
    pilot = make_pilot(
        annotate={"num": 100, "work_seconds": 50, "fixed_seconds": 20, "num_kept": 100, "spent_seconds": 70}
    )
    # On the clock already, started once more, 900 more records at half a second.
    assert seconds_of(make_recipe(), pilot) == {"annotate": pytest.approx(70 + 20 + 450)}


def test_answers_that_are_stored_take_no_time_and_cost_no_tokens():
    annotate = {"num": 100, "work_seconds": 50, "fixed_seconds": 20, "num_kept": 100, "spent_seconds": 70}
    pilot = make_pilot(annotate={**annotate, "num_prompt_tokens": 1000})  # of a thousand records to annotate
    [rest] = forecast(make_recipe(), pilot, num_stored=400).stages
    assert (rest.num, rest.seconds.value, rest.num_prompt_tokens) == (600, pytest.approx(20 + 300), 6000)
    [nothing] = forecast(make_recipe(), pilot, num_stored=1000).stages
    assert (nothing.num, nothing.seconds.value, nothing.is_measured, nothing.num_prompt_tokens) == (0, 0, True, 0)
    assert forecast(make_recipe(), pilot, num_stored=1000).llm_on_everything.num_prompt_tokens > 0


def test_replicas_share_the_work_unit_by_unit():
    annotate = {"num": 100, "work_seconds": 100}
    recipe = make_recipe(annotator={"max_replicas": 2, "records_per_part": 400})
    # Three units of 400, 400 and 200 for two replicas: 600 records for the busier one.
    assert seconds_of(recipe, make_pilot(annotate=annotate)) == {"annotate": pytest.approx(600)}
    recipe = make_recipe(annotator={"max_replicas": 2, "records_per_part": 1})
    assert seconds_of(recipe, make_pilot(annotate=annotate)) == {"annotate": pytest.approx(500)}


def test_what_the_pilot_did_for_good_is_a_fact():
    pilot = make_pilot(ingest={"num": 10_000, "work_seconds": 3, "num_kept": 10_000, "spent_seconds": 3})
    (stage,) = forecast(make_recipe(), pilot).stages
    assert stage.is_measured
    assert stage.seconds.low == stage.seconds.value == stage.seconds.high == 3


def test_ray_starts_once_for_the_first_stage_that_is_left():
    done = {"num": 10_000, "work_seconds": 3, "num_kept": 10_000, "spent_seconds": 3}
    work = {"num": 100, "work_seconds": 1}
    pilot = make_pilot(ray_seconds=8.0, ingest=done, annotate=work, label=work)
    assert seconds_of(make_recipe(), pilot) == pytest.approx({"ingest": 3, "annotate": 18, "label": 100})


def test_the_interval_widens_with_the_pilots_own_spread():
    def width(deviation):
        stage = forecast(
            make_recipe(), make_pilot(label={"num": 10, "work_seconds": 1, "deviation": deviation})
        ).stages[0]
        assert stage.seconds.low < stage.seconds.value < stage.seconds.high
        return stage.seconds.high / stage.seconds.low

    assert width(0.3) > width(0.05) > 1


def test_gpu_hours_are_those_held_by_all_replicas_and_have_a_price():
    recipe = make_recipe(annotator={"max_replicas": 2, "gpus_per_replica": 4, "records_per_part": 1})
    (stage,) = forecast(recipe, make_pilot(annotate={"num": 1_000, "work_seconds": 7_200})).stages
    assert stage.gpu_hours.value == pytest.approx(8)  # an hour on two replicas of four
    assert usd(recipe, stage, load_prices(), "A100-80GB").value == pytest.approx(20)
    assert usd(recipe, stage, load_prices(), None) is None


def test_an_endpoints_tokens_are_priced_by_the_recipe_or_the_table():
    limits = {"usd_per_million_prompt_tokens": 10, "usd_per_million_response_tokens": 20}
    pilot = make_pilot(
        annotate={"num": 100, "work_seconds": 0, "num_prompt_tokens": 50_000, "num_response_tokens": 5_000}
    )
    for model, own, dollars in (("gpt-4o", {}, 1.75), ("unknown", limits, 6.0), ("unknown", {}, None)):
        recipe = make_recipe(annotator={"engine": "openai", "model": model, "limits": own})
        found = usd(recipe, forecast(recipe, pilot).stages[0], load_prices(), None)
        assert (found and round(found.value, 6)) == dollars


def test_rates_from_elsewhere_are_read_and_faults_named():
    assert parse_timings(["label=25000:558"])["label"].seconds_each == 0.02232
    for wrong in ("label", "label=0:5", "label=5:x", "ingest=5:5"):
        with pytest.raises(InputError, match=f"--measured {wrong}"):
            parse_timings([wrong])


def test_the_deviation_of_a_mean_is_relative_to_it():
    assert relative_deviation([5.0]) == relative_deviation([]) == 0
    assert relative_deviation([1.0, 3.0]) == pytest.approx(0.5)
