"""The report of a run: ``report.md``, ``report.html``, ``metrics.json``, the plots as SVG, and two tables.

``metrics.parquet`` has every figure (``schema.METRICS``), ``suspects.parquet`` the silver labels that are probably
wrong (``schema.SUSPECTS``).
"""

import dataclasses
import json
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llambert import schema
from llambert.annotation.peoples_answers import PEOPLES_VERSION, PeoplesAnswers
from llambert.annotation.responses import NUM_FOUND, RESPONSES_VERSION
from llambert.errors import Damaged
from llambert.evaluation.evidence import Evidence, read_evidence
from llambert.evaluation.guaranteed import ASKED, Guaranteed, guarantee_version
from llambert.planning.costs import StageCost, compare, format_duration, load_prices
from llambert.planning.forecast import read_pilot
from llambert.report.estimates import of_100
from llambert.run import Run
from llambert.storage.manifest import Manifest, Part
from llambert.storage.part_file import PartWriter, parse_footer
from llambert.storage.run_directory import TableDirectory
from llambert.untrusted import parse_json

if TYPE_CHECKING:
    from llambert.evaluation.metrics import Estimate
    from llambert.report.findings import Findings

PLOTS = "plots"
_METRICS_JSON = "metrics.json"
METRICS_PART = "metrics.parquet"
SUSPECTS_PART = "suspects.parquet"
_SUMMARY_WIDTH = 100
_GUARANTEE = "guarantee"
"""In the upstream of the report's manifest: the ``guarantee_version`` that it is made of."""


def report(run: Run, prices: str | None = None) -> Manifest:
    """Compute every figure of a finished run and write its report; skipped when it is complete.

    It is written again with ``prices`` (a price table's path), and if a plan was made, records were answered, labels
    were certified or decided, or what people answered was saved since.
    ``InputError`` names the missing table if a stage is not complete. Gold labels are not required: figures that need
    them say so.
    """
    directory = run.table("report")
    pilot = read_pilot(run)
    manifest = directory.read_manifest()
    silver = run.table("silver").read_manifest()
    answers = silver.upstream.get(RESPONSES_VERSION) if silver else None
    made_of = {
        "plan": pilot.measured_at if pilot else "",
        RESPONSES_VERSION: answers or "",
        _GUARANTEE: guarantee_version(run),
        PEOPLES_VERSION: PeoplesAnswers.read(run.table("people"), run.task.category_names).version,
    }
    if manifest and prices is None and all(manifest.upstream.get(name, "") == made_of[name] for name in made_of):
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
    costs, recipe = _costs(run, evidence), run.recipe
    findings = Findings(
        run=run,
        evidence=evidence,
        quality=assess(evidence),
        costs=costs,
        comparison=compare(costs, len(evidence.records), recipe.annotator.max_replicas, recipe.label.max_actors),
        prices=load_prices(prices),
        suspects=find_suspects(run, evidence),
        pilot=pilot,
    )
    document = compose(findings)
    rows = _metric_rows(findings)
    files = {f"{PLOTS}/{figure.name}.svg": standalone(figure.svg) for figure in document.figures()}
    files |= {"report.html": to_html(document), "report.md": to_markdown(document, PLOTS)}
    files[_METRICS_JSON] = _metrics_json(findings, rows, document.answer)
    stored = [directory.write_file(name, content.encode()) for name, content in files.items()]
    parts = [
        _write_table(directory, METRICS_PART, pa.Table.from_pylist(rows, schema=schema.METRICS)),
        _write_table(directory, SUSPECTS_PART, findings.suspects.rows),
    ]
    return run.complete(
        "report",
        parts,
        files=stored,
        upstream={name: version for name, version in made_of.items() if version},
        num_kept=int(evidence.records.has_label.sum()),
        counts={"num_gold": findings.quality.num_gold, "num_unseen_gold": findings.quality.num_unseen},
        wall_seconds=time.monotonic() - started,
    )


def summary(run: Run) -> str:
    """The report in about 25 lines of plain text, from its ``metrics.json``."""
    directory = run.table("report")
    content = directory.read_file(_METRICS_JSON)
    try:
        return "\n".join(_summary_lines(parse_json(content), directory))
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # JSON, but not of a report
        raise Damaged(f"{directory.uri}/{_METRICS_JSON}", "it holds no figures", directory.remedy) from error


