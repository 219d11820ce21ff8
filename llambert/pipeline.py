"""The whole method, from a corpus to its labels and a report: LlamBERT (arXiv 2403.15938), step by step."""

from llambert.execution import Executor
from llambert.execution.devices import with_label_dtype
from llambert.execution.ray_executor import RAY
from llambert.report.page import report
from llambert.run import Run
from llambert.stages.annotate import annotate
from llambert.stages.certify import certify
from llambert.stages.certify.draw import check_before_annotation
from llambert.stages.escalate import escalate
from llambert.stages.finetune import finetune
from llambert.stages.finetune.refresh import choose_checkpoint
from llambert.stages.ingest import ingest
from llambert.stages.label import label
from llambert.stages.parse import parse
from llambert.stages.sample import sample
from llambert.training.encoder import require_encoder


def pipeline(run: Run, executor: Executor = RAY) -> None:
    """Every step skips what is complete, resumes what is half done, and writes its manifest last."""
    require_encoder(run)  # an encoder that cannot be used is refused before anything is started or spent
    run = with_label_dtype(run, executor)  # which the device decides where the recipe does not
    ingest(run, executor)  #    the corpus as records
    sample(run)  #    a random subset of them
    check_before_annotation(run)  # a guarantee that no answers can give is refused before any is paid for
    annotate(run, executor)  #  (i)   an LLM annotates it from a plain-language prompt
    parse(run)  #     (ii)  its responses become categories; (iii) what does not is discarded, with a reason
    run = choose_checkpoint(run, executor)  # of a corpus that has grown the one that is there may stay
    finetune(run, executor)  #  (iv)  a small encoder is fine-tuned on these silver labels
    label(run, executor)  #     (v)   and labels the whole corpus
    if run.recipe.guarantee:
        certify(run, executor)  #   from which score on its labels may be kept
        escalate(run, executor)  #  and the others go back to the LLM
    report(run)  #    how good, how fast, at what cost
