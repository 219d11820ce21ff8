"""What is asked of which corpus: a question, its categories and their answer words, and prompts.

Shipped tasks are the YAML files beside this one; a user's own is any YAML file of the same form.
"""

import os
import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from llambert.annotation.prompts import Prompt, Shot
from llambert.errors import InputError
from llambert.printable import shortened
from llambert.section import Section, inconsistent, parse_yaml, read_text, validate

_SHIPPED = Path(__file__).parent
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


class Category(Section):
    """An allowed class and the words by which an answer names it; the first is used in shots."""

    name: str = Field(min_length=1)
    answer_words: tuple[str, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _can_be_shown(cls, name: str) -> str:
        if _CONTROL.search(name):
            raise ValueError("holds a control character, which no page and no labelling tool can show")
        return name


class Task(Section):
    """A question about each record of a corpus. Categories keep the order of the file everywhere."""

    name: str
    question: str
    categories: tuple[Category, ...] = Field(min_length=2)
    prompts: dict[str, Prompt] = Field(min_length=1)
    """By name; the first is the default."""

    @property
    def category_names(self) -> list[str]:
        """Category names in task order: the order of every probability array."""
        return [category.name for category in self.categories]

    @property
    def shot_answers(self) -> dict[str, str]:
        """Category -> its answer in a shot, the first of its words."""
        return {category.name: category.answer_words[0] for category in self.categories}

    def prompt(self, name: str | None = None) -> Prompt:
        """The prompt of that name, or the first; ``InputError`` if it does not exist."""
        if name is None:
            return next(iter(self.prompts.values()))
        if name not in self.prompts:
            raise InputError(f"task {self.name}: no prompt {name!r}; it has {', '.join(self.prompts)}")
        return self.prompts[name]

    def with_shots(self, prompt_name: str | None, shots: tuple[Shot, ...]) -> Self:
        """The same task, one of its prompts with other shots."""
        prompt = self.prompt(prompt_name)
        name = next(name for name, value in self.prompts.items() if value is prompt)
        return self.model_copy(update={"prompts": {**self.prompts, name: prompt.model_copy(update={"shots": shots})}})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.category_names
        if len(set(names)) != len(names):
            index = next(index for index, name in enumerate(names) if name in names[:index])
            raise inconsistent(f"duplicate category {names[index]!r}", "categories", index, "name")
        owner: dict[str, str] = {}
        for index, category in enumerate(self.categories):
            for word in category.answer_words:
                if (other := owner.setdefault(word.casefold(), category.name)) != category.name:
                    fault = f"answer word {word!r} belongs to {other} and {category.name}"
                    raise inconsistent(fault, "categories", index, "answer_words")
        for prompt_name, prompt in self.prompts.items():
            for index, shot in enumerate(prompt.shots):
                if shot.label not in names:
                    fault = f"a shot is labelled {shot.label!r}, which is no category"
                    raise inconsistent(fault, "prompts", prompt_name, "shots", index, "label")
        return self


def load_task(name_or_path: str) -> Task:
    """A shipped task by name, or a task file by path; ``InputError`` with a line per fault."""
    names = sorted(file.stem for file in _SHIPPED.glob("*.yaml"))
    path = _SHIPPED / f"{name_or_path}.yaml" if name_or_path in names else Path(name_or_path)
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that no filesystem takes
        shown = shortened(name_or_path)
        raise InputError(f"task {shown!r}: neither a shipped task ({', '.join(names)}) nor a file")
    text = read_text(path)
    return validate(Task, parse_yaml(text, path), text, path)
