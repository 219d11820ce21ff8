"""Fine-tune: ``silver`` (and gold, if the regime says so) -> ``checkpoint``, a Hugging Face model folder.

Data-parallel with Ray Train. Every worker reads the whole training set, which a person chose the size of,
tokenizes it once, and takes its share of each global batch: no row is dropped, none is seen twice, and no
worker waits for another's last batch.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import transformers
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.metrics import Gauge

from llambert import schema
from llambert.errors import InputError
from llambert.progress import Progress
from llambert.reference import resolve
from llambert.run import Run
from llambert.run_directory import Manifest, Part, TableDirectory, is_local, write_whole
from llambert.stages.parts import connect
from llambert.training.card import write_descriptions
from llambert.training.loop import FineTuning, History, Observer, Phase, Step
from llambert.training.model import load_encoder
from llambert.training.records import Selected, select_gold, select_silver

TEST_SPLIT, EXTRA_SPLIT, TRAIN_SPLIT = "test", "extra", "train"
_STATE = "state.pt"
_POLL_EVERY_S = 1.0


def finetune(run: Run) -> Manifest:
    """Train the classifier of the recipe; skipped when its checkpoint is complete.

    A killed worker goes on from the last training checkpoint, at most ``classifier.max_failures`` times; a
    killed driver does when it is started again. ``InputError``: labels that cannot be learned from, a
    missing encoder, a loss that is no longer finite.
    """
    checkpoint = run.table("checkpoint")
    if manifest := checkpoint.read_manifest():
        return manifest
    started = time.monotonic()
    recipe = run.recipe.classifier
    resolve(recipe.model)
    selected = _select(run)
    connect()
    _require_resources(run)
    # Workers must find the run's storage by the recipe's own, perhaps relative, path.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # A worker's next report waits until the last was fetched: two seconds by default, as long as ten steps.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    monitor = ray.remote(num_cpus=0)(_Monitor).remote()
    with _progress(monitor):
        outcome = _fit(run, monitor)
    if outcome["refusal"]:
        raise InputError(outcome["refusal"])
    wall_seconds = time.monotonic() - started
    manifest = checkpoint.write_manifest(
        Manifest(
            stage="finetune",
            fingerprint=run.fingerprints["checkpoint"],
            upstream={name: run.fingerprints[name] for name in _upstream(recipe.regime)},
            recipe=recipe.model_dump(mode="json"),
            model=recipe.model,
            model_identity=run.model_identities["classifier"],
            num_in=sum(phase.num_in for phase in selected.values()),
            num_kept=sum(len(phase.train) + len(phase.held_out) for phase in selected.values()),
            num_rejected=_num_left_out(selected),
            counts=_counts(selected) | {"num_steps": outcome["num_steps"], "num_workers": recipe.num_workers},
            measures=outcome["measures"],
            wall_seconds=wall_seconds,
            busy_seconds=outcome["busy_seconds"] * recipe.num_workers,
            accelerator_seconds=wall_seconds * recipe.num_workers if recipe.use_gpu else 0.0,
            parts=outcome["parts"],
        )
    )
    _remove(run.table("training"))
    return manifest


# What is learned from


def _upstream(regime: str) -> tuple[str, ...]:
    return {"gold": ("corpus",), "combined": ("silver", "corpus")}.get(regime, ("silver",))


def _select(run: Run) -> dict[str, Selected]:
    """Phase name -> its records. Gold labels are read only if the regime trains on them."""
    recipe, categories = run.recipe.classifier, run.task.category_names
    if recipe.regime == "gold":
        return {"gold": select_gold(_gold_rows(run), categories, recipe, recipe.num_records)}
    phases = {"silver": _select_silver(run)}
    if recipe.regime == "combined":
        phases["gold"] = select_gold(_gold_rows(run), categories, recipe, recipe.gold.num_records)
    return phases


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


def _phases(run: Run, selected: dict[str, Selected]) -> list[Phase]:
    recipe = run.recipe.classifier
    plans = dict.fromkeys(selected, (recipe.epochs, recipe.learning_rate))
    if recipe.regime == "combined":
        plans["gold"] = (recipe.gold.epochs, recipe.gold.learning_rate)
    return [Phase(name, part.train, part.held_out, *plans[name]) for name, part in selected.items()]


def _num_left_out(selected: dict[str, Selected]) -> dict[str, int]:
    return {f"{name}.{reason}": num for name, phase in selected.items() for reason, num in phase.num_left_out.items()}


def _counts(selected: dict[str, Selected]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, phase in selected.items():
        counts |= {f"num_{name}_train": len(phase.train), f"num_{name}_held_out": len(phase.held_out)}
    return counts


# The driver


def _fit(run: Run, monitor: Any) -> dict[str, Any]:
    """Run Ray Train to its end; what rank 0 returned."""
    recipe = run.recipe.classifier
    filesystem, path = _ray_storage(run.table("training"))
    resources = {"CPU": recipe.cpus_per_worker, **({"GPU": 1} if recipe.use_gpu else {})}
    trainer = TorchTrainer(
        _train,  # type: ignore[arg-type]
        train_loop_config={"run": run, "monitor": monitor},
        scaling_config=ScalingConfig(
            num_workers=recipe.num_workers, use_gpu=recipe.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # ray.train's type hints are those of its first version
            name=run.fingerprints["checkpoint"],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=recipe.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    return trainer.fit().return_value  # type: ignore[attr-defined]


def _ray_storage(training: TableDirectory) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """The run's own filesystem as Ray Train takes it, and the path on it."""
    if is_local(training.filesystem):
        return None, training.path()
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(training.filesystem)), training.path()


