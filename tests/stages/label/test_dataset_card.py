"""The card of the labelled corpus."""

import dataclasses

import torch

from llambert.classifier.chip import chip_name
from llambert.execution.in_process import IN_PROCESS
from llambert.stages.label import label
from llambert.stages.label.dataset_card import dataset_card
from llambert.storage.manifest import COMPUTED_ON
from tests.fixtures.card_pages import HOSTILE, rendered
from tests.fixtures.label_runs import filled_run


def test_the_card_says_how_many_records_were_annotated_and_against_what_figures_are(tmp_path):
    run = filled_run(tmp_path, 30)
    silver = run.table("silver")
    silver.complete("parse", [], {"no_category": 7}, num_kept=5, num_in=12)
    checkpoint = run.table("checkpoint").require_manifest().model_copy(update={"measures": {"held_out_accuracy": 0.9}})
    card = dataset_card(run, label(run, IN_PROCESS), checkpoint)
    assert "asked about 12 records." in card
    assert run.recipe.annotator.num_records != 12
    assert "Held out: against held-out labels of the LLM (silver), not people's" in card
    label_counts = label(run, IN_PROCESS).counts
    [chip] = [name for name in label_counts if name.startswith(COMPUTED_ON)]
    assert label_counts[chip] == 30
    assert chip.removeprefix(COMPUTED_ON) == chip_name(torch.device("cpu"))
    assert "On another kind of chip scores may differ in their last digits" in card


def test_a_category_of_any_name_stays_one_cell_of_the_dataset_card(tmp_path):
    run = filled_run(tmp_path, 30)
    manifest = label(run, IN_PROCESS)
    names = ["a | b\nc", "$x_1$"]
    categories = [one.model_copy(update={"name": name}) for one, name in zip(run.task.categories, names, strict=True)]
    renamed = dataclasses.replace(run, task=run.task.model_copy(update={"categories": tuple(categories)}))
    card = dataset_card(renamed, manifest, run.table("checkpoint").require_manifest())
    assert r"| a \| b c | 0 | 0.00% |" in card
    assert r"one of a \| b c, \$x_1\$" in card


def test_no_name_or_text_of_the_user_changes_the_structure_of_the_dataset_card(tmp_path):
    run = filled_run(tmp_path, 30)
    manifest, checkpoint = label(run, IN_PROCESS), run.table("checkpoint").require_manifest()
    checkpoint = checkpoint.model_copy(update={"measures": {"held_out_accuracy": 0.9}})

    def card(text):
        first, *others = run.task.categories
        task = run.task.model_copy(
            update={"question": text, "categories": (first.model_copy(update={"name": text}), *others)}
        )
        recipe = run.recipe.model_copy(
            update={
                "name": text,
                "annotator": run.recipe.annotator.model_copy(update={"model": text}),
                "classifier": run.recipe.classifier.model_copy(update={"model": text}),
                "corpus": run.recipe.corpus.model_copy(update={"path": text}),
                "label": run.recipe.label.model_copy(update={"keep": (text, "title")}),
            }
        )
        renamed = dataclasses.replace(run, task=task, recipe=recipe)
        # Else the files and models of these names are looked up.
        vars(renamed).update(fingerprints=run.fingerprints, decision=None)
        return dataset_card(renamed, manifest, checkpoint)

    run.table("silver").complete("parse", [], {}, num_kept=5, num_in=5)
    plain = rendered(card("plain"))
    assert [text for text in HOSTILE if rendered(card(text)) != plain] == []
