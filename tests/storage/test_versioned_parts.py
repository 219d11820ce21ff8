"""Parts named by what they were made of: of a table that was made again only the latest stay."""

import pyarrow as pa
import pytest

from llambert.annotation.part_names import part_name, rank_range
from llambert.storage.run_directory import RunDirectory
from llambert.storage.versioned_parts import is_of, remove_other_versions, unversioned, versioned

OLD, NEW, OTHER = "0" * 12, "a" * 12, "b" * 12
NAMES = ["part-0.parquet", "part-0123456789ab-ba9876543210-000003.parquet", part_name(0, 25)]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_without_its_version_is_the_name_before(name):
    assert unversioned(versioned(name, NEW)) == name


def test_a_version_of_a_part_is_of_it_and_that_of_another_is_not():
    name, other = NAMES[1], NAMES[1].replace("000003", "000004")
    assert is_of(name, name)
    assert is_of(versioned(name, NEW), name)
    assert not is_of(versioned(name, NEW), other)
    assert not is_of(name, versioned(name, NEW))


def test_a_part_in_rank_order_keeps_its_ranks():
    assert versioned(part_name(0, 25), NEW) == part_name(0, 25, NEW)
    assert rank_range(versioned(part_name(0, 25), NEW)) == (0, 25)


@pytest.fixture
def table(tmp_path):
    return RunDirectory(str(tmp_path)).table("decisions", "c" * 12)


def test_parts_of_other_versions_go_those_that_the_manifest_lists_and_other_files_stay(table):
    rows = pa.table({"record_id": ["a"]})
    for version in (OLD, OTHER):
        table.commit_part(versioned("part-0.parquet", version), rows)
    table.commit_part("part-0.parquet", rows)
    table.complete("decide", [table.commit_part(versioned("part-0.parquet", NEW), rows)])
    kept = {versioned("part-0.parquet", NEW), "part-0.parquet", "manifest.json"}
    remove_other_versions(table, NEW, lambda: True)
    assert table.file_names() == kept
    remove_other_versions(table, OTHER, lambda: True)  # a driver of before, which is late
    assert table.file_names() == kept


def test_of_a_table_without_a_manifest_all_other_versions_go(table):
    for version in (OLD, NEW):
        table.commit_part(versioned("part-0.parquet", version), pa.table({"record_id": ["a"]}))
    remove_other_versions(table, NEW, lambda: True)
    assert table.part_names() == [versioned("part-0.parquet", NEW)]


def test_what_is_made_of_newer_answers_stays(table):
    rows = pa.table({"record_id": ["a"]})
    table.complete("decide", [table.commit_part(versioned("part-0.parquet", OLD), rows)])

    def answers_changed():
        table.commit_part(versioned("part-0.parquet", OTHER), rows)  # by another driver, as soon as they had changed
        return True

    table.commit_part(versioned("part-0.parquet", NEW), rows)
    remove_other_versions(table, OLD, lambda: False)
    assert versioned("part-0.parquet", NEW) in table.part_names()
    remove_other_versions(table, OLD, answers_changed)
    assert table.part_names() == [versioned("part-0.parquet", OLD), versioned("part-0.parquet", OTHER)]
