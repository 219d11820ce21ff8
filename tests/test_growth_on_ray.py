"""A corpus grows on a Ray pool of two actors, on a disk and in an object store; its tables are those of a fresh run."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import fsspec
import pytest

from llambert import schema
from llambert.execution.in_process import IN_PROCESS
from llambert.execution.ray_executor import RAY
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from llambert.run import Run
from llambert.storage.locations import path_inside
from tests.fixtures.growing_corpora import ScriptedAnnotator, contents, key_of, open_growing, rows, write, write_recipe
from tests.fixtures.openai_endpoint import KEY, serve

pytestmark = pytest.mark.slow

READ = ("corpus", "corpus_rejects", "corpus_keys", "duplicates", "sample", "silver", "rejects")
LABELLED = ("labels", "label_rejects")


@pytest.fixture(scope="module")
def annotator():
    with serve(ScriptedAnnotator()) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        yield endpoint


class Place(NamedTuple):
    """A folder with the recipe and the files of the corpus, and where the run reads and stores them."""

    folder: Path
    corpus: str
    storage: str

    def open(self, *settings: str, storage: str = "") -> Run:
        return open_growing(f"corpus.path={self.corpus}", f"storage={storage or self.storage}", *settings)

    def publish(self) -> None:
        """Make the corpus in the object store the one that is in the folder."""
        if "://" not in self.corpus:
            return
        # Another instance: whoever writes there is another program.
        store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
        top = self.corpus.removeprefix("s3://")
        files = {path.name: path.read_bytes() for path in (self.folder / "corpus").iterdir()}
        there = {path_inside(top, path): store.cat_file(path) for path in store.find(top)}
        for name in there.keys() - files.keys():
            store.rm_file(f"{top}/{name}")
        for name, content in files.items():
            if there.get(name) != content:
                store.pipe_file(f"{top}/{name}", content)


@pytest.fixture
def place(request, tmp_path, annotator, monkeypatch) -> Place:
    """A run over four files that is finished, on ``request.param``: "s3", or else the disk."""
    kind = getattr(request, "param", "disk")
    if kind == "s3":
        request.getfixturevalue("s3")
    request.getfixturevalue("local_ray")  # whose workers have the keys of annotator and object store
    write_recipe(
        tmp_path,
        annotator.base_url,
        4,
        annotator={"num_records": 120},
        classifier={"model": str(tmp_path / "encoder"), "epochs": 12, "batch_size": 16},
        label={"by_label": False, "min_actors": 2, "max_actors": 2},
    )
    monkeypatch.chdir(tmp_path)
    top = "s3://llambert-test" if kind == "s3" else str(tmp_path)
    found = Place(tmp_path, f"{top}/corpus", f"{top}/run")
    found.publish()
    annotator.requests.clear()  # those of another test
    pipeline(found.open(), IN_PROCESS)
    return found


def files_of(run: Run, name: str) -> dict[str, tuple]:
    """Part -> time of change and content of its file."""
    table = run.table(name)
    top, files = table.path(), table.filesystem
    return {
        path_inside(top, path): (files.modified(path), files.cat_file(path))
        for path in files.find(top)
        if path.endswith(".parquet")
    }


def grow(place: Place) -> None:
    """Append a file, change one, remove one; two stay."""
    corpus = place.folder / "corpus"
    write(corpus, "e", rows("e", 180))
    write(corpus, "b", [*rows("b"), *rows("more", 3)])
    (corpus / "a.csv").unlink()
    place.publish()


def fresh_run(place: Place) -> Run:
    """Another run over the same corpus, to its end, without Ray."""
    run = place.open(storage=str(place.folder / "fresh"))
    pipeline(run, IN_PROCESS)
    return run


@pytest.mark.s3
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_what_is_new_is_read_asked_and_labelled_on_ray_and_the_rest_stays_byte_for_byte(place, annotator):
    before = place.open()
    keys = {key_of(before, name) for name in "cd"}
    old = {name: files_of(before, name) for name in ("corpus", *LABELLED)}
    asked = set(annotator.calls)
    grow(place)
    annotator.requests.clear()
    pipeline(place.open(), RAY)
    run = place.open()
    assert run.decision.stays
    assert min(run.decision.figures["num_now"], run.decision.figures["num_before"]) >= 20  # compared, on Ray too
    assert verify(run) == []
    for name, files in old.items():
        stayed = {part: state for part, state in files.items() if part.split("-")[1] in keys}
        assert files_of(run, name).items() >= stayed.items() > set()
    calls = Counter(annotator.calls)
    assert calls
    assert max(calls.values()) == 1
    assert not calls.keys() & asked
    fresh = fresh_run(place)
    assert contents(run, *READ) == contents(fresh, *READ)
    ids = [row[schema.RECORD_ID] for row in contents(fresh, "labels")["labels"]]
    assert [row[schema.RECORD_ID] for row in contents(run, "labels")["labels"]] == ids


def test_a_checkpoint_that_is_trained_again_on_ray_labels_as_that_of_a_fresh_run(place):
    grow(place)
    pipeline(place.open(), IN_PROCESS)
    assert place.open().decision.stays
    pipeline(place.open("classifier.refresh=always"), RAY)
    run = place.open("classifier.refresh=always")
    assert run.decision.replaces
    assert verify(run) == []
    fresh = fresh_run(place)
    assert contents(run, *READ, *LABELLED) == contents(fresh, *READ, *LABELLED)
