"""Publish labels by label: ``labels`` -> ``labels_by_label/data/label=<label>/<part>``, for readers of one label alone.

A copy in Hive's layout, without the column ``label``, made of the committed parts of ``labels`` and so as exact as
they are: each part becomes a file for each label in it, of the same rows in the same order. With a guarantee the final
labels are published alone: ``decisions`` -> ``decisions_by_label``.
"""

from typing import Any
from urllib.parse import quote

import pyarrow.compute as pc

from llambert import schema
from llambert.errors import InputError
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.execution.stage_progress import StageProgress
from llambert.run import Run
from llambert.storage.manifest import Manifest, Part
from llambert.storage.part_file import is_part
from llambert.storage.versioned_parts import remove_other_versions, version_of

_MAX_NAME_BYTES = 255
_FOLDER = "data"  # of nothing but Parquet: the manifest stands beside it


def check(run: Run) -> None:
    """``InputError`` for a category whose folder would have a name that no filesystem takes."""
    if not run.recipe.label.by_label:
        return
    for name in run.task.category_names:
        if len(_folder(name)) > _MAX_NAME_BYTES:
            raise InputError(
                f"label.by_label: the category {name[:30] + '…'!r} makes a folder name of {len(_folder(name))} bytes, "
                f"filesystems take {_MAX_NAME_BYTES}; give it a shorter name or set label.by_label: false"
            )


def _folder(label: str) -> str:
    return f"{schema.LABEL}={quote(label, safe='')}"


def publish_by_label(run: Run, name: str, executor: Executor = RAY) -> Manifest:
    """Write the table ``name`` by copying the complete table that it is a copy of; skipped when that is done."""
    spec, published = run.tables[name], run.table(name)
    assert spec.copy_of, f"{name} is a copy of no table"
    labels, manifest = run.table(spec.copy_of).require_manifest(), published.read_manifest()
    # Of decisions the names of the parts change with every answer, and the copy with them; of labels with the corpus.
    if manifest and (run.tables.grows(name) or manifest.belongs_with == run.companions(name)):
        _remove_others(run, name, labels)
        return manifest
    stored = {name for name in published.file_names() if is_part(name)}
    done = [part.name for part in labels.parts if stored.issuperset(_files(part))]
    units = [{"name": part.name} for part in labels.parts if part.name not in done]
    known = {name for part in labels.parts if part.name in done for name in _files(part)}
    progress = StageProgress("by label", published, unit="parts")
    progress.run(executor, PublishPart, (run, name), units, Pool(max_actors=run.recipe.label.max_actors))
    parts = sorted([*published.committed_parts(known, stored), *progress.parts], key=lambda part: part.name)
    made = run.complete(name, parts, num_in=labels.num_kept, **progress.seconds)
    _remove_others(run, name, labels)
    return made


def _remove_others(run: Run, name: str, copied: Manifest) -> None:
    """Files of other generations of the corpus, or of decisions that others have replaced."""
    if run.tables.grows(name):
        run.remove_replaced(name)
    elif copied.parts:
        source, version = run.tables[name].copy_of, version_of(copied.parts[0].name)
        assert source, f"{name} is a copy of no table"
        remove_other_versions(
            run.table(name), version, lambda: run.table(source).require_manifest().content == copied.content
        )


def _files(part: Part) -> list[str]:
    """The files that a part of ``labels`` becomes."""
    return [f"{_FOLDER}/{_folder(label)}/{part.name}" for label, num in sorted(part.labels.items()) if num]


class PublishPart:
    """Called with one part of the copied table at a time."""

    def __init__(self, run: Run, name: str) -> None:
        copied = run.tables[name].copy_of
        assert copied, f"{name} is a copy of no table"
        self._labels, self._published = run.table(copied), run.table(name)

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Commit a file for each label of the part; those committed already are left as they are."""
        rows = self._labels.read_part(unit["name"])
        parts = [
            self._published.commit_part(
                f"{_FOLDER}/{_folder(label)}/{unit['name']}",
                rows.filter(pc.equal(rows[schema.LABEL], label)).drop_columns([schema.LABEL]),
            )
            for label in sorted(pc.unique(rows[schema.LABEL]).to_pylist())
        ]
        return Outcome(parts)
