"""The cells of an experiment, and their places in its table or figure."""

from collections.abc import Iterator
from dataclasses import dataclass

from llambert.errors import InputError
from llambert.experiments.cells import Cell, create_cell
from llambert.experiments.experiment_recipe import AnyTraining, LabelCount, Mislabel, Regimes, TrainingExperiment
from llambert.experiments.sources import Labels
from llambert.recipe import ClassifierRecipe

END_TO_END, FROZEN, ANNOTATOR = "end to end", "frozen encoder", "annotator's labels"


@dataclass(frozen=True)
class GridEntry:
    """``row``: an encoder, or a curve. ``column``: a regime, a number of labels, or a share of wrong ones."""

    row: str
    column: str | int | float
    seed: int
    cell: Cell


def grid_entries(experiment: AnyTraining, labels: Labels) -> list[GridEntry]:
    """All entries, seed by seed, so that an unfinished table has complete seeds; several may share a cell."""
    return [place for seed in experiment.seeds for place in _of_seed(experiment, labels, seed)]


def _of_seed(experiment: AnyTraining, labels: Labels, seed: int) -> Iterator[GridEntry]:
    match experiment:
        case Regimes():
            return _regimes(experiment, labels, seed)
        case LabelCount():
            return _label_counts(experiment, labels, seed)
        case Mislabel():
            return _mislabelled(experiment, labels, seed)


def annotator_error_share(experiment: Mislabel, labels: Labels) -> float | None:
    """The annotator's share of wrong labels: from the recipe, or measured; None if neither is possible."""
    if experiment.annotator_error_share is not None:
        return experiment.annotator_error_share
    found = labels.annotator_errors()
    return None if found is None else round(found[0] / found[1], 4)


def _regimes(experiment: Regimes, labels: Labels, seed: int) -> Iterator[GridEntry]:
    encoders = experiment.encoders or {experiment.classifier.model.rpartition("/")[2]: experiment.classifier.model}
    for name, model in encoders.items():
        for regime in experiment.regimes:
            num_records = labels.first_learned(regime).num_rows
            recipe = _classifier(experiment, regime, num_records, seed).model_copy(update={"model": model})
            yield GridEntry(name, regime, seed, create_cell(recipe, labels))


def _label_counts(experiment: LabelCount, labels: Labels, seed: int) -> Iterator[GridEntry]:
    counts = {"silver": experiment.silver_counts, "gold": experiment.gold_counts}
    for regime, of_regime in counts.items():
        for count in of_regime:
            if count > (num_labelled := labels.first_learned(regime).num_rows):
                raise InputError(f"{regime}_counts: {count} records are wanted, {num_labelled} have such a label")
            recipe = _classifier(experiment, regime, count, seed)
            yield GridEntry(regime, count, seed, create_cell(recipe, labels))


def _mislabelled(experiment: Mislabel, labels: Labels, seed: int) -> Iterator[GridEntry]:
    num = min(experiment.num_records or labels.gold_train().num_rows, labels.gold_train().num_rows)
    own_share = annotator_error_share(experiment, labels)
    shares = sorted({*experiment.shares, *([own_share] if own_share is not None else [])})
    plain = _classifier(experiment, "gold", num, seed)
    for share in shares:
        recipe = plain.model_copy(update={"mislabel_share": share})
        yield GridEntry(END_TO_END, share, seed, create_cell(recipe, labels))
    if own_share is not None and labels.silver is not None:
        recipe = _classifier(experiment, "silver", num, seed)
        yield GridEntry(ANNOTATOR, own_share, seed, create_cell(recipe, labels))
    if experiment.frozen_encoder is not None:
        head = {"freeze_encoder": True, "learning_rate": experiment.frozen_encoder.learning_rate}
        for share in experiment.shares:
            recipe = plain.model_copy(update={**head, "mislabel_share": share})
            yield GridEntry(FROZEN, share, seed, create_cell(recipe, labels))


def _classifier(experiment: TrainingExperiment, regime: str, num_records: int, seed: int) -> ClassifierRecipe:
    """The experiment's classifier for one cell. Without a number in the recipe, all records there are."""
    most = experiment.classifier.num_records if isinstance(experiment, Regimes) and regime != "gold" else None
    num = min(num_records, most or num_records)
    fields = {"regime": regime, "num_records": num, "epochs": experiment.epochs(num), "seed": seed}
    return experiment.classifier.model_copy(update=fields)
