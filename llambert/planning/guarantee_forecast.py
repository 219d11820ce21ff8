"""What a guarantee would cost, predicted from a pilot: which share of the labels is kept, and what the others cost.

The pilot's annotated records are judged by classifiers that have not seen them (its learning curve). Certify is
simulated with them: records are drawn with the chances of a sample of all records, and the certificate is that of
``evaluation/guarantee.py``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.guarantee import Population, Promise, certify
from llambert.evaluation.sample_sizes import smallest_sample
from llambert.guarantee_recipe import GuaranteeRecipe
from llambert.planning.forecast import Figure, Pilot, StageForecast, forecast_stage
from llambert.recipe import Recipe

TARGETS = (0.9, 0.95, 0.98)
_NUM_SIMULATIONS = 400
_INTERVAL = (2.5, 50.0, 97.5)


@dataclass(frozen=True)
class GuaranteeForecast:
    """One target, with the recipe's confidence and its number of records to certify."""

    target: float
    confidence: float
    share_kept: Figure
    """Of the records that are not annotated for training, those that keep the classifier's label."""
    num_certified: int
    num_escalated: Figure
    """Records below the threshold that are not in the certification sample; copies of a text among them."""
    annotator: StageForecast
    """The annotator's work for the certified and the escalated records."""
    smallest: int | None
    """The fewest records to certify with which any label could be kept, if ``num_certified`` is too few."""


def forecast_guarantees(recipe: Recipe, pilot: Pilot) -> list[GuaranteeForecast]:
    """For each of ``TARGETS`` and the recipe's own; empty if the pilot has no learning curve or asked nobody.

    The run's classifier learns from more labels than the pilot's did: it is better, so that more is kept.
    """
    if not pilot.scores or "annotate" not in pilot.stages or pilot.num_corpus <= pilot.num_annotated:
        return []
    wanted = recipe.guarantee
    targets = sorted({*TARGETS, *([wanted.target] if wanted else [])})
    return [_forecast(recipe, pilot, wanted or GuaranteeRecipe(target=target), target) for target in targets]


def num_judged(pilot: Pilot) -> int:
    """Annotated records of the pilot that the forecast rests on."""
    return sum(len(half) for half in pilot.scores)


def _forecast(recipe: Recipe, pilot: Pilot, wanted: GuaranteeRecipe, target: float) -> GuaranteeForecast:
    population = Population(pilot.num_corpus, pilot.num_corpus - pilot.num_annotated)
    promise = Promise(target, wanted.confidence, answers_replace=True)
    num_wanted = wanted.model_copy(update={"target": target}).num_to_certify(pilot.num_corpus)
    num_certified = min(num_wanted, population.num_undecided)
    kept = _simulated_shares_kept(pilot, population, promise, num_certified)
    low, middle, high = np.percentile(kept, _INTERVAL).tolist()
    num_open = population.num_undecided - num_certified
    most = num_open if wanted.max_records is None else min(num_open, wanted.max_records)
    escalated = [min(round((1 - share) * num_open), most) for share in (middle, high, low)]
    num_asked = num_certified + escalated[0]
    timing = pilot.stages["annotate"].model_copy(update={"num_kept": 0, "spent_seconds": 0.0})
    smallest = smallest_sample(population, promise)
    return GuaranteeForecast(
        target=target,
        confidence=wanted.confidence,
        share_kept=Figure(value=middle, low=low, high=high),
        num_certified=num_certified,
        num_escalated=Figure(value=escalated[0], low=escalated[1], high=escalated[2]),
        annotator=forecast_stage(recipe, "annotate", timing, num_asked),
        smallest=smallest if smallest is not None and smallest > num_certified else None,
    )


def _simulated_shares_kept(
    pilot: Pilot, population: Population, promise: Promise, num_certified: int
) -> NDArray[np.float64]:
    """Shares kept by simulated certificates, each of another bootstrap sample of the pilot.

    The doubt about the pilot is that of a bootstrap (Efron 1979, Annals of Statistics 7:1), with one record more,
    anywhere and half wrong: Jeffreys' prior, without which a pilot that shows no wrong label would promise that there
    are none. Scores count as ranks between which a record is anywhere, so that copies in a bootstrap are no ties. An
    answer that names no category is a wrong label, with any score.
    """
    random = np.random.default_rng(0)
    score, is_wrong = (
        np.concatenate([np.array(half) for half in of]) for of in (pilot.scores, pilot.curve[-1].wrong[0])
    )
    is_wrong = is_wrong[np.argsort(score, kind="stable")]
    num = len(is_wrong)
    kept = np.empty(_NUM_SIMULATIONS)
    for simulation in range(_NUM_SIMULATIONS):
        world = random.integers(0, num + 1, num + 1)  # the last one is the prior's
        drawn = world[random.integers(0, num + 1, num_certified)]
        is_prior, offset = drawn == num, random.random(num_certified)
        rank = np.where(is_prior, offset, (drawn + offset) / num).astype(np.float32)
        wrong = np.where(is_prior, random.random(num_certified) < 1 / 2, is_wrong[np.minimum(drawn, num - 1)])
        wrong |= random.random(num_certified) > pilot.usable_share
        threshold = certify(population, rank, wrong, promise).threshold
        world_rank = np.where(world == num, random.random(num + 1), (world + random.random(num + 1)) / num)
        kept[simulation] = 0.0 if threshold is None else (world_rank >= threshold).mean()
    return kept
