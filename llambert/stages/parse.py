"""Parse: stored responses -> ``silver`` and ``rejects``. No LLM and no Ray: parsing again costs seconds.

Words of a ``generate`` response are read by rule (verbalizer.py). Probabilities of ``score`` and ``choice`` are
normalised and, if the recipe asks, corrected for the annotator's preference among the categories
(calibration.py), which needs a first pass over the sample; a record of which two categories are equally probable is
``ambiguous``. Gold labels of the corpus are never read here.
"""

import contextlib
import time
from collections import Counter

import pyarrow as pa

from llambert import schema
from llambert.annotation.part_names import part_name, version_of
from llambert.annotation.responses import RESPONSES_VERSION, answers_version, iter_answers
from llambert.errors import Damaged, InputError
from llambert.run import Run
from llambert.stages.response_parser import RESPONSE_COLUMNS, ResponseParser
from llambert.storage.manifest import Manifest, Part, total


def parse(run: Run) -> Manifest:
    """Make ``silver`` and ``rejects`` of the responses; skipped when complete.

    A complete table is made again where records have been answered since (``responses.py``): its parts get new names,
    and the old ones go when the new manifest is there.

    Returns the manifest of ``silver``: ``num_rejected`` by reason; ``labels``; ``measures``
    ``share.<category>`` of the labels and, where there are label probabilities, ``prior.<category>`` (the mean
    probability before any correction), ``bias.<category>`` and ``scale`` (what the correction did to
    log-probabilities). ``InputError`` where the recipe asks for what these responses do not have.
    """
    silver, rejects = run.table("silver"), run.table("rejects")
    version, complete = answers_version(run.table("responses").read_manifest()), silver.read_manifest()
    if complete and complete.upstream.get(RESPONSES_VERSION) == version:
        return complete if _remove_replaced(run, version) else parse(run)
    started = time.monotonic()
    check(run)
    parser = ResponseParser(run)
    silver_parts: list[Part] = []
    reject_parts: list[Part] = []
    for ranks, responses in iter_answers(run.table, [*schema.SAMPLE.names, *RESPONSE_COLUMNS]):
        name = part_name(*ranks, version)
        kept, rejected = parser.separate(responses)
        reject_parts.append(rejects.commit_part(name, rejected, counts=_count_values(rejected, schema.REJECT_REASON)))
        silver_parts.append(silver.commit_part(name, kept, labels=_count_values(kept, schema.LABEL)))
    if _has_more_answers(run, version):
        return parse(run)  # and a part of them was read
    num_rejected, per_label = total(reject_parts), total(silver_parts, "labels")
    num_kept = max(sum(per_label.values()), 1)
    shares = {f"share.{name}": per_label.get(name, 0) / num_kept for name in run.task.category_names}
    try:
        made = run.complete(
            "silver",
            silver_parts,
            num_rejected,
            {RESPONSES_VERSION: version},
            measures={**parser.measures, **shares},
            wall_seconds=time.monotonic() - started,
        )
    except Damaged:  # another driver has removed these parts as those of earlier answers
        if not _has_more_answers(run, version):
            raise
        return parse(run)
    return made if _remove_replaced(run, version) else parse(run)


def _has_more_answers(run: Run, version: str) -> bool:
    """Whether the responses are not of ``version`` any more: another driver has asked again meanwhile."""
    return answers_version(run.table("responses").read_manifest()) != version


def _remove_replaced(run: Run, version: str) -> bool:
    """Remove the parts that were made of other answers than those of ``version``.

    Nothing is removed, and False returned, if more was answered since: another driver may be making silver of that.
    Its parts are not in the listing either: they are made after the responses have changed, and the listing was made
    before these were seen to be of ``version``.
    """
    replaced = [
        (table, name)
        for table in (run.table("silver"), run.table("rejects"))
        for name in table.part_names()
        if version_of(name) not in ("", version)
    ]
    if _has_more_answers(run, version):
        return False
    for table, name in replaced:
        with contextlib.suppress(FileNotFoundError):  # another driver was faster
            table.filesystem.rm_file(table.path(name))
    return True


def check(run: Run) -> None:
    """Refuse a ``parse`` section that this task or this annotator's mode cannot follow."""
    recipe, categories = run.recipe.parse, run.task.category_names
    wants_probabilities = {
        "prior_correction": recipe.prior_correction != "none",
        "min_answer_mass": recipe.min_answer_mass > 0,
        "min_confidence": recipe.min_confidence > 0,
    }
    for key, is_wanted in wants_probabilities.items():
        if is_wanted and run.recipe.annotator.mode == "generate":
            raise InputError(f"parse.{key}: needs label probabilities; annotator.mode 'generate' has none, 'score' has")
    if shares := recipe.expected_shares:
        if sorted(shares) != sorted(categories):
            raise InputError(f"parse.expected_shares: names {', '.join(shares)}; the task has {', '.join(categories)}")
        if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
            raise InputError(f"parse.expected_shares: must be above 0 and sum to 1 (found {dict(shares)})")
    if unknown := sorted(set(recipe.gold_labels.values()) - set(categories)):
        raise InputError(f"parse.gold_labels: {unknown[0]!r} is no category; the task has {', '.join(categories)}")
    if recipe.prior_correction == "gold" and not recipe.gold_labels:
        raise InputError("parse.gold_labels: prior_correction 'gold' needs some: record_id -> category")


def _count_values(table: pa.Table, column: str) -> dict[str, int]:
    return dict(Counter(table[column].to_pylist()))
