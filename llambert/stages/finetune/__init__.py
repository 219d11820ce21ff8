"""Fine-tune: ``silver`` (and gold, if the regime says so) -> ``checkpoint``, a Hugging Face model folder.

Data-parallel. Every worker reads the whole training set, which a person chose the size of,
tokenizes it once, and takes its share of each global batch: no row is dropped, none is seen twice, and no
worker waits for another's last batch.
"""

import contextlib
from functools import partial

from llambert import stopping
from llambert.execution import Executor, TrainingProgress
from llambert.execution.progress import Progress
from llambert.execution.ray_executor import RAY
from llambert.execution.stage_progress import ProgressFile
from llambert.run import Run
from llambert.stages.finetune.refresh import choose_checkpoint, decision_note
from llambert.stages.finetune.saved_answers import count_learned_answers
from llambert.stages.finetune.selection import (
    NUM_SILVER,
    counts,
    drop_outdated_training,
    learned_texts,
    num_left_out,
    select,
    untrained_note,
)
from llambert.stages.finetune.worker import Trained, train
from llambert.storage.locations import remove_folder
from llambert.storage.manifest import Manifest
from llambert.storage.reference import provide_model
from llambert.storage.run_directory import TableDirectory
from llambert.training.encoder import require_encoder
from llambert.training.training_set import Selection

_LEARNED_PART = "part-0.parquet"


def finetune(run: Run, executor: Executor = RAY) -> Manifest:
    """Train the classifier of the recipe; skipped when its checkpoint is complete, or that of an earlier generation of
    the corpus stays (``refresh.py``).

    A killed worker resumes from the last training checkpoint, at most ``classifier.max_failures`` times; a
    killed driver does when it is started again. ``InputError``: labels that cannot be learned from, an encoder
    that cannot be used, a loss that is no longer finite. ``RuntimeError``: the workers failed too often, or of a
    fault that would recur.
    """
    run = choose_checkpoint(run, executor)
    if decided := decision_note(run):
        print(decided, flush=True)
    checkpoint = run.table("checkpoint")
    if manifest := checkpoint.read_manifest():
        if note := untrained_note(run, manifest):
            print(note, flush=True)
        return manifest
    report = _TrainingReport(checkpoint)
    try:
        require_encoder(run)
        selected = select(run)
        drop_outdated_training(run)
        with stopping.recorded(lambda: report.write_progress(SystemExit())), report:
            trained = executor.train(run, partial(train, model=_provide_model(run, executor)), report.report_progress)
    except BaseException as error:
        report.write_progress(error)
        raise
    manifest = _complete(run, selected, trained, report.seconds)
    training = run.table("training")  # its states (weights, optimizer) have no use once the result is complete
    remove_folder(training.filesystem, training.path())
    return manifest


def _provide_model(run: Run, executor: Executor) -> str:
    """What every worker opens as the encoder, fetched once before there is one."""
    recipe, storage = run.recipe.classifier, f"{run.directory.uri}/models"
    placed = {"spans_machines": executor.spans_machines, "pickled": recipe.pickled_weights}
    return provide_model(recipe.model, recipe.revision, storage, **placed)


def _complete(run: Run, selected: dict[str, Selection], trained: Trained, seconds: dict[str, float]) -> Manifest:
    learned = learned_texts(selected)
    run.complete("learned", [run.table("learned").commit_part(_LEARNED_PART, learned)])
    num_silver = {NUM_SILVER: selected["silver"].num_in} if "silver" in selected else {}
    num_trained = {"num_steps": trained.num_steps, "num_workers": trained.num_workers}
    return run.complete(
        "checkpoint",
        trained.parts,
        num_left_out(selected),
        num_in=sum(phase.num_in for phase in selected.values()),
        num_kept=sum(len(phase.train) + len(phase.held_out) for phase in selected.values()),
        counts=counts(selected) | num_silver | num_trained | count_learned_answers(run, learned),
        measures=trained.measures,
        wall_seconds=seconds["wall_seconds"],
        busy_seconds=seconds["busy_seconds"],
        accelerator_seconds=seconds["wall_seconds"] * trained.num_workers if run.recipe.classifier.use_gpu else 0.0,
    )


class _TrainingReport(contextlib.ExitStack):
    """How far training is, and the time it took, over all starts of the stage.

    A progress bar while it is entered, a line per epoch, and ``progress.json``.
    """

    def __init__(self, checkpoint: TableDirectory) -> None:
        super().__init__()
        self._file = ProgressFile(checkpoint, unit="steps")
        self._bar: Progress | None = None
        self._done, self._total = self._file.earlier.get("done", 0), self._file.earlier.get("total")
        self._busy_before = self._busy_now = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """``wall_seconds`` and ``busy_seconds`` (of all workers) of all starts together."""
        return self._file.seconds(busy_seconds=self._busy_before + self._busy_now)

    def report_progress(self, progress: TrainingProgress) -> None:
        """What rank 0 said; after a failure a new one starts counting its seconds anew."""
        if progress.busy_seconds < self._busy_now:
            self._busy_before += self._busy_now
        self._done, self._total, self._busy_now = progress.num_done, progress.num_steps, progress.busy_seconds
        self._file.write_throttled(self._done, self._total, self.seconds)
        if self._bar is None:
            self._bar = self.enter_context(Progress("finetune", self._total, "steps", self._done))
        self._bar.advance(max(0, self._done - self._bar.done))  # after a worker's failure it goes back
        if progress.line:
            print(progress.line, flush=True)

    def write_progress(self, error: BaseException) -> None:
        """What ``llambert status`` reads of a start that ``error`` ended."""
        self._file.write(self._done, self._total, self.seconds, error)
