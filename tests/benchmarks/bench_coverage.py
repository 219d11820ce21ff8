"""How often the intervals of corrected shares cover, and how often score thresholds break their promise.

``python -m tests.benchmarks.bench_coverage`` from the repository; minutes on one core. Simulated corpora with known
truth; earlier and textbook rules (kept here) beside ours, on the same draws. Exit status 1 if a limit is exceeded.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.evaluation.metrics import Estimate, risk_coverage
from llambert.evaluation.shares import corrected_shares
from llambert.evaluation.thresholds import score_threshold
from tests.benchmarks.simulations import run_parts

MIN_COVERAGE, MAX_FALSE_PROMISES = 0.93, 0.025
# A simulated rate may exceed its limit by so many of its standard errors: hundreds of settings are compared.
STANDARD_ERRORS = 3.5
NUM_GOLD = (30, 50, 100, 200, 500)
PREVALENCES = (0.005, 0.01, 0.02, 0.05, 0.2, 0.5)
# Share of the category that is labelled as it, and share of the others that is. The first never gives the category.
CLASSIFIERS = (
    (0.0, 0.0),
    (0.0, 0.02),
    (0.3, 0.3),
    (0.5, 0.0),
    (0.5, 0.005),
    (0.8, 0.1),
    (0.9, 0.01),
    (0.95, 0.03),
    (0.99, 0.002),
    (1.0, 0.05),
    (1.0, 0.0),
)
# Records in the corpus: times the number of gold records, or as many.
CORPORA = (1.0, 1.2, 3.0, 100_000)
ACCURACY_CURVES: dict[str, Callable[[NDArray], NDArray]] = {
    # Accuracy by the rank of the score: 0 is the highest.
    "linear": lambda rank: 1 - 0.4 * rank,
    "cubic": lambda rank: 1 - 0.35 * rank**3,
    "flat": lambda rank: 0.97 - 0.02 * rank,
    "steps": lambda rank: np.where(rank < 0.3, 0.995, np.where(rank < 0.7, 0.93, 0.7)),
    "certain but wrong at the top": lambda rank: np.where(rank < 0.05, 0.7, 0.99 - 0.25 * rank**2),
    "wanted everywhere, barely not": lambda rank: np.full_like(rank, np.nan),
}
Interval = tuple[float, float]


def wilson_interval(hits: int, num: int) -> Interval:
    """Wilson's interval of the gold records alone; the predictions are not used."""
    return Estimate.share(hits, num).bounds


def tuned_interval(a: int, b: int, c: int, num: int, share_all: float, num_all: int, pseudo: int) -> Interval:
    """PPI++ with pseudo-records in each discordant cell; counts of gold and label 11, 10, 01."""
    p11, p10, p01 = (count / (num + 2 * pseudo) for count in (a, b + pseudo, c + pseudo))
    gold, predicted = p11 + p10, p11 + p01
    covariance, of_predicted = p11 - gold * predicted, predicted * (1 - predicted)
    tuning = min(max(covariance / of_predicted, 0.0), 1.0)
    variance = gold * (1 - gold) - 2 * tuning * covariance + tuning**2 * of_predicted
    half = stats.t.ppf(0.975, num - 2) * np.sqrt(variance / (num - 2) * (1 - num / num_all))
    value = (a + b) / num + tuning * (share_all - (a + c) / num)
    return max(0.0, value - half), min(1.0, value + half)


def our_interval(a: int, b: int, c: int, num: int, num_positive: int, num_all: int) -> Interval:
    """``corrected_shares`` of two categories, the first one's interval."""
    gold, predicted = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], [a, b, c, num - a - b - c], axis=0).T
    labelled = np.array([num_positive, num_all - num_positive])
    return corrected_shares(gold, predicted, labelled, np.arange(num), np.ones(num, int))[0].bounds


RULES: dict[str, Callable[[int, int, int, int, int, int], Interval]] = {
    "PPI++, 1 pseudo-record per discordant cell (before)": lambda a, b, c, n, m, size: tuned_interval(
        a, b, c, n, m / size, size, 1
    ),
    "PPI++, 2 pseudo-records per discordant cell": lambda a, b, c, n, m, size: tuned_interval(
        a, b, c, n, m / size, size, 2
    ),
    "Wilson on gold alone": lambda a, b, c, n, m, size: wilson_interval(a + b, n),
    "stratified score interval (ours)": our_interval,
}


