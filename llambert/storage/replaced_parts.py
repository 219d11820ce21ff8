"""Parts of a table that grows which its manifest does not list any more."""

import contextlib
import re

from llambert.storage.part_file import is_part
from llambert.storage.run_directory import TableDirectory

# Of a unit of work and its content, or of a generation: nothing else is removed.
_GROWING_PART = re.compile(r"part-[0-9a-f]{12}(-[0-9a-f]{12}-\d{6,})?\.parquet")


def remove_unlisted(table: TableDirectory) -> None:
    """Remove the parts of other generations from a complete table; ``Superseded`` if a newer one is at work."""
    manifest = table.read_manifest()
    if manifest is None:
        return
    listed = {part.name for part in manifest.parts}
    replaced = [
        name
        for name in table.file_names()
        if is_part(name) and name not in listed and _GROWING_PART.fullmatch(name.rpartition("/")[2])
    ]
    if replaced:
        table.require_latest()
    for name in replaced:
        with contextlib.suppress(FileNotFoundError):  # another driver was faster
            table.filesystem.rm_file(table.path(name))
