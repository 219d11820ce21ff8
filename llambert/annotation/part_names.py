"""Names of parts in sampling order: ``part-<first rank>-<end rank>.parquet``, the end not included.

A part that may be made again of other content has a version too: ``part-<first rank>-<end rank>-<version>.parquet``.
"""

import re

_PART_NAME = re.compile(r"part-(\d{9,})-(\d{9,})(?:-([0-9a-f]{12}))?\.parquet")


def part_name(start: int, end: int, version: str = "") -> str:
    """The name of the part that holds the ranks ``start`` to ``end``; ``version``: 12 hexadecimal digits, or none."""
    return f"part-{start:09d}-{end:09d}{version and '-'}{version}.parquet"


def is_part_name(name: str) -> bool:
    """Whether ``part_name`` gave this name."""
    return _PART_NAME.fullmatch(name) is not None


def rank_range(name: str) -> tuple[int, int]:
    """First and end rank of a part."""
    match = _PART_NAME.fullmatch(name)
    assert match, f"{name} is no part of a table in rank order"
    return int(match[1]), int(match[2])


def version_of(name: str) -> str:
    """The version in a part's name, empty where it has none."""
    match = _PART_NAME.fullmatch(name)
    return (match[3] or "") if match else ""