def _require_resources(run: Run) -> None:
    """Refuse what a Ray of this machine alone can never give; a cluster may still grow."""
    if os.environ.get("RAY_ADDRESS"):
        return
    recipe, there = run.recipe.classifier, ray.cluster_resources()
    wanted = {"CPU": recipe.cpus_per_worker * recipe.num_workers, "GPU": recipe.num_workers if recipe.use_gpu else 0}
    for kind, num in wanted.items():
        if num > there.get(kind, 0):
            raise InputError(
                f"classifier: {recipe.num_workers} workers need {num:g} {kind}s, Ray on this machine has "
                f"{there.get(kind, 0):g}; lower classifier.num_workers or classifier.cpus_per_worker"
            )


def _remove(training: TableDirectory) -> None:
    """Training checkpoints (weights, optimizer) have no use once the result is complete."""
    with contextlib.suppress(FileNotFoundError):
        training.filesystem.rm(training.path(), recursive=True)


class _Monitor:
    """How far training is: told by rank 0, asked by the driver. An actor."""

    def __init__(self) -> None:
        self.num_done, self.num_steps = 0, 0
        self.lines: list[str] = []

    def tell(self, num_done: int, num_steps: int, line: str = "") -> None:
        self.num_done, self.num_steps = num_done, num_steps
        if line:
            self.lines.append(line)

    def ask(self) -> tuple[int, int, list[str]]:
        lines, self.lines = self.lines, []
        return self.num_done, self.num_steps, lines


