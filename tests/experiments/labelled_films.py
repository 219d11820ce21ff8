"""Labelled texts that a tiny encoder learns in a second, as an experiment reads them."""

import json
import random
from pathlib import Path

import yaml
from tiny_encoder import NEGATIVE, NEUTRAL, POSITIVE, save_tiny_encoder

from llambert.experiments.recipe import AnyExperiment, load_experiment

SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "held_out_share": 0.0, "dtype": "float32"}


def write_films(folder: Path, num_silver: int = 120, num_gold: int = 40, num_test: int = 60) -> None:
    """``silver.jsonl`` (one label in ten wrong), ``gold.csv`` and ``test.jsonl`` with ids, texts and labels."""
    drawn = random.Random(0)

    def film(number: int, kind: str) -> dict[str, str]:
        label = drawn.choice(["positive", "negative"])
        words = [drawn.choice(POSITIVE if label == "positive" else NEGATIVE), *drawn.choices(NEUTRAL, k=4)]
        return {"record_id": f"{kind}-{number}", "text": f"{kind} {number} " + " ".join(words), "label": label}

    silver = [film(number, "silver") for number in range(num_silver)]
    for one in silver[::10]:
        one["label"] = {"positive": "negative", "negative": "positive"}[one["label"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "silver.jsonl").write_text("\n".join(map(json.dumps, silver)))
    test = [film(number, "test") for number in range(num_test)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, test)))
    gold = [film(number, "gold") for number in range(num_gold)]
    lines = ["record_id,text,label", *(f"{one['record_id']},{one['text']},{one['label']}" for one in gold)]
    (folder / "gold.csv").write_text("\n".join(lines))


def write_experiment(folder: Path, kind: str, **fields: object) -> Path:
    """Films, a tiny encoder and the recipe of an experiment on them; the recipe's path."""
    if not (folder / "test.jsonl").exists():
        write_films(folder)
        save_tiny_encoder(folder / "encoder")
    values = {
        "name": kind.replace("_", "-"),
        "experiment": kind,
        "storage": str(folder / "experiments"),
        "data": {
            "folder": str(folder),
            "silver": {"path": "silver.jsonl"},
            "gold": {"path": "gold.csv"},
            "test": {"path": "test.jsonl"},
        },
        "classifier": {"model": str(folder / "encoder"), **SETTINGS},
        **fields,
    }
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def open_experiment(folder: Path, kind: str, **fields: object) -> AnyExperiment:
    """The experiment of ``write_experiment``."""
    return load_experiment(write_experiment(folder, kind, **fields))
