"""A look before any money is spent: a few records, the prompts they make and what the LLM answers.

Reads the head of the corpus, writes nothing, needs no Ray.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.prompts import chat_messages, completion_text, llama2_text
from llambert.annotation.sampling import Purpose, Selection
from llambert.annotation.verbalizer import RejectReason, Verbalizer
from llambert.corpora import checks, find_sources, gold
from llambert.corpora.chunks import read_chunks
from llambert.corpora.records import separate, source_columns
from llambert.corpora.rows import UNDECODABLE, SourceFile
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.engines import Answer, create_engine
from llambert.errors import InputError
from llambert.recipe import EMBEDDED_ANNOTATOR, AnnotatorRecipe, load_recipe
from llambert.section import parse_yaml, read_text
from llambert.storage.reference import find_commit, is_hub_name
from llambert.tasks import Task, load_task

HEAD_RECORDS = 10_000
_MAX_CHARS_SHOWN = 4000


@dataclass(frozen=True)
class Trial:
    """What is asked, of which texts, and by whom."""

    task: Task
    corpus: CorpusRecipe
    annotator: AnnotatorRecipe


@dataclass(frozen=True)
class TrialRecord:
    """One record, what the LLM made of it, and how parse would read it (before any prior correction)."""

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
        return Trial(task, run.corpus, run.annotator)
    task = load_task(recipe)
    if corpus is None:
        raise InputError(f"{recipe}: is a task; say with --corpus where its texts are, or try a recipe")
    annotator = AnnotatorRecipe(model=EMBEDDED_ANNOTATOR, dtype="float32", mode="score", num_records=1000)
    return Trial(task, CorpusRecipe(path=corpus, columns=Columns(text=text)), annotator)


def first_records(trial: Trial, num_records: int) -> pa.Table:
    """So many of the first ten thousand records of the splits to annotate, drawn by hash; ``InputError`` if none.

    They are drawn independently of the annotation sample: a prompt that is tuned on them was not tuned on the records
    that will show how good it is, but for those that both draws happen to take. What ingest would warn of is printed.
    What would end it ends this too where the whole corpus was read.
    """
    corpus = trial.corpus.model_copy(update={"rows_per_part": HEAD_RECORDS})
    head = _CorpusHead(trial)
    head.read(corpus)
    records = head.records()
    if not records.num_rows:
        raise head.nothing_found()
    head.warn(corpus)
    seed = trial.annotator.seed
    chosen = Selection.smallest(records[schema.RECORD_ID], num_records, seed, Purpose.TRIAL).record_ids.to_pylist()
    row_of = {record_id: row for row, record_id in enumerate(records[schema.RECORD_ID].to_pylist())}
    return records.take([row_of[record_id] for record_id in chosen])


class _CorpusHead:
    """The first ten thousand records of the splits to annotate, and what reading them came upon."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._found = trial, [schema.CORPUS.empty_table()]
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._splits: set[str] = set()
        self._is_whole = True

    def read(self, corpus: CorpusRecipe) -> None:
        """Read the corpus until there are enough; what would end ingest ends it, if it was read to its end."""
        sources, columns = find_sources(corpus).units, source_columns(corpus)
        undecodable: list[SourceFile] = []
        for source, chunk in ((file, chunk) for file in sources for chunk in read_chunks(file, corpus, columns)):
            made = separate(source, chunk, corpus, self._trial.task.category_names)
            self._add(made.records.select(schema.CORPUS.names))
            self._counts.update(made.counts)
            self._rejected.update(made.rejected)
            undecodable += [source] if made.counts.get(UNDECODABLE) else []
            if sum(table.num_rows for table in self._found) >= HEAD_RECORDS:
                self._is_whole = False
                return
        checks.require_decodable(self._counts, corpus, undecodable)
        checks.require_columns_somewhere(self._counts, corpus, sources, columns)

    def _add(self, records: pa.Table) -> None:
        splits = self._trial.annotator.splits
        self._splits.update(pc.unique(records[schema.SPLIT]).to_pylist())
        if splits is not None:
            records = records.filter(pc.is_in(records[schema.SPLIT], pa.array(splits)))
        self._found.append(records)

    def records(self) -> pa.Table:
        """All that were found."""
        return pa.concat_tables(self._found, promote_options="permissive")

    def nothing_found(self) -> InputError:
        """Why there is no record to show."""
        if self._splits:
            return InputError(
                "annotator.splits: no record of the corpus is of split "
                f"{', '.join(self._trial.annotator.splits or ())}; it has {', '.join(sorted(self._splits))}"
            )
        rejected = dict(sorted(self._rejected.items()))
        return InputError(f"corpus.path: {self._trial.corpus.path}: none of its rows is a record: {rejected}")

    def warn(self, corpus: CorpusRecipe) -> None:
        """Print what ingest would warn of; ``InputError`` where no gold label of the whole corpus has a meaning."""
        if self._is_whole:
            checks.require_gold(self._counts, corpus, self._trial.task.category_names)
        for line in checks.warnings(self._counts, corpus):
            print(f"corpus: {line}" if self._is_whole else f"corpus: of its first records: {line}", file=sys.stderr)