def _summary_lines(figures: dict[str, Any], directory: TableDirectory) -> list[str]:
    lines = [line for sentence in figures["answer"] for line in textwrap.wrap(sentence, _SUMMARY_WIDTH)]
    lines.append("")
    shown = {
        "final_accuracy": "final labels right",
        "silver_accuracy": "silver labels right",
        "silver_accuracy_rejects_wrong": "the same, rejects counted as wrong",
        "classifier_accuracy_unseen": "classifier right, never seen by LLM",
        "classifier_accuracy_unlearned": "classifier right, not learned from",
        "classifier_accuracy_all": "classifier right, annotated too",
        "accuracy_difference": "classifier minus silver",
    }
    found = {row["metric"]: row for row in figures["metrics"]}
    for metric in (metric for metric in shown if metric in found):
        value, low, high = (of_100(found[metric][key], 1) for key in ("value", "low", "high"))
        lines.append(f"  {shown[metric]:<36}{value:>6} %   95 % interval {low} to {high} %")
    if "classifier_accuracy_unlearned" not in found:
        lines.append("  classifier: accuracy unknown on records that it did not learn from")
    lines.append("")
    for stage in figures["stages"]:
        duration = format_duration(stage["wall_seconds"])
        lines.append(f"  {stage['stage']:<12}{stage['num_records']:>12,} records  {duration:>12}")
    return [*lines, "", f"Report: {directory.uri}/report.html"]


def _costs(run: Run, evidence: Evidence) -> dict[str, StageCost]:
    answers, manifests = evidence.answers, evidence.manifests
    num_tokens = {
        "responses": (answers.num_prompt_tokens, answers.num_response_tokens),
        "labels": (manifests["labels"].counts.get("num_tokens", 0),),
    }
    costs = {name: StageCost.of(manifest, *num_tokens.get(name, ())) for name, manifest in manifests.items()}
    costs["responses"] = _as_if_asked_now(run, costs["responses"], manifests["responses"])
    return costs | (_costs_of_guarantee(run, evidence.guaranteed) if evidence.guaranteed else {})


def _as_if_asked_now(run: Run, cost: StageCost, responses: Manifest) -> StageCost:
    """What earlier starts asked took its time then."""
    if not responses.counts.get(NUM_FOUND):
        return cost
    replicas = min(run.recipe.annotator.max_replicas, len(responses.parts))
    return dataclasses.replace(cost, wall_seconds=max(cost.wall_seconds, cost.busy_seconds / replicas))


def _costs_of_guarantee(run: Run, guaranteed: Guaranteed) -> dict[str, StageCost]:
    """Of certify and escalate, under the names of their last tables: the questions asked, and the time of both.

    The time to draw the records and to decide is part of it. Without a question it is that of the stage's records.
    """
    found = {}
    for name, others in {"certificate": ("certification",), "decisions": ("deferred",)}.items():
        if (manifest := guaranteed.manifests.get(name)) is None:
            continue
        cost = StageCost.of(manifest)
        if responses := guaranteed.manifests.get(ASKED[name]):
            tokens = (responses.counts[key] for key in (schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS))
            asked = _as_if_asked_now(run, StageCost.of(responses, *tokens), responses)
            # The certificate's time is that of its questions too, unless another start asked them.
            beside = max(cost.wall_seconds - asked.wall_seconds, 0.0) if name == "certificate" else cost.wall_seconds
            cost = dataclasses.replace(asked, wall_seconds=asked.wall_seconds + beside)
        drawn = sum(run.table(other).require_manifest().wall_seconds for other in others)
        found[name] = dataclasses.replace(cost, wall_seconds=cost.wall_seconds + drawn)
    return found


