"""Every option of fine-tuning against plain silver training, and gold labels as the ceiling.

    python tests/benchmarks/bench_finetune_options.py umls [--seeds 0 1 2 3 4] [--records 2000] [--options ema gce]
    python tests/benchmarks/bench_finetune_options.py runs/reviews [...]

Data: the UMLS regions (hard labels), or a finished run (``make demo``: with probabilities; judged on the gold
labels of records never annotated). Each option alone on top of plain training; accuracy as mean and 95 % interval
(t) over seeds, and the paired difference to plain, seed by seed; ``ensemble`` is the mean of the probabilities of
three plain trainings. Every training is stored: a stopped benchmark goes on, ``--stored`` prints what is there.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import umls_regions
from finetune_cells import DEFAULT_STORE, Cells, DataSet, interval, prepare

from llambert import schema
from llambert.recipe import ClassifierRecipe
from llambert.run_directory import TableDirectory
from llambert.sampling import sampling_hashes

OPTIONS: dict[str, dict] = {
    "soft": {"loss": "soft"},
    "confidence_weights": {"confidence_weights": True},
    "min_confidence": {"min_confidence": 0.6},
    "gce": {"loss": "gce"},
    "smoothing": {"label_smoothing": 0.1},
    "class_weights": {"class_weights": True},
    "ema": {"averaging": "ema"},
    "tail": {"averaging": "tail"},
    "soup": {"soup_members": 3},
    "early_stop": {"held_out_share": 0.1, "early_stop_patience": 1},
    "no_dropout": {"dropout": 0.0},
    "unbucketed": {"bucketing": False},
    "soft, tail": {"loss": "soft", "averaging": "tail"},
    "soft, soup": {"loss": "soft", "soup_members": 3},
    "gold": {"regime": "gold"},
}
NEED_PROBABILITIES = {"soft", "confidence_weights", "min_confidence", "soft, tail", "soft, soup"}
ENSEMBLES = {"ensemble": "plain", "ensemble of soft": "soft"}
_MEMBERS = 3
_MEMBER_SEED = 100  # seeds of an ensemble's other members: 100 + 10 * seed + member


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="'umls', or the directory of a finished run of jobs/recipes/reviews.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--records", type=int, default=1_000, help="silver records trained on")
    parser.add_argument("--test", type=int, help="records of a run to judge by; default: all never annotated")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--options", nargs="*", choices=[*OPTIONS, *ENSEMBLES], help="default: all the data allows")
    parser.add_argument("--stored", action="store_true", help="train nothing, print what is stored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    if arguments.data == "umls":
        umls_regions.require()
        data = umls_regions.load()
    else:
        data = finished_run(arguments.data, arguments.test)
    cells = Cells(arguments.store, data)
    has_probabilities = data.silver[schema.LABEL_PROBABILITIES].null_count == 0
    names = [*OPTIONS, *ENSEMBLES] if arguments.options is None else arguments.options
    if not has_probabilities:
        names = [name for name in names if name not in NEED_PROBABILITIES and name != "ensemble of soft"]
    right: dict[str, dict[int, np.ndarray]] = {}
    for seed in arguments.seeds:
        for name in ["plain", *names]:
            members = member_recipes(arguments, name, seed)
            if arguments.stored and not all(cells.has(recipe) for recipe in members):
                continue
            probabilities = np.mean([cells.get(recipe).probabilities for recipe in members], axis=0)
            right.setdefault(name, {})[seed] = probabilities.argmax(axis=1) == data.test_codes
            print(f"seed {seed} {name}: {right[name][seed].mean():.2%}", flush=True)
    print_table(right)
    return 0


def finished_run(folder: str, num_test: int | None) -> DataSet:
    """Silver and gold labels of the records a run annotated; the test: of those it did not, without duplicates."""
    silver, corpus = newest(folder, "silver", schema.SILVER).read(), newest(folder, "corpus", schema.CORPUS).read()
    duplicate_ids = newest(folder, "duplicates", schema.DUPLICATES).read([schema.RECORD_ID])[schema.RECORD_ID]
    annotated = pc.is_in(corpus[schema.RECORD_ID], silver[schema.RECORD_ID].combine_chunks())
    others = pc.invert(pc.or_(annotated, pc.is_in(corpus[schema.RECORD_ID], duplicate_ids.combine_chunks())))
    columns = [name for name in schema.CORPUS.names if name in corpus.column_names]
    gold, test = (corpus.filter(rows).select(columns) for rows in (annotated, others))
    gold, test = (table.filter(pc.is_valid(table[schema.GOLD_LABEL])) for table in (gold, test))
    order = sampling_hashes(test[schema.RECORD_ID], 0).argsort()
    categories = sorted(pc.unique(silver[schema.LABEL]).to_pylist())
    return DataSet("reviews", categories, silver, gold, test.take(order[:num_test]))


def newest(folder: str, name: str, table_schema: pa.Schema) -> TableDirectory:
    """The table completed last, whatever recipe and version made it."""
    manifests = sorted(Path(folder, name).glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        sys.exit(f"{folder}: no complete table {name}; run the demo first")
    return TableDirectory(str(manifests[-1].parent), table_schema)


def member_recipes(arguments: argparse.Namespace, name: str, seed: int) -> list[ClassifierRecipe]:
    """The trainings whose mean probabilities an option is: one, or an ensemble's members."""
    if name in ENSEMBLES:
        own = member_recipes(arguments, ENSEMBLES[name], seed)
        others = [_MEMBER_SEED + 10 * seed + member for member in range(1, _MEMBERS)]
        return own + [own[0].model_copy(update={"seed": other}) for other in others]
    settings = {
        "model": umls_regions.ENCODER,
        "num_records": arguments.records,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "max_length": 128,
        "held_out_share": 0.0,
        "seed": seed,
    }
    return [ClassifierRecipe(**{**settings, **OPTIONS.get(name, {})})]


def print_table(right: dict[str, dict[int, np.ndarray]]) -> None:
    """A Markdown table; an option is compared with plain training on the seeds that both have."""
    print("\n| option | seeds | accuracy % | minus plain, points |\n|---|---|---|---|")
    for name, by_seed in right.items():
        accuracies = {seed: values.mean() for seed, values in by_seed.items()}
        both = [seed for seed in accuracies if seed in right["plain"]]
        difference = [accuracies[seed] - right["plain"][seed].mean() for seed in both]
        last = "" if name == "plain" else interval(difference)
        print(f"| {name} | {len(accuracies)} | {interval(list(accuracies.values()))} | {last} |")


if __name__ == "__main__":
    sys.exit(main())
