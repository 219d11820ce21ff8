"""The report's section on where its figures come from: fingerprints, versions, machines, the training, the recipe."""

from typing import Any

import numpy as np

from llambert.evaluation.evidence import TRAINING_RECORD
from llambert.recipe import dump_recipe
from llambert.report.document import Block, Details, Section, Table, Verbatim
from llambert.report.findings import Findings
from llambert.storage.manifest import COMPUTED_ON

_HELD_OUT = (
    "Held-out figures after each epoch, against labels of the kind that the phase learned from (silver: the LLM's, not "
    "people's):"
)


def provenance_section(findings: Findings) -> Section:
    """Section "Where this comes from"."""
    evidence, run = findings.evidence, findings.run
    rows = []
    for table, manifest in findings.manifests.items():
        is_named_only = manifest.model is not None and manifest.model_identity == manifest.model
        identity = "(an endpoint's)" if is_named_only else manifest.model_identity
        model = " ".join(part for part in (manifest.model, identity) if part) or "-"
        completed = manifest.completed_at[:16].replace("T", " ")
        rows.append([run.tables[table].stage, manifest.fingerprint, manifest.code_version, completed, model])
    header = ["stage", "fingerprint", "llambert", "completed (UTC)", "model and content hash"]
    blocks: list[Block] = [
        Table(header, rows, left=frozenset({1, 2, 3, 4})),
        "A fingerprint covers the recipe, the corpus, the models and the rules of llambert. Not the machines: another "
        "kind of chip, or another number of threads or workers, may change the last digits of a result, and with them "
        "weights, scores, and labels that were close. Of an endpoint's model it covers the name alone.",
        Table(["computed on", "what"], _machines(findings), left=frozenset({1})),
        Details("How the classifier was trained", _training(evidence.training_record)),
        Details("The resolved recipe", [Verbatim(dump_recipe(run.recipe))]),
    ]
    return Section("Where this comes from", blocks)


def _machines(findings: Findings) -> list[list[str]]:
    """The chips of the fine-tuning and of the labels, as far as they were recorded."""
    trained, labels = findings.evidence.training_record.get("computed_on", {}), findings.evidence.manifests["labels"]
    rows = [[f"finetune: {name}", str(value)] for name, value in trained.items()]
    for name, num in labels.counts.items():
        if name.startswith(COMPUTED_ON):
            rows.append(["label: chip", f"{name.removeprefix(COMPUTED_ON)}: {num:,} records"])
    return [*rows, ["label: dtype", str(labels.recipe.get("dtype", "-"))]]


def _training(record: dict[str, Any]) -> list[Block]:
    """The figures of each epoch and the software versions; the rest stays in the training record's file."""
    blocks: list[Block] = []
    if epochs := record.get("epochs"):
        header = list(dict.fromkeys(key for epoch in epochs for key in epoch if np.isscalar(epoch[key])))
        rows = [[_shown(epoch.get(key)) for key in header] for epoch in epochs]
        blocks.append(Table([name.replace("_", " ") for name in header], rows, _HELD_OUT))
    if versions := [[name, str(version)] for name, version in record.get("versions", {}).items()]:
        blocks.append(Table(["software", "version"], versions))
    return blocks or [f"See {TRAINING_RECORD} of the checkpoint."]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
