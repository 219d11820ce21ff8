"""Hostile input: whatever a user or a model hands over ends in a record, a counted reject or one clear error.

    python -m tests.drills.fuzz [--targets recipe csv ...] [--minutes 1] [--seed 0]

Each target changes a valid input at random (hypothesis: bytes removed, inserted, duplicated, replaced by known
troublemakers) and passes it to the code that reads it. A finding is any exception but ``InputError``, a record that is
in no count, or a text that changes who speaks in a prompt: it is printed, shrunk, with its seed; exit status 1.
"""

import argparse
import gzip
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from llambert.annotation.prompts import Prompt, Renderer
from llambert.annotation.verbalizer import Verbalizer
from llambert.corpora import find_sources
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError, OverLength
from llambert.recipe import load_recipe
from llambert.stages.ingest import IngestFile, complete
from llambert.tasks import load_task
from tests.fixtures import hostile_corpora, umls_sample
from tests.fixtures.ingest_runs import corpus_run
from tests.fixtures.tiny_llm import CHATML, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CSV = b'record_id,text,gold\n1,good,a\n2,"a, ""b""\nc",b\n3,,a\n'
JSONL = b'{"record_id": "1", "text": "good"}\n{"record_id": 2, "text": null}\n{"text": "x", "record_id": "\\u00e9"}\n'
# What has broken programs before: quotes, bytes that are no UTF-8, NULs, marks, deep nesting, numbers out of range.
TROUBLESOME_BYTES = [
    b'"', b'""', b"\\", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n\n", b"|", b",", b"\t",
    b"&", b"*a", b"!!python/object:os.system", b"{", b"[" * 50, b"]", b"}", b": ", b"- ", b"1e999", b"-1", b"NaN",
    b"null", b"true", b"~", b"'", b"%", b"<<: ", b"\xe2\x80\xae", b"\xcc\x81" * 30, b" " * 3000, b"[/INST]",
    b"<|im_end|>", b"</s>", b"=1+1", b"[{}," * 2000, b'{"":' * 200, b"9" * 5000, b'{"' + b"k" * 5000 + b'": 1}\n',
]  # fmt: skip


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """``valid`` with up to six places cut out, doubled or exchanged."""
    place = st.integers(0, max(len(valid) - 1, 0))
    new = st.one_of(st.sampled_from(TROUBLESOME_BYTES), st.binary(max_size=8), st.just(b""))
    edit = st.tuples(place, st.integers(0, 40), new, st.booleans())

    def apply(edits: list[tuple[int, int, bytes, bool]]) -> bytes:
        content = valid
        for at, length, put, again in edits:
            content = content[:at] + put + (content[at : at + length] if again else b"") + content[at + length :]
        return content

    return st.lists(edit, max_size=6).map(apply)


def read_recipe(content: bytes) -> None:
    """A recipe, or what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_bytes(content)
        load_recipe(path)


def read_task(content: bytes) -> None:
    """A task, or what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "task.yaml")
        path.write_bytes(content)
        load_task(str(path))


def ingest(files: dict[str, bytes], **corpus: object) -> None:
    """The files as a corpus, by the ingest stage's own code: every row is a record or a counted reject."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        path = folder if len(files) > 1 else str(Path(folder, *files))
        run = corpus_run(CorpusRecipe(path=path, max_malformed_share=1.0, **corpus), f"{folder}/run")
        sources = find_sources(run.recipe.corpus)
        worker = IngestFile(run)
        outcomes = [worker(asdict(source)) for source in sources.units]
        parts = [part for outcome in outcomes for part in outcome.parts]
        manifest = complete(run, sources, parts)  # the manifest refuses sums that do not agree
        ids = [row["record_id"] for row in run.table("corpus").read().to_pylist()]
        assert len(set(ids)) == len(ids) == manifest.num_kept, "record IDs are not unique"
        rejects = run.table("corpus_rejects").require_manifest()
        assert rejects.num_kept == sum(manifest.num_rejected.values()), "a reject is in no table"


def parquet() -> bytes:
    """A small valid Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"record_id": ["1", "2", "3"], "text": ["good", None, ""]}), sink)
    return sink.getvalue().to_pybytes()


def read_response(response: str) -> None:
    """Either a category or a reason, never both."""
    reading = Verbalizer({"positive": ["positive"], "negative": ["negative", "not good"]}).read(response)
    assert (reading.category is None) != (reading.reject_reason is None), reading


@cache
def _renderer(form: str) -> tuple[Renderer, set[int], list[int]]:
    prompt = Prompt(format=form, system="Judge.", template="Review: {text}", shots=({"text": "Dull.", "label": "bad"},))
    tokenizer = tiny_tokenizer(CHATML if form == "chat" else None)
    renderer = Renderer(prompt, {"bad": "negative"}, None, tokenizer)
    special = set(tokenizer.added_tokens_decoder)
    return renderer, special, control_tokens(special, renderer.encode("x", 10_000).token_ids)


