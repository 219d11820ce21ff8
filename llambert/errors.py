"""Errors that a user can fix, and the text of exceptions."""

import contextlib
import copyreg
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from llambert.printable import visible
from llambert.urls import without_secrets


class ErrorKind(StrEnum):
    """Why a record has no answer. All but ``PASSING`` are final."""

    REFUSED = "refused"  # by an endpoint's moderation
    OVER_LENGTH = "over_length"  # its prompt does not fit, however much is cut
    PASSING = "passing"  # an outage, a time-out, a broken reply, no memory; the next start asks again
    FAILED = "failed"  # anything else


class LabelFault(StrEnum):
    """Why a text has no label."""

    EMPTY_TEXT = "empty_text"
    NULL_TEXT = "null_text"
    TOKENIZER_ERROR = "tokenizer_error"
    MODEL_ERROR = "model_error"
    NOT_FINITE = "not_finite"


class InputError(ValueError):
    """A wrong recipe, a missing file, an unreadable URI, a model that is not there.

    The message is one clear line: what was wrong, where, and what to do. Jobs and the command line
    print it and exit with status 2; any other exception is a fault of ours and keeps its traceback.
    A file name in it that is not UTF-8 is escaped, so that every terminal and log takes it; a password or a signature
    in a URL is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(visible(message)))

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, whatever arguments a subclass takes: it travels between processes.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class Damaged(InputError):
    """A stored file that is not as it was written, is missing or has something else in its place.

    ``remedy``: what to do about it, which whoever does that already leaves out of ``fault``.
    """

    def __init__(self, uri: str, why: str, remedy: str) -> None:
        super().__init__(f"{uri} is damaged: {why}; {remedy}")
        self.uri, self.fault = uri, visible(f"{uri} is damaged: {why}")


class UnfitModel(InputError):
    """A fault of a model, without its name: the caller adds the name and the recipe key."""


def one_line(error: BaseException) -> str:
    """The message of another library's exception, shortened to one line."""
    return " ".join(without_secrets(visible(str(error))).split())[:300] or type(error).__name__


def described(error: BaseException) -> str:
    """``one_line`` with the exception's type first."""
    return f"{type(error).__name__}: {one_line(error)}"


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """``ValueError`` for a panic of a library written in Rust, which is no ``Exception``: no handler would catch it.

    A tokenizer's regular expression panics on a text that it would try too many ways to match. Also a decorator.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":  # its type cannot be imported
            raise
        raise ValueError(f"a fault in Rust code: {one_line(error)}") from error


def last_line(error: BaseException) -> str:
    """The exception's type and the last line it says: of one that Ray passes on, the worker's own message."""
    return f"{type(error).__name__}: {without_secrets(str(error)).strip().rpartition(chr(10))[2]}"


def loading_fault(error: BaseException, section: str) -> str:
    """Why a model cannot be loaded, and the field of the recipe's ``section`` that allows what was refused."""
    # transformers raises a plain ValueError: its words tell it apart, and name an argument that no recipe has.
    if isinstance(error, ValueError) and "custom code" in str(error):
        return f"it comes with custom code; {section}.trust_remote_code: true runs it, if you trust it"
    return one_line(error) if isinstance(error, (OSError, ValueError)) else described(error)


class OverLength(ValueError):
    """A record's prompt does not fit the model's context, however much of its text is left out.

    Costs that record: an engine makes it the error of the record's answer, of kind ``over_length``.
    """
