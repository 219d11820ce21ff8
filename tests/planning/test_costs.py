import json
from importlib.resources import files

import pytest

from llambert.errors import InputError
from llambert.planning.costs import (
    StageCost,
    TokenPrice,
    compare,
    extrapolate_seconds,
    format_duration,
    format_usd,
    load_prices,
)
from llambert.storage.manifest import Manifest

PAPER = json.loads(files("llambert.experiments").joinpath("paper.json").read_text())["imdb"]


def test_the_papers_extrapolation_of_roberta_large_to_all_of_imdb():
    seconds = extrapolate_seconds(PAPER["roberta_large_label_seconds_25k"], 25_000, PAPER["num_reviews_total"])
    assert format_duration(seconds) == "48 h 28 min"
    assert seconds == pytest.approx(PAPER["extrapolated_seconds_full_corpus"]["roberta-large"], rel=2e-4)


def test_the_papers_extrapolation_of_the_llm_to_all_of_imdb():
    # The paper prints 367 days for Llama-2-70b-chat: 4.057 s a review on its set-up.
    assert format_duration(extrapolate_seconds(4.057, 1, PAPER["num_reviews_total"])) == "367 days"
    assert format_duration(PAPER["extrapolated_seconds_full_corpus"]["Llama-2-70b-chat"]) == "367 days"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.34, "9.3 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (558, "9 min 18 s"),
        (9180, "2 h 33 min"),
        (3599.7, "1 h"),
        (345_590, "96 h"),
        (345_600, "4 days"),
        (86_400 * 1234, "1,234 days"),
    ],
)
def test_durations_read_as_people_write_them(seconds, text):
    assert format_duration(seconds) == text


def _cost(stage: str, num: int, wall: float, busy: float, **more) -> StageCost:
    return StageCost(stage, num, wall, busy, **more)


def test_comparison_counts_the_whole_run_against_the_llms_working_time_alone():
    costs = {
        "corpus": _cost("ingest", 10_000, 5, 4),
        "responses": _cost("annotate", 1_000, 130, 100),
        "checkpoint": _cost("finetune", 1_000, 45, 40),
        "labels": _cost("label", 10_000, 20, 10),
    }
    comparison = compare(costs, num_records=10_000, num_replicas=1, num_actors=1)
    assert comparison is not None
    assert comparison.run_seconds == 200
    assert comparison.llm_seconds == pytest.approx(1_000)  # 0.1 s a record, without the 30 s of starting
    assert comparison.speed_up == pytest.approx(5)
    assert comparison.speed_up_per_record == pytest.approx(100)


def test_more_replicas_shorten_the_llms_time():
    costs = {"responses": _cost("annotate", 100, 60, 200), "labels": _cost("label", 100, 1, 1)}
    comparison = compare(costs, num_records=1_000, num_replicas=4, num_actors=1)
    assert comparison is not None
    assert comparison.llm_seconds == pytest.approx(500)


def test_without_timed_work_there_is_no_comparison():
    costs = {"responses": _cost("annotate", 100, 60, 0), "labels": _cost("label", 100, 1, 1)}
    assert compare(costs, 1_000, 1, 1) is None


def test_cost_of_a_stage_is_read_from_its_manifest():
    manifest = Manifest(
        stage="annotate",
        fingerprint="f",
        num_in=10,
        num_kept=10,
        wall_seconds=5,
        busy_seconds=4,
        accelerator_seconds=16,
    )
    cost = StageCost.of(manifest, num_prompt_tokens=100, num_response_tokens=7)
    assert cost == StageCost("annotate", 10, 5, 4, 16, 100, 7)
    assert cost.records_per_second == 2


def test_dollars_add_gpus_and_tokens_and_stay_unknown_without_a_price():
    cost = _cost(
        "annotate", 1, 1, 1, accelerator_seconds=7_200, num_prompt_tokens=2_000_000, num_response_tokens=500_000
    )
    assert cost.usd() is None
    assert cost.usd(usd_per_gpu_hour=2.5) == 5
    assert cost.usd(tokens=TokenPrice(prompt=2, response=8)) == 8
    assert cost.usd(usd_per_gpu_hour=2.5, tokens=TokenPrice(prompt=2, response=8)) == 13


def test_a_stage_without_time_has_no_rate():
    assert _cost("parse", 10, 0, 0).records_per_second is None


def test_shipped_prices_are_dated():
    prices = load_prices()
    assert prices.as_of
    assert prices.accelerators["A100-80GB"] > 0


def test_users_prices_override_and_faults_name_the_line(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text('as_of: "2027-01"\naccelerators: {B300: 9.5}\n')
    assert load_prices(path).accelerators == {"B300": 9.5}
    path.write_text('as_of: "2027-01"\ntokens:\n  m: {prompt: -1, response: 1}\n')
    with pytest.raises(InputError, match=r"prices.yaml:3: tokens.m.prompt: .*greater than or equal to 0"):
        load_prices(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_prices(tmp_path / "none.yaml")


def test_money_is_shown_in_cents_and_small_sums_by_their_digits():
    assert [format_usd(usd) for usd in (None, 0, 1e-5, 0.00321, 0.5, 1234.567)] == [
        "-",
        "0.00",
        "< 0.0001",
        "0.0032",
        "0.50",
        "1,234.57",
    ]
