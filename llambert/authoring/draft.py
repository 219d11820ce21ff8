"""A first task and recipe for a user's own question, with comments: what ``llambert init`` writes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llambert.corpora import find_sources, read_rows
from llambert.corpora.files import column_names
from llambert.corpora.rows import has_surrogates
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.recipe import EMBEDDED_ANNOTATOR, EMBEDDED_CLASSIFIER, load_recipe
from llambert.tasks import load_task


@dataclass(frozen=True)
class Draft:
    """The user's description of a task. ``categories``: name -> answer words; ``shots``: (label, text)."""

    name: str
    question: str
    categories: dict[str, Sequence[str]]
    corpus: str
    text: str = "text"
    record_id: str | None = None
    gold_label: str | None = None
    shots: Sequence[tuple[str, str]] = field(default_factory=tuple)
    encoding: str | None = None

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``<name>-task.yaml`` and ``<name>.yaml``; ``InputError`` if one exists or is invalid."""
        task, recipe = folder / f"{self.name}-task.yaml", folder / f"{self.name}.yaml"
        for path in (task, recipe):
            if path.exists():
                raise InputError(f"{path}: already exists; choose another name or delete it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            task.write_text("\n".join(self._task()) + "\n", encoding="utf-8")
            recipe.write_text("\n".join(self._recipe(task)) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
        try:
            load_task(str(task))
            load_recipe(recipe)
        except InputError:
            task.unlink()
            recipe.unlink()
            raise
        return task, recipe

    def _task(self) -> Iterator[str]:
        names = " or ".join([", ".join(self.categories)] if len(self.categories) > 2 else list(self.categories))
        yield "# What is asked about each record. `llambert try` shows the prompts and the LLM's answers."
        yield f"name: {_yaml(self.name)}"
        yield f"question: {_yaml(self.question)}"
        yield "# The labels, and the words by which an answer names them; the first word is the answer in a shot."
        yield "categories:"
        for name, words in self.categories.items():
            yield f"  - {{name: {_yaml(name)}, answer_words: {_yaml(list(words))}}}"
        yield "prompts:"
        yield "  # For a small model, which continues a text better than it follows an instruction. Worked answers"
        yield "  # (shots) help it most: a typical text for each category, in any order, short."
        yield "  completion:"
        yield "    format: completion"
        if not self.shots:  # which say better what an answer is
            yield f"    system: {_yaml(f'{self.question} Answer {names}.')}"
        yield f"    template: {_yaml(f'{{text}}{chr(10)}{self.question}{chr(10)}Answer:')}"  # DECISIONS.md: Drafts
        yield from self._shots()
        yield "  # For a model that was tuned to follow instructions: its own chat template is applied."
        yield "  instruct:"
        yield "    format: chat"
        yield f"    system: {_yaml(f'{self.question} Answer with {names} and nothing else.')}"
        yield f"    template: {_yaml('{text}' + chr(10) * 2 + self.question)}"
        yield from self._shots()

    def _shots(self) -> Iterator[str]:
        if not self.shots:
            yield "    # shots:"
            yield from (f'    #   - {{text: "…", label: {_yaml(name)}}}' for name in self.categories)
            return
        yield "    shots:"
        yield from (f"      - {{text: {_yaml(text)}, label: {_yaml(label)}}}" for label, text in self.shots)

    def _recipe(self, task: Path) -> Iterator[str]:
        yield f"# llambert run {task.parent / self.name}.yaml; every key and its default: llambert/recipe.py."
        yield f"name: {_yaml(self.name)}"
        yield f"task: {_yaml(str(task))}"
        yield ""
        yield "corpus:"
        yield f"  path: {_yaml(self.corpus)}            # a file, a folder, a glob or s3://…"
        if self.encoding is not None:
            yield f"  encoding: {_yaml(self.encoding)}"
        yield "  columns:"
        yield f"    text: {_yaml(self.text)}"
        yield f"    record_id: {_yaml(self.record_id)}             # null: made from file, row and text"
        yield f"    gold_label: {_yaml(self.gold_label)}            # labels by people, for the report only"
        yield ""
        yield "# The LLM that labels a random subset. This one is a toy that runs anywhere; a better one:"
        yield "#   {engine: vllm, model: meta-llama/Llama-2-70b-chat-hf, prompt: instruct, mode: generate, …}"
        yield "#   {engine: openai, base_url: http://host:8000/v1, model: …, prompt: instruct, mode: generate, …}"
        yield "annotator:"
        yield "  engine: transformers"
        yield f"  model: {EMBEDDED_ANNOTATOR}"
        yield "  dtype: float32"
        yield "  prompt: completion"
        yield "  mode: score                # the category whose answer word the model finds likeliest"
        yield "  num_records: 2000          # of a smaller corpus, all"
        yield "  records_per_part: 100"
        yield ""
        yield "parse:"
        yield "  prior_correction: batch    # corrects a model's preference for a category; needs no gold labels"
        yield ""
        yield "# The small encoder that learns from those labels and labels everything."
        yield "classifier:"
        yield f"  model: {EMBEDDED_CLASSIFIER}"
        yield "  max_length: 128"
        yield "  epochs: 3"
        yield "  batch_size: 32"
        yield "  learning_rate: 2.0e-4"
        yield "  loss: soft"
        yield ""
        yield "label:"
        yield "  keep: [text]               # beside record_id, label and score"


def guess_text_column(corpus: CorpusRecipe) -> str:
    """``text`` where there is one, else the column with the longest values at the head of the first file."""
    source = find_sources(corpus).units[0]
    names = column_names(source, corpus)
    if any(map(has_surrogates, names)):
        encoding = corpus.encoding or "UTF-8"
        raise InputError(
            f"{source.uri}: the names of its columns are not text in {encoding}; say which --encoding it has"
        )
    if "text" in names or not names:
        return "text"
    head: pa.Table = next(read_rows(source, corpus, names)).records
    return max(names, key=lambda name: pc.mean(pc.fill_null(pc.utf8_length(head[name]), 0)).as_py() or 0)


def _yaml(value: object) -> str:
    """A value as YAML in one line: JSON is a subset of it."""
    return json.dumps(value, ensure_ascii=False)


def parse_categories(given: Sequence[str]) -> dict[str, Sequence[str]]:
    """``label`` or ``label=word,word`` as name -> answer words; ``InputError`` for fewer than two."""
    categories: dict[str, Sequence[str]] = {}
    for one in given:
        name, _, words = one.partition("=")
        categories[name.strip()] = [word.strip() for word in words.split(",") if word.strip()] or [name.strip()]
    if len(categories) < 2 or "" in categories:
        raise InputError(f"--category: expected at least two labels, found {', '.join(map(repr, categories))}")
    return categories


def parse_shots(given: Sequence[str], categories: dict[str, Sequence[str]]) -> list[tuple[str, str]]:
    """``label=text`` as (label, text); ``InputError`` for an unknown label."""
    shots = [(label.strip(), text.strip()) for label, _, text in (one.partition("=") for one in given)]
    for label, text in shots:
        if label not in categories or not text:
            raise InputError(f"--shot {label}={text}: expected label=text with one of {', '.join(categories)}")
    return shots
