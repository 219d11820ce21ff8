"""What is raised while a model is loaded, and whose fault it is: the model's, or that of the machine."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from llambert.errors import InputError, UnfitModel, described, loading_fault
from llambert.passing_faults import PassingFault, is_passing

MODEL_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError)
"""What a model raises on input that it does not support."""

LOADING_ERRORS = (
    *MODEL_ERRORS,
    MemoryError,
    OSError,
    ImportError,
    NameError,
    SyntaxError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers, or a model's custom code, raises while loading."""


@contextlib.contextmanager
def loading(model: str, section: str, failure: str = "") -> Iterator[None]:
    """One line that names ``model`` for whatever is raised while it is loaded.

    ``InputError`` where the model is at fault; ``section`` of the recipe says what of it may be allowed.
    ``PassingFault`` where device, network or disk are. ``failure``: by default, that ``model`` cannot be loaded.
    """
    failure = failure or f"{model} cannot be loaded"
    try:
        yield
    except UnfitModel as error:
        raise InputError(f"{model}: {error}") from error
    except InputError:
        raise
    except LOADING_ERRORS as error:
        if is_passing(error):
            raise PassingFault(f"{failure}: {described(error)}") from error
        raise InputError(f"{failure}: {loading_fault(error, section)}") from error


def raise_passing(error: BaseException) -> None:
    """``PassingFault`` if ``error``, which would else be taken for the model's answer, is one of device or network."""
    if is_passing(error):
        raise PassingFault(described(error)) from error