def settings() -> Iterator[tuple[int, float, list[int]]]:
    """Gold records, prevalence, and the corpus' counts of gold and label 11, 10, 01, 00."""
    for num, prevalence, corpus, (sensitivity, false_positives) in itertools.product(
        NUM_GOLD, PREVALENCES, CORPORA, CLASSIFIERS
    ):
        num_all = int(corpus) if corpus > 1_000 else round(num * corpus)
        positive = round(num_all * prevalence)
        if positive:
            hits, wrong = round(positive * sensitivity), round((num_all - positive) * false_positives)
            yield num, prevalence, [hits, positive - hits, wrong, num_all - positive - wrong]


def report_shares(repetitions: int, rng: np.random.Generator) -> bool:
    """Coverage and width of each rule over all settings, then ours by number of gold records and prevalence."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
    keys = []
    for num, prevalence, counts in settings():
        keys.append((num, prevalence))
        num_all, truth, num_positive = sum(counts), (counts[0] + counts[1]) / sum(counts), counts[0] + counts[2]
        drawn, times = np.unique(rng.multivariate_hypergeometric(counts, num, repetitions), axis=0, return_counts=True)
        for name, rule in RULES.items():
            bounds = np.array([rule(*map(int, cells[:3]), num, num_positive, num_all) for cells in drawn])
            covered = (bounds[:, 0] <= truth + 1e-12) & (truth <= bounds[:, 1] + 1e-12)
            found[name].append(
                (float(times @ covered) / repetitions, float(times @ (bounds[:, 1] - bounds[:, 0])) / repetitions)
            )
    rules = {name: np.array(values).T for name, values in found.items()}
    wilson_width = rules["Wilson on gold alone"][1]
    print(f"\n{len(keys)} settings, {repetitions} samples each; nominal coverage 95 %.\n")
    print("| interval | lowest coverage | settings below 93 % | width / Wilson on gold |\n|---|---:|---:|---:|")
    for name, (coverage, width) in rules.items():
        low = f"{coverage.min():.1%} | {(coverage < MIN_COVERAGE).mean():.1%}"
        print(f"| {name} | {low} | {(width / wilson_width).mean():.2f} |")
    print(
        "\nLowest coverage over classifiers and corpora, before / ours; in brackets our mean width / that of Wilson:\n"
    )
    print("| gold records | " + " | ".join(f"{prevalence:.1%}" for prevalence in PREVALENCES) + " |")
    print("|---:|" + "---:|" * len(PREVALENCES))
    before, (ours, width) = next(iter(rules.values()))[0], rules["stratified score interval (ours)"]
    for num in NUM_GOLD:
        cells = []
        for prevalence in PREVALENCES:
            chosen = np.array([key == (num, prevalence) for key in keys])
            ratio = width[chosen].mean() / wilson_width[chosen].mean()
            cells.append(f"{before[chosen].min():.1%} / {ours[chosen].min():.1%} ({ratio:.2f})")
        print(f"| {num} | " + " | ".join(cells) + " |")
    return bool(ours.min() >= MIN_COVERAGE - STANDARD_ERRORS * np.sqrt(0.93 * 0.07 / repetitions))


def report_categories_and_copies(repetitions: int, rng: np.random.Generator) -> bool:
    """Several categories of unequal size, without copies and with; gold on records, or on all copies of texts."""
    print("\nSeveral categories, 2,000 distinct texts, 200 gold records, a classifier that is right in 80 %;")
    print("lowest coverage over the categories, and the mean number of observations that ours counts:\n")
    print("| categories | copies | gold on | before | ours | distinct gold texts |\n|---:|---|---|---:|---:|---:|")
    held = []
    for num_categories, copies, gold_on in itertools.product(
        (2, 4, 10), ("none", "10 of every 20th text", "1,000 of one text"), ("records", "all copies of texts")
    ):
        if gold_on != "records" and not copies.startswith("10 "):
            continue
        num_copies = np.ones(2_000, int)
        if copies.startswith("10 "):
            num_copies[::20] = 10
        elif copies.startswith("1,000"):
            num_copies[0] = 1_000
        covered, num_texts = [], []
        for _ in range(repetitions):
            prevalence = 0.5 ** np.arange(num_categories)
            truth = rng.choice(num_categories, 2_000, p=prevalence / prevalence.sum())
            label = np.where(rng.random(2_000) < 0.8, truth, rng.integers(0, num_categories, 2_000))
            text = np.repeat(np.arange(2_000), num_copies)
            if gold_on == "records":
                chosen = text[rng.permutation(len(text))[:200]]
            else:
                order = rng.permutation(2_000)
                order = order[: np.searchsorted(np.cumsum(num_copies[order]), 200)]
                chosen = np.repeat(order, num_copies[order])
            labelled = np.bincount(label[text], minlength=num_categories)
            estimates = corrected_shares(truth[chosen], label[chosen], labelled, chosen, num_copies[chosen])
            true_shares = np.bincount(truth[text], minlength=num_categories) / len(text)
            rows = []
            for code, (share, estimate) in enumerate(zip(true_shares, estimates, strict=True)):
                is_gold, is_label = truth[chosen] == code, label[chosen] == code
                counts = [int((is_gold & is_label).sum()), int((is_gold & ~is_label).sum())]
                counts.append(int((~is_gold & is_label).sum()))
                old = tuned_interval(*counts, len(chosen), labelled[code] / len(text), len(text), 1)
                rows.append([low <= share <= high for low, high in (old, estimate.bounds)])
            covered.append(rows)
            num_texts.append(estimates[0].num)
        before, ours = np.mean(covered, axis=0).min(axis=0)
        print(f"| {num_categories} | {copies} | {gold_on} | {before:.1%} | {ours:.1%} | {np.mean(num_texts):.0f} |")
        held.append(ours >= MIN_COVERAGE - STANDARD_ERRORS * np.sqrt(0.93 * 0.07 / repetitions))
    return all(held)


def best_of_a_hundred(score: NDArray, right: NDArray, wanted: float) -> float | None:
    """The lowest of a hundred thresholds whose pointwise lower Wilson bound reaches ``wanted``, as the rule was."""
    points = risk_coverage(score, right, np.linspace(1.0, 0.01, 100))
    reached = [point.threshold for point in points if point.accuracy.bounds[0] >= wanted]
    return min(reached) if reached else None


def report_thresholds(repetitions: int, rng: np.random.Generator) -> bool:
    """False promises and records kept, over accuracy curves, numbers of gold records, ties and wanted accuracies."""
    print(
        "\nScore thresholds: broken promises (limit 2.5 %), and records kept of those that the best threshold keeps:\n"
    )
    print("| accuracy by rank | scores | gold records | wanted | broken before | ours | kept before | ours |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    grid = (np.arange(20_000) + 0.5) / 20_000
    worst = 0.0
    for (name, curve), ties, num, wanted in itertools.product(
        ACCURACY_CURVES.items(), (False, True), (100, 400, 2_000), (0.8, 0.95)
    ):

        def accuracy(rank: NDArray, curve: Callable = curve, wanted: float = wanted) -> NDArray:
            values = curve(rank)
            return np.where(np.isnan(values), wanted - 1e-6, values)

        def to_score(rank: NDArray, ties: bool = ties) -> NDArray:
            return (np.round(1 - rank, 1) if ties else 1 - rank).astype(np.float32)

        all_scores = np.sort(to_score(grid))
        right_above = np.cumsum(accuracy(grid)) / np.arange(1, len(grid) + 1)
        # Whether the records from a score on are right often enough, by the number that is kept.
        cuts = len(grid) - np.unique(np.searchsorted(all_scores, all_scores))
        best = max((int(cut) for cut in cuts if right_above[cut - 1] >= wanted), default=0)
        broken, kept = np.zeros(2), np.zeros(2)
        for _ in range(repetitions):
            rank = rng.random(num)
            score, right = to_score(rank), rng.random(num) < accuracy(rank)
            found = score_threshold(score, right, all_scores, wanted)
            before = best_of_a_hundred(score.astype(np.float64), right, wanted)
            for rule, threshold in enumerate((before, found and found.threshold)):
                if threshold is not None:
                    cut = len(grid) - int(np.searchsorted(all_scores, np.float32(threshold)))
                    broken[rule] += cut > 0 and right_above[cut - 1] < wanted
                    kept[rule] += cut
        broken /= repetitions
        shares = [f"{share:.0%}" for share in kept / repetitions / best] if best else ["-", "-"]
        scores = "tied" if ties else "distinct"
        rates = f"{broken[0]:.1%} | {broken[1]:.1%}"
        print(f"| {name} | {scores} | {num:,} | {wanted:.0%} | {rates} | {' | '.join(shares)} |")
        worst = max(worst, float(broken[1]))
    return worst <= MAX_FALSE_PROMISES + STANDARD_ERRORS * np.sqrt(0.025 * 0.975 / repetitions)


PARTS = {"shares": report_shares, "copies": report_categories_and_copies, "thresholds": report_thresholds}


if __name__ == "__main__":
    run_parts(__doc__, PARTS, repetitions=2_000)
