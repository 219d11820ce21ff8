"""Prompt template, shots, rendering: what the annotator reads, to the character."""

from typing import Literal

from pydantic import Field, field_validator

from llambert.recipe import Section


class Shot(Section):
    """One worked answer shown to the annotator. ``label`` is a category; its answer is the category's first word."""

    text: str
    label: str


class Prompt(Section):
    """How a task is put to an LLM.

    ``format``: ``chat`` (the model's own chat template; Llama-2's ``[INST] <<SYS>>`` where the tokenizer has
    none), ``llama2`` (always that), or ``completion`` (plain text that the model goes on with).
    ``template`` holds ``{text}`` once. Shots are rendered with the same template and the answer after it.
    """

    format: Literal["chat", "llama2", "completion"] = "chat"
    system: str | None = None
    template: str
    shots: tuple[Shot, ...] = Field(default=())
    separator: str = "\n\n"
    """Between shots of a completion prompt."""

    @field_validator("template")
    @classmethod
    def _one_text(cls, template: str) -> str:
        if template.count("{text}") != 1:
            raise ValueError("a prompt template holds {text} exactly once")
        return template
