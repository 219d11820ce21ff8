"""What cleverer uses of the certification answers save, and whether their promises hold.

``python -m tests.benchmarks.bench_certification_sampling`` from the repository; about a minute on one core. The uniform
sample and the exact test of llambert beside samples above a floor, strata with unequal rates, repeated looks and
betting. Exit status 1 if one of them breaks its promise more often than stated, beyond chance.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.evaluation.guarantee import Population, Promise, certify
from llambert.evaluation.sample_sizes import sampling_floor, smallest_sample
from tests.benchmarks.bench_guarantee import LEVEL, TARGETS, Corpus, corpora, is_within
from tests.benchmarks.simulations import run_parts

PILOT = 1_000


def share_deferred(
    corpus: Corpus, num: int, promise: Promise, rng: np.random.Generator, floor: float = 0.0
) -> tuple[float, bool]:
    """With a sample of the records above the floor; and whether the promise is broken."""
    num_above = corpus.kept_and_wrong(floor)[0]
    chosen = rng.choice(num_above, min(num, num_above), replace=False, shuffle=False)
    population = Population(corpus.num_records, num_above, floor)
    found = certify(population, corpus.score[chosen], corpus.wrong[chosen], promise)
    num_kept, num_wrong = corpus.kept_and_wrong(found.threshold)
    return 1 - num_kept / len(corpus.score), num_wrong > population.num_allowed(promise.target)


def report_floors(repetitions: int, rng: np.random.Generator) -> bool:
    """A sample of the records whose score is above a floor, which a pilot of 1,000 answers suggests."""
    sizes = (100, 300, 500, 600, 700, 800, 900, 1_000, 2_000)
    print(f"\nOnly scores above a floor are sampled; the pilot has {PILOT:,} answers. Equal: the sample that defers as")
    print("much as 1,000 of all records do. Broken: the highest rate over samples of 100 to 2,000 (limit 5 %).\n")
    print("| target | agreement by score | optimal | uniform, 1,000 | floor, 1,000 | equal | broken |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    held = True
    for target in TARGETS:
        promise = Promise(target)
        for name, corpus in corpora(target, 1_000, rng).items():
            num_open = len(corpus.score)
            rows = np.zeros((repetitions, len(sizes), 2))
            uniform = np.zeros(repetitions)
            for repetition in range(repetitions):
                pilot = rng.choice(num_open, PILOT, replace=False, shuffle=False)
                floor = sampling_floor(corpus.population, corpus.score[pilot], corpus.wrong[pilot], promise)
                rows[repetition] = [share_deferred(corpus, num, promise, rng, floor) for num in sizes]
                uniform[repetition], _ = share_deferred(corpus, 1_000, promise, rng)
            deferred, broken = rows.mean(axis=0).T
            equal = float(np.interp(-uniform.mean(), -deferred, sizes))
            held &= is_within(float(broken.max()), LEVEL, repetitions)
            optimal = 1 - corpus.num_optimal(corpus.population.num_allowed(target)) / num_open
            cells = f"{optimal:.0%} | {uniform.mean():.1%} | {deferred[sizes.index(1_000)]:.1%} | {equal:,.0f}"
            print(f"| {target} | {name} | {cells} | {broken.max():.1%} |")
    return held


def passing_of_strata(
    limit: float, nums: tuple[int, int], weights: tuple[float, float], wrong: tuple[float, float]
) -> float:
    """Probability that the weighted share of wrong records of two strata is at most ``limit``."""
    first = np.arange(nums[0] + 1)
    left = np.floor((limit - weights[0] * first / nums[0]) * nums[1] / weights[1] + 1e-9)
    return float(stats.binom.pmf(first, nums[0], wrong[0]) @ stats.binom.cdf(left, nums[1], wrong[1]))


def limit_of_strata(nums: tuple[int, int], weights: tuple[float, float], allowed: float) -> float:
    """The largest limit that holds the level however the wrong records are spread over the strata; -1: none."""

    def errs(limit: float) -> float:
        return max(
            passing_of_strata(limit, nums, weights, (part * allowed / weights[0], (1 - part) * allowed / weights[1]))
            for part in np.linspace(0, 1, 13)
        )

    low, high = 0.0, allowed
    if errs(low) > LEVEL:
        return -1.0
    for _ in range(13):
        middle = (low + high) / 2
        low, high = (middle, high) if errs(middle) <= LEVEL else (low, middle)
    return low


def report_strata(repetitions: int, rng: np.random.Generator) -> bool:
    """Two strata of the kept records, sampled in proportion and after Neyman (1934)."""
    print(
        "\nTwo strata of the kept records, exact however the wrong ones are spread: the sample that passes with 80 %.\n"
    )
    print("| allowed | strata | wrong in them | in proportion | halfway | Neyman |\n|---:|---|---|---:|---:|---:|")
    for allowed, weights, wrong in (
        (0.05, (0.5, 0.5), (0.005, 0.055)),
        (0.05, (0.5, 0.3), (0.005, 0.08)),
        (0.1, (0.5, 0.5), (0.01, 0.11)),
    ):
        spread = np.array(weights) * np.sqrt(np.array(wrong) * (1 - np.array(wrong)))
        proportion, neyman = weights[0] / sum(weights), spread[0] / spread.sum()
        found = []
        for part in (proportion, (proportion + neyman) / 2, neyman):
            for num in np.unique(np.geomspace(100, 3_000, 40).astype(int)):
                nums = (round(part * num), num - round(part * num))
                if passing_of_strata(limit_of_strata(nums, weights, allowed), nums, weights, wrong) >= 0.8:
                    found.append(f"{num:,}")
                    break
        print(f"| {allowed} | {weights} | {wrong} | {' | '.join(found)} |")
    return True


def certified_by_betting(wrong: NDArray[np.bool_], num_open: int, allowed: int) -> NDArray[np.float64]:
    """Largest wealth so far against "more than allowed are wrong", for samples (repetitions, draws) in their order.

    Waudby-Smith & Ramdas (2024, JRSS B 86:1), without replacement; each bet is the likelihood ratio of the share that
    the earlier draws suggest (Bernoulli outcomes: no bet grows faster once that share is known).
    """
    drawn = np.arange(wrong.shape[1])
    before = np.cumsum(wrong, axis=1) - wrong
    null = np.clip((allowed + 1 - before) / (num_open - drawn), 1e-9, 1 - 1e-9)
    alternative = np.minimum((before + 0.5) / (drawn + 1), null)
    steps = np.where(wrong, np.log(alternative / null), np.log((1 - alternative) / (1 - null)))
    return np.maximum.accumulate(np.cumsum(steps, axis=1), axis=1)


def group_sequential(looks: NDArray[np.int64], share_wrong: float, most: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of passing first at each look, if up to ``most`` wrong records pass there."""
    alive, passed, last = np.array([1.0]), [], 0
    for look, limit in zip(looks, most, strict=True):
        alive = np.convolve(alive, stats.binom.pmf(np.arange(look - last + 1), look - last, share_wrong))
        passed.append(alive[: limit + 1].sum())
        alive[: limit + 1], last = 0, look
    return np.array(passed)


