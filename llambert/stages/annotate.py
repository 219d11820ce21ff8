"""Annotate: ``sample`` -> what the LLM made of each record -> ``responses``."""

from llambert.annotation.splits import warn_of_unused_annotations
from llambert.engines import check
from llambert.execution import Executor
from llambert.execution.ray_executor import RAY
from llambert.run import Run
from llambert.stages.asking import ask, is_final
from llambert.storage.manifest import Manifest
from llambert.training.encoder import require_encoder


def annotate(run: Run, executor: Executor = RAY) -> Manifest:
    """Ask the LLM about the records of ``sample`` (``asking.ask``); for contextual calibration also about texts
    without content, into the table ``content_free``. Skipped when that is done.
    """
    check(run.recipe.annotator, run.task)
    wants_content_free = run.recipe.parse.prior_correction == "contextual"
    with_content_free = wants_content_free and not run.table("content_free").read_manifest()
    complete = run.table("responses").read_manifest()
    if not with_content_free and is_final(complete):
        return complete
    require_encoder(run)  # before money is spent on answers that it could not learn from
    warn_of_unused_annotations(run.recipe.classifier, run.table("sample").require_manifest())
    return ask(run, "responses", executor, with_content_free=with_content_free)