def run_trial(records: pa.Table, trial: Trial) -> list[TrialRecord]:
    """Ask the trial's LLM about the records."""
    task, annotator = trial.task, trial.annotator
    if annotator.engine != "openai" and is_hub_name(annotator.model):
        revision = find_commit(annotator.model, annotator.revision)
        annotator = annotator.model_copy(update={"revision": revision})
    engine = create_engine(annotator, task)
    try:
        answers = engine.annotate(records[schema.TEXT].to_pylist())
        for note in engine.notes:
            print(note, file=sys.stderr)
    finally:
        engine.close()
    verbalizer = Verbalizer({category.name: category.answer_words for category in task.categories})
    columns = (records[name].to_pylist() for name in (schema.RECORD_ID, schema.GOLD_LABEL))
    return [
        TrialRecord(record_id, gold, answer, *_read(answer, task, verbalizer))
        for record_id, gold, answer in zip(*columns, answers, strict=True)
    ]


def _read(answer: Answer, task: Task, verbalizer: Verbalizer) -> tuple[str | None, str | None]:
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
    for number, (record_id, prompt) in enumerate(
        zip(records[schema.RECORD_ID].to_pylist(), _prompts(records, trial), strict=True), start=1
    ):
        yield from _indented(prompt, f"{number} of {records.num_rows}  {record_id}")
        yield ""


def _prompts(records: pa.Table, trial: Trial) -> Iterator[str]:
    task, annotator = trial.task, trial.annotator
    prompt = task.prompt(annotator.prompt)
    answers = {category.name: category.answer_words[0] for category in task.categories}
    for text in records[schema.TEXT].to_pylist():
        if prompt.format == "completion":
            yield completion_text(prompt, answers, annotator.num_shots, text)
            continue
        messages = chat_messages(prompt, answers, annotator.num_shots, text)
        if prompt.format == "llama2":
            yield llama2_text(messages)
        else:
            yield "\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def render(tried: list[TrialRecord], trial: Trial) -> Iterator[str]:
    """Lines for a terminal: each record, then what the whole sample would read."""
    for number, one in enumerate(tried, start=1):
        yield from _indented(one.answer.prompt, f"{number} of {len(tried)}  {one.record_id}")
        gold = f"  (gold: {one.gold_label})" if one.gold_label else ""
        yield f"  answer   {one.answer.response!r}" if one.answer.response is not None else "  answer   none"
        yield f"  label    {one.label}{gold}" if one.label else f"  rejected {one.reject_reason}{gold}"
        if mass := sum((one.answer.label_probabilities or {}).values()):
            assert one.answer.label_probabilities is not None
            each = ", ".join(f"{name} {p / mass:.2f}" for name, p in one.answer.label_probabilities.items())
            yield f"  belief   {each}; {mass:.0%} of it on any answer word"
        yield ""
    labels = Counter(one.label or "rejected" for one in tried)
    yield ", ".join(f"{num} {label}" for label, num in labels.most_common()) + "; nothing was written."
    num_prompt = sum(one.answer.num_prompt_tokens for one in tried) / len(tried)
    num_response = sum(one.answer.num_response_tokens for one in tried) / len(tried)
    ahead = trial.annotator.num_records
    yield (
        f"{ahead:,} records like these: about {ahead * num_prompt:,.0f} prompt tokens and "
        f"{ahead * num_response:,.0f} response tokens."
    )


def _indented(prompt: str, title: str) -> Iterator[str]:
    """A prompt with a rule at its left."""
    cut = prompt if len(prompt) <= _MAX_CHARS_SHOWN else f"{prompt[:_MAX_CHARS_SHOWN]} … ({len(prompt):,} characters)"
    yield title
    yield from (f"  | {line}" for line in cut.splitlines())
