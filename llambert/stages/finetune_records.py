"""Which records a regime learns from: read from ``silver``, and from the corpus' gold labels where it says so.

Driver and workers read the same tables and come to the same sets.
"""

import contextlib

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.responses import ANSWERS
from llambert.run import Run
from llambert.run_directory import Manifest, write_whole
from llambert.training.loop import Phase
from llambert.training.records import Selected, select_gold, select_silver

NUM_SILVER = "num_silver"  # in the counts of a checkpoint's manifest: silver records there were
TEST_SPLIT, EXTRA_SPLIT, TRAIN_SPLIT = "test", "extra", "train"


# In the training table: the version of the answers that its checkpoints learn from.
_ANSWERS_FILE = "answers"


def upstream(regime: str) -> tuple[str, ...]:
    """The tables a regime reads."""
    return {"gold": ("corpus",), "combined": ("silver", "corpus")}.get(regime, ("silver",))


def select(run: Run) -> dict[str, Selected]:
    """Phase name -> its records. Gold labels are read only if the regime trains on them."""
    recipe, categories = run.recipe.classifier, run.task.category_names
    if recipe.regime == "gold":
        return {"gold": select_gold(_gold_rows(run), categories, recipe, recipe.num_records)}
    selected = {"silver": _select_silver(run)}
    if recipe.regime == "combined":
        selected["gold"] = select_gold(_gold_rows(run), categories, recipe, recipe.gold.num_records)
    return selected


def _select_silver(run: Run) -> Selected:
    """The silver records of the regime's splits; in a corpus without splits, all of them."""
    recipe = run.recipe.classifier
    silver = run.table("silver").read()
    num_in = silver.num_rows
    if run.recipe.corpus.columns.split is not None and num_in:
        left_out = [TEST_SPLIT, EXTRA_SPLIT] if recipe.regime == "silver" else [TEST_SPLIT]
        ids = silver[schema.RECORD_ID].combine_chunks()
        excluded: list[pa.Array] = []
        for part in run.table("corpus").iter_tables([schema.RECORD_ID, schema.SPLIT]):
            out = pc.is_in(part[schema.SPLIT], pa.array(left_out))
            found = part[schema.RECORD_ID].filter(out)
            excluded.append(found.filter(pc.is_in(found, ids)).combine_chunks())
        silver = silver.filter(pc.invert(pc.is_in(silver[schema.RECORD_ID], pa.concat_arrays(excluded))))
    selected = select_silver(silver, run.task.category_names, recipe)
    others = {"other_split": num_in - silver.num_rows} if num_in > silver.num_rows else {}
    return Selected(selected.train, selected.held_out, num_in, selected.num_left_out | others)


def _gold_rows(run: Run) -> pa.Table:
    """Corpus records of split ``train`` that have a gold label."""
    columns = [schema.RECORD_ID, schema.TEXT, schema.GOLD_LABEL]
    found = [schema.CORPUS.empty_table().select(columns)]
    for part in run.table("corpus").iter_tables([*columns, schema.SPLIT]):
        wanted = pc.and_(pc.equal(part[schema.SPLIT], TRAIN_SPLIT), pc.is_valid(part[schema.GOLD_LABEL]))
        found.append(part.filter(wanted).select(columns).cast(found[0].schema))
    return pa.concat_tables(found)


def phases(run: Run, selected: dict[str, Selected]) -> list[Phase]:
    """What is trained on, with the epochs and the learning rate of each phase."""
    recipe = run.recipe.classifier
    plans = dict.fromkeys(selected, (recipe.epochs, recipe.learning_rate))
    if recipe.regime == "combined":
        plans["gold"] = (recipe.gold.epochs, recipe.gold.learning_rate)
    return [Phase(name, part.train, part.held_out, *plans[name]) for name, part in selected.items()]


def num_left_out(selected: dict[str, Selected]) -> dict[str, int]:
    """``phase.reason`` -> how many of its records are not used."""
    return {f"{name}.{reason}": num for name, phase in selected.items() for reason, num in phase.num_left_out.items()}


def counts(selected: dict[str, Selected]) -> dict[str, int]:
    """Records trained on and held out, for manifest and model card."""
    found: dict[str, int] = {}
    for name, phase in selected.items():
        found |= {f"num_{name}_train": len(phase.train), f"num_{name}_held_out": len(phase.held_out)}
    return found


def drop_outdated_training(run: Run) -> None:
    """Remove training checkpoints of a silver table that was made again since: resumed, they would mix two sets."""
    if "silver" not in upstream(run.recipe.classifier.regime):
        return
    training, silver = run.table("training"), run.table("silver").read_manifest()
    version = silver.upstream.get(ANSWERS, "") if silver else ""
    path = training.path(_ANSWERS_FILE)
    try:
        earlier = training.filesystem.cat_file(path).decode()
    except FileNotFoundError:
        earlier = ""
    if earlier != version:
        with contextlib.suppress(FileNotFoundError):
            training.filesystem.rm(training.path(), recursive=True)
        write_whole(training.filesystem, path, version.encode())


def untrained_note(run: Run, checkpoint: Manifest) -> str:
    """A line on records that were answered since the checkpoint was trained; empty if there are none."""
    silver = run.table("silver").read_manifest()
    trained = checkpoint.counts.get(NUM_SILVER)
    num_new = silver.num_kept - trained if silver and trained is not None else 0
    if silver is None or num_new <= 0:
        return ""
    folders = ", ".join(run.table(name).uri for name in ("checkpoint", "labels", "report"))
    return (
        f"finetune: the classifier is older than some silver labels and has not learned from them ({num_new:,} of "
        f"{silver.num_kept:,}); to train it again, delete {folders} and start again"
    )
