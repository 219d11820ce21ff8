import threading

import pytest

from llambert.storage.generations import Superseded, claim, latest, require_latest
from llambert.storage.run_directory import TableDirectory
from tests.storage.test_run_directory import NAME, labels


def test_generations_are_numbered_in_the_order_in_which_they_are_claimed(tmp_path):
    uri = str(tmp_path / "generations")
    assert latest(uri) == (0, "")
    assert [claim(uri, content, lambda content=content: content) for content in ("a", "b", "b", "a")] == [1, 2, 2, 3]
    assert latest(uri) == (3, "a")
    (tmp_path / "generations/.000009.tmp").write_text("x")
    assert latest(uri) == (3, "a")


def test_a_generation_that_is_no_longer_the_sources_is_not_claimed_over_a_newer_one(tmp_path):
    uri = str(tmp_path / "generations")
    claim(uri, "new", lambda: "new")
    with pytest.raises(Superseded, match="start the same command again"):
        claim(uri, "old", lambda: "new")
    assert latest(uri) == (1, "new")


def test_of_many_that_claim_at_once_each_gets_a_number_of_its_own(tmp_path):
    uri, found = str(tmp_path / "generations"), {}

    def start(content: str) -> None:
        found[content] = claim(uri, content, lambda: content)

    threads = [threading.Thread(target=start, args=(f"content {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found.values()) == list(range(1, 9))


def test_only_the_latest_generation_writes_to_a_table_that_grows(tmp_path):
    uri = str(tmp_path / "generations")
    old, new = (
        TableDirectory(f"{tmp_path}/t", generation=content, generations=uri, fingerprint="f") for content in ("a", "b")
    )
    require_latest(uri, "a", "t")  # nobody has claimed one
    claim(uri, "a", lambda: "a")
    part = old.commit_part(NAME, labels())
    old.complete("label", [part])
    assert new.read_manifest() is None
    assert new.last_manifest() == old.read_manifest()
    claim(uri, "b", lambda: "b")
    for write in (lambda: old.commit_part("part-00001.parquet", labels()), lambda: old.complete("label", [part])):
        with pytest.raises(Superseded, match="another start works on what it is now"):
            write()
    assert old.part_names() == [NAME]
    new.complete("label", [part])
    assert (old.read_manifest(), new.require_manifest().generation) == (None, "b")
