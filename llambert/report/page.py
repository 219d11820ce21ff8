"""The report of a run: ``report.md``, ``report.html``, ``metrics.json``, the plots as SVG, and two tables.

``metrics.parquet`` has every figure (``schema.METRICS``), ``suspects.parquet`` the silver labels that are probably
wrong (``schema.SUSPECTS``).
"""

import dataclasses
import json
import textwrap
import time
from typing import Any

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.annotation.responses import ANSWERS
from llambert.evaluation.evidence import Evidence, read_evidence
from llambert.planning.costs import StageCost, compare, format_duration, load_prices
from llambert.planning.forecast import read_pilot
from llambert.run import Run
from llambert.storage.part_file import PartRows, parse_footer
from llambert.storage.run_directory import Manifest, Part, TableDirectory, part_of, write_whole

PLOTS = "plots"
METRICS_PART = "metrics.parquet"
SUSPECTS_PART = "suspects.parquet"
_SUMMARY_WIDTH = 100


def report(run: Run, prices: str | None = None) -> Manifest:
    """Compute every figure of a finished run and write its report; skipped when it is complete.

    It is written again with ``prices`` (a price table's path), and where a plan was made or records were answered
    since. ``InputError`` names the table that is missing if a stage is not complete. No gold label is needed: figures
    that rest on gold say so instead.
    """
    directory = run.table("report")
    pilot = read_pilot(run)
    manifest = directory.read_manifest()
    silver = run.table("silver").read_manifest()
    answers = silver.upstream.get(ANSWERS) if silver else None
    if (
        manifest
        and prices is None
        and (pilot is None or manifest.upstream.get("plan") == pilot.measured_at)
        and manifest.upstream.get(ANSWERS) == answers
    ):
        return manifest
    # Imported here: matplotlib and scikit-learn take seconds, and a complete run needs neither.
    from llambert.evaluation.quality import assess
    from llambert.evaluation.suspects import find_suspects
    from llambert.report.document import to_html, to_markdown
    from llambert.report.findings import Findings
    from llambert.report.plots import standalone
    from llambert.report.sections import compose

    started = time.monotonic()
    evidence = read_evidence(run)
    costs = _costs(evidence)
    findings = Findings(
        run=run,
        evidence=evidence,
        quality=assess(evidence),
        costs=costs,
        comparison=compare(
            costs, len(evidence.records), run.recipe.annotator.max_replicas, run.recipe.label.max_actors
        ),
        prices=load_prices(prices),
        suspects=find_suspects(run, evidence),
        pilot=pilot,
    )
    document = compose(findings)
    rows = _metric_rows(findings)
    for figure in document.figures():
        _write(directory, f"{PLOTS}/{figure.name}.svg", standalone(figure.svg).encode())
    _write(directory, "report.html", to_html(document).encode())
    _write(directory, "report.md", to_markdown(document, PLOTS).encode())
    _write(directory, "metrics.json", _metrics_json(findings, rows, document.answer).encode())
    parts = [
        _write_table(directory, METRICS_PART, pa.Table.from_pylist(rows, schema=schema.METRICS)),
        _write_table(directory, SUSPECTS_PART, findings.suspects.rows),
    ]
    num_labelled = int(evidence.records.has_label.sum())
    return run.complete(
        "report",
        parts,
        upstream=({"plan": pilot.measured_at} if pilot else {}) | ({ANSWERS: answers} if answers else {}),
        num_kept=num_labelled,
        counts={"num_gold": findings.quality.num_gold, "num_unseen_gold": findings.quality.num_unseen},
        wall_seconds=time.monotonic() - started,
    )


def summary(run: Run) -> str:
    """The report in at most 25 lines of plain text, from its ``metrics.json``."""
    directory = run.table("report")
    figures = json.loads(directory.filesystem.cat_file(directory.path("metrics.json")))
    lines = [line for sentence in figures["answer"] for line in textwrap.wrap(sentence, _SUMMARY_WIDTH)][:12]
    lines.append("")
    shown = {
        "silver_accuracy": "silver labels right",
        "classifier_accuracy_unseen": "classifier right, never annotated",
        "classifier_accuracy_all": "classifier right, all records",
        "accuracy_difference": "classifier minus silver",
    }
    for row in figures["metrics"]:
        if row["metric"] in shown:
            value, low, high = (100 * row[key] for key in ("value", "low", "high"))
            lines.append(f"  {shown[row['metric']]:<36}{value:6.1f} %   95 % interval {low:.1f} to {high:.1f} %")
    if not figures["num_gold"]:
        lines.append("  no gold labels: accuracy unknown")
    lines.append("")
    for stage in figures["stages"]:
        duration = format_duration(stage["wall_seconds"])
        lines.append(f"  {stage['stage']:<12}{stage['num_records']:>12,} records  {duration:>12}")
    lines += ["", f"Report: {directory.uri}/report.html"]
    return "\n".join(lines)