@contextlib.contextmanager
def _progress(monitor: Any) -> Iterator[None]:
    """A progress bar, and a line per epoch, drawn by a thread while the body runs."""
    over = threading.Event()

    def draw() -> None:
        with contextlib.ExitStack() as stack:
            progress: Progress | None = None
            last = False
            while not last:
                last = over.wait(_POLL_EVERY_S)
                num_done, num_steps, lines = ray.get(monitor.ask.remote())
                if progress is None and num_steps:
                    progress = stack.enter_context(Progress("finetune", num_steps, "steps", num_done))
                if progress is not None:
                    progress.advance(max(0, num_done - progress.done))
                for line in lines:
                    print(line, flush=True)

    thread = threading.Thread(target=draw, name="finetune-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# The worker


def _train(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker does; rank 0 returns the outcome, and has uploaded the result by then."""
    run: Run = config["run"]
    recipe = run.recipe.classifier
    torch.set_num_threads(max(1, int(recipe.cpus_per_worker)))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    started = time.monotonic()
    tuning, refusal = None, ""
    try:
        selected = _select(run)
        encoder = load_encoder(recipe, run.task.category_names)
        observer = _Reporter(run, config["monitor"])
        device = ray.train.torch.get_device()
        tuning = FineTuning(encoder, _phases(run, selected), recipe, run.task.category_names, device, observer)
    except InputError as error:
        refusal = str(error)
    if refusal := _first_refusal(refusal):
        return {"refusal": refusal}
    assert tuning is not None
    observer.num_steps = tuning.num_steps
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            tuning.restore(torch.load(Path(folder, _STATE), map_location="cpu", weights_only=True))
    observer.num_done = tuning.num_steps_done
    try:
        history = tuning.run()
    except InputError as error:  # the same on every rank: the losses are summed before they are checked
        return {"refusal": str(error)}
    parts = _upload(run, tuning, _counts(selected)) if tuning.rank == 0 else []
    return {
        "refusal": "",
        "parts": parts,
        "num_steps": len(history.steps),
        "measures": _measures(history),
        "busy_seconds": time.monotonic() - started,
    }


def _first_refusal(refusal: str) -> str:
    """What any worker cannot work with, known to all: none must wait for one that gave up."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return refusal
    refusals: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(refusals, refusal)
    return next((found for found in refusals if found), "")


class _Reporter(Observer):
    """Tells the driver's progress, Ray's metrics and Ray Train's checkpoints how training goes."""

    def __init__(self, run: Run, monitor: Any) -> None:
        self.monitor = monitor
        self.num_done = self.num_steps = 0
        self.first = ray.train.get_context().get_world_rank() == 0
        self.epochs = {"silver": run.recipe.classifier.epochs, "gold": run.recipe.classifier.epochs}
        if run.recipe.classifier.regime == "combined":
            self.epochs["gold"] = run.recipe.classifier.gold.epochs
        self.latest: dict[str, float] = {}
        tags = {"run": run.recipe.name}
        self.gauges = {}
        for name in ("loss", "learning_rate", "held_out_accuracy", "held_out_loss") if self.first else ():
            self.gauges[name] = Gauge(f"llambert_finetune_{name}", f"Fine-tuning: {name}", tag_keys=("run",))
            self.gauges[name].set_default_tags(tags)

    def on_steps(self, steps: list[Step]) -> None:
        self.num_done += len(steps)
        self.latest |= {"loss": steps[-1].loss, "learning_rate": steps[-1].learning_rate}
        if self.first:
            self._show()
            self.monitor.tell.remote(self.num_done, self.num_steps)

    def on_epoch(self, figures: dict[str, Any]) -> None:
        line = f"finetune: {figures['phase']} epoch {figures['epoch']}/{self.epochs[figures['phase']]}, "
        line += f"training loss {figures['training_loss']:.4f}"
        if "accuracy" in figures:
            self.latest |= {"held_out_accuracy": figures["accuracy"], "held_out_loss": figures["loss"]}
            line += f", held-out {figures['phase']} labels: accuracy {figures['accuracy']:.2%}, "
            line += f"macro F1 {figures['macro_f1']:.3f}, calibration error {figures['calibration_error']:.3f}"
        if self.first:
            self._show()
            self.monitor.tell.remote(self.num_done, self.num_steps, line)

    def on_checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        metrics = {"num_steps": self.num_done, **self.latest}
        if not self.first:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state(), Path(folder, _STATE))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _show(self) -> None:
        for name, gauge in self.gauges.items():
            if name in self.latest:
                gauge.set(self.latest[name])


def _upload(run: Run, tuning: FineTuning, counts: dict[str, int]) -> list[Part]:
    """Write the model folder file by file into the ``checkpoint`` table; its manifest is the driver's."""
    table = run.table("checkpoint")
    parts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tuning.encoder.save(folder)
        write_descriptions(folder, run.recipe, run.task, tuning.history, counts)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            inside = file.relative_to(folder).as_posix()
            write_whole(table.filesystem, table.path(inside), content)
            parts.append(
                Part(name=inside, num_rows=0, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            )
    return parts


def _measures(history: History) -> dict[str, float]:
    """The figures of the last epoch, for manifest and report."""
    last = history.epochs[-1]
    names = ("training_loss", "loss", "accuracy", "macro_f1", "calibration_error")
    held_out = {f"held_out_{name}": last[name] for name in names[1:] if name in last}
    return {"training_loss": last["training_loss"], **held_out}
