"""Scores of trained classifiers beside the oracle's answers, a file for each corpus and training seed."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from llambert import schema
from llambert.annotation.sampling import Selection
from llambert.classifier.inference import Classifier
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, Phase
from llambert.training.training_set import select_silver
from tests.benchmarks.replays.judged_corpora import JudgedCorpus, ReplayTask

SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class StoredAnswers:
    """``n`` records, each array of shape (n,); labels are codes, ``num_categories`` of them.

    ``annotated``: its text was annotated before the training, whether or not the answer was usable.
    """

    score: NDArray[np.float32]
    label: NDArray[np.int16]
    answer: NDArray[np.int16]
    answered: NDArray[np.bool_]
    gold: NDArray[np.int16]
    has_gold: NDArray[np.bool_]
    annotated: NDArray[np.bool_]
    text_of: NDArray[np.int64]
    num_categories: int

    def save(self, path: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez_compressed(file, **self.__dict__)
        os.replace(file.name, path)

    @classmethod
    def load(cls, path: Path) -> "StoredAnswers":
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(**{**arrays, "num_categories": int(arrays["num_categories"])})


def stored_path(cache: Path, corpus: str, seed: int) -> Path:
    return cache / f"{corpus}-{seed}.npz"


def train_and_store(task: ReplayTask, cache: Path, seed: int) -> None:
    """Train on a random subset of the answers, label the corpora and store the scores; what is stored is kept."""
    paths = {name: stored_path(cache, name, seed) for name in task.corpora}
    if all(path.exists() for path in paths.values()):
        return
    torch.set_num_threads(1)  # more wait for each other at every layer; in labelling each has a batch
    corpus, started = next(iter(task.corpora.values())), time.monotonic()
    annotated = annotated_texts(corpus, task.num_annotated, seed)
    chosen = pa.array(sorted({corpus.texts[row] for row in np.flatnonzero(annotated)}))
    silver = corpus.silver.filter(pc.is_in(corpus.silver[schema.TEXT], value_set=chosen))
    recipe = task.classifier.model_copy(update={"seed": seed})
    selection = select_silver(silver, corpus.categories, recipe)
    encoder = load_encoder(recipe, corpus.categories)
    phase = Phase("silver", selection.train, selection.held_out, recipe.epochs, recipe.learning_rate)
    FineTuning(encoder, [phase], recipe, corpus.categories).run()
    trained = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(Path(folder))
        classifier = Classifier(folder, device="cpu", dtype="float32", num_threads=os.cpu_count())
        for name, judged in task.corpora.items():
            decided = annotated if judged is corpus else np.zeros(len(judged.texts), bool)
            labelled(classifier, judged, decided).save(paths[name])
    print(
        f"{task.name}, seed {seed}: {len(selection.train):,} answers trained on in {trained - started:.0f} s, "
        f"labelled in {time.monotonic() - trained:.0f} s",
        flush=True,
    )


def annotated_texts(corpus: JudgedCorpus, num: int, seed: int) -> NDArray[np.bool_]:
    """Records, (n,), whose text is among ``num`` texts drawn as the sample stage draws them."""
    texts, first = np.unique(corpus.text_of, return_index=True)
    ids = pa.array([corpus.record_ids[row] for row in first])
    drawn = pc.is_in(ids, value_set=Selection.smallest(ids, num, seed).record_ids)
    return np.isin(corpus.text_of, texts[drawn.to_numpy(zero_copy_only=False)])


def labelled(classifier: Classifier, corpus: JudgedCorpus, annotated: NDArray[np.bool_]) -> StoredAnswers:
    """Each text is classified once, so that its copies have one score to the last bit."""
    _, first, of_record = np.unique(corpus.text_of, return_index=True, return_inverse=True)
    predictions = classifier.predict([corpus.texts[row] for row in first])
    assert not predictions.failures, f"texts without a label: {predictions.failures}"
    codes = {name: code for code, name in enumerate(corpus.categories)}
    label = np.array([codes[name] for name in predictions.labels if name is not None], np.int16)
    return StoredAnswers(
        score=predictions.scores.astype(np.float32)[of_record],
        label=label[of_record],
        answer=corpus.answer,
        answered=corpus.answered,
        gold=corpus.gold,
        has_gold=corpus.has_gold,
        annotated=annotated,
        text_of=corpus.text_of,
        num_categories=len(corpus.categories),
    )
