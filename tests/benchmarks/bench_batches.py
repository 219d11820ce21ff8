"""How full a GPU's batches are, and how many need an attention mask: by the plans alone, without a GPU.

    python -m tests.benchmarks.bench_batches [--records 25000] [--window 8192] [--budget 65536]

Texts of IMDb's lengths (log-normal, mean 261 tokens after the cut at 512) and of 27 tokens, in windows as the label
stage plans them. ``before``: batches padded by at most 3 %; ``padded``: by at most 15 %, for families that cannot be
packed; ``packed``: texts end to end, sorted. A batch without padding needs no mask, and no pack ever does; a pack has
one attention kernel a layer for each length in it.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from llambert.classifier.batching import MAX_PADDING_WASTE, plan_batches, plan_sorted_packs, text_runs
from llambert.classifier.inference import FULL_BATCHES_PADDING_WASTE, WINDOW_RECORDS

BUDGET = 65_536


@dataclass(frozen=True)
class Counts:
    """Of the batches of all windows. ``fill``: mean share of the budget; ``num_runs``: mean number of lengths."""

    num_batches: int
    masked_share: float
    positions: float
    fill: float
    padding_share: float
    num_runs: float


def imdb_lengths(num: int) -> np.ndarray:
    """Tokens of reviews: words log-normal with median 174 and sigma 0.65, 1.28 tokens a word, cut at 512."""
    words = np.random.default_rng(0).lognormal(np.log(174), 0.65, num)
    return np.minimum(words * 1.28 + 2, 512).astype(np.int64)


def short_lengths(num: int) -> np.ndarray:
    """Tokens of single sentences: log-normal, mean 27."""
    return np.clip(np.random.default_rng(0).lognormal(np.log(24.5), 0.45, num), 3, 128).astype(np.int64)


def count(lengths: np.ndarray, plan: str, budget: int = BUDGET, window: int = WINDOW_RECORDS) -> Counts:
    """The batches of texts of these lengths, planned window by window; ``plan``: before, padded or packed."""
    waste = {"before": MAX_PADDING_WASTE, "padded": FULL_BATCHES_PADDING_WASTE}
    positions, real, runs = [], [], []
    for start in range(0, len(lengths), window):
        part = lengths[start : start + window]
        rows = np.arange(len(part))
        batches = (
            plan_sorted_packs(rows, part, budget) if plan == "packed" else plan_batches(rows, part, budget, waste[plan])
        )
        for batch in batches:
            real.append(int(part[batch].sum()))
            positions.append(real[-1] if plan == "packed" else len(batch) * int(part[batch].max()))
            runs.append(len(text_runs(part[batch])))
    is_masked = np.array(positions) > np.array(real)
    return Counts(
        len(positions),
        float(is_masked.mean()),
        float(np.mean(positions)),
        float(np.mean(positions)) / budget,
        1 - sum(real) / sum(positions),
        float(np.mean(runs)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=25_000)
    parser.add_argument("--window", type=int, default=WINDOW_RECORDS)
    parser.add_argument("--budget", type=int, default=BUDGET)
    arguments = parser.parse_args()
    print("| texts | plan | batches | with a mask | positions a batch | of the budget | padding | lengths a batch |")
    print("|---|---|---|---|---|---|---|---|")
    for name, lengths in (
        ("IMDb's lengths", imdb_lengths(arguments.records)),
        ("27 tokens", short_lengths(arguments.records)),
    ):
        for plan in ("before", "padded", "packed"):
            found = count(lengths, plan, arguments.budget, arguments.window)
            print(
                f"| {name}, mean {lengths.mean():.0f} | {plan} | {found.num_batches} | {found.masked_share:.0%} | "
                f"{found.positions:,.0f} | {found.fill:.0%} | {found.padding_share:.1%} | {found.num_runs:.1f} |"
            )


if __name__ == "__main__":
    main()