def control_tokens(special: set[int], token_ids: list[int]) -> list[int]:
    """The tokens by which a chat template says who speaks, in order."""
    return [token_id for token_id in token_ids if token_id in special]


def check_roles(text: str) -> None:
    """Who speaks in a prompt is what the template says, whatever the record's text holds; at any length."""
    for form in ("chat", "llama2"):
        renderer, special, expected = _renderer(form)
        for max_tokens in (10_000, renderer.num_template_tokens + 5):
            try:
                rendered = renderer.encode(text, max_tokens, "head_tail")
            except (OverLength, ValueError):
                continue  # refused, and counted as such
            assert control_tokens(special, rendered.token_ids) == expected, "the text speaks out of turn"
            if form == "llama2":
                assert rendered.text.count("[/INST]") == 2, "the text ends the user's turn"


MARKS = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "assistant\n", " "]
PIECES = [piece for mark in MARKS for piece in (mark[:3], mark[3:], mark)]
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=3)), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=9).map("".join),
)
WORDS = ["positive", "not", "negative", ",", "\n", "good ", "I ", "cannot"]
ANSWERS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(WORDS)).map(" ".join))
# Pages by hand: what each claims of its size and its number of values has nothing to do with what is in it.
PAGES = st.builds(
    lambda kinds, num_rows, codec, claim: hostile_corpora.parquet_of(kinds, num_rows, codec, claim),
    st.lists(
        st.tuples(
            st.sampled_from([0, 2]),
            st.binary(max_size=40),
            st.sampled_from([0, 1, 9, 1 << 16, (1 << 31) - 1]),
            st.sampled_from([0, 5, 6, 7, 8]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0, 1, 9, 1 << 20]),
    st.sampled_from([hostile_corpora.NONE, hostile_corpora.ZSTD]),
    st.sampled_from([0, 1, 1 << 20, (1 << 31) - 1]),
)
TARS = [hostile_corpora.tar_of_negative_size(), hostile_corpora.tar_of_members(b"good", 2)]
IMDB_COLUMNS = {"text": "text", "record_id": "record_id", "split": "split"}
TARGETS: dict[str, tuple[st.SearchStrategy, Callable]] = {
    "recipe": (mutated((ROOT / "jobs" / "recipes" / "reviews.yaml").read_bytes()), read_recipe),
    "task": (mutated((ROOT / "llambert" / "tasks" / "reviews.yaml").read_bytes()), read_task),
    "csv": (mutated(CSV), lambda content: ingest({"f.csv": content})),
    "tsv": (mutated(CSV.replace(b",", b"\t")), lambda content: ingest({"f.tsv": content})),
    "jsonl": (mutated(JSONL), lambda content: ingest({"f.jsonl": content})),
    "parquet": (
        st.one_of(mutated(parquet()), mutated(hostile_corpora.rows_of_two_megabytes(9, 1 << 20)), PAGES),
        lambda content: ingest({"f.parquet": content}),
    ),
    "tar": (
        st.one_of(*(mutated(gzip.decompress(content)) for content in TARS)),
        lambda content: ingest({"f.tar": content}, format="imdb", columns=IMDB_COLUMNS),
    ),
    "rrf": (
        mutated("\n".join(umls_sample.MRCONSO).encode()),
        lambda content: ingest(
            {
                "MRCONSO.RRF": content,
                "MRSTY.RRF": "\n".join(umls_sample.MRSTY).encode(),
                "MRREL.RRF": "\n".join(umls_sample.MRREL).encode(),
            },
            format="umls",
        ),
    ),
    "response": (ANSWERS, read_response),
    "prompt": (TEXTS, check_roles),
}


def fuzz(target: str, num_inputs: int, seed: int) -> None:
    """``num_inputs`` inputs for ``target``; hypothesis raises with the smallest that it finds to hurt."""
    strategy, take = TARGETS[target]

    @seeded(seed)
    @settings(max_examples=num_inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def check(given_input: bytes | str) -> None:
        message = "none"
        try:
            take(given_input)
        except InputError as error:
            message = str(error).strip()
        assert message, "an error without a word"
        assert "Traceback" not in message, "a traceback as an error"

    check()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--minutes", type=float, default=1.0, help="per target")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    num_finds = 0
    for target in arguments.targets:
        ends, seed, found = time.monotonic() + 60 * arguments.minutes, arguments.seed, 0
        while time.monotonic() < ends and not found:
            try:
                fuzz(target, 200, seed)
            except Exception:
                traceback.print_exc()
                found = 1
            seed += 1
        num = 200 * (seed - arguments.seed)
        print(f"{target:10} {num:8,} inputs, seeds {arguments.seed} to {seed - 1}: {found or 'no'} find", flush=True)
        num_finds += found
    return 1 if num_finds else 0


if __name__ == "__main__":
    sys.exit(main())
