"""Asking the annotator about the texts of a table, for annotate, certify and escalate alike.

What is asked is looked up in the answer store first (``annotation/answer_store.py``), and kept there: the table of
responses says of each record which answer is its. So the same question is paid for once, whatever becomes of sample,
corpus and run.
"""

import random
from typing import TypeGuard

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.answer_store import AnswerReader, AnswerStore
from llambert.engines import BudgetSpent, check
from llambert.errors import ErrorKind, InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.stage_progress import StageProgress
from llambert.recipe import EndpointLimits
from llambert.run import Run
from llambert.stages.asking.completion import NUM_PASSING, TEXTS, have_failed, write_responses
from llambert.stages.asking.ordered_questions import OrderedQuestions
from llambert.stages.asking.replica import NUM_DONE, AskPart
from llambert.storage.manifest import Manifest
from llambert.storage.reference import provide_model


def ask(
    run: Run, name: str, executor: Executor, *, with_content_free: bool = False, may_end_early: bool = False
) -> Manifest:
    """Ask the annotator about each text of a complete table; only what no run of the same answer store has asked.

    ``name``: the table of responses (columns ``schema.RESPONSES``); its ``texts`` are asked about, in their order where
    a budget may end before they do. Returns its manifest. A record the engine failed on is counted as rejected. Records
    that failed for a reason that may pass are asked about again by each start; a complete table stays so where they
    cannot be. Where every answer is there, no engine is made and Ray is not started. ``with_content_free``: the texts
    without content are asked about too, into the table ``content_free``. ``may_end_early``: the end of a budget is no
    error; the records that it did not reach have failed for a reason that may pass.
    """
    annotator = run.recipe.annotator
    check(annotator, run.task)
    responses, stage, texts = run.table(name), run.tables[name].stage, run.table(run.tables[name].texts)
    complete = responses.read_manifest()
    if complete and complete.upstream[TEXTS] != texts.require_manifest().content:
        complete = None
    if not with_content_free and is_final(complete):
        return complete
    questions, store = OrderedQuestions.of(run, texts, with_content_free), AnswerStore(run.table("answers"))
    found = store.find(questions.keys)
    units = questions.units(found, annotator.records_per_part)
    if not _has_budget(annotator.limits):
        # Each driver in an order of its own: of two that ask the same, neither waits for the other or runs beside it.
        random.Random().shuffle(units)
    num_open = found.null_count
    failures: dict[str, tuple[str, str]] = {}

    def num_done(outcome: Outcome) -> int:
        failures.update(outcome.failures)
        return int(outcome.measures[NUM_DONE])

    progress = StageProgress(stage, responses, len(found), "records", num_done, num_done=len(found) - num_open)
    if complete and num_open:
        print(f"{stage}: records that failed before ({num_open:,}) are asked again", flush=True)
    elif units and num_open < len(found):
        print(f"{stage}: {len(found) - num_open:,} of {len(found):,} answers are stored already", flush=True)
    try:
        if units:
            store.describe(run.asking)
            replicas = (annotator.min_replicas, annotator.max_replicas)
            replica = (annotator.cpus_per_replica, annotator.gpus_per_replica)
            pool = Pool(*replicas, *replica, annotator.max_attempts, annotator.node_resource)
            num_tokens = _num_tokens_stored(run, name, questions.keys, found)
            arguments = (run, name, num_tokens, _provide_model(run, executor))
            progress.run(executor, AskPart, arguments, units, pool)
    except InputError as error:
        if may_end_early and isinstance(error, BudgetSpent):
            print(f"{stage}: {error}", flush=True)
            keys = questions.keys.filter(store.find(questions.keys).is_null())
            failures = {key.hex(): (str(error), ErrorKind.PASSING) for key in keys.to_pylist()} | failures
        else:
            open_keys = questions.keys.filter(found.is_null())
            if complete is None or with_content_free or not have_failed(run, name, complete, open_keys):
                raise
            print(
                f"{stage}: not all records that failed before ({num_open:,}) could be asked again: {error}", flush=True
            )
    store.save_index()
    return write_responses(run, name, questions, store.find(questions.keys), failures, progress)


def is_final(manifest: Manifest | None) -> TypeGuard[Manifest]:
    """Whether a table of responses is complete, and nothing in it to be asked again."""
    return manifest is not None and not manifest.counts.get(NUM_PASSING)


def _has_budget(limits: EndpointLimits) -> bool:
    return limits.budget_tokens is not None or limits.budget_usd is not None


def _provide_model(run: Run, executor: Executor) -> str:
    """What every replica opens as the annotator's model, fetched once before there is one."""
    annotator = run.recipe.annotator
    if annotator.engine == "openai":
        return annotator.model
    storage = f"{run.directory.uri}/models"
    return provide_model(annotator.model, annotator.revision, storage, spans_machines=executor.spans_machines)


def _num_tokens_stored(run: Run, name: str, keys: pa.Array, answered_in: pa.Array) -> tuple[int, int]:
    """Prompt and response tokens of the answers that are stored, and of those that ``run`` asked for before.

    A budget is the run's: what its other tables of responses have cost is part of it.
    """
    columns = [schema.NUM_PROMPT_TOKENS, schema.NUM_RESPONSE_TOKENS]
    answers = AnswerReader(run.table("answers"), columns).read(keys, answered_in)
    prompt, response = (int(pc.sum(answers[column]).as_py() or 0) for column in columns)
    for other in run.tables.upstream(name, run.recipe):
        manifest = run.table(other).read_manifest() if run.tables[other].refers_to else None
        if manifest is not None:
            prompt, response = (
                prompt + manifest.counts[schema.NUM_PROMPT_TOKENS],
                response + manifest.counts[schema.NUM_RESPONSE_TOKENS],
            )
    return prompt, response
