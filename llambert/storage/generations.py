"""The generations of a corpus that grows: which contents of its source a run has read, and in which order.

``RUN/generations/<recipe of the records>/000001``, ``000002`` … are created once each; what one holds is a content
identity of the source. Corpus and labels live through all of them in one folder each. Only who works on the latest one
may write there: whoever read the source earlier stops as soon as a newer start has claimed the next number.
"""

import re
from collections.abc import Callable

from llambert.errors import InputError
from llambert.storage.atomic import create_atomically
from llambert.storage.locations import names_in, open_filesystem
from llambert.storage.refusals import refusal_as_input_error

_NUMBER = re.compile(r"\d{6}")
_REMEDY = "delete it and start the same command again"


class Superseded(InputError):
    """Another start has read a newer source than this one."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: the source has changed since this start began, and another start works on what it is now; "
            "start the same command again"
        )


def latest(uri: str) -> tuple[int, str]:
    """The number of the latest generation in the folder ``uri``, from 1, and its content; 0 and "" if there is none."""
    last = max((name for name in names_in(uri) if _NUMBER.fullmatch(name)), default=None)
    if last is None:
        return 0, ""
    filesystem, path = open_filesystem(uri)
    return int(last), filesystem.cat_file(f"{path}/{last}").decode().strip()


def claim(uri: str, generation: str, current: Callable[[], str]) -> int:
    """Make ``generation`` the latest one, if it is not; its number.

    ``Superseded`` if another one is the latest and ``current()``, what the source holds now, is not ``generation``.
    """
    while True:
        number, found = latest(uri)
        if found == generation:
            return number
        if number and current() != generation:
            raise Superseded(uri)
        filesystem, path = open_filesystem(uri)
        with refusal_as_input_error(uri, _REMEDY):
            if create_atomically(filesystem, f"{path}/{number + 1:06d}", generation.encode()):
                return number + 1


def require_latest(uri: str, generation: str, what: str) -> None:
    """``Superseded`` of ``what`` if another generation than this one is the latest; not where none was claimed."""
    if (found := latest(uri)[1]) and found != generation:
        raise Superseded(what)
