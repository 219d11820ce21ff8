"""How often certificates break their promise, and what they defer.

``python -m tests.benchmarks.bench_guarantee`` from the repository; under two minutes on one core. Simulated populations
whose wrong labels are known; our rule beside naive and conservative ones on the same samples. Exit status 1 if a
certificate, a bound or a per-category certificate breaks its promise more often than stated, beyond chance.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.evaluation.guarantee import Population, Promise, achieved_share, certify, certify_categories, max_wrong
from tests.benchmarks.simulations import run_parts

LEVEL = 0.05
# A simulated rate may exceed its limit by so many of its standard errors: hundreds of settings are compared.
STANDARD_ERRORS = 3.5
TARGETS = (0.9, 0.95, 0.98)
NUM_SAMPLED = (100, 300, 1_000, 2_000)
# Expected share of wrong labels by the rank of the score, 0 the highest, and by the share that may be wrong.
CURVES: dict[str, Callable[[NDArray, float], NDArray]] = {
    "calibrated": lambda rank, allowed: 0.45 * rank**3,
    "linear": lambda rank, allowed: 0.3 * rank,
    "sure but wrong at the top": lambda rank, allowed: np.where(rank < 0.02, 0.5, 0.3 * rank**2),
    "score says nothing": lambda rank, allowed: np.full_like(rank, 2 * allowed),
    "steps, tied scores": lambda rank, allowed: np.where(rank < 0.4, 0.005, np.where(rank < 0.8, 0.06, 0.4)),
}
NUM_RECORDS = 20_000


@dataclass(frozen=True)
class Corpus:
    """Undecided records from the highest score to the lowest; ``num_records`` counts those decided before too."""

    num_records: int
    score: NDArray[np.float32]
    wrong: NDArray[np.bool_]

    @property
    def population(self) -> Population:
        return Population(self.num_records, len(self.score))

    def kept_and_wrong(self, threshold: float | None, answered: NDArray | None = None) -> tuple[int, int]:
        """Records that keep their label, and how many of them are wrong and not ``answered``."""
        num = 0 if threshold is None else int(np.searchsorted(-self.score, -np.float32(threshold), side="right"))
        num_wrong = int(self.wrong[:num].sum())
        if answered is not None:
            num_wrong -= int(self.wrong[answered[answered < num]].sum())
        return num, num_wrong

    def num_optimal(self, allowed: int) -> int:
        """The most records that can be kept, equal scores together."""
        ends = np.flatnonzero(np.append(self.score[1:] != self.score[:-1], True))
        right = np.cumsum(self.wrong)[ends] <= allowed
        return int(ends[right][-1]) + 1 if right.any() else 0


def ranked_scores(num: int, num_values: int | None = None) -> NDArray[np.float32]:
    values = 1 - (np.arange(num) + 0.5) / num
    return (values if num_values is None else np.ceil(values * num_values) / (num_values + 1)).astype(np.float32)


def corpora(target: float, num_sampled: int, rng: np.random.Generator) -> dict[str, Corpus]:
    """The shapes of agreement, the boundaries of both null hypotheses, a small corpus, and duplicated texts."""
    allowed = Population(NUM_RECORDS, NUM_RECORDS).num_allowed(target)
    rank = (np.arange(NUM_RECORDS) + 0.5) / NUM_RECORDS
    made = {}
    for name, curve in CURVES.items():
        score = ranked_scores(NUM_RECORDS, 10 if "tied" in name else None)
        made[name] = Corpus(NUM_RECORDS, score, rng.random(NUM_RECORDS) < curve(rank, 1 - target))
    shown = max_wrong(Population(NUM_RECORDS, NUM_RECORDS), num_sampled, Promise(target, answers_replace=True))
    for name, more in (("boundary: one wrong too many", 1), ("boundary if answers replace", 1 + max(shown, 0))):
        wrong = np.zeros(NUM_RECORDS, bool)
        wrong[rng.choice(NUM_RECORDS, allowed + more, replace=False)] = True
        made[name] = Corpus(NUM_RECORDS, ranked_scores(NUM_RECORDS), wrong)
    small = rng.random(2_000) < 0.45 * rank[::10] ** 3
    made["small: 2,000 undecided of 2,500"] = Corpus(2_500, ranked_scores(2_000), small)
    # Half of the records are copies, up to a thousand of one text; copies share score and answer.
    copies = np.concatenate([[1_000, 500, 500], np.full(160, 50), np.ones(10_000, int)])
    of_text = rng.permutation(len(copies))
    wrong_text = rng.random(len(copies)) < 0.45 * ((np.arange(len(copies)) + 0.5) / len(copies)) ** 3
    wrong = np.repeat(wrong_text, copies[of_text])
    score = np.repeat(ranked_scores(len(copies)), copies[of_text])
    made["duplicates: half of the records"] = Corpus(len(score), score, wrong)
    return made


def share_of_indicator(score: NDArray, wrong: NDArray, num: int = 100) -> tuple[NDArray, NDArray]:
    """A hundred thresholds, quantiles of the sampled scores from high to low, and the wrong records kept by each."""
    descending = np.sort(score)[::-1]
    grid = np.unique(descending[np.linspace(0, len(score) - 1, num).round().astype(int)])[::-1]
    return grid, np.searchsorted(-np.sort(score[wrong])[::-1], -grid, side="right")


@cache
def most_by_rule(rule: str, num: int, target: float) -> int:
    """The most wrong records of ``num`` sampled at which a rule that looks at 100 thresholds keeps one."""
    k = np.arange(num + 1)
    if rule == "point":
        passes = k / num <= 1 - target
    elif rule == "wilson":
        z, right = stats.norm.ppf(1 - LEVEL), 1 - k / num
        centre, half = right + z**2 / 2 / num, z * np.sqrt(right * (1 - right) / num + z**2 / 4 / num**2)
        passes = (centre - half) / (1 + z**2 / num) >= target
    elif rule == "union":  # exact intervals, Bonferroni
        passes = stats.binom.cdf(k, num, 1 - target) <= LEVEL / 100
    else:  # Hoeffding's inequality, Bonferroni
        passes = k / num + np.sqrt(np.log(100 / LEVEL) / 2 / num) <= 1 - target
    return int(passes.sum()) - 1


def kept_accuracy_threshold(score: NDArray, wrong: NDArray, target: float) -> float | None:
    """The lowest of a hundred thresholds whose kept records have a Wilson bound of at least the target."""
    grid, num_wrong = share_of_indicator(score, wrong)
    num = np.searchsorted(-np.sort(score)[::-1], -grid, side="right")
    z, right = stats.norm.ppf(1 - LEVEL), 1 - num_wrong / num
    low = (right + z**2 / 2 / num - z * np.sqrt(right * (1 - right) / num + z**2 / 4 / num**2)) / (1 + z**2 / num)
    return float(grid[low >= target][-1]) if (low >= target).any() else None


NAIVE = ("point", "wilson", "union", "hoeffding")


def is_within(rate: float, limit: float, repetitions: int) -> bool:
    return rate <= limit + STANDARD_ERRORS * np.sqrt(limit * (1 - limit) / repetitions)


def simulated(
    corpus: Corpus, num: int, target: float, repetitions: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of repetitions with a broken promise, and mean share deferred, by rule."""
    num_open, allowed = len(corpus.score), corpus.population.num_allowed(target)
    promises = [Promise(target), Promise(target, answers_replace=True)]
    broken, deferred = np.zeros(3 + len(NAIVE)), np.zeros(3 + len(NAIVE))
    for _ in range(repetitions):
        chosen = rng.choice(num_open, num, replace=False, shuffle=False)
        score, wrong = corpus.score[chosen], corpus.wrong[chosen]
        grid, num_wrong = share_of_indicator(score, wrong)
        thresholds = [certify(corpus.population, score, wrong, promise).threshold for promise in promises]
        for rule in NAIVE:
            passed = int((num_wrong <= most_by_rule(rule, num, target)).sum())
            thresholds.append(float(grid[passed - 1]) if passed else None)
        thresholds.append(kept_accuracy_threshold(score, wrong, target))
        for place, threshold in enumerate(thresholds):
            kept, remaining = corpus.kept_and_wrong(threshold, chosen if place == 1 else None)
            limit = kept * (1 - target) if place == len(thresholds) - 1 else allowed
            broken[place] += remaining > limit
            deferred[place] += 1 - kept / num_open
    return broken / repetitions, deferred / repetitions