def _costs(evidence: Evidence) -> dict[str, StageCost]:
    answers = evidence.answers
    costs = {name: StageCost.of(manifest) for name, manifest in evidence.manifests.items()}
    costs["responses"] = dataclasses.replace(
        costs["responses"],
        num_prompt_tokens=answers.num_prompt_tokens,
        num_response_tokens=answers.num_response_tokens,
    )
    num_tokens = evidence.manifests["labels"].counts.get("num_tokens", 0)
    costs["labels"] = dataclasses.replace(costs["labels"], num_prompt_tokens=num_tokens)
    return costs


def _metric_rows(findings: Any) -> list[dict[str, Any]]:
    """Rows of ``schema.METRICS``; figures that need gold and have none are left out."""
    run, evidence, quality = findings.run, findings.evidence, findings.quality
    annotator = {"model": run.recipe.annotator.model, "training_labels": None, "num_train": None, "seed": None}
    classifier = {
        "model": run.recipe.classifier.model,
        "training_labels": run.recipe.classifier.regime,
        "num_train": evidence.manifests["checkpoint"].num_kept,
        "seed": run.recipe.classifier.seed,
    }
    rows: list[dict[str, Any]] = []

    def add(of: dict[str, Any], metric: str, value: float, low: float | None = None, high: float | None = None) -> None:
        rows.append({"task": run.task.name, **of, "metric": metric, "value": value, "low": low, "high": high})

    for of, name, evaluation in (
        (annotator, "silver_{}", quality.silver),
        (classifier, "classifier_{}_unseen", quality.unseen),
        (classifier, "classifier_{}_all", quality.whole),
    ):
        if evaluation is None:
            continue
        add(of, name.format("accuracy"), evaluation.accuracy.value, *evaluation.accuracy.bounds)
        add(of, name.format("macro_f1"), evaluation.macro_f1)
        if evaluation.calibration_error is not None:
            add(of, name.format("ece"), evaluation.calibration_error)
        for figures in evaluation.classes:
            for kind, estimate in (("precision", figures.precision), ("recall", figures.recall)):
                if estimate is not None:
                    metric = f"{name.format(kind)}[{figures.category}]"
                    add(of, metric, estimate.value, *estimate.bounds)
    for name, split_accuracy in quality.by_split.items():
        add(classifier, f"classifier_accuracy_unseen[{name}]", split_accuracy.value, *split_accuracy.bounds)
    for name, split_accuracy in quality.silver_by_split.items():
        add(annotator, f"silver_accuracy[{name}]", split_accuracy.value, *split_accuracy.bounds)
    if quality.difference is not None:
        add(classifier, "accuracy_difference", quality.difference.value, *quality.difference.bounds)
    if quality.prior is not None:
        add(annotator, "silver_accuracy_raw", quality.prior.raw.value, *quality.prior.raw.bounds)
        add(annotator, "prior_correction_gain", quality.prior.gain.value, *quality.prior.gain.bounds)
    if quality.agreement is not None:
        add(classifier, "silver_agreement", quality.agreement.value, *quality.agreement.bounds)
    suspects = findings.suspects
    for name, estimate in (("silver_wrong", suspects.base), ("silver_suspects_wrong", suspects.precision)):
        if estimate is not None:
            add(annotator, name, estimate.value, *estimate.bounds)
    for share in quality.shares:
        add(classifier, f"share_as_labelled[{share.category}]", share.raw)
        if share.corrected is not None:
            add(classifier, f"share_corrected[{share.category}]", share.corrected.value, *share.corrected.bounds)
    return rows


def _metrics_json(findings: Any, rows: list[dict[str, Any]], answer: list[str]) -> str:
    evidence, run = findings.evidence, findings.run
    values = {
        "run": run.recipe.name,
        "task": run.task.name,
        "answer": answer,
        "num_gold": findings.quality.num_gold,
        "metrics": rows,
        "counts": {
            name: m.model_dump(include={"num_in", "num_kept", "num_rejected", "counts", "labels"})
            for name, m in evidence.manifests.items()
        },
        "stages": [_plain(cost) for cost in findings.costs.values()],
        "comparison": _plain(findings.comparison),
        "quality": _plain(findings.quality),
        "provenance": {
            name: {
                "fingerprint": m.fingerprint,
                "model": m.model,
                "model_identity": m.model_identity,
                "code_version": m.code_version,
                "completed_at": m.completed_at,
            }
            for name, m in evidence.manifests.items()
        },
    }
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and numpy numbers as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value


def _write_table(directory: TableDirectory, name: str, table: pa.Table) -> Part:
    rows = PartRows()
    rows.add(table)
    content = rows.content({})
    _write(directory, name, content)
    return part_of(name, parse_footer(content), len(content))


def _write(directory: TableDirectory, name: str, content: bytes) -> None:
    write_whole(directory.filesystem, directory.path(name), content)
