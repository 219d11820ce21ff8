"""What engines share: the room for a prompt, how an answer is made, and how answers are stored.

An answer depends on the record, the prompt and ``decoding`` alone: draws are keyed by seed and text, so that
neither batch, nor order, nor engine decides them.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.annotation.prompts import RenderedPrompt, Renderer
from llambert.engines import Answer
from llambert.engines.scoring import AnswerSequences
from llambert.errors import ErrorKind, InputError, OverLength, described
from llambert.hashing import hash64
from llambert.recipe import AnnotatorRecipe, Decoding
from llambert.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are drawn: a recipe's ``decoding`` with its default where it says null."""

    temperature: float
    top_k: int
    top_p: float
    seed: int

    @classmethod
    def of(cls, decoding: Decoding) -> Self:
        """The values that a local engine samples by."""
        complete = Decoding(**decoding.model_dump(exclude_none=True))
        return cls(**complete.model_dump(include=set(cls.__dataclass_fields__)))


def make_renderer(annotator: AnnotatorRecipe, task: Task, tokenizer: "PreTrainedTokenizerBase") -> Renderer:
    """The renderer of a recipe's prompts; ``InputError`` where no answer would begin after them that can be scored."""
    renderer = Renderer(
        task.prompt(annotator.prompt),
        task.shot_answers,
        annotator.num_shots,
        tokenizer,
        annotator.chat_template_kwargs,
        annotator.answer_prefix,
    )
    if annotator.mode != "generate":
        renderer.require_answer_next()
    return renderer


def max_prompt_tokens(
    annotator: AnnotatorRecipe, renderer: Renderer, sequences: AnswerSequences | None, context: int | None
) -> int:
    """Maximum number of tokens of a prompt, so that its answer fits after it.

    ``context``: what the model can read, None where it does not say. ``InputError`` where prompt template
    and shots alone leave no room for a text.
    """
    length = annotator.max_model_len or context
    if length is None:
        raise InputError("annotator.max_model_len: the model does not say how long its context is; set it")
    if context is not None and length > context:
        raise InputError(f"annotator.max_model_len: {length} is more than the model's context of {context}")
    needed = annotator.decoding.max_new_tokens if sequences is None else sequences.longest
    if renderer.num_template_tokens + needed >= length:
        raise InputError(
            f"annotator.max_model_len: prompt and shots need {renderer.num_template_tokens} tokens and the "
            f"answer {needed}; {length} leave no room for a text"
        )
    return length - needed


def scored_answer(
    annotator: AnnotatorRecipe, task: Task, text: str, prompt: RenderedPrompt, probabilities: np.ndarray
) -> Answer:
    """The answer of ``score`` or ``choice`` mode from the categories' probabilities, in task order.

    ``score``: the best category; of equals one is drawn, so that none is preferred (parse rejects the record as
    ambiguous). ``choice`` at a temperature above 0: drawn from the probabilities raised to 1/temperature and
    normalised (top_k and top_p do not apply to whole words). The response is the category's first answer word.
    """
    if not np.isfinite(probabilities).all():
        return failed_answer(ValueError("the model gave no finite probability"), prompt)
    sampling = TokenSampling.of(annotator.decoding)
    temperature = sampling.temperature if annotator.mode == "choice" else 0.0
    chosen = int(probabilities.argmax())
    is_best = probabilities == probabilities.max()
    if probabilities.any() and (temperature > 0 or is_best.sum() > 1):
        weights = is_best.astype(float)
        if temperature > 0:
            weights = (probabilities / probabilities.max()) ** (1 / temperature)
        draw = np.random.default_rng(record_key(sampling.seed, text))
        chosen = int(draw.choice(len(weights), p=weights / weights.sum()))
    return Answer(
        prompt=prompt.text,
        response=task.categories[chosen].answer_words[0],
        finish_reason="stop",
        label_probabilities=dict(zip(task.category_names, probabilities.tolist(), strict=True)),
        num_prompt_tokens=len(prompt.token_ids),
        num_truncated_tokens=prompt.num_truncated_tokens,
    )


def half_head_note(annotator: AnnotatorRecipe, reason: str) -> str:
    """What the user should know where the head cannot compute in float32."""
    return (
        f"annotator.dtype: {annotator.model} gives logits in {annotator.dtype} ({reason}), so two categories are "
        "equally probable for one or two records in a hundred; parse rejects these as ambiguous"
    )


def failed_answer(error: Exception, prompt: RenderedPrompt | None = None, is_transient: bool = False) -> Answer:
    """The answer of a record the engine failed on; ``prompt`` where it got as far.

    ``is_transient``: the same record may succeed at another time, as where memory was short.
    """
    final = ErrorKind.OVER_LENGTH if isinstance(error, OverLength) else ErrorKind.FAILED
    return Answer(
        prompt=prompt.text if prompt else "",
        response=None,
        finish_reason="error",
        num_prompt_tokens=len(prompt.token_ids) if prompt else 0,
        num_truncated_tokens=prompt.num_truncated_tokens if prompt else 0,
        error=described(error),
        error_kind=ErrorKind.PASSING if is_transient else final,
    )


def record_key(seed: int, text: str) -> int:
    """64-bit hash of a seed and a record's text, which seeds the record's draws."""
    return int(hash64([text], str(seed).encode())[0])


def answers_table(
    keys: pa.Array, answers: list[Answer], categories: list[str], model: str, busy_seconds: float
) -> pa.Table:
    """The rows of ``schema.ANSWERS`` for questions and their answers, in the same order, asked at once."""
    given = [answer.label_probabilities for answer in answers]
    probabilities = np.zeros((len(given), len(categories)))
    for row, of_answer in enumerate(given):
        if of_answer is not None:
            probabilities[row] = [of_answer[name] for name in categories]
    is_given = np.array([of_answer is not None for of_answer in given], dtype=bool)
    columns: dict[str, Any] = {each.name: [getattr(answer, each.name) for answer in answers] for each in fields(Answer)}
    columns[schema.LABEL_PROBABILITIES] = schema.encode_probabilities(categories, probabilities, is_given)
    columns |= {schema.KEY: keys, schema.MODEL: [model] * len(answers)}
    columns[schema.BUSY_SECONDS] = [busy_seconds / max(1, len(answers))] * len(answers)
    return pa.table(columns, schema=schema.ANSWERS)


def answers_of(rows: pa.Table) -> list[Answer]:
    """The answers that ``answers_table`` stored as these rows."""
    names = [each.name for each in fields(Answer)]
    found = rows.select(names).to_pylist()
    for row in found:
        if (pairs := row[schema.LABEL_PROBABILITIES]) is not None:
            row[schema.LABEL_PROBABILITIES] = {pair["category"]: pair["probability"] for pair in pairs}
        row[schema.ERROR_KIND] = ErrorKind(row[schema.ERROR_KIND]) if row[schema.ERROR_KIND] else None
    return [Answer(**row) for row in found]