def report_certificates(repetitions: int, rng: np.random.Generator) -> bool:
    """Broken promises and deferral of every rule."""
    rules = ("ours", "replace", *NAIVE, "kept")
    print(
        f"\nCertificates, {repetitions} samples a row. Broken promises in % (limit 5) / records deferred in %."
        "\n'replace': sampled records take the answers. point: best point estimate of 100 thresholds; wilson: their"
        "\npointwise 95 % bounds; union: exact bounds, Bonferroni; hoeffding: Hoeffding's bounds, Bonferroni."
        "\nkept: wilson on the accuracy of the kept records alone, broken where theirs is below the target.\n"
    )
    print(f"| agreement by score | target | sampled | {' | '.join(rules)} | optimal |")
    print("|---|---:|---:|" + "---:|" * (len(rules) + 1))
    held, worst = True, dict.fromkeys(rules, 0.0)
    for target, num in itertools.product(TARGETS, NUM_SAMPLED):
        for name, corpus in corpora(target, num, rng).items():
            if num > len(corpus.score):
                continue
            broken, deferred = simulated(corpus, num, target, repetitions, rng)
            held &= all(is_within(rate, LEVEL, repetitions) for rate in broken[:2])
            worst = {rule: max(worst[rule], rate) for rule, rate in zip(rules, broken, strict=True)}
            cells = " | ".join(f"{100 * a:.1f} / {100 * b:.0f}" for a, b in zip(broken, deferred, strict=True))
            optimal = 1 - corpus.num_optimal(corpus.population.num_allowed(target)) / len(corpus.score)
            print(f"| {name} | {target} | {num:,} | {cells} | {100 * optimal:.0f} |")
    print("| most broken | | | " + " | ".join(f"{100 * worst[rule]:.1f}" for rule in rules) + " | |")
    return held


