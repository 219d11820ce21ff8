"""Try a task before spending money: a few records, their prompts, and the LLM's answers.

Reads the head of the corpus and needs no Ray. The answers of a recipe's LLM are kept in the answer store of its run, so
that neither another trial nor the run pays for them again; nothing else is written.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.answer_store import AnswerReader, AnswerStore
from llambert.annotation.prompts import chat_messages, completion_text, llama2_text
from llambert.annotation.questions import Questions
from llambert.annotation.responses import is_transient
from llambert.annotation.sampling import Purpose, Selection
from llambert.annotation.verbalizer import RejectReason, Verbalizer
from llambert.corpora import checks, find_sources, gold
from llambert.corpora.chunks import read_chunks
from llambert.corpora.records import separate, source_columns
from llambert.corpora.rows import UNDECODABLE, SourceFile
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.engines import Answer, create_engine
from llambert.engines.answers import answers_of, answers_table
from llambert.errors import InputError
from llambert.recipe import EMBEDDED_ANNOTATOR, AnnotatorRecipe, digest, load_recipe
from llambert.run import claim, open_run
from llambert.section import parse_yaml, read_text
from llambert.storage.reference import find_commit, is_hub_name
from llambert.tasks import Task, load_task

HEAD_RECORDS = 10_000
_MAX_CHARS_SHOWN = 4000
_ASKED_FOR = digest("try")  # in the place of the responses' fingerprint in the name of a part of the store


@dataclass(frozen=True)
class Trial:
    """The task, the texts and the LLM; ``recipe``: the file and the settings of the run that keeps the answers."""

    task: Task
    corpus: CorpusRecipe
    annotator: AnnotatorRecipe
    recipe: tuple[str, list[str] | None] | None = None


@dataclass(frozen=True)
class TrialRecord:
    """One record, the LLM's answer, and how parse would read it (before any prior correction)."""

    record_id: str
    gold_label: str | None
    answer: Answer
    label: str | None
    reject_reason: str | None


def open_trial(recipe: str, corpus: str | None, text: str, settings: list[str] | None) -> Trial:
    """The trial of a recipe, or of a task (a file or a shipped one) on ``corpus`` with the embedded LLM."""
    path = Path(recipe)
    if path.is_file() and "prompts" not in parse_yaml(read_text(path), path):
        run = load_recipe(path, settings)
        if run.annotator.gold_shots is not None:
            raise InputError(
                "annotator.gold_shots: are drawn when the run starts; try the prompt with its own shots: "
                "--set annotator.gold_shots=null"
            )
        task = load_task(run.task)
        gold.check(run.corpus, task.category_names)
        return Trial(task, run.corpus, run.annotator, (recipe, settings))
    task = load_task(recipe)
    if corpus is None:
        raise InputError(f"{recipe}: is a task; say with --corpus where its texts are, or try a recipe")
    annotator = AnnotatorRecipe(model=EMBEDDED_ANNOTATOR, dtype="float32", mode="score", num_records=1000)
    return Trial(task, CorpusRecipe(path=corpus, columns=Columns(text=text)), annotator)


