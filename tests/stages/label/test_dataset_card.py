"""The card of the labelled corpus."""

import dataclasses

from llambert.execution.in_process import IN_PROCESS
from llambert.stages.label import label
from llambert.stages.label.dataset_card import dataset_card
from tests.fixtures.label_runs import filled_run


def test_a_category_of_any_name_stays_one_cell_of_the_dataset_card(tmp_path):
    run = filled_run(tmp_path, 30)
    manifest = label(run, IN_PROCESS)
    names = ["a | b\nc", "$x_1$"]
    categories = [one.model_copy(update={"name": name}) for one, name in zip(run.task.categories, names, strict=True)]
    renamed = dataclasses.replace(run, task=run.task.model_copy(update={"categories": tuple(categories)}))
    card = dataset_card(renamed, manifest, run.table("checkpoint").require_manifest())
    assert r"| a \| b c | 0 | 0.00% |" in card
    assert r"one of a \| b c, \$x_1\$" in card
