"""Names of parts in sampling order: ``part-<first rank>-<end rank>.parquet``, the end not included."""

import re

_PART_NAME = re.compile(r"part-(\d{9,})-(\d{9,})\.parquet")


def part_name(start: int, end: int) -> str:
    """The name of the part that holds the ranks ``start`` to ``end``."""
    return f"part-{start:09d}-{end:09d}.parquet"


def is_part_name(name: str) -> bool:
    """Whether ``part_name`` gave this name."""
    return _PART_NAME.fullmatch(name) is not None


def rank_range(name: str) -> tuple[int, int]:
    """First and end rank of a part."""
    match = _PART_NAME.fullmatch(name)
    assert match, f"{name} is no part of a table in rank order"
    return int(match[1]), int(match[2])
