"""Prompt template, shots, rendering: what the annotator reads, to the character and to the token."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError
from pydantic import Field, field_validator

from llambert.annotation.chat_template import DATE, TODAY, ChatTemplate
from llambert.annotation.verbalizer.reasoning import open_thought
from llambert.errors import InputError, OverLength, panics_as_errors
from llambert.section import Section

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Truncation = Literal["head", "tail", "head_tail"]

# Placed between the two ends of a text whose middle was left out.
ELLIPSIS = " ... "
_MARK_BYTES = 4
_LLAMA2_CONTROL_TOKENS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


class Shot(Section):
    """One worked answer shown to the annotator. ``label`` is a category; its answer is the category's first word."""

    text: str
    label: str


class Prompt(Section):
    """How a task is put to an LLM.

    ``format``: ``chat`` (the model's own chat template; Llama-2's ``[INST] <<SYS>>`` where the tokenizer has
    none), ``llama2`` (always that), or ``completion`` (plain text that the model continues).
    ``template`` holds ``{text}`` once. Shots are rendered with the same template and the answer after it.
    """

    format: Literal["chat", "llama2", "completion"] = "chat"
    system: str | None = None
    template: str
    shots: tuple[Shot, ...] = Field(default=())
    separator: str = "\n\n"
    """Between shots of a completion prompt."""
    fence: bool = False
    """Put each text between marks that it cannot hold itself, so that the template can say where it ends."""

    @field_validator("template")
    @classmethod
    def _one_text(cls, template: str) -> str:
        if template.count("{text}") != 1:
            raise ValueError("a prompt template holds {text} exactly once")
        return template

    def fill(self, text: str) -> str:
        """The template with ``text`` in its place; braces inside a text mean nothing."""
        before, after = self.template.split("{text}")
        if self.fence:
            # Drawn from the text itself: to write it into a text is to change it.
            mark = blake2b(text.encode(errors="surrogatepass"), digest_size=_MARK_BYTES).hexdigest()
            text = f"<text {mark}>\n{text}\n</text {mark}>"
        return before + text + after

    def first_shots(self, num_shots: int | None) -> tuple[Shot, ...]:
        """The first ``num_shots`` shots, all for None; ``InputError`` where there are not as many."""
        if num_shots is not None and num_shots > len(self.shots):
            raise InputError(f"annotator.num_shots: {num_shots} asked for, the prompt has {len(self.shots)}")
        return self.shots[:num_shots]


def chat_messages(prompt: Prompt, answers: Mapping[str, str], num_shots: int | None, text: str) -> list[dict[str, str]]:
    """The prompt for ``text`` as chat messages: system, then user and assistant for each shot, then user.

    ``answers`` gives each category's answer in a shot. Nothing is done about template tokens inside the
    text: an HTTP endpoint keeps roles apart by itself, ``Renderer`` does it for a local tokenizer.
    """
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for shot in prompt.first_shots(num_shots):
        messages.append({"role": "user", "content": prompt.fill(shot.text)})
        messages.append({"role": "assistant", "content": answers[shot.label]})
    return [*messages, {"role": "user", "content": prompt.fill(text)}]


def completion_text(prompt: Prompt, answers: Mapping[str, str], num_shots: int | None, text: str) -> str:
    """The prompt for ``text`` as plain text: system, shots with their answers, then the open question.

    A blank precedes the answer of a shot unless the template ends in white space, as a model would continue
    running text.
    """
    blank = "" if prompt.template[-1].isspace() else " "
    shots = [prompt.fill(shot.text) + blank + answers[shot.label] for shot in prompt.first_shots(num_shots)]
    return prompt.separator.join([*([prompt.system] if prompt.system else []), *shots, prompt.fill(text)])


def llama2_text(messages: list[dict[str, str]], begin: str = "<s>", end: str = "</s>") -> str:
    """Chat messages in the format Llama-2-chat was trained on, from Meta's reference (llama/generation.py).

    The system prompt is part of the first user turn; every earlier turn with its answer is a sequence of
    its own between ``begin`` and ``end``; the last one is left open for the answer.
    """
    system = ""
    if messages[0]["role"] == "system":
        system = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n"
        messages = messages[1:]
    users = [system * (turn == 0) + message["content"] for turn, message in enumerate(messages[::2])]
    answers = [message["content"] for message in messages[1::2]]
    closed = [
        f"{begin}[INST] {user.strip()} [/INST] {answer.strip()} {end}"
        for user, answer in zip(users[:-1], answers, strict=True)
    ]
    return "".join(closed) + f"{begin}[INST] {users[-1].strip()} [/INST]"


@dataclass(frozen=True)
class RenderedPrompt:
    """What the model reads: as a string, and as the tokens of exactly that string.

    ``num_truncated_tokens``: tokens of the record's text that were left out to make it fit.
    """

    text: str
    token_ids: list[int]
    num_truncated_tokens: int = 0


