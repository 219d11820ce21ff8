"""Files that are no Parquet parts, compared with their table's manifest before something is made with them."""

import hashlib

from llambert.errors import Damaged
from llambert.storage.locations import open_filesystem
from llambert.storage.manifest import MANIFEST, Manifest
from llambert.storage.part_file import is_part
from llambert.storage.run_directory import REPAIR, TableDirectory


def require_whole(table: TableDirectory) -> Manifest:
    """The manifest of a table that must be complete; ``Damaged`` if one of its files is not as it was written.

    What was altered in a checkpoint would alter every label in silence. Parquet parts are checked where they are read.
    """
    manifest = table.require_manifest()
    for file in [*manifest.parts, *manifest.files]:
        if is_part(file.name):
            continue
        content = table.read_file(file.name)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            why = f"its content was altered: {len(content):,} bytes, of which the checksum is not the manifest's"
            raise Damaged(f"{table.uri}/{file.name}", why, table.remedy)
    return manifest


def check_if_table(folder: str) -> None:
    """``require_whole``, if the folder holds a manifest: a model from elsewhere has none."""
    filesystem, path = open_filesystem(folder)
    if filesystem.exists(f"{path}/{MANIFEST}"):
        require_whole(TableDirectory(folder, remedy=REPAIR))
