"""A table on each kind of store."""

import pytest

from llambert import schema
from llambert.storage.run_directory import RunDirectory, TableDirectory


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def table(request, tmp_path) -> TableDirectory:
    """An empty table on each kind of store."""
    if request.param == "local":
        return RunDirectory(str(tmp_path / "run")).table("labels", "abc", schema.LABELS)
    request.getfixturevalue("s3")
    return RunDirectory(f"s3://llambert-test/{tmp_path.name}").table("labels", "abc", schema.LABELS)
