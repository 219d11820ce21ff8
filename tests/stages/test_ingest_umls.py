"""A UMLS release through the ingest stage, on Ray, with a recipe like the shipped one."""

from collections import Counter
from pathlib import Path

import pytest

from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.recipe import load_recipe
from llambert.run import Run
from llambert.stages.ingest import ingest
from llambert.storage.manifest import MANIFEST
from llambert.tasks import load_task
from tests.fixtures import umls_release
from tests.fixtures.umls_pandas import concept_texts

SHIPPED = Path(__file__).parents[2] / "jobs" / "recipes" / "umls-regions-llama2-70b.yaml"


def make_run(tmp_path, release, *settings):
    gold = tmp_path / "gold.csv"
    gold.write_text("record_id,gold_label,split\nC0000000,yes,test\n")
    places = [f"storage={tmp_path}/run", f"corpus.path={release}", f"corpus.umls.gold={gold}"]
    models = ["annotator.model=package:llambert/tasks", "classifier.model=package:llambert/tasks"]
    recipe = load_recipe(SHIPPED, [*places, *models, "corpus.rows_per_part=300", *settings])
    return Run(recipe, load_task(recipe.task))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pandas.errors.ParserWarning")
def test_a_release_in_pieces_becomes_the_records_that_pandas_selects_and_its_faults_rejects(tmp_path):
    folder = tmp_path / "META"
    folder.mkdir()
    written = umls_release.write_release(folder, 60_000)
    expected = concept_texts(str(folder))
    umls_release.compress(folder / "MRCONSO.RRF", num_pieces=3)
    umls_release.compress(folder / "MRREL.RRF")
    run = make_run(tmp_path, folder)

    manifest = ingest(run)

    records = run.table("corpus").read().to_pylist()
    assert {record["record_id"]: record["text"] for record in records} == {k: v for k, v in expected.items() if v}
    assert len(manifest.parts) > 1
    assert all(record["semantic_types"] for record in records)
    rejects = run.table("corpus_rejects").read().to_pylist()
    without_text = {row["record_id"] for row in rejects if row["reject_reason"] == "empty_text"}
    assert without_text == {concept for concept, text in expected.items() if not text}
    faults = Counter(
        (Path(row["source"]).name.partition(".")[0], row["reject_reason"]) for row in rejects if row["source"]
    )
    assert faults == written.num_faults
    assert manifest.counts["num_source_rows"] == sum(written.num_rows.values())
    assert manifest.counts["num_malformed"] == sum(written.num_faults.values())
    assert manifest.num_in == manifest.num_kept + sum(manifest.num_rejected.values())

    # A start after a kill commits nothing twice: the parts are the same, and so is the manifest but for its times.
    Path(run.table("corpus").path(MANIFEST)).unlink()
    assert ingest(run).parts == manifest.parts


def test_more_malformed_rows_than_the_recipe_allows_end_the_run_with_the_first_of_them(tmp_path):
    folder = tmp_path / "META"
    folder.mkdir()
    umls_release.write_release(folder, 2000)
    with (folder / "MRREL.RRF").open("a") as file:
        file.write("C0000001|no more\n" * 500)
    with pytest.raises(InputError, match=r"corpus\.max_malformed_share: 51\d of 7,9\d\d rows .*MRSTY\.RRF:\d+ \("):
        ingest(make_run(tmp_path, folder), IN_PROCESS)
