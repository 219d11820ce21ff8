"""Which records a regime learns from: read from ``silver``, and from the corpus' gold labels where it says so.

Driver and workers read the same tables and come to the same sets.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.responses import RESPONSES_VERSION
from llambert.annotation.sampling import Exclusion
from llambert.annotation.splits import format_splits, is_training_gold, unused_splits
from llambert.corpora.duplicates import first_occurrences
from llambert.errors import Damaged, InputError
from llambert.hashing import hash64
from llambert.run import Run
from llambert.stages.finetune.saved_answers import learned_answers
from llambert.storage.locations import remove_folder
from llambert.storage.manifest import Manifest
from llambert.training.loop import Phase
from llambert.training.training_set import Selection, select_gold, select_silver

NUM_SILVER = "num_silver"  # in the counts of a checkpoint's manifest: silver records there were

# In the training table: the version of the answers that its checkpoints learn from.
_ANSWERS_FILE = "answers"


def select(run: Run) -> dict[str, Selection]:
    """Phase name -> its records. Gold labels are read only if the regime trains on them."""
    recipe = run.recipe.classifier
    if recipe.regime == "gold":
        return {"gold": _select_gold(run, recipe.num_records)}
    selected = {"silver": _select_silver(run)}
    if recipe.regime == "combined":
        selected["gold"] = _select_gold(run, recipe.gold.num_records)
    return selected


def _select_silver(run: Run) -> Selection:
    silver, num_others = silver_rows(run)
    selected = select_silver(silver, run.task.category_names, run.recipe.classifier)
    return _with_left_out(selected, Exclusion.OTHER_SPLIT, num_others)


def silver_rows(run: Run) -> tuple[pa.Table, int]:
    """The silver records of the splits that the regime learns from, and how many there are of others.

    ``InputError`` where all are of others.
    """
    silver, regime = run.table("silver").read(), run.recipe.classifier.regime
    unwanted = unused_splits(regime)
    kept = silver.filter(pc.invert(pc.is_in(silver[schema.SPLIT], pa.array(unwanted, pa.string()))))
    if silver.num_rows and not kept.num_rows:
        raise InputError(
            f"classifier.regime: {regime} does not learn from {format_splits(unwanted)}, and all "
            f"{silver.num_rows:,} silver records are of these; annotator.splits says which splits are annotated"
        )
    return kept, silver.num_rows - kept.num_rows


def _select_gold(run: Run, num: int | None) -> Selection:
    rows, num_duplicates = _gold_rows(run)
    selected = select_gold(rows, run.task.category_names, run.recipe.classifier, num)
    return _with_left_out(selected, Exclusion.DUPLICATE, num_duplicates)


def _with_left_out(selected: Selection, reason: Exclusion, num: int) -> Selection:
    """``selected`` with ``num`` more records, all left out for ``reason``."""
    left_out = {reason: num} if num else {}
    return replace(selected, num_in=selected.num_in + num, num_left_out=selected.num_left_out | left_out)


def _gold_rows(run: Run) -> tuple[pa.Table, int]:
    """Records whose gold label is learned, each text once, and how many duplicates are left out.

    These are the corpus records of split ``train`` that have a gold label, and those that people gave one
    (``saved_answers.py``).

    So what is held out was not trained on in another copy. A record whose text only another split has too stays: it is
    the figures on that split that leave the text out.
    """
    columns = [schema.RECORD_ID, schema.TEXT, schema.GOLD_LABEL]
    found = [schema.CORPUS.empty_table().select(columns)]
    for part in run.table("corpus").iter_tables([*columns, schema.SPLIT]):
        found.append(part.filter(is_training_gold(part)).select(columns).cast(found[0].schema))
    rows = pa.concat_tables([*found, learned_answers(run)])
    first_of_each = np.sort(
        np.unique(first_occurrences(run.table("duplicates"), rows[schema.RECORD_ID]), return_index=True)[1]
    )
    return rows.take(pa.array(first_of_each)), rows.num_rows - len(first_of_each)


def learned_texts(selected: dict[str, Selection]) -> pa.Table:
    """``schema.LEARNED`` of the selected records."""
    tables = [
        pa.table(
            [hash64(records.texts), [name] * len(records), [is_held_out] * len(records)], names=schema.LEARNED.names
        ).cast(schema.LEARNED)
        for name, phase in selected.items()
        for records, is_held_out in ((phase.train, False), (phase.held_out, True))
        if len(records)
    ]
    return pa.concat_tables([schema.LEARNED.empty_table(), *tables])


def phases(run: Run, selected: dict[str, Selection]) -> list[Phase]:
    """What is trained on, with the epochs and the learning rate of each phase."""
    recipe = run.recipe.classifier
    plans = dict.fromkeys(selected, (recipe.epochs, recipe.learning_rate))
    if recipe.regime == "combined":
        plans["gold"] = (recipe.gold.epochs, recipe.gold.learning_rate)
    return [Phase(name, part.train, part.held_out, *plans[name]) for name, part in selected.items()]


def num_left_out(selected: dict[str, Selection]) -> dict[str, int]:
    """``phase.reason`` -> how many of its records are not used."""
    return {f"{name}.{reason}": num for name, phase in selected.items() for reason, num in phase.num_left_out.items()}


def counts(selected: dict[str, Selection]) -> dict[str, int]:
    """Records trained on and held out, for manifest and model card."""
    found: dict[str, int] = {}
    for name, phase in selected.items():
        found |= {f"num_{name}_train": len(phase.train), f"num_{name}_held_out": len(phase.held_out)}
    return found


def count_annotated(run: Run) -> dict[str, int]:
    """How many records the LLM was asked about, if the regime learns from its labels: the recipe may ask for more."""
    if not run.recipe.classifier.learns_silver:
        return {}
    return {"num_annotated": run.table("silver").require_manifest().num_in}


def drop_outdated_training(run: Run) -> None:
    """Remove training checkpoints of a silver table that was made again since: resumed, they would mix two sets."""
    if "silver" not in run.tables.upstream("checkpoint", run.recipe):
        return
    training, silver = run.table("training"), run.table("silver").read_manifest()
    version = silver.upstream.get(RESPONSES_VERSION, "") if silver else ""
    earlier = b""
    with contextlib.suppress(Damaged):  # or missing
        earlier = training.read_file(_ANSWERS_FILE)
    if earlier != version.encode():
        remove_folder(training.filesystem, training.path())
        training.write_file(_ANSWERS_FILE, version.encode())


def untrained_note(run: Run, checkpoint: Manifest) -> str:
    """A line on records of its sample that were answered since the checkpoint was trained; empty if there are none."""
    run = run.as_trained
    silver = run.table("silver").read_manifest()
    trained = checkpoint.counts.get(NUM_SILVER)
    num_new = silver.num_kept - trained if silver and trained is not None else 0
    if silver is None or num_new <= 0:
        return ""
    folders = ", ".join(run.table(table.name).uri for table in run.tables.downstream("checkpoint") if table.is_shown)
    return (
        f"finetune: the classifier is older than some silver labels and has not learned from them ({num_new:,} of "
        f"{silver.num_kept:,}); to train it again, delete {folders} and start again"
    )