def first_records(trial: Trial, num_records: int) -> pa.Table:
    """``num_records`` of the first ten thousand records of the splits to annotate; ``InputError`` if there is none.

    They are drawn by hash, independently of the annotation sample: a prompt that is tuned on them is not tuned on the
    records that will show how good it is, except those that both draws happen to take. Prints what ingest would warn
    of. If the whole corpus was read, what would end ingest ends this too.
    """
    corpus = trial.corpus.model_copy(update={"rows_per_part": HEAD_RECORDS})
    sources, columns = find_sources(corpus).units, source_columns(corpus)
    categories, wanted_splits = trial.task.category_names, trial.annotator.splits
    found = [schema.CORPUS.empty_table()]
    counts, rejected = Counter[str](), Counter[str]()
    splits: set[str] = set()
    undecodable: list[SourceFile] = []
    is_whole = True
    for source, chunk in ((file, chunk) for file in sources for chunk in read_chunks(file, corpus, columns)):
        separated = separate(source, chunk, corpus, categories)
        counts.update(separated.counts)
        rejected.update(separated.rejected)
        undecodable += [source] if separated.counts.get(UNDECODABLE) else []
        records = separated.records.select(schema.CORPUS.names)
        splits.update(pc.unique(records[schema.SPLIT]).to_pylist())
        if wanted_splits is not None:
            records = records.filter(pc.is_in(records[schema.SPLIT], pa.array(wanted_splits)))
        found.append(records)
        if sum(table.num_rows for table in found) >= HEAD_RECORDS:
            is_whole = False
            break
    records = pa.concat_tables(found, promote_options="permissive")
    if is_whole:
        checks.require_decodable(counts, corpus, undecodable)
        checks.require_columns_somewhere(counts, corpus, sources, columns)
    if not records.num_rows and splits:
        raise InputError(
            f"annotator.splits: no record of the corpus is of split {', '.join(wanted_splits or ())}; it has "
            f"{', '.join(sorted(splits))}"
        )
    if not records.num_rows:
        rejects = dict(sorted(rejected.items()))
        raise InputError(f"corpus.path: {corpus.path}: none of its rows is a record: {rejects}")
    if is_whole:
        checks.require_gold(counts, corpus, categories)
    for line in checks.warnings(counts, corpus):
        print(f"corpus: {line}" if is_whole else f"corpus: of its first records: {line}", file=sys.stderr)
    ids = records[schema.RECORD_ID].combine_chunks()
    drawn = Selection.smallest(ids, num_records, trial.annotator.seed, Purpose.TRIAL).record_ids
    return records.take(pc.index_in(drawn, ids))


def run_trial(records: pa.Table, trial: Trial) -> list[TrialRecord]:
    """The answers of the trial's LLM about the records: those that are stored, and the others when it is asked."""
    texts, task = records[schema.TEXT].to_pylist(), trial.task
    answers = _ask(texts, trial) if trial.recipe is None else _stored_or_asked(texts, trial)
    verbalizer = Verbalizer({category.name: category.answer_words for category in task.categories})
    columns = (records[name].to_pylist() for name in (schema.RECORD_ID, schema.GOLD_LABEL))
    return [
        TrialRecord(record_id, gold, answer, *_parse_answer(answer, task, verbalizer))
        for record_id, gold, answer in zip(*columns, answers, strict=True)
    ]


def _ask(texts: list[str], trial: Trial) -> list[Answer]:
    annotator = trial.annotator
    if annotator.engine != "openai" and is_hub_name(annotator.model):
        revision = find_commit(annotator.model, annotator.revision)
        annotator = annotator.model_copy(update={"revision": revision})
    engine = create_engine(annotator, trial.task)
    try:
        answers = engine.annotate(texts)
        for note in engine.notes:
            print(note, file=sys.stderr)
    finally:
        engine.close()
    return answers


def _stored_or_asked(texts: list[str], trial: Trial) -> list[Answer]:
    """The answers, those that are new kept in the run's store."""
    assert trial.recipe is not None
    run = open_run(*trial.recipe)
    annotator = run.recipe.annotator
    questions = Questions(run.task.prompt(annotator.prompt), run.task.shot_answers, annotator.num_shots)
    table, keys = run.table("answers"), questions.keys(texts)
    found = AnswerStore(table).find(keys)
    new = [row for row, part in enumerate(found.to_pylist()) if part is None]
    asked: list[Answer] = []
    if new:
        began = time.perf_counter()
        asked = _ask([texts[row] for row in new], replace(trial, annotator=annotator))
        rows = answers_table(
            keys.take(pa.array(new)), asked, run.task.category_names, annotator.model, time.perf_counter() - began
        )
        final = rows.filter(pc.invert(is_transient(rows)))
        if final.num_rows:
            claim(run)
            store = AnswerStore(table)
            store.describe(run.asking)
            store.commit(_ASKED_FOR, final)
    columns = [each.name for each in fields(Answer)]
    stored = AnswerReader(table, columns).read(pa.chunked_array([keys]), pa.chunked_array([found]))
    answers = dict(zip(new, asked, strict=True))
    known = [row for row in range(len(texts)) if row not in answers]
    answers |= dict(zip(known, answers_of(stored.take(pa.array(known, pa.int64()))), strict=True))
    return [answers[row] for row in range(len(texts))]


