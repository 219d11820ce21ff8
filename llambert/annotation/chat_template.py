"""A model's chat template: what it writes around messages, on every day and node alike, and where an answer begins."""

import difflib
import json
import re
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from llambert.annotation.verbalizer.reasoning import ends_thought, open_thought
from llambert.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]

TODAY = date(2024, 7, 26)
"""What a template is told that asks for today's date: the day that Llama 3's own writes where nobody tells it one."""
DATE = "date_string"  # Llama 3's name for the day; the day of any template that asks for it
RESERVED = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
        *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now"),
    }
)
"""Names in ``chat_template_kwargs`` that would change more than what the template writes."""
# Settings by which templates turn thoughts off: Qwen 3, GLM 4.5, SmolLM 3; DeepSeek 3.1, Granite, Hunyuan.
_SWITCHES = {"enable_thinking": r"\benable_thinking\b", "thinking": r"\{%[^%{}]*\bthinking\b"}
_ANSWER = "zqAnswerzq"  # in no template


class ChatTemplate:
    """A tokenizer's chat template with the recipe's ``chat_template_kwargs``; ``InputError`` if it reads one of none.

    ``asks_for_date``: whether it has asked for today's date, which it is told from ``date_string`` or ``TODAY``.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: Mapping[str, Any]) -> None:
        self._tokenizer, self._settings = tokenizer, dict(settings)
        self._source = tokenizer.get_chat_template()
        self.asks_for_date = False
        known = set(re.findall(r"[A-Za-z_]\w*", self._source))
        for name in settings:
            if name not in known and not (name == DATE and "strftime_now" in known):
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
                hint = f"; did you mean {near[0]!r}?" if near else "; leave it out"
                raise InputError(
                    f"annotator.chat_template_kwargs.{name}: the model's chat template does not read it{hint}"
                )

    def render(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        """The messages as the model reads them, by default with the beginning of the answer's turn."""
        rendered: Any = self._tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **self._settings,
            strftime_now=self._today,
        )
        return str(rendered)

    def opening(self, messages: Messages) -> str:
        """What it writes after the last message, where the answer's turn begins."""
        opened = self.render(messages)
        try:
            closed = self.render(messages, add_generation_prompt=False)
        except TemplateError:
            return ""
        return opened.removeprefix(closed) if opened.startswith(closed) else ""

    def require_answer_next(self, messages: Messages, answer_prefix: str) -> None:
        """``InputError`` if the model would write anything else after ``answer_prefix`` before it answers.

        That is so where a thought is left open, or where the template puts something between the beginning of a turn
        and the answer of a finished one: an empty thought (Qwen 3), or the channel of the final message (gpt-oss).
        """
        switches = [name for name, pattern in _SWITCHES.items() if re.search(pattern, self._source)]
        off = f"annotator.chat_template_kwargs: {{{switches[0]}: false}}, or " if switches else ""
        if thought := open_thought(self.opening(messages) + answer_prefix):
            mark = thought.split()[0]
            is_element = mark.startswith("<") and mark.endswith(">") and "|" not in mark
            end = _quoted(f"</{mark[1:]}\n\n") if is_element else "its end mark"
            raise InputError(
                f"annotator.mode: the prompt ends inside a thought ({mark}), where no answer begins: set {off}an "
                f"annotator.answer_prefix that ends the thought: {end}"
            )
        before = self._before_answer(messages)
        opened = self.render(messages).rstrip()
        if before is None or not before.startswith(opened):
            return
        written = before[len(opened) :].lstrip()
        if _squeezed(written) not in _squeezed(answer_prefix) and not ends_thought(answer_prefix):
            raise InputError(
                f"annotator.mode: the model writes {_quoted(written.strip())} or a thought before it answers: set {off}"
                f"annotator.answer_prefix: {_quoted(written + answer_prefix)}"
            )

    def _before_answer(self, messages: Messages) -> str | None:
        """What a finished answer follows in a conversation; None of a template that takes none or changes it."""
        try:
            finished = self.render([*messages, {"role": "assistant", "content": _ANSWER}], add_generation_prompt=False)
        except TemplateError:
            return None
        before, found, _ = finished.rpartition(_ANSWER)
        return before if found else None

    def _today(self, form: str) -> str:
        self.asks_for_date = True
        return str(self._settings.get(DATE) or TODAY.strftime(form))


def _quoted(text: str) -> str:
    """As a recipe writes it, line breaks and all."""
    return json.dumps(text, ensure_ascii=False)


def _squeezed(text: str) -> str:
    return "".join(text.split())
