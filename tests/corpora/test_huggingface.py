import os
import resource

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.corpora import find_sources, huggingface, read_rows
from llambert.corpus_recipe import Columns, CorpusRecipe, HuggingFaceDataset
from llambert.errors import InputError
from tests.fixtures import hostile_corpora

COLUMNS = ["text", "label", "split"]


def read(path, columns=COLUMNS, **options):
    corpus = CorpusRecipe(path=str(path), format="huggingface", huggingface=HuggingFaceDataset(**options))
    sources = find_sources(corpus).units
    rows = [
        row for source in sources for table in read_rows(source, corpus, columns) for row in table.records.to_pylist()
    ]
    return rows, sources


@pytest.fixture
def saved(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    splits = {
        name: datasets.Dataset.from_dict({"text": texts, "label": [0] * len(texts)}, features)
        for name, texts in {"train": ["a", "b", "c"], "test": ["d"]}.items()
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_data_set_is_its_splits(saved):
    rows, sources = read(saved)
    assert [(row["text"], row["split"]) for row in rows] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "train"),
        ("d", "test"),
    ]
    assert {row["label"] for row in rows} == {"0"}
    assert [source.members for source in sources] == [("train",), ("test",)]


def test_the_splits_asked_for_are_read_alone(saved):
    assert [row["text"] for row in read(saved, splits=("test",))[0]] == ["d"]


def test_a_large_split_is_read_in_shards_that_together_are_all_of_it(saved, monkeypatch):
    monkeypatch.setattr(huggingface, "ROWS_PER_SHARD", 2)
    rows, sources = read(saved, splits=("train",))
    assert [tuple(source.span) for source in sources] == [(0, 2), (2, 3)]
    assert [row["text"] for row in rows] == ["a", "b", "c"]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_of_files_is_streamed_or_copied(tmp_path, streaming, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for name, text in {"train-00000": "a", "train-00001": "b", "test-00000": "c"}.items():
        pq.write_table(pa.table({"text": [text], "label": [1]}), tmp_path / "data" / f"{name}.parquet")
    rows, _ = read(tmp_path / "data", streaming=streaming)
    assert [(row["text"], row["split"]) for row in rows] == [("a", "train"), ("b", "train"), ("c", "test")]


def test_a_hub_name_is_looked_up_with_its_configuration_and_revision(monkeypatch):
    asked = {}

    def load_dataset_builder(path, config, **options):
        asked.update(path=path, config=config, **options)
        raise ConnectionError("no network here")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    with pytest.raises(InputError, match="stanfordnlp/imdb cannot be opened as a data set: no network here"):
        read("stanfordnlp/imdb", config="plain_text", revision="abc")
    assert asked == {"path": "stanfordnlp/imdb", "config": "plain_text", "revision": "abc"}


def test_the_classes_of_a_column_are_known_by_name_too(saved):
    corpus = CorpusRecipe(path=str(saved), format="huggingface")
    found = [rows for source in find_sources(corpus).units for rows in read_rows(source, corpus, COLUMNS)]
    assert all(rows.class_names == {"label": ["neg", "pos"]} for rows in found)


def test_a_split_may_lack_the_gold_label(tmp_path):
    splits = {
        "train": datasets.Dataset.from_dict({"text": ["a"], "label": ["pos"]}),
        "extra": datasets.Dataset.from_dict({"text": ["b"]}),
    }
    for name, split in splits.items():
        split.to_parquet(tmp_path / f"{name}-00000.parquet")
        split.save_to_disk(tmp_path / "disk" / name)
    (tmp_path / "disk" / "dataset_dict.json").write_text('{"splits": ["train", "extra"]}')
    corpus = CorpusRecipe(
        path=str(tmp_path / "disk"), format="huggingface", columns=Columns(gold_label="label", split="split")
    )
    found = [rows for source in find_sources(corpus).units for rows in read_rows(source, corpus, COLUMNS)]
    assert [row for rows in found for row in rows.records.to_pylist()] == [
        {"text": "a", "label": "pos", "split": "train"},
        {"text": "b", "label": None, "split": "extra"},
    ]
    with pytest.raises(InputError, match="no column 'label'"):
        read(tmp_path / "disk")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path / "links"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_folder(folder, *names: bytes) -> None:
    for name in names:
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        text = name.rpartition(b"/")[2][:1].decode()
        pq.write_table(pa.table({"text": [text], "label": [1]}), folder / "new")
        os.rename(folder / "new", path)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_is_read_by_its_literal_name_without_what_is_hidden_in_it(tmp_path, streaming, cache):
    folder = tmp_path / "reviews [final]*"
    write_folder(folder, b"a.parquet", b"sub/b.parquet", b"_delta_log/c.parquet", b"_d.parquet", b".cache/e.parquet")
    rows, _ = read(folder, streaming=streaming)
    assert sorted(row["text"] for row in rows) == ["a", "b"]
    corpus = CorpusRecipe(path=str(folder), format="huggingface")
    assert find_sources(corpus).num_hidden == 3


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path, cache):
    write_folder(tmp_path / "data", b"a.parquet", b"b\xe9.parquet")
    assert sorted(row["text"] for row in read(tmp_path / "data")[0]) == ["a", "b"]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("case", ["page_of_two_gigabytes", "dictionary_of_half_a_billion_values"])
def test_a_file_that_asks_for_gigabytes_is_one_line(tmp_path, cache, streaming, case):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(getattr(hostile_corpora, case)())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        InputError, match=r"split 'train', cannot be read in 2 GiB|opened as a data set in 2 GiB"
    ) as said:
        read(tmp_path / "data", columns=["text"], streaming=streaming)
    assert "\n" not in str(said.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


@pytest.mark.parametrize("streaming", [True, False])
def test_a_damaged_file_is_one_line_that_names_the_data_set(tmp_path, cache, streaming):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["a" * 99], "label": [1]}), tmp_path / "data" / "train-00000.parquet")
    content = (tmp_path / "data" / "train-00000.parquet").read_bytes()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(content[:4] + b"\xff" * 40 + content[44:])
    with pytest.raises(InputError, match=r"corpus\.path: .*data.* cannot be (read|opened as a data set): ") as said:
        read(tmp_path / "data", streaming=streaming)
    assert "\n" not in str(said.value)
