"""README.md of the labels folder: what the table is, whence it came and how far to trust it."""

from llambert.markdown import escape, table
from llambert.run import Run
from llambert.storage.manifest import Manifest
from llambert.training.card import held_out_labels


def dataset_card(run: Run, labels: Manifest, checkpoint: Manifest) -> str:
    """A dataset card in the Hugging Face hub's form, so that the folder can be published as it is.

    ``labels`` is the manifest about to be written, ``checkpoint`` the classifier's, whose measures are quoted. Of the
    same parts it is the same: drivers that complete the table at the same time write one text.
    """
    recipe, task = run.recipe, run.task
    counts = {name: labels.labels.get(name, 0) for name in task.category_names}
    shares = [[name, f"{num:,}", f"{num / max(labels.num_kept, 1):.2%}"] for name, num in counts.items()]
    measures = [f"- {escape(name)}: {value:.4g}" for name, value in sorted(checkpoint.measures.items())]
    silver = run.as_trained.table("silver").read_manifest() if recipe.classifier.learns_silver else None
    lines = [
        "---",
        "task_categories: [text-classification]",
        "configs: [{config_name: default, data_files: '*.parquet'}]",
        "---",
        f"# {escape(recipe.name)}: labels",
        "",
        f"{escape(task.question)} Answered for {labels.num_kept:,} of {labels.num_in:,} records by a classifier:",
        "these labels are a model's, not people's.",
        "",
        *table(["label", "records", "share"], shares),
        "",
        "## Columns",
        "- `record_id` (string)",
        f"- `label` (string): one of {', '.join(map(escape, task.category_names))}",
        "- `score` (float32): the classifier's probability of `label`",
        *(["- `label_probabilities` (list of category and probability)"] if recipe.label.probabilities else []),
        *(f"- {escape(name)}: the corpus' own" for name in recipe.label.keep),
        "",
        "## Provenance",
        f"- Corpus: {escape(recipe.corpus.path)} (table {labels.upstream['corpus']}, content {labels.generation}).",
        *([f"- Annotator: {escape(recipe.annotator.model)}, asked about {silver.num_in:,} records."] if silver else []),
        f"- Classifier: {escape(recipe.classifier.model)}, fine-tuned (checkpoint {labels.upstream['checkpoint']}, "
        f"content {labels.model_identity}), computed in {recipe.label.dtype}.",
        "  On another kind of chip scores may differ in their last digits, and labels that were close may flip.",
        f"- Texts cut to the classifier's length: {labels.counts.get('num_truncated', 0):,}.",
        f"- Records that could not be labelled: {sum(labels.num_rejected.values()):,}; they are in label_rejects.",
        f"- Made by llambert {labels.code_version}. The time, and checksums of the parts: manifest.json.",
        *(
            ["", "## Figures of the fine-tuning", f"Held out: against {held_out_labels(recipe)}.", ""]
            if measures
            else []
        ),
        *measures,
    ]
    return "\n".join(lines) + "\n"