def _metric_rows(findings: "Findings") -> list[dict[str, Any]]:
    """Rows of ``schema.METRICS``; figures that need gold and have none are left out."""
    from llambert.evaluation.metrics import Estimate
    from llambert.report.guarantee_section import guarantee_figures

    run, evidence, quality, suspects = findings.run, findings.evidence, findings.quality, findings.suspects
    annotator = {"model": run.recipe.annotator.model, "training_labels": None, "num_train": None, "seed": None}
    classifier = {
        "model": run.recipe.classifier.model,
        "training_labels": run.recipe.classifier.regime,
        "num_train": evidence.manifests["checkpoint"].num_kept,
        "seed": run.recipe.classifier.seed,
    }
    rows: list[dict[str, Any]] = []

    def add(source: dict[str, Any], metric: str, figure: "Estimate | float | None") -> None:
        if figure is not None:
            value, low, high = (figure, None, None) if isinstance(figure, float) else (figure.value, *figure.bounds)
            rows.append({"task": run.task.name, **source, "metric": metric, "value": value, "low": low, "high": high})

    for source, name, evaluation in (
        (annotator, "silver_{}", quality.silver),
        (classifier, "classifier_{}_unseen", quality.unseen),
        (classifier, "classifier_{}_all", quality.whole),
    ):
        if evaluation is None:
            continue
        add(source, name.format("accuracy"), evaluation.accuracy)
        add(source, name.format("macro_f1"), evaluation.macro_f1)
        if (error := evaluation.calibration) is not None:
            add(source, name.format("ece"), error.value)
            add(source, name.format("ece_if_calibrated"), Estimate(error.if_calibrated, error.low, error.high))
        for figures in evaluation.classes:
            add(source, f"{name.format('precision')}[{figures.category}]", figures.precision)
            add(source, f"{name.format('recall')}[{figures.category}]", figures.recall)
    add(annotator, "silver_accuracy_rejects_wrong", quality.silver_rejects_wrong)
    for split, estimate in quality.by_split.items():
        add(classifier, f"classifier_accuracy_unseen[{split}]", estimate)
    for split, estimate in quality.silver_by_split.items():
        add(annotator, f"silver_accuracy[{split}]", estimate)
    add(classifier, "classifier_accuracy_unlearned", quality.unlearned)
    add(classifier, "accuracy_difference", quality.difference)
    if quality.prior is not None:
        add(annotator, "silver_accuracy_raw", quality.prior.raw)
        add(annotator, "prior_correction_gain", quality.prior.gain)
    add(classifier, "silver_agreement", quality.agreement)
    add(annotator, "silver_wrong", suspects.base_rate)
    add(annotator, "silver_suspects_wrong", suspects.precision)
    if quality.final is not None:
        add(classifier, "final_accuracy", quality.final.whole)
        for who, estimate in quality.final.by_decider.items():
            add(annotator if who == "annotator" else classifier, f"final_accuracy[{who}]", estimate)
    for name, figure in guarantee_figures(findings).items():
        add(classifier, name, figure)
    for share in quality.shares:
        add(classifier, f"share_as_labelled[{share.category}]", share.raw)
        add(classifier, f"share_corrected[{share.category}]", share.corrected)
    return rows


def _metrics_json(findings: "Findings", rows: list[dict[str, Any]], answer: list[str]) -> str:
    manifests, run = findings.manifests, findings.run
    counts = {"num_in", "num_kept", "num_rejected", "counts", "labels"}
    provenance = {"fingerprint", "model", "model_identity", "code_version", "completed_at"}
    values = {
        "run": run.recipe.name,
        "task": run.task.name,
        "answer": answer,
        "num_gold": findings.quality.num_gold,
        "num_saved_gold": findings.evidence.records.num_saved_gold,
        "metrics": rows,
        "counts": {name: manifest.model_dump(include=counts) for name, manifest in manifests.items()},
        "stages": list(findings.costs.values()),
        "comparison": findings.comparison,
        "quality": findings.quality,
        "growth": {name: manifest.growth.model_dump() for name, manifest in manifests.items() if manifest.growth},
        "refresh": run.decision.model_dump() if run.decision else None,
        "provenance": {name: manifest.model_dump(include=provenance) for name, manifest in manifests.items()},
    }
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False, default=_json_value)


def _json_value(value: Any) -> Any:
    """Dataclasses, arrays and numpy numbers as JSON values."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value.tolist()


def _write_table(directory: TableDirectory, name: str, table: pa.Table) -> Part:
    rows = PartWriter()
    rows.add(table)
    content = rows.content({})
    directory.write_file(name, content)
    return Part.from_footer(name, parse_footer(content), len(content))