def sequential_plan(size: int, allowed: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Four looks, up to ``size`` records, each at the largest equal level that keeps the whole at 5 % (Pocock 1977)."""
    looks = np.array([size * part // 4 for part in range(1, 5)])
    low, high = LEVEL / 4, LEVEL
    for _ in range(20):
        middle = (low + high) / 2
        most = np.array([int((stats.binom.cdf(np.arange(n + 1), n, allowed) <= middle).sum()) - 1 for n in looks])
        low, high = (middle, high) if group_sequential(looks, allowed, most).sum() <= LEVEL else (low, middle)
    return looks, np.array([int((stats.binom.cdf(np.arange(n + 1), n, allowed) <= low).sum()) - 1 for n in looks])


def report_stopping(repetitions: int, rng: np.random.Generator) -> bool:
    """Questions until one threshold passes with 80 %, its share of wrong kept records known: fixed and adaptive."""
    print("\nOne threshold fixed beforehand, passed with probability 80 %: questions asked on average (at most).\n")
    print(
        "| target | wrong / allowed | exact, fixed size | Pocock, 4 looks | betting | betting on the boundary passes |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    num_open, held = 1_000_000, True
    for target in TARGETS:
        population, promise = Population(num_open, num_open), Promise(target)
        allowed = population.num_allowed(target)
        for part in (0.2, 0.5, 0.7):
            share = part * (1 - target)
            sizes = ((num, smallest_sample(population, promise, num)) for num in range(500))
            fixed = next(size for num, size in sizes if size and stats.binom.cdf(num, size, share) >= 0.8)
            size, passed = fixed, np.zeros(4)
            while passed.sum() < 0.8:
                size = round(size * 1.02) + 1
                looks, most = sequential_plan(size, 1 - target)
                passed = group_sequential(looks, share, most)
            pocock = passed @ looks + (1 - passed.sum()) * size
            wealth = certified_by_betting(rng.random((400, 6 * fixed)) < share, num_open, allowed)
            has_passed = wealth >= np.log(1 / LEVEL)
            first = np.where(has_passed[:, -1], has_passed.argmax(axis=1) + 1, 6 * fixed)
            cap = int(np.quantile(first, 0.8))
            boundary = rng.random((repetitions, min(cap, 2_000))) < (allowed + 1) / num_open
            rate = float((certified_by_betting(boundary, num_open, allowed)[:, -1] >= np.log(1 / LEVEL)).mean())
            held &= is_within(rate, LEVEL, repetitions)
            betting = f"{np.minimum(first, cap).mean():.0f} ({cap})"
            print(f"| {target} | {part} | {fixed} | {pocock:.0f} ({size}) | {betting} | {rate:.1%} |")
    return held


PARTS = {"floors": report_floors, "strata": report_strata, "stopping": report_stopping}


if __name__ == "__main__":
    run_parts(__doc__, PARTS, repetitions=200)