def truncate(text: str, spans: Sequence[tuple[int, int]], num_kept: int, keep: Truncation) -> str:
    """``text`` down to ``num_kept`` of its tokens, whose character spans are given: head, tail, or both."""
    num_head = {"head": num_kept, "tail": 0, "head_tail": (num_kept + 1) // 2}[keep]
    num_tail = num_kept - num_head
    head = text[: spans[num_head - 1][1]] if num_head else ""
    tail = text[spans[-num_tail][0] :] if num_tail else ""
    return head + ELLIPSIS * (keep == "head_tail") + tail if num_kept else ""


class Renderer:
    """A prompt made ready for one tokenizer: record texts in, rendered prompts out.

    A text that holds a token of the chat template must not end the user's turn: inside a record's text a
    blank is put after the first character of every special token of the tokenizer and of Llama-2's marks
    (``<|im_end|>`` becomes ``< |im_end|>``, ``[/INST]`` becomes ``[ /INST]``), which the stored prompt
    shows. Should a tokenizer still read a special token out of a text, the record is refused.

    ``chat_template_kwargs`` go to the tokenizer's chat template; ``answer_prefix`` ends every prompt, so that the model
    goes on after it. ``notes``: what the user should know about the template, a line each.
    """

    def __init__(
        self,
        prompt: Prompt,
        answers: Mapping[str, str],
        num_shots: int | None,
        tokenizer: "PreTrainedTokenizerBase",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        answer_prefix: str = "",
    ) -> None:
        if not tokenizer.is_fast:
            raise InputError("annotator.model: its tokenizer has no tokenizer.json; convert it to a fast tokenizer")
        self._answers, self._num_shots = answers, num_shots
        self._tokenizer = tokenizer
        self.format = prompt.format
        if prompt.format == "chat" and not tokenizer.chat_template:
            self.format = "llama2"
        self._answer_prefix = answer_prefix
        self._chat_template: ChatTemplate | None = None
        if self.format == "chat":
            self._chat_template = ChatTemplate(tokenizer, chat_template_kwargs or {})
        elif chat_template_kwargs:
            raise InputError("annotator.chat_template_kwargs: the model has no chat template to read them")
        control = {
            str(token): token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or not str(token).isspace()
        }
        self._control_ids = frozenset(control.values())
        marks = [*control, *(_LLAMA2_CONTROL_TOKENS if self.format == "llama2" else ())]
        # Single characters cannot be taken apart; encode() refuses texts that hold one as a token.
        apart = sorted((re.escape(mark) for mark in marks if len(mark) > 1), key=len, reverse=True)
        self._control_pattern = re.compile("|".join(apart) or r"(?!)")
        # Shots may be records of the corpus, whose texts are no more to be trusted than any other's.
        shots = tuple(shot.model_copy(update={"text": self._escape(shot.text)}) for shot in prompt.shots)
        self._prompt = prompt.model_copy(update={"shots": shots})
        try:
            frame = self._tokens(self._render(""))
            opening = self._chat_template.opening(self._messages("")) if self._chat_template else ""
        except TemplateError as error:
            raise InputError(f"annotator.prompt: the model's chat template refuses it: {error}") from error
        self.num_template_tokens = len(frame)
        self._num_template_controls = self._num_controls(frame)
        self.open_thought = open_thought(opening + answer_prefix)
        """The thought that every prompt ends inside, in whose middle a generated response begins; mostly empty."""
        self.notes: list[str] = []
        if self._chat_template and self._chat_template.asks_for_date and DATE not in (chat_template_kwargs or {}):
            self.notes.append(
                f"the model's chat template writes today's date; it is given {TODAY:%d %b %Y} on every day, or "
                f"annotator.chat_template_kwargs.{DATE}"
            )

    @property
    def stop(self) -> list[str]:
        """Where a generated answer ends besides the end-of-sequence token."""
        return [self._prompt.separator] if self.format == "completion" and self._prompt.separator else []

    def require_answer_next(self) -> None:
        """``InputError``, with what to set, if what follows the prompt is not the answer but a thought, say."""
        if self._chat_template:
            self._chat_template.require_answer_next(self._messages(""), self._answer_prefix)

    def render(self, text: str) -> str:
        """The whole prompt for a record's text, template tokens inside the text taken apart."""
        return self._render(self._escape(text))

    @panics_as_errors()
    def encode(self, text: str, max_tokens: int, keep: Truncation = "head") -> RenderedPrompt:
        """The prompt for a record's text in at most ``max_tokens`` tokens, shots kept, the text cut if need be.

        ``keep`` says which end of the text stays: its head, its tail, or both with ``ELLIPSIS`` between.
        Raises ``OverLength`` where not even an empty text fits, ``ValueError`` where the text would read as a
        template token.
        """
        text = self._escape(text)
        rendered = self._render(text)
        token_ids = self._tokens(rendered)
        num_truncated = 0
        if len(token_ids) > max_tokens:
            spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            num_kept = len(spans)
            while len(token_ids) > max_tokens:
                if num_kept == 0:
                    raise OverLength(f"the prompt needs {len(token_ids)} tokens without any text; {max_tokens} fit")
                num_kept = max(0, num_kept - (len(token_ids) - max_tokens))
                rendered = self._render(truncate(text, spans, num_kept, keep))
                token_ids = self._tokens(rendered)
            num_truncated = len(spans) - num_kept
        if self._num_controls(token_ids) != self._num_template_controls:
            raise ValueError("the text reads as a token of the model's chat template")
        return RenderedPrompt(rendered, token_ids, num_truncated)

    def _render(self, text: str) -> str:
        return self._render_open(text) + self._answer_prefix

    def _render_open(self, text: str) -> str:
        if self.format == "completion":
            return completion_text(self._prompt, self._answers, self._num_shots, text)
        messages = self._messages(text)
        if self._chat_template is None:
            return llama2_text(messages, self._tokenizer.bos_token or "", self._tokenizer.eos_token or "")
        return self._chat_template.render(messages)

    def _messages(self, text: str) -> list[dict[str, str]]:
        return chat_messages(self._prompt, self._answers, self._num_shots, text)

    def _tokens(self, rendered: str) -> list[int]:
        # Chat formats write the beginning-of-sequence token themselves.
        return self._tokenizer(rendered, add_special_tokens=self.format == "completion")["input_ids"]

    def _escape(self, text: str) -> str:
        while self._control_pattern.search(text):
            text = self._control_pattern.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)
        return text

    def _num_controls(self, token_ids: list[int]) -> int:
        return sum(token_id in self._control_ids for token_id in token_ids)
