import pyarrow as pa
import pytest

from llambert.corpora import chunks
from llambert.corpora.rows import Rows, SourceFile
from llambert.corpus_recipe import CorpusRecipe


@pytest.mark.parametrize("rows_per_block", [1, 7, 100, 1000])
def test_a_part_ends_at_the_same_row_however_many_rows_are_read_at_once(monkeypatch, rows_per_block):
    """A reader of Parquet takes fewer rows at a time once memory was short; a rerun must cut the same parts."""
    monkeypatch.setattr(chunks, "_MAX_BYTES", 10_000)
    texts = ["a" * (n * n % 997) for n in range(1000)]

    def read_rows(*_):
        for start in range(0, 1000, rows_per_block):
            yield Rows(pa.table({"text": texts[start : start + rows_per_block]}))

    monkeypatch.setattr(chunks, "read_rows", read_rows)
    source = SourceFile("k", "/x", "parquet", 0)
    found = list(chunks.read_chunks(source, CorpusRecipe(path="/x", rows_per_part=40), ["text"]))
    read = [(chunk.first_row, text) for chunk in found for text in chunk.records(["text"])["text"].to_pylist()]
    assert [text for _, text in read] == texts
    sizes = [chunk.num_rows for chunk in found]
    assert [chunk.first_row for chunk in found] == [sum(sizes[:n]) for n in range(len(sizes))]
    expected, num_bytes = [0], 0
    for text in texts:
        if expected[-1] == 40 or num_bytes >= 10_000:
            expected, num_bytes = [*expected, 0], 0
        expected[-1] += 1
        num_bytes += 4 + len(text)
    assert sizes == expected