def report_bounds(repetitions: int, rng: np.random.Generator) -> bool:
    """Whether the reported share is reached: by the certificate, and where a budget ends escalation early."""
    print("\nShares that are stated, target 0.95: how often they are not reached (limit 5 %), and their mean.\n")
    print("| agreement by score | sampled | budget, of the undecided | too high | mean bound | mean share |")
    print("|---|---:|---:|---:|---:|---:|")
    held = True
    for (name, corpus), num, budget in itertools.product(
        corpora(0.95, 500, rng).items(), (100, 500), (0.0, 0.1, 0.3, 1.0)
    ):
        num_open, promise = len(corpus.score), Promise(0.95)
        reached = float(corpus.score[num_open - 1 - int(budget * num_open)]) if budget < 1 else 1.0
        rows = np.zeros((repetitions, 2))
        for row in rows:
            chosen = rng.choice(num_open, num, replace=False, shuffle=False)
            score, wrong = corpus.score[chosen], corpus.wrong[chosen]
            found = certify(corpus.population, score, wrong, promise)
            threshold, bound = found.threshold, found.share_bound
            if budget < 1 and (threshold is None or threshold > reached):
                threshold, bound = reached, achieved_share(corpus.population, score, wrong, promise, reached)
            row[:] = bound, 1 - corpus.kept_and_wrong(threshold)[1] / corpus.num_records
        rate = float((rows[:, 0] > rows[:, 1] + 1e-12).mean())
        held &= is_within(rate, LEVEL, repetitions)
        bound, share = rows.mean(axis=0)
        print(f"| {name} | {num} | {budget:.0%} | {rate:.1%} | {bound:.3f} | {share:.3f} |")
    return held


def report_categories(repetitions: int, rng: np.random.Generator) -> bool:
    """A promise for each predicted category: the level split by the union bound, and by Holm's method."""
    print(
        "\nA promise for each of 4 categories (40, 30, 20, 10 % of the records), target 0.95: any broken / deferred.\n"
    )
    print("| categories | sampled | 5 % each | union | Holm |\n|---|---:|---:|---:|---:|")
    sizes, held = np.array([8_000, 6_000, 4_000, 2_000]), True
    category = np.repeat(np.arange(4), sizes)
    populations = [Population(int(size), int(size)) for size in sizes]
    allowed = np.array([population.num_allowed(0.95) for population in populations])
    scores = np.concatenate([ranked_scores(size) for size in sizes])
    for name, num_bad in (("each one wrong too many", 4), ("two easy, two one too many", 2), ("three easy", 1)):
        wrong = np.zeros(len(category), bool)
        for code in range(4):
            num_wrong = allowed[code] + 1 if code >= 4 - num_bad else allowed[code] // 10
            wrong[rng.choice(np.flatnonzero(category == code), num_wrong, replace=False)] = True
        for num in (300, 1_000, 2_000):
            broken, deferred = np.zeros(3), np.zeros(3)
            for _ in range(repetitions):
                chosen = rng.choice(len(category), num, replace=False, shuffle=False)
                codes, score, is_wrong = category[chosen], scores[chosen], wrong[chosen]
                found = [
                    [
                        certify(populations[code], score[codes == code], is_wrong[codes == code], Promise(0.95, sure))
                        for code in range(4)
                    ]
                    for sure in (1 - LEVEL, 1 - LEVEL / 4)
                ]
                found.append(certify_categories(populations, codes, score, is_wrong, Promise(0.95)))
                for place, certificates in enumerate(found):
                    limits = np.array([np.inf if one.threshold is None else one.threshold for one in certificates])
                    kept = scores >= limits[category]
                    broken[place] += (np.bincount(category[kept & wrong], minlength=4) > allowed).any()
                    deferred[place] += 1 - kept.mean()
            broken, deferred = broken / repetitions, deferred / repetitions
            held &= all(is_within(rate, LEVEL, repetitions) for rate in broken[1:])
            cells = " | ".join(f"{rate:.1%} / {share:.0%}" for rate, share in zip(broken, deferred, strict=True))
            print(f"| {name} | {num:,} | {cells} |")
    return held


PARTS = {"certificates": report_certificates, "bounds": report_bounds, "categories": report_categories}


if __name__ == "__main__":
    run_parts(__doc__, PARTS, repetitions=500)
