"""Labelling files without a run: ids, restarts, and refusing to mix two labellings in one folder."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llambert.classifier.inference import Classifier
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS, InProcessExecutor
from llambert.recipe import LabelRecipe
from llambert.stages.label import user_files as stage
from llambert.storage.manifest import Manifest
from tests.fixtures.tiny_classifier import save_tiny_classifier, tiny_texts


def label_files(checkpoint: str, corpus: CorpusRecipe, output: str, recipe: LabelRecipe | None = None) -> Manifest:
    return stage.label_files(checkpoint, corpus, output, recipe, IN_PROCESS)


@pytest.fixture
def checkpoint(tmp_path) -> str:
    return str(save_tiny_classifier(tmp_path / "checkpoint"))


def write_csv(path: Path, texts: list[str], ids: bool = False) -> str:
    lines = [f"n{i},{text}" if ids else text for i, text in enumerate(texts)]
    path.write_text("\n".join(["id,text" if ids else "text", *lines]) + "\n")
    return str(path)


def rows_of(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_every_row_is_labelled_in_order_and_named_by_file_and_row(tmp_path, checkpoint):
    texts = tiny_texts(25)
    corpus = CorpusRecipe(path=write_csv(tmp_path / "in.csv", texts), rows_per_part=10)
    manifest = label_files(checkpoint, corpus, str(tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    assert [row["label"] for row in rows] == Classifier(checkpoint, device="cpu").predict(texts).labels
    key = manifest.parts[0].name.split("-")[1]
    assert [row["record_id"] for row in rows] == [f"{key}-{i:09d}" for i in range(25)]
    assert (manifest.num_in, manifest.num_kept) == (25, 25)
    assert [part.num_rows for part in manifest.parts] == [10, 10, 5]


def test_ids_and_columns_of_the_source_are_passed_through(tmp_path, checkpoint):
    corpus = CorpusRecipe(path=write_csv(tmp_path / "in.csv", tiny_texts(3), ids=True), columns=Columns(record_id="id"))
    label_files(checkpoint, corpus, str(tmp_path / "out"), LabelRecipe(keep=("text",)))
    assert [(row["record_id"], row["text"]) for row in rows_of(tmp_path / "out")] == [
        (f"n{i}", text) for i, text in enumerate(tiny_texts(3))
    ]


def test_files_that_are_added_change_no_id_and_no_part_name_of_the_others(tmp_path, checkpoint):
    (tmp_path / "in").mkdir()
    found = []
    for names in (["b", "d"], ["a", "c", "e"]):
        for name in names:
            write_csv(tmp_path / "in" / f"{name}.csv", [f"{name} {text}" for text in tiny_texts(25)])
        output = tmp_path / f"out{len(found)}"
        corpus = CorpusRecipe(path=str(tmp_path / "in"), rows_per_part=10)
        manifest = label_files(checkpoint, corpus, str(output), LabelRecipe(keep=("text",)))
        rows = [row for part in manifest.parts for row in pq.read_table(output / part.name).to_pylist()]
        files = [row["text"][0] for row in rows]
        assert files == sorted(files)  # the order of the files, not that of the names of their parts
        found.append(({part.name for part in manifest.parts}, {row["record_id"]: row["text"] for row in rows}))
    (before, few), (after, many) = found
    assert (len(few), len(many)) == (50, 125)
    assert before < after
    assert few.items() <= many.items()


def test_a_start_after_a_kill_keeps_what_is_committed(tmp_path, checkpoint):
    corpus = CorpusRecipe(path=write_csv(tmp_path / "in.csv", tiny_texts(25)), rows_per_part=10)
    first = label_files(checkpoint, corpus, str(tmp_path / "out"))
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / first.parts[1].name).unlink()
    kept = (tmp_path / "out" / first.parts[0].name).stat().st_mtime_ns
    assert label_files(checkpoint, corpus, str(tmp_path / "out")).parts == first.parts
    assert (tmp_path / "out" / first.parts[0].name).stat().st_mtime_ns == kept


def test_two_labellings_never_mix_in_one_folder(tmp_path, checkpoint):
    corpus = CorpusRecipe(path=write_csv(tmp_path / "in.csv", tiny_texts(5)))
    label_files(checkpoint, corpus, str(tmp_path / "out"))
    other = CorpusRecipe(path=write_csv(tmp_path / "other.csv", tiny_texts(6)))
    with pytest.raises(InputError, match="holds labels of other files, checkpoint or settings"):
        label_files(checkpoint, other, str(tmp_path / "out"))
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(InputError, match="holds labels of other files"):
        label_files(checkpoint, other, str(tmp_path / "out"))


def test_a_missing_column_is_one_line(tmp_path, checkpoint):
    corpus = CorpusRecipe(path=write_csv(tmp_path / "in.csv", tiny_texts(3)), columns=Columns(text="body"))
    with pytest.raises(InputError, match="no column 'body'"):
        label_files(checkpoint, corpus, str(tmp_path / "out"))


def test_rows_that_cannot_be_read_are_kept_aside_with_their_line_and_the_others_are_labelled(tmp_path, checkpoint):
    lines = [f'{{"text": "{text}"}}' for text in tiny_texts(25)]
    lines[3], lines[17] = "{not json", "[1, 2]"
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    corpus = CorpusRecipe(path=str(tmp_path / "in.jsonl"), rows_per_part=10, max_malformed_share=0.1)
    manifest = label_files(checkpoint, corpus, str(tmp_path / "out"))
    assert (manifest.num_in, manifest.num_kept) == (25, 23)
    assert manifest.num_rejected == {"not_an_object": 1, "not_json": 1}
    rejects = [
        row for file in sorted((tmp_path / "out/rejects").glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    assert [(row["line"], row["text"].strip(), row["reject_reason"]) for row in rejects] == [
        (4, "{not json", "not_json"),
        (18, "[1, 2]", "not_an_object"),
    ]
    assert all(row["source"].endswith("in.jsonl") for row in rejects)
    assert len(rows_of(tmp_path / "out")) == 23


def test_a_source_of_which_too_much_cannot_be_read_is_refused_and_what_is_labelled_is_kept(tmp_path, checkpoint):
    (tmp_path / "in.jsonl").write_text('{"text": "a good film"}\nnot json\n')
    corpus = CorpusRecipe(path=str(tmp_path / "in.jsonl"))
    with pytest.raises(
        InputError, match=r"max_malformed_share: 1 of 2 rows cannot be read, .* 1\.0%; .*out/rejects says"
    ):
        label_files(checkpoint, corpus, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()
    raised = corpus.model_copy(update={"max_malformed_share": 0.5})
    assert label_files(checkpoint, raised, str(tmp_path / "out")).num_kept == 1


def test_a_file_in_another_encoding_is_refused_and_read_as_the_caller_says(tmp_path, checkpoint):
    (tmp_path / "in.csv").write_bytes("text\n很好看的书\n没有意思\n".encode("gbk"))
    corpus = CorpusRecipe(path=str(tmp_path / "in.csv"))
    with pytest.raises(InputError, match=r"2 of its first 2 rows are not text in UTF-8.*probably gb18030"):
        label_files(checkpoint, corpus, str(tmp_path / "out"))
    corpus = corpus.model_copy(update={"encoding": "gbk"})
    manifest = label_files(checkpoint, corpus, str(tmp_path / "out2"), LabelRecipe(keep=("text",)))
    assert [row["text"] for row in rows_of(tmp_path / "out2")] == ["很好看的书", "没有意思"]
    assert "num_undecodable" not in manifest.counts


def test_a_column_that_no_row_has_is_refused(tmp_path, checkpoint):
    (tmp_path / "in.jsonl").write_text('{"text": "a film"}\n')
    corpus = CorpusRecipe(path=str(tmp_path / "in.jsonl"), columns=Columns(record_id="id"))
    with pytest.raises(InputError, match=r"no column 'id' in any of its 1 rows; the first ones have 'text'"):
        label_files(checkpoint, corpus, str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["reviews [final]", "a::b", "what?*", "{x}", "50%25 #;é"])
def test_files_checkpoint_and_output_are_found_by_their_literal_names(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    checkpoint = str(save_tiny_classifier(folder / f"checkpoint {name}"))
    corpus = CorpusRecipe(path=write_csv(folder / f"{name}.csv", tiny_texts(5)))
    manifest = label_files(checkpoint, corpus, str(folder / f"out {name}"))
    assert manifest.num_kept == len(rows_of(folder / f"out {name}")) == 5
    assert label_files(checkpoint, corpus, str(folder / f"out {name}")) == manifest


def test_hidden_files_are_counted_and_not_labelled(tmp_path, checkpoint):
    (tmp_path / "in" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ["in/a.csv", "in/.ipynb_checkpoints/a-checkpoint.csv"]:
        write_csv(tmp_path / name, tiny_texts(3))
    manifest = label_files(checkpoint, CorpusRecipe(path=str(tmp_path / "in")), str(tmp_path / "out"))
    assert (manifest.num_kept, manifest.counts["num_hidden_files"]) == (3, 1)


@pytest.mark.slow
def test_through_ray_the_labels_are_the_same(tmp_path, checkpoint):
    (tmp_path / "in").mkdir()
    for number in range(3):
        write_csv(tmp_path / f"in/{number}.csv", tiny_texts(25))
    corpus = CorpusRecipe(path=str(tmp_path / "in"), rows_per_part=10)
    alone = label_files(checkpoint, corpus, str(tmp_path / "out"))
    recipe = LabelRecipe(max_actors=2, min_actors=2, cpus_per_actor=0.5)
    manifest = stage.label_files(checkpoint, corpus, str(tmp_path / "ray"), recipe)
    assert (manifest.num_kept, len(manifest.parts)) == (75, 9)
    assert [part.sha256 for part in manifest.parts] == [part.sha256 for part in alone.parts]


def test_files_begun_in_one_dtype_are_completed_in_it_and_on_a_gpu_they_begin_in_half_precision(tmp_path, checkpoint):
    corpus = CorpusRecipe(path=write_csv(tmp_path / "in.csv", tiny_texts(5)))
    begun = label_files(checkpoint, corpus, str(tmp_path / "out"), LabelRecipe(dtype="bfloat16", gpus_per_actor=0))
    assert label_files(checkpoint, corpus, str(tmp_path / "out")) == begun
    on_cpu = label_files(checkpoint, corpus, str(tmp_path / "cpu"))
    assert (on_cpu.recipe["dtype"], on_cpu.recipe["gpus_per_actor"]) == ("float32", 0)
    asked: list[tuple] = []

    class OnGpus(InProcessExecutor):
        def half_precision(self, _=None):
            return "bfloat16"

        def run(self, stage, worker, arguments, units, pool):
            asked.append((arguments[0].dtype, pool.num_gpus))
            yield from super().run(stage, worker, arguments, units, pool)

    with pytest.raises(InputError, match="PyTorch finds no GPU here"):
        stage.label_files(checkpoint, corpus, str(tmp_path / "gpu"), None, OnGpus())
    assert asked == [("bfloat16", 1)]
