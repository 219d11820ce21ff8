"""The report's section on what is new since the corpus was read before, and on why the classifier stayed or not."""

import pyarrow.compute as pc

from llambert import schema
from llambert.report.document import Block, Section, Table
from llambert.report.findings import Findings
from llambert.run import Run
from llambert.storage.manifest import Growth


def growth_section(findings: Findings) -> list[Section]:
    """Section "What is new since last time"; none on the first generation of a corpus."""
    manifests, run = findings.evidence.manifests, findings.run
    corpus, labels = manifests["corpus"].growth, manifests["labels"].growth
    if corpus is None:
        return []
    rows = [
        [corpus.files if corpus.files != "file" else "files", *_counts(corpus, "files")],
        ["records", *_counts(corpus, "records")],
        ["labels", *_counts(labels, "records")] if labels else ["labels", f"{manifests['labels'].num_kept:,}", *"---"],
    ]
    if annotated := _annotated(run, corpus.since):
        rows.append(["annotated records", *annotated])
    blocks: list[Block] = [
        Table(["", "new", "changed", "gone", "as before"], rows),
        "A record is changed if it has the ID of one that was there before, and another text. Of a file that changed "
        "all labels are new.",
        _about_classifier(findings),
    ]
    return [Section("What is new since last time", blocks)]


def _counts(growth: Growth, of: str) -> list[str]:
    return [f"{getattr(growth, f'num_{of}_{what}'):,}" for what in ("new", "changed", "removed", "same")]


def _annotated(run: Run, since: str) -> list[str]:
    """Sampled records that were not sampled before, and the others; empty if there was no sample."""
    before = run.at(since).table("sample")
    if before.read_manifest() is None:
        return []
    now, then = (table.read([schema.RECORD_ID])[schema.RECORD_ID] for table in (run.table("sample"), before))
    num_same = pc.sum(pc.is_in(now, value_set=then.combine_chunks())).as_py() or 0
    return [f"{len(now) - num_same:,}", "-", f"{len(then) - num_same:,}", f"{num_same:,}"]


def _about_classifier(findings: Findings) -> str:
    decision = findings.run.decision
    if decision is None or not (decision.stays or decision.replaces):
        return "The classifier was trained on a sample of this corpus."
    trained = findings.evidence.manifests["checkpoint"]
    if decision.stays:
        which = f"{trained.completed_at[:10]} ({trained.fingerprint})"
        return f"The classifier is that of {which} and stays: {decision.reason}."
    return f"The classifier was trained again: {decision.reason}."


def growth_sentence(findings: Findings) -> list[str]:
    """One sentence for the top of the report; none on the first generation of a corpus."""
    growth, decision = findings.evidence.manifests["corpus"].growth, findings.run.decision
    if growth is None:
        return []
    stays = decision is not None and decision.stays
    classifier = "the classifier stayed" if stays else "the classifier was trained anew"
    return [f"Since the last time {growth.of_files}; {growth.of_records}; {classifier}."]