def _parse_answer(answer: Answer, task: Task, verbalizer: Verbalizer) -> tuple[str | None, str | None]:
    if answer.finish_reason == "error":
        return None, answer.error
    if (probabilities := answer.label_probabilities) is None:
        reading = verbalizer.read(answer.response, answer.finish_reason)
        return reading.category, reading.reject_reason
    if not any(probabilities.values()):
        return None, RejectReason.NO_CATEGORY
    return max(task.category_names, key=lambda name: probabilities.get(name, 0.0)), None


def render_prompts(records: pa.Table, trial: Trial) -> Iterator[str]:
    """Lines for a terminal without the model, whose tokenizer may frame the prompts and cut them differently."""
    ids, texts = (records[name].to_pylist() for name in (schema.RECORD_ID, schema.TEXT))
    for number, (record_id, text) in enumerate(zip(ids, texts, strict=True), start=1):
        yield from _indented(_prompt(text, trial), f"{number} of {records.num_rows}  {record_id}")
        yield ""


def _prompt(text: str, trial: Trial) -> str:
    prompt, num_shots = trial.task.prompt(trial.annotator.prompt), trial.annotator.num_shots
    answers = trial.task.shot_answers
    if prompt.format == "completion":
        return completion_text(prompt, answers, num_shots, text) + trial.annotator.answer_prefix
    messages = chat_messages(prompt, answers, num_shots, text)
    if prompt.format == "llama2":
        return llama2_text(messages) + trial.annotator.answer_prefix
    if trial.annotator.answer_prefix:
        messages.append({"role": "assistant", "content": trial.annotator.answer_prefix})
    return "\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def render(trial_records: list[TrialRecord], trial: Trial) -> Iterator[str]:
    """Lines for a terminal: each record, then what the whole sample would read."""
    for number, one in enumerate(trial_records, start=1):
        yield from _indented(one.answer.prompt, f"{number} of {len(trial_records)}  {one.record_id}")
        gold = f"  (gold: {one.gold_label})" if one.gold_label else ""
        yield f"  answer   {one.answer.response!r}" if one.answer.response is not None else "  answer   none"
        yield f"  label    {one.label}{gold}" if one.label else f"  rejected {one.reject_reason}{gold}"
        if mass := sum((one.answer.label_probabilities or {}).values()):
            assert one.answer.label_probabilities is not None
            each = ", ".join(f"{name} {p / mass:.2f}" for name, p in one.answer.label_probabilities.items())
            yield f"  belief   {each}; {mass:.0%} of it on any answer word"
        yield ""
    labels = Counter(one.label or "rejected" for one in trial_records)
    yield ", ".join(f"{num} {label}" for label, num in labels.most_common()) + (
        "; the answers are kept, and a run finds them." if trial.recipe else "; nothing was written."
    )
    num_prompt = sum(one.answer.num_prompt_tokens for one in trial_records) / len(trial_records)
    num_response = sum(one.answer.num_response_tokens for one in trial_records) / len(trial_records)
    ahead = trial.annotator.num_records
    yield (
        f"At most {ahead:,} records like these will be annotated (annotator.num_records): about "
        f"{ahead * num_prompt:,.0f} prompt tokens and {ahead * num_response:,.0f} response tokens."
    )


def _indented(prompt: str, title: str) -> Iterator[str]:
    """A prompt with a rule at its left."""
    cut = prompt if len(prompt) <= _MAX_CHARS_SHOWN else f"{prompt[:_MAX_CHARS_SHOWN]} … ({len(prompt):,} characters)"
    yield title
    yield from (f"  | {line}" for line in cut.splitlines())
