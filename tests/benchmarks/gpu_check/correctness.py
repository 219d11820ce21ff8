"""Whether answers on the device are those of a CPU in float32, and whether training there learns."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from llambert.annotation.prompts import Prompt
from llambert.classifier.inference import Classifier
from llambert.engines import Answer
from llambert.engines.transformers import TransformersEngine
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe
from llambert.tasks import Category, Task
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, Phase
from llambert.training.training_set import TrainingSet
from tests.benchmarks.gpu_check.models import (
    CATEGORIES,
    VOCABULARY,
    Sizes,
    imdb_lengths,
    labelled_texts,
    save_doubtful_llm,
    shape,
    texts_of_lengths,
    word_tokenizer,
)
from tests.benchmarks.gpu_check.report import Line, Report, share_line

MIN_ACCURACY, MAX_LOSS_SHARE = 0.9, 0.6  # of a task that any working training learns: at toy size 0.96 and 0.1
MAX_FLIPS = {"float32": 0.002, "bfloat16": 0.02, "float16": 0.01}
"""Share of labels that may differ from a CPU's in float32 before a line fails."""
ANSWER_STD = 2.5  # of the difference of the two answers' logits
ANSWERS = Task(
    name="gpu-check",
    question="Is it 0 or 1?",
    categories=(Category(name="no", answer_words=("0",)), Category(name="yes", answer_words=("1",))),
    prompts={"completion": Prompt(format="completion", template="Text : {text} Answer :")},
)


def check_classifier(device: torch.device, sizes: Sizes, report: Report) -> None:
    """A small encoder is trained on the device; what it labels there is compared with a CPU in float32."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = str(Path(folder) / "checkpoint")
        _train(device, sizes, Path(folder) / "encoder", Path(checkpoint), report)
        texts, labels = labelled_texts(sizes.num_compared, seed=3)
        expected = Classifier(checkpoint, device="cpu", dtype="float32", num_threads=torch.get_num_threads()).predict(
            texts
        )
        found = np.array([CATEGORIES.index(label or "") for label in expected.labels])
        report(share_line("CPU, float32: wrong labels", int((found != labels).sum()), len(texts), "texts"))
        dtypes = ["float32", "bfloat16", *(["float16"] if device.type == "cuda" else [])]
        for dtype in dtypes:
            predicted = Classifier(checkpoint, device=device.type, dtype=dtype).predict(texts)
            flips = sum(a != b for a, b in zip(predicted.labels, expected.labels, strict=True))
            largest = np.abs(predicted.probabilities - expected.probabilities).max()
            name = f"labels in {dtype} unlike a CPU's in float32"
            note = f"probabilities differ by {largest:.1e} at most"
            report(share_line(name, flips, len(texts), "texts", MAX_FLIPS[dtype], note))


def _train(device: torch.device, sizes: Sizes, start: Path, checkpoint: Path, report: Report) -> None:
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=128, **ids, **shape(*sizes.trained_encoder))
    BertModel(config).save_pretrained(start)
    word_tokenizer().save_pretrained(start)
    recipe = ClassifierRecipe(
        model=str(start), epochs=3, batch_size=32, held_out_share=0.0, max_length=128, dropout=0.0, seed=0
    )
    encoder = load_encoder(recipe, CATEGORIES)
    phases = [Phase("silver", _records(sizes.num_train, 1), _records(sizes.num_compared, 2), 3, sizes.learning_rate)]
    history = FineTuning(encoder, phases, recipe, CATEGORIES, device).run()
    first, last = (float(np.mean([step.loss for step in steps])) for steps in (history.steps[:5], history.steps[-20:]))
    accuracy = history.epochs[-1]["accuracy"]
    learned = last <= MAX_LOSS_SHARE * first and accuracy >= MIN_ACCURACY
    value = f"loss {first:.3f} to {last:.3f}, held-out accuracy {accuracy:.2%}"
    wanted = f"FAILED, expected at most {MAX_LOSS_SHARE} of the loss and {MIN_ACCURACY:.0%}: "
    num = f"{sizes.num_train:,} texts, {len(history.steps)} steps"
    note = "by epoch " + ", ".join(f"{figures['accuracy']:.2%}" for figures in history.epochs)
    report(Line("training curve", value if learned else wanted + value, num, note, not learned))
    encoder.save(checkpoint)


def _records(num: int, seed: int) -> TrainingSet:
    texts, labels = labelled_texts(num, seed)
    return TrainingSet(texts, labels, np.eye(2, dtype=np.float32)[labels], np.ones(num, dtype=np.float32))


def check_engine(device: torch.device, sizes: Sizes, report: Report) -> None:
    """Answers of the embedded engine by device, dtype and head; the model doubts, as ``save_doubtful_llm`` has it."""
    prompt = ANSWERS.prompt()
    lengths = np.clip(imdb_lengths(sizes.num_prompts) // 4, 8, 100)
    texts = texts_of_lengths(lengths)
    with tempfile.TemporaryDirectory() as folder:
        texts_to_scale_by = [prompt.fill(text) for text in texts[:64]]
        save_doubtful_llm(Path(folder), sizes.llm, texts_to_scale_by, ANSWER_STD)
        expected = _answers(folder, "float32", torch.device("cpu"), texts)
        for dtype in ["float32", "bfloat16"]:
            found = _answers(folder, dtype, device, texts)
            flips = sum(a.response != b.response for a, b in zip(found, expected, strict=True))
            name = f"answers in {dtype} unlike a CPU's in float32"
            note = f"score mode, float32 head; {sum(answer.response == '1' for answer in found) / len(texts):.0%} say 1"
            report(share_line(name, flips, len(texts), "prompts", MAX_FLIPS[dtype], note))
        for head in ["float32", "bfloat16"]:
            found = _answers(folder, "bfloat16", device, texts, head == "bfloat16")
            ties = sum(answer.is_tied for answer in found)
            limit = MAX_FLIPS["float32"] if head == "float32" else None
            report(share_line(f"exact ties of a bfloat16 model, {head} head", ties, len(texts), "prompts", limit))


def _answers(
    folder: str, dtype: str, device: torch.device, texts: list[str], head_in_model_dtype: bool = False
) -> list[Answer]:
    recipe = AnnotatorRecipe(
        model=folder,
        mode="score",
        num_records=len(texts),
        dtype=dtype,
        gpus_per_replica=int(device.type == "cuda"),
        cpus_per_replica=float(torch.get_num_threads()),
        max_batch_tokens=8_192,
    )
    engine = TransformersEngine(recipe, ANSWERS)
    if head_in_model_dtype:
        del engine.model.get_output_embeddings().forward  # what llambert put there: its class's own is back
    answers = engine.annotate(texts)
    if failed := [answer.error for answer in answers if answer.label_probabilities is None]:
        raise RuntimeError(f"{len(failed)} of {len(texts)} prompts have no answer, for example: {failed[0]}")
    return answers
