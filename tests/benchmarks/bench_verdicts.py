"""How often verdicts and advice are wrong where the truth is known: simulated experiments and learning curves.

    python -m tests.benchmarks.bench_verdicts [--repetitions 400] [--seed 0]

Two tables, in Markdown. The first: how often a claim of an experiment is decided, by the rule that the interval over
seeds alone is looked at, and by the rule in use, where both methods are equally good (should be 5 % at most) and where
one is better (power). The second: how often the interval of the learning curve holds the number of annotations that is
the answer (should be 95 % at least), and its mean width in doublings, by resampling records alone and by the rule in
use. Exit status 1 where the rules in use miss 5 and 95 %, in all or in a row by four standard errors of the simulation.
"""

import argparse
import sys

import numpy as np
from scipy.optimize import nnls

from llambert import markdown
from llambert.experiments.results import mean_over_seeds, mean_over_seeds_and_records
from llambert.planning.learning_curve import advise
from tests.fixtures.simulated_classifiers import LAWS, MIXTURES, draw_right, draw_wrong

NUM_SEEDS = (2, 3, 5, 10)
NUM_RECORDS = (200, 1_000, 25_000)
DEVIATIONS = (0.0, 0.01, 0.02, 0.04)
CURVES = ((250, 25_000), (1_000, 1_000_000))
"""Pilot records in a half, and the largest number of annotations."""
GAIN = 0.005
NUM_RESAMPLES = 200
NUM_ERRORS = 4
"""Standard errors by which one of a hundred rows may be off."""


def is_decided_by_seeds(differences: np.ndarray) -> bool:
    """The reference: Student's interval over the seeds' means alone."""
    low, high = mean_over_seeds(differences.mean(axis=1).tolist()).bounds
    return not low <= 0 <= high


def is_decided(differences: np.ndarray) -> bool:
    low, high = mean_over_seeds_and_records(differences, 1.0).bounds
    return not low <= 0 <= high


def interval_by_records(sizes: np.ndarray, wrong: np.ndarray, limit: int, random: np.random.Generator) -> list[float]:
    """The reference: one training of each size and half, records resampled, the best of six exponents each time."""
    wrong = wrong[:, 0].reshape(len(sizes), -1)
    found = []
    for _ in range(NUM_RESAMPLES):
        errors = wrong[:, random.integers(0, wrong.shape[1], wrong.shape[1])].mean(axis=1)
        fits = []
        for exponent in (0.15, 0.25, 0.35, 0.5, 0.7, 1.0):
            powers = sizes.astype(float) ** -exponent
            (_, scale), misfit = nnls(np.stack([np.ones(len(sizes)), powers], axis=1), errors)
            fits.append((round(misfit, 12), scale, exponent))
        _, scale, exponent = min(fits, key=lambda one: one[0])
        num = float(sizes[0])
        while scale * num**-exponent * (1 - 2**-exponent) >= GAIN and num <= limit:
            num *= 2
        found.append(num if num <= limit else np.inf)
    return [sorted(found)[round(q * (NUM_RESAMPLES - 1))] for q in (0.025, 0.975)]


def decided(num: int, seed: int) -> tuple[list[str], bool]:
    """The first table, with a row over all, and whether the rule in use keeps 5 % where methods are equal."""
    rows, wrongly, worst = [], [], 0.0
    for num_seeds in NUM_SEEDS:
        for num_records in NUM_RECORDS:
            num_here = num if num_records < 10_000 else max(num // 4, 1)
            for name, noise in MIXTURES.items():
                shares = []
                for errors in ([0.06, 0.06], [0.05, 0.06], [0.03, 0.06]):
                    random, counts = np.random.default_rng([seed, num_seeds, num_records, *name.encode()]), np.zeros(2)
                    for _ in range(num_here):
                        ours, theirs = draw_right(random, errors, noise, num_seeds, num_records)
                        differences = ours.astype(float) - theirs
                        counts += is_decided_by_seeds(differences), is_decided(differences)
                    shares.append(counts / num_here)
                wrongly.append(shares[0])
                worst = max(worst, shares[0][1] - NUM_ERRORS * np.sqrt(0.05 * 0.95 / num_here))
                cells = [f"{100 * old:.1f} → {100 * new:.1f}" for old, new in shares]
                rows.append([f"{num_seeds}", f"{num_records:,}", name, *cells])
    seeds_alone, in_use = 100 * np.mean(wrongly, axis=0)
    rows.append(["all", "all", "mean", f"{seeds_alone:.1f} → {in_use:.1f}", "", ""])
    header = ["seeds", "test records", "noise", "equal methods, %", "one point better, %", "three points better, %"]
    return markdown.table(header, rows), in_use <= 5 and worst <= 0.05


def covered(num: int, seed: int) -> tuple[list[str], bool]:
    """The second table, and whether the rule in use covers 95 %."""
    rows, worst = [], 1.0
    for num_each, limit in CURVES:
        sizes = np.array([num_each // 4, num_each // 2, num_each])
        for name, law in LAWS.items():
            answer = law.answer(int(sizes[0]), GAIN, limit)
            cells = []
            for deviation in DEVIATIONS:
                random = np.random.default_rng([seed, num_each, round(1_000 * deviation)])
                resampled, hits, widths, empty = max(num // 10, 1), np.zeros(2), np.zeros(2), 0
                for number in range(num):
                    wrong = draw_wrong(random, law, sizes, deviation, num_each)
                    advice = advise(sizes, wrong, GAIN, limit)
                    bounds = [advice.low or np.inf, advice.high or np.inf]
                    hits[1] += bounds[0] <= (answer or np.inf) <= bounds[1]
                    widths[1] += width(bounds, limit)
                    empty += advice.says_nothing
                    if number < resampled:  # four hundred times as slow
                        bounds = interval_by_records(sizes, wrong, limit, random)
                        hits[0] += bounds[0] <= (answer or np.inf) <= bounds[1]
                        widths[0] += width(bounds, limit)
                worst = min(worst, hits[1] / num + NUM_ERRORS * np.sqrt(0.05 * 0.95 / num))
                old, new = 100 * hits[0] / resampled, 100 * hits[1] / num
                size = f"{widths[0] / resampled:.1f} → {widths[1] / num:.1f}"
                cells.append(f"{old:.0f} → {new:.0f} ({size}; {100 * empty / num:.0f})")
            rows.append([f"{2 * num_each:,}", name, f"{answer:,}" if answer else f"> {limit:,}", *cells])
    titles = [f"{100 * deviation:g} points" for deviation in DEVIATIONS]
    return markdown.table(["pilot records", "law", "answer", *titles], rows), worst >= 0.95


def width(bounds: list[float], limit: int) -> float:
    low, high = np.minimum(bounds, 2 * limit)
    return float(np.log2(high / low))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("Claims decided: seeds alone → seeds and records.\n")
    lines, keeps_level = decided(arguments.repetitions, arguments.seed)
    print("\n".join(lines), flush=True)
    print(
        "\nLearning curve, by the standard deviation of a training: coverage in %, records alone → with the noise of "
        "training (mean width in doublings; share of intervals said to say nothing, in %).\n"
    )
    lines, covers = covered(arguments.repetitions, arguments.seed)
    print("\n".join(lines))
    sys.exit(0 if keeps_level and covers else 1)


if __name__ == "__main__":
    main()
