"""README.md of the decisions folder: the final labels, what is guaranteed of them, and who decided them."""

from llambert.evaluation.guarantee_sentence import guarantee_sentences
from llambert.evaluation.guaranteed import Guaranteed
from llambert.markdown import escape, table
from llambert.run import Run
from llambert.storage.manifest import Manifest


def decisions_card(run: Run, decisions: Manifest, certificate: Manifest) -> str:
    """A dataset card in the Hugging Face hub's form, so that the folder can be published as it is.

    ``decisions`` is the manifest about to be written. Of the same parts and certificate the card is the same: drivers
    that complete the table at the same time write one text.
    """
    recipe, task = run.recipe, run.task
    assert recipe.guarantee is not None
    manifests = {"certificate": certificate, "decisions": decisions}
    guaranteed = Guaranteed(recipe.guarantee, manifests, None, 0, task.category_names)
    num = max(decisions.num_kept, 1)
    labels = {name: decisions.labels.get(name, 0) for name in task.category_names}
    deciders = {who: guaranteed.num_decided_by(who) for who in ("classifier", "annotator", "person")}
    shares, decided = (
        [[name, f"{count:,}", f"{count / num:.2%}"] for name, count in counts.items()] for counts in (labels, deciders)
    )
    is_people = recipe.guarantee.oracle == "people"
    lines = [
        "---",
        "task_categories: [text-classification]",
        "configs: [{config_name: default, data_files: '*.parquet'}]",
        "---",
        f"# {escape(recipe.name)}: final labels",
        "",
        f"{escape(task.question)} Answered for {decisions.num_kept:,} records by a classifier, and by "
        f"{'people' if is_people else 'an LLM'} where it is not sure enough.",
        "",
        *(f"{escape(sentence)}\n" for sentence in guarantee_sentences(guaranteed)),
        *table(["label", "records", "share"], shares),
        "",
        *table(["decided by", "records", "share"], decided),
        "",
        "## Columns",
        "- `record_id` (string)",
        f"- `label` (string): the final label, one of {', '.join(map(escape, task.category_names))}",
        "- `score` (float32): the classifier's probability of its own label",
        "- `decided_by` (string): who decided the final label: `classifier`, `annotator` (the LLM) or `person`",
        "- `classifier_label` (string): the classifier's own label",
        *(["- `label_probabilities`: the classifier's, by category"] if recipe.label.probabilities else []),
        *(f"- {escape(name)}: the corpus' own" for name in recipe.label.keep),
        "",
        "## Provenance",
        f"- Corpus: {escape(recipe.corpus.path)} (content {run.generation}).",
        f"- Annotator: {escape(recipe.annotator.model)}. Classifier: {escape(recipe.classifier.model)}, fine-tuned "
        f"(labels {decisions.upstream['labels']}).",
        f"- Certificate: table {decisions.upstream['certificate']}, of {guaranteed.certified.num_sampled:,} records "
        f"drawn at random and decided by {'people' if is_people else 'the annotator'}.",
        f"- Made by llambert {decisions.code_version}. The time, and checksums of the parts: manifest.json.",
    ]
    return "\n".join(lines) + "\n"
