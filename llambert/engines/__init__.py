"""One protocol for every LLM: texts in, answers out, in order; a failing record costs that record alone."""

from dataclasses import dataclass
from typing import Literal, Protocol

from llambert.errors import InputError
from llambert.recipe import AnnotatorRecipe
from llambert.tasks import Task


@dataclass(frozen=True)
class Answer:
    """What the LLM made of one record.

    ``label_probabilities``: the probability of each category's answer words (raw: their sum is the share of
    the model's belief on any answer word), in ``score`` and ``choice`` mode. ``finish_reason`` ``error``:
    ``error`` says what happened and ``response`` is None.
    """

    prompt: str
    response: str | None
    finish_reason: Literal["stop", "length", "error"]
    label_probabilities: dict[str, float] | None = None
    num_prompt_tokens: int = 0
    num_response_tokens: int = 0
    num_truncated_tokens: int = 0
    error: str | None = None


class Engine(Protocol):
    """An LLM that is loaded and answers. Created once per replica, in the process that uses it."""

    def annotate(self, texts: list[str]) -> list[Answer]:
        """One answer per text, in the order of ``texts``."""
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        ...


# What each engine can do; asked before anything is loaded.
MODES: dict[str, frozenset[str]] = {
    "transformers": frozenset({"generate", "choice", "score"}),
    "vllm": frozenset({"generate", "choice", "score"}),
    "openai": frozenset({"generate"}),
}


def check(annotator: AnnotatorRecipe, task: Task) -> None:
    """Refuse what an engine cannot do before anything is loaded or spent."""
    if annotator.mode not in MODES[annotator.engine]:
        can = ", ".join(sorted(MODES[annotator.engine]))
        raise InputError(f"annotator.mode: engine {annotator.engine!r} cannot {annotator.mode!r}; it can {can}")
    task.prompt(annotator.prompt)


def create_engine(annotator: AnnotatorRecipe, task: Task) -> Engine:
    """Load the recipe's LLM; ``InputError`` in one line if it is missing or does not fit."""
    check(annotator, task)
    match annotator.engine:
        case "transformers":
            from llambert.engines.transformers import TransformersEngine

            return TransformersEngine(annotator, task)
        case "vllm":
            from llambert.engines.vllm import VllmEngine

            return VllmEngine(annotator, task)
        case "openai":
            from llambert.engines.openai import OpenAIEngine

            return OpenAIEngine(annotator, task)
