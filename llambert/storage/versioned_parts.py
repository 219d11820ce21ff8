"""Parts whose names say what they were made of: a table that is made again has others, and the old ones go."""

import contextlib
import re
from collections.abc import Callable

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


def version_of(name: str) -> str:
    """The version of which ``versioned`` made ``name``."""
    match = _VERSIONED.fullmatch(name)
    assert match, f"{name} is no versioned part"
    return match[2]


def is_of(name: str, part: str) -> bool:
    """Whether ``name`` is that of ``part``, or of a version of it."""
    match = _VERSIONED.fullmatch(name)
    return name == part or (match is not None and f"{match[1]}.parquet" == part)


def remove_other_versions(table: TableDirectory, version: str, is_current: Callable[[], bool]) -> None:
    """Remove the parts of a complete table that were made of other versions; none that its manifest lists.

    Those in folders of the table too. Nothing is removed if ``is_current`` says that ``version`` is not what the table
    is to be made of any more: another driver may be making parts of what is. Its parts are not in the listing either,
    which was made before that was seen.
    """
    manifest = table.read_manifest()
    listed = {part.name for part in manifest.parts} if manifest else set()
    found = [(name, _VERSIONED.fullmatch(name.rpartition("/")[2])) for name in table.file_names()]
    others = [name for name, match in found if match and match[2] != version and name not in listed]
    if not others or not is_current():
        return
    for name in others:
        with contextlib.suppress(FileNotFoundError):  # another driver was faster
            table.filesystem.rm_file(table.path(name))
