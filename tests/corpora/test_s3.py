"""The same files in an object store: every way of reading goes through the filesystem, none assumes a local path."""

import gzip
import io
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.corpora import find_sources, read_rows
from llambert.corpora.contents import generation
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from tests.fixtures.s3_server import running_server

BUCKET = "s3://llambert-test"


def texts(path, **options):
    corpus = CorpusRecipe(path=path, **options)
    rows = [rows for source in find_sources(corpus).units for rows in read_rows(source, corpus, ["text"])]
    return [text for one in rows for text in one.records["text"].to_pylist()]


@pytest.mark.s3
def test_every_format_is_read_from_an_object_store(tmp_path):
    parquet, archive = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"text": ["parquet"]}), parquet)
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        info = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"imdb"))
    objects = {
        "mixed/a.csv.gz": gzip.compress(b"text\ncsv\n"),
        "mixed/b.jsonl": b'{"text": "jsonl"}\n',
        "mixed/c.parquet": parquet.getvalue(),
        "mixed/_SUCCESS": b"",
        "files/x/one": b"one",
        "files/y/two.gz": gzip.compress(b"two"),
        "imdb/aclImdb_v1.tar.gz": archive.getvalue(),
    }
    with running_server(tmp_path / "s3"):
        filesystem = fsspec.filesystem("s3")
        for name, content in objects.items():
            filesystem.pipe_file(f"llambert-test/{name}", content)
        assert texts(f"{BUCKET}/mixed") == ["csv", "jsonl", "parquet"]
        assert texts(f"{BUCKET}/mixed/*.csv.gz") == ["csv"]
        assert texts(f"{BUCKET}/files", format="text_files") == ["one", "two"]
        assert texts(f"{BUCKET}/imdb", format="imdb") == ["imdb"]
        for name in ["odd/x [1].csv", "odd/x 1.csv", "odd/.tmp/y.csv", "odd/_temporary/0/z.csv", "odd/50%25 #;é.csv"]:
            filesystem.pipe_file(f"llambert-test/{name}", f"text\n{name}\n".encode())
        assert texts(f"{BUCKET}/odd/x [1].csv") == ["odd/x [1].csv"]
        assert texts(f"{BUCKET}/odd/x*.csv") == ["odd/x 1.csv", "odd/x [1].csv"]
        assert texts(f"{BUCKET}/odd") == ["odd/50%25 #;é.csv", "odd/x 1.csv", "odd/x [1].csv"]
        assert find_sources(CorpusRecipe(path=f"{BUCKET}/odd")).num_hidden == 2
        for nowhere in ["nothing", "nothing/*.csv"]:
            with pytest.raises(InputError, match="no file is there"):
                texts(f"{BUCKET}/{nowhere}")


@pytest.mark.s3
@pytest.mark.parametrize("path", [f"{BUCKET}/growing", f"{BUCKET}/growing/*.csv", f"{BUCKET}/*/a.csv"])
def test_what_another_program_has_written_since_is_seen_and_read(s3, path):
    another = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    another.pipe_file("llambert-test/growing/a.csv", b"text\nfirst\n")
    corpus = CorpusRecipe(path=path)
    before = generation(corpus)
    assert texts(path) == ["first"]
    another.pipe_file("llambert-test/growing/a.csv", b"text\nfirst\nand another\n")
    another.pipe_file("llambert-test/growing/b.csv", b"text\nsecond\n")
    assert texts(path) == ["first", "and another", *(["second"] if "a.csv" not in path else [])]
    assert generation(corpus) != before
    another.rm_file("llambert-test/growing/b.csv")
    assert texts(path) == ["first", "and another"]
