"""The report's sections on which labels are wrong: confusion by category, and suspected silver labels."""

from llambert.evaluation.metrics import ClassFigures
from llambert.report import plots
from llambert.report.document import Block, Details, Figure, Section, Table
from llambert.report.estimates import NEEDS_GOLD, estimate_row, interval, percent
from llambert.report.findings import Findings

_SUSPECTS_SHOWN = 10
_MAX_TEXT_CHARS = 300


def confusion_section(findings: Findings) -> Section:
    """Section "Which labels are wrong"."""
    quality, categories = findings.quality, findings.evidence.categories
    blocks: list[Block] = []
    for name, title, evaluation in (
        ("annotator", "annotator (silver labels)", quality.silver),
        ("classifier", "classifier (records that the LLM never saw)", quality.unseen),
    ):
        if evaluation is None:
            blocks.append(f"Confusion, precision and recall of the {title}: {NEEDS_GOLD} on these records.")
            continue
        svg = plots.confusion(f"confusion-{name}", evaluation.matrix, categories, name)
        blocks.append(
            Figure(f"confusion-{name}", svg, f"Confusion of the {title}: records, and share of the gold category.")
        )
        blocks.append(
            Table(
                ["category", "precision", "recall", "F1", "gold records"],
                [_class_row(figures) for figures in evaluation.classes],
                f"{title[0].upper()}{title[1:]}; 95 % Wilson intervals in brackets; "
                f"macro F1 {evaluation.macro_f1:.3f}:",
            )
        )
    return Section("Which labels are wrong", blocks)


def suspects_section(findings: Findings) -> Section:
    """Section "Silver labels that are probably wrong"."""
    suspects = findings.suspects
    by_label = ", ".join(f"{num:,} {label}" for label, num in suspects.by_label.items() if num) or "none"
    learned = findings.evidence.manifests["checkpoint"].counts.get("num_silver_train", 0)
    blocks: list[Block] = [
        f"{suspects.num:,} of {suspects.num_silver:,} silver labels ({by_label}) are not what the classifier says, "
        f"which learned from {learned:,} silver labels. suspects.parquet beside this report lists them, the most "
        "certain first."
    ]
    if suspects.base_rate is not None and suspects.precision is not None:
        rows = [estimate_row("all silver labels: a random pick", suspects.base_rate)]
        rows += [estimate_row(f"the first {num:,} suspects", share) for num, share in suspects.precision_at.items()]
        rows.append(estimate_row("all suspects", suspects.precision))
        blocks.append(Table(["share that is wrong by gold", "value", "95 % interval", "records"], rows))
    shown = [
        [row["label"], row["suggested_label"], f"{row['score']:.3f}", row["text"][:_MAX_TEXT_CHARS]]
        for row in suspects.rows.slice(0, _SUSPECTS_SHOWN).to_pylist()
    ]
    if shown:
        header = ["silver label", "classifier", "score", "text"]
        blocks.append(Details(f"The first {len(shown)}", [Table(header, shown, left=frozenset({1, 3}))]))
    return Section("Silver labels that are probably wrong", blocks)


def _class_row(figures: ClassFigures) -> list[str]:
    estimates = (figures.precision, figures.recall)
    shares = [f"{percent(share.value)} ({interval(share)})" if share else "-" for share in estimates]
    return [figures.category, *shares, f"{figures.f1:.3f}", f"{figures.num_gold:,}"]
