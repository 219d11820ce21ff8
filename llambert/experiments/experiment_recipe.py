"""One experiment, typed, frozen, complete: a YAML file whose ``experiment`` says which of the paper's tables it is."""

from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe, Share
from llambert.section import Section, apply_setting, inconsistent, parse_yaml, placement_field, read_text, validate

Regime = Literal["gold", "silver", "silver_extra", "combined"]


class Source(Section):
    """A file of labelled texts: Parquet, JSON Lines, CSV or TSV, compressed or not, local or ``s3://…``."""

    path: str
    text: str = "text"
    record_id: str = "record_id"
    label: str = "label"
    split: str | None = None
    """Of silver labels: records of split ``test`` are never learned from, ``extra`` only by ``silver_extra``."""


class LabelledData(Section):
    """What is learned from and judged by: three files, or the directory of a finished run.

    Of a run: its silver labels; as gold, the gold labels of split ``train``, or without splits those of the
    annotated records; as test, those of split ``test``, or without splits those of records never annotated. Test
    records whose id or text is among the silver or gold records that can be learned from are left out and counted.
    """

    folder: str = "."
    """What the paths below are relative to."""
    silver: Source | None = None
    gold: Source | None = None
    test: Source | None = None
    run: str | None = None
    num_test: PositiveInt | None = None
    """Number of test records, drawn by hash: nested subsets, independent of which records were annotated; null: all."""
    categories: tuple[str, ...] = ()
    """Empty: the labels that occur, in alphabetical order."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if (self.run is None) == (self.test is None):
            raise inconsistent("name either run, or test and what is learned from (silver, gold)", "run")
        return self


class Experiment(Section):
    """What every experiment has. Its results are in ``storage/name``, its cells in ``storage/cells``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str = placement_field("runs/experiments")
    paper: Literal["imdb", "umls_regions"] | None = None
    """Task of the paper whose figures are shown beside the results."""

    @property
    def results_folder(self) -> str:
        """Where its results are; cells are beside it, shared by the experiments of one storage."""
        return f"{self.storage.rstrip('/')}/{self.name}"


class TrainingExperiment(Experiment):
    """An experiment whose cells are trainings of the classifier, one for each seed.

    The seed decides the head's first weights, which records a smaller set has (nested), their order, dropout,
    and which labels are made wrong.
    """

    data: LabelledData
    classifier: ClassifierRecipe
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    min_steps: NonNegativeInt = 0
    """Minimum number of training steps: a small training set is repeated for more than ``classifier.epochs``, …"""
    max_epochs: PositiveInt = 10
    """… but at most for this many epochs."""
    cpus_per_cell: float = placement_field(1.0, gt=0)
    gpus_per_cell: float = placement_field(0.0, ge=0)
    store_every_s: float = placement_field(30.0, gt=0)
    """Interval at which the state of a running training is stored."""
    max_attempts: PositiveInt = placement_field(3)

    def epochs(self, num_records: int) -> int:
        """Number of epochs of a training on ``num_records`` records."""
        enough = round(self.min_steps * self.classifier.batch_size / num_records)
        return max(self.classifier.epochs, min(enough, self.max_epochs))


class Regimes(TrainingExperiment):
    """Encoders by regimes: the paper's Table 2 and its UMLS table."""

    experiment: Literal["regimes"]
    encoders: dict[str, str] = Field(default_factory=dict)
    """Name in the table -> reference; empty: only ``classifier.model``."""
    regimes: tuple[Regime, ...] = ("gold", "silver", "combined")


class LabelCount(TrainingExperiment):
    """Accuracy against the number of training labels, gold and silver: the paper's Figure 1, left."""

    experiment: Literal["label_count"]
    silver_counts: tuple[PositiveInt, ...] = Field(min_length=2)
    gold_counts: tuple[PositiveInt, ...] = ()


class FrozenEncoder(Section):
    """How only the head is trained."""

    learning_rate: float = Field(1e-3, gt=0)


class Mislabel(TrainingExperiment):
    """Accuracy against the share of labels made wrong on purpose: the paper's Figure 1, right.

    Beside it the classifier of as many of the annotator's labels, at the annotator's own share of errors. Without
    ``annotator_error_share`` that is measured on the records that have both labels.
    """

    experiment: Literal["mislabel"]
    num_records: PositiveInt | None = None
    """Gold records learned from; null: all."""
    shares: tuple[Share, ...] = Field(min_length=2)
    frozen_encoder: FrozenEncoder | None = FrozenEncoder()
    annotator_error_share: Share | None = Field(None, ge=0, lt=1)


class Llm(Section):
    """Rows of Table 1. ``settings``: what differs from the recipe, as ``annotator.model=…``."""

    recipe: str
    """The recipe of a run; its corpus and task are asked about."""
    settings: tuple[str, ...] = ()
    shots: tuple[NonNegativeInt, ...] = (0,)


class LlmComparison(Experiment):
    """LLMs by shots: accuracy, parse rate and time on gold records; the paper's Table 1."""

    experiment: Literal["llms"]
    settings: tuple[str, ...] = ()
    """Of every row's recipe: ``corpus.path=…``."""
    llms: dict[str, Llm] = Field(min_length=1)


class Review(Section):
    """A sample that ``llambert review export`` drew, answered by one person or several."""

    recipe: str
    """Of the run, with ``settings``, as it was given to ``review export``."""
    settings: tuple[str, ...] = ()
    answers: tuple[str, ...] = Field(min_length=1)
    """The answered files."""


class Answers(Section):
    """A person's second look at records that the classifier got wrong: a file with all labels, or a review."""

    path: str | None = None
    record_id: str = "record_id"
    gold: str = "gold_label"
    model: str = "model_label"
    person: str = "person_label"
    review: Review | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if (self.path is None) == (self.review is None):
            raise inconsistent("name either path or review", "path")
        return self


class ErrorAnalysis(Experiment):
    """What people say of the classifier's mistakes: the paper's Table 3."""

    experiment: Literal["error_analysis"]
    answers: dict[str, Answers] = Field(min_length=1)
    """Name in the table -> what was answered."""


AnyTraining = Regimes | LabelCount | Mislabel
AnyExperiment = AnyTraining | LlmComparison | ErrorAnalysis
_KINDS = {get_args(kind.model_fields["experiment"].annotation)[0]: kind for kind in get_args(AnyExperiment)}


def load_experiment(path: str | Path, settings: list[str] | None = None) -> AnyExperiment:
    """Read an experiment's file and apply ``a.b=c`` settings; ``InputError`` with every fault, a line each."""
    text = read_text(path)
    values = parse_yaml(text, path)
    for setting in settings or []:
        apply_setting(values, setting)
    kind = _KINDS.get(str(values.get("experiment")))
    if kind is None:
        raise InputError(
            f"{path}: experiment: should be one of {', '.join(_KINDS)} (found {values.get('experiment')!r})"
        )
    return validate(kind, values, text, path)
