"""Escalate: what the classifier is not sure of enough goes to the annotator, and ``decisions`` says who decided what.

The records below the certificate's threshold are asked as in annotate, the least sure first (``deferred.py``); then
each labelled record gets its final label (``decide.py``), and the manifest of ``decisions`` says what is guaranteed.
"""

from llambert.evaluation.certified import Certified
from llambert.execution import Executor
from llambert.execution.ray_executor import RAY
from llambert.run import Run
from llambert.stages.asking import ask
from llambert.stages.by_label import publish_by_label
from llambert.stages.escalate.decide import decide, is_escalated
from llambert.stages.escalate.deferred import defer
from llambert.stages.undecided import require_guarantee
from llambert.storage.manifest import Manifest


def escalate(run: Run, executor: Executor = RAY) -> Manifest | None:
    """Write the table ``decisions``; skipped when it is complete and no answer has changed since.

    None while people have not decided what the certificate needs; ``InputError`` if the recipe has no ``guarantee``.
    Where the budget ends before all deferred records are asked, those with the lowest scores were asked first, and the
    guarantee says what was reached. If the recipe asks for labels by label, the final ones are published so.
    """
    recipe, table = require_guarantee(run), run.table("certificate")
    certificate = table.require_manifest() if recipe.oracle == "annotator" else table.read_manifest()
    if certificate is None:
        return None
    certified = Certified.of(certificate)
    deferred = defer(run, certified)
    if is_escalated(certificate, deferred):
        ask(run, "escalated", executor, may_end_early=True)
    decisions = decide(run, executor, certificate, certified, deferred)
    if run.recipe.label.by_label:
        publish_by_label(run, "decisions_by_label", executor)
    return decisions
