"""A cell is stored once under everything that decides it, and shared by whoever asks for the same."""

import numpy as np
import pytest

from llambert.experiments.cells import CellResult, CellStore, create_cell
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN, grid_entries
from llambert.experiments.sources import read_labels
from tests.fixtures.labelled_films import open_experiment


def grid(folder, kind, **fields):
    experiment = open_experiment(folder, kind, **fields)
    return grid_entries(experiment, read_labels(experiment.data))


CLASSIFIER_CHANGES = [{"epochs": 3}, {"seed": 7}, {"learning_rate": 1e-3}, {"mislabel_share": 0.1}, {"num_records": 30}]


@pytest.mark.parametrize("change", CLASSIFIER_CHANGES, ids=str)
def test_a_changed_setting_is_another_cell(folder, change):
    experiment = open_experiment(folder, "regimes")
    labels = read_labels(experiment.data)
    before = create_cell(experiment.classifier, labels)
    assert create_cell(experiment.classifier.model_copy(update=change), labels).fingerprint != before.fingerprint


def test_another_way_to_train_is_another_cell(folder, monkeypatch):
    experiment = open_experiment(folder, "regimes")
    labels = read_labels(experiment.data)
    before = create_cell(experiment.classifier, labels)
    monkeypatch.setattr("llambert.experiments.cells.TRAINING_VERSION", 1000)
    assert create_cell(experiment.classifier, labels).fingerprint != before.fingerprint


def test_what_cannot_change_a_result_is_the_same_cell(folder):
    experiment = open_experiment(folder, "regimes")
    labels = read_labels(experiment.data)
    before = create_cell(experiment.classifier, labels)
    same = [
        {"num_records": 120},  # all there are
        {"num_records": 5_000},
        {"checkpoint_every_s": 7},
        {"gold": experiment.classifier.gold.model_copy(update={"epochs": 9})},  # of a phase that is not there
        {"regime": "silver_extra"},  # there is no split extra
    ]
    found = {create_cell(experiment.classifier.model_copy(update=change), labels).fingerprint for change in same}
    assert found == {before.fingerprint}


def test_a_changed_label_or_encoder_is_another_cell(folder):
    experiment = open_experiment(folder, "regimes")
    labels = read_labels(experiment.data)
    before = create_cell(experiment.classifier, labels)
    other = read_labels(experiment.data.model_copy(update={"num_test": 20}))
    assert create_cell(experiment.classifier, other).fingerprint != before.fingerprint
    weights = folder / "encoder" / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert create_cell(experiment.classifier, labels).fingerprint != before.fingerprint
    finally:
        weights.write_bytes(content)


def test_experiments_share_the_cells_they_have_in_common(folder):
    table = {entry.column: entry.cell for entry in grid(folder, "regimes", seeds=[0])}
    counts = grid(folder, "label_count", seeds=[0], silver_counts=[20, 120], gold_counts=[20, 40])
    wrong = grid(folder, "mislabel", seeds=[0], shares=[0.0, 0.5], annotator_error_share=0.1, num_records=40)
    by_count = {(entry.row, entry.column): entry.cell.fingerprint for entry in counts}
    assert table["combined"].starts_from.fingerprint == table["silver"].fingerprint
    assert by_count["silver", 120] == table["silver"].fingerprint
    assert by_count["gold", 40] == table["gold"].fingerprint
    assert wrong[0].cell.fingerprint == table["gold"].fingerprint


def test_the_mislabelling_figure_has_the_annotators_errors_beside_random_ones_of_the_same_share(folder):
    found = grid(folder, "mislabel", seeds=[3], shares=[0.0, 0.5], annotator_error_share=0.1, num_records=40)
    shown = {(entry.row, entry.column): entry.cell.recipe for entry in found}
    assert list(shown) == [
        *[(END_TO_END, share) for share in (0.0, 0.1, 0.5)],
        (ANNOTATOR, 0.1),
        *[(FROZEN, share) for share in (0.0, 0.5)],
    ]
    llm, random = shown[ANNOTATOR, 0.1], shown[END_TO_END, 0.1]
    assert (llm.regime, llm.mislabel_share, llm.num_records) == ("silver", 0.0, 40)
    assert (random.regime, random.mislabel_share, random.num_records) == ("gold", 0.1, 40)
    assert shown[FROZEN, 0.5].freeze_encoder
    assert {recipe.seed for recipe in shown.values()} == {3}


def test_the_first_of_two_that_store_a_cell_stays_and_its_training_state_goes(folder, tmp_path):
    experiment = open_experiment(folder, "regimes")
    cell = create_cell(experiment.classifier, read_labels(experiment.data))
    store = CellStore(str(tmp_path / "cells"))
    assert store.get(cell) is None
    store.save(cell, "state", {"seconds": 1.0})
    for accuracy in (0.5, 0.75):
        store.put(cell, CellResult(accuracy, 2.0, 1, np.array([[0.25, 0.75]], dtype=np.float32)))
    found = store.get(cell)
    assert (found.accuracy, found.seconds, found.probabilities.tolist()) == (0.5, 2.0, [[0.25, 0.75]])
    assert store.load(cell, "state") is None


def test_what_a_killed_training_left_half_written_goes_when_its_cell_is_stored_and_anothers_stays(folder, tmp_path):
    experiment = open_experiment(folder, "regimes")
    cell = create_cell(experiment.classifier, read_labels(experiment.data))
    store = CellStore(str(tmp_path / "cells"))
    store.save(cell, "state", {"seconds": 1.0})
    half_written = tmp_path / f"cells/.{cell.fingerprint}.state.0123456789abcdef.tmp"
    of_another = tmp_path / "cells/.another.state.0123456789abcdef.tmp"
    for path in (half_written, of_another):
        path.write_bytes(b"half")
    store.put(cell, CellResult(0.5, 2.0, 1, np.array([[0.25, 0.75]], dtype=np.float32)))
    assert (half_written.exists(), of_another.exists()) == (False, True)
