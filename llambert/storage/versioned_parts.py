"""Parts whose names say what they were made of: a table that is made again has others, and the old ones go."""

import contextlib
import re

from llambert.storage.run_directory import TableDirectory

_VERSIONED = re.compile(r"(part-.+)-([0-9a-f]{12})\.parquet")


def versioned(name: str, version: str) -> str:
    """The name of the part ``name`` made of ``version`` (12 hexadecimal digits)."""
    return f"{name.removesuffix('.parquet')}-{version}.parquet"


def unversioned(name: str) -> str:
    """The name of the part of which ``versioned`` made ``name``."""
    match = _VERSIONED.fullmatch(name)
    assert match, f"{name} is no versioned part"
    return f"{match[1]}.parquet"


def is_of(name: str, part: str) -> bool:
    """Whether ``name`` is that of ``part``, or of a version of it."""
    match = _VERSIONED.fullmatch(name)
    return name == part or (match is not None and f"{match[1]}.parquet" == part)


def remove_other_versions(table: TableDirectory, version: str) -> None:
    """Remove the parts of a complete table that were made of other versions; none that its manifest lists."""
    manifest = table.read_manifest()
    listed = {part.name for part in manifest.parts} if manifest else set()
    for name in table.part_names():
        match = _VERSIONED.fullmatch(name)
        if match and match[2] != version and name not in listed:
            with contextlib.suppress(FileNotFoundError):  # another driver was faster
                table.filesystem.rm_file(table.path(name))
