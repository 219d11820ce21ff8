"""Any endpoint that speaks OpenAI's API: gpt-4, or a server of your own. Text only, mode ``generate``.

There is no ``score`` here: such endpoints give the probabilities of the likeliest tokens alone, which leaves
answer words out. The key comes from the environment variable OPENAI_API_KEY and goes nowhere but into requests.
"""

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

try:
    import openai
except ImportError as error:
    from llambert.errors import InputError

    raise InputError("annotator.engine: 'openai' needs a package: pip install 'llambert[openai]'") from error

from llambert.engines import Answer, StoppedEarly
from llambert.engines.limits import Budget, Pace
from llambert.errors import InputError, OverLength, Refused, one_line
from llambert.names import SURROGATE
from llambert.prompts import ELLIPSIS, chat_messages, completion_text
from llambert.recipe import AnnotatorRecipe
from llambert.tasks import Task

_OPENAI_URL = "https://api.openai.com/v1"
_KEY = "OPENAI_API_KEY"
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0
# An endpoint that asks for more patience than this is down for the day.
_LONGEST_HOLD_S = 900.0
# So many records in a row without an answer are not the records' fault.
_MAX_FAILURES_IN_A_ROW = 10
# A token of a byte-level vocabulary is a byte at least; a chat template adds a few around each message.
_MAX_TOKENS_AROUND_MESSAGE = 16
_BYTES_PER_TOKEN = 4  # on average; for the pace, which is corrected by the usage in each reply
_OVER_LENGTH = re.compile(r"context[ _](?:length|window|size)|maximum (?:model |input )?length|too many tokens", re.I)
_LIMIT_AND_LENGTH = re.compile(r"(?:length|window|size) (?:is|of) (\d+).*?(?:requested|resulted in|has|contains) (\d+)")
_MAX_CUTS_BY_NUMBERS = 3  # then half of the text, each time
_REFUSALS = ("content_filter", "content_policy_violation")
_OUT_OF_QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")

logger = logging.getLogger(__name__)


class _Stop(Exception):
    """Nothing more can be asked; the message says why."""


class _Malformed(ValueError):
    """A reply that is not what OpenAI's API says it is."""


@dataclass(frozen=True)
class _Reply:
    text: str | None
    refusal: str | None
    finish_reason: str
    num_prompt_tokens: int
    num_response_tokens: int


class OpenAIEngine:
    """Asks an endpoint about many records at once, within its limits and a budget.

    A busy or failing endpoint (429, 5xx, time-outs, broken JSON) is asked again with growing, jittered
    delays, or when its ``Retry-After`` says, ``limits.max_attempts`` times; then the record has an error. A
    text for which the endpoint finds the prompt too long is cut (``annotator.truncation``) and asked about again;
    the number of tokens left out is an estimate from its characters. ``StoppedEarly`` where asking on makes no
    sense: a wrong key, an unknown model, no such server, nothing but failures, no quota, the budget's end.
    A request that timed out counts against the budget as if it had been answered at full length.
    """

    def __init__(self, annotator: AnnotatorRecipe, task: Task, num_tokens_before: tuple[int, int] = (0, 0)) -> None:
        self._recipe, self._limits = annotator, annotator.limits
        self._prompt = task.prompt(annotator.prompt)
        self._answers = {category.name: category.answer_words[0] for category in task.categories}
        self._prompt.first_shots(annotator.num_shots)
        self._url = annotator.base_url or _OPENAI_URL
        self._secret = os.environ.get(_KEY, "")
        if annotator.base_url is None and not self._secret:
            raise InputError(f"annotator.engine: 'openai' reads the key from the environment; set {_KEY}")
        # An own server may want no key, the client does.
        self._client = openai.OpenAI(
            api_key=self._secret or "none", base_url=self._url, timeout=self._limits.timeout_s, max_retries=0
        )
        self._pace, self._budget = Pace(self._limits), Budget(self._limits, num_tokens_before)
        self._threads = ThreadPoolExecutor(self._limits.concurrency, thread_name_prefix="endpoint")
        self._stopped = threading.Event()
        self._reason = ""
        self._lock = threading.Lock()
        self._num_failures_in_a_row = 0
        self._greet()

    def annotate(self, texts: list[str]) -> list[Answer]:
        """One answer per text, in order; ``StoppedEarly`` with the answers up to where it had to stop."""
        futures = [self._threads.submit(self._ask, text) for text in texts]
        answers = list(_until_stop(futures))
        if len(answers) == len(texts):
            return answers
        # The failures that made it stop are the endpoint's: those records are asked about again next time.
        while answers and answers[-1].finish_reason == "error":
            answers.pop()
        raise StoppedEarly(self._reason, answers)

    def close(self) -> None:
        """End all threads and connections."""
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _greet(self) -> None:
        """Refuse a wrong key or address before the first record; an endpoint without a list of models is fine."""
        try:
            self._client.models.list()
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
            if not isinstance(error, openai.APITimeoutError):
                raise InputError(self._describe(error)) from None
        except (openai.APIError, ValueError) as error:
            logger.debug("%s: no list of models: %s", self._url, self._clean(error))

    # One record

    def _ask(self, text: str) -> Answer:
        """The answer for one record, whatever it takes within the limits."""
        whole, num_chars, num_dropped, num_cuts = text, len(text), 0, 0
        while True:
            prompt = self._render(text)
            try:
                reply = self._request(prompt)
            except OverLength as error:
                if not text:
                    return self._failed(prompt, error)
                excess = _num_excess_chars(str(error), _num_chars(prompt)) if num_cuts < _MAX_CUTS_BY_NUMBERS else None
                num_chars, num_cuts = max(0, num_chars - excess) if excess else num_chars // 2, num_cuts + 1
                text, num_dropped = _cut(whole, num_chars, self._recipe.truncation), len(whole) - num_chars
                continue
            except (openai.APIError, _Malformed, Refused) as error:
                return self._failed(prompt, error)
            tokens_per_char = reply.num_prompt_tokens / max(_num_chars(prompt), 1)
            num_truncated = max(1, round(num_dropped * tokens_per_char)) if num_dropped else 0
            return self._answer(prompt, reply, num_truncated)

    def _request(self, prompt: list[dict[str, str]] | str) -> _Reply:
        """One reply, after as many attempts as the limits allow; the last attempt's exception otherwise."""
        for attempt in range(self._limits.max_attempts):
            try:
                reply = self._attempt(prompt)
            except (openai.APIError, _Malformed) as error:
                self._judge(error)
                if attempt + 1 == self._limits.max_attempts or not _is_passing(error):
                    self._count_failure(error)
                    raise
                self._wait(self._delay(attempt, error))
            else:
                self._num_failures_in_a_row = 0
                return reply
        raise AssertionError("an attempt either replies or raises")

    def _attempt(self, prompt: list[dict[str, str]] | str) -> _Reply:
        """Send one request, with its place in the pace and its share of the budget."""
        num_bytes = _num_bytes(prompt)
        num_around = _MAX_TOKENS_AROUND_MESSAGE * (1 + (len(prompt) if isinstance(prompt, list) else 1))
        reserved = (num_bytes + num_around, self._recipe.decoding.max_new_tokens)
        if self._stopped.is_set():
            raise _Stop(self._reason)
        if not self._budget.reserve(reserved):
            self._stop(f"annotator.limits: the budget ends here: {self._budget.describe()}; raise it to go on")
        spent, num_expected = (0, 0), num_bytes // _BYTES_PER_TOKEN + num_around + reserved[1]
        try:
            self._wait(self._pace.take(num_expected))
            reply = self._send(prompt)
            spent = (reply.num_prompt_tokens, reply.num_response_tokens) if reply.num_prompt_tokens else reserved
            self._pace.correct(sum(spent) - num_expected)
            return reply
        except (openai.APITimeoutError, openai.APIConnectionError, _Malformed):
            spent = reserved  # it may have been answered, and billed, on the other side
            raise
        finally:
            self._budget.settle(reserved, spent)

    def _send(self, prompt: list[dict[str, str]] | str) -> _Reply:
        decoding = self._recipe.decoding
        parameters: dict[str, Any] = {"temperature": decoding.temperature, "top_p": decoding.top_p}
        parameters |= {"seed": decoding.seed, "model": self._recipe.model}
        if decoding.top_k:
            parameters["extra_body"] = {"top_k": decoding.top_k}
        try:
            if isinstance(prompt, str):
                stop = [self._prompt.separator] if self._prompt.separator else None
                reply: Any = self._client.completions.create(
                    prompt=prompt, max_tokens=decoding.max_new_tokens, stop=stop, **parameters
                )
            else:
                # OpenAI's newer models know the new name alone, other servers often the old one.
                limit = "max_tokens" if self._recipe.base_url else "max_completion_tokens"
                parameters[limit] = decoding.max_new_tokens
                reply = self._client.chat.completions.create(messages=prompt, **parameters)  # type: ignore[arg-type]
        except openai.APIError:
            raise
        except ValueError as error:  # JSON that ends in the middle
            raise _Malformed(one_line(error)) from error
        return _read_reply(reply)

    def _render(self, text: str) -> list[dict[str, str]] | str:
        render = completion_text if self._prompt.format == "completion" else chat_messages
        return render(self._prompt, self._answers, self._recipe.num_shots, text)

    def _answer(self, prompt: list[dict[str, str]] | str, reply: _Reply, num_truncated: int) -> Answer:
        refusal = reply.refusal or (reply.finish_reason if reply.finish_reason in _REFUSALS else None)
        return Answer(
            prompt=prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False),
            response=None if refusal else reply.text or "",
            finish_reason="error" if refusal else "length" if reply.finish_reason == "length" else "stop",
            num_prompt_tokens=reply.num_prompt_tokens,
            num_response_tokens=reply.num_response_tokens,
            num_truncated_tokens=num_truncated,
            error=f"Refused: {self._clean(refusal)}" if refusal else None,
        )

    def _failed(self, prompt: list[dict[str, str]] | str, error: Exception) -> Answer:
        return Answer(
            prompt=prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False),
            response=None,
            finish_reason="error",
            error=f"{type(error).__name__.lstrip('_')}: {self._clean(error)}",
        )

    # What an error means

    def _judge(self, error: Exception) -> None:
        """Raise what is not to be tried again: the record's own fault, or a reason to stop."""
        code = getattr(error, "code", None) or getattr(error, "type", None)
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
            self._stop(self._describe(error))
        if isinstance(error, openai.RateLimitError) and code in _OUT_OF_QUOTA:
            self._stop(f"{self._url}: the account has no quota left ({code})")
        if isinstance(error, openai.BadRequestError):
            if code in _REFUSALS:
                raise Refused(self._clean(error)) from None
            if code == "context_length_exceeded" or _OVER_LENGTH.search(str(error)):
                raise OverLength(self._clean(error)) from None

    def _delay(self, attempt: int, error: Exception) -> float:
        """Seconds before the next attempt: what the endpoint asks for, or a random share of a doubling limit."""
        asked = _retry_after(error)
        if asked is None:
            return random.uniform(0, min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**attempt))
        if asked > _LONGEST_HOLD_S:
            self._stop(f"{self._url}: asks to be left alone for {asked:,.0f} s; start again after that")
        self._pace.hold(asked)
        return asked + random.uniform(0, min(asked, _FIRST_DELAY_S))

    def _count_failure(self, error: Exception) -> None:
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            self._stop(self._describe(error))
        with self._lock:
            self._num_failures_in_a_row += 1
            is_endpoint = self._num_failures_in_a_row >= _MAX_FAILURES_IN_A_ROW
        if is_endpoint:
            self._stop(f"{self._url}: no answer for {_MAX_FAILURES_IN_A_ROW} records in a row: {self._clean(error)}")

    def _describe(self, error: Exception) -> str:
        if isinstance(error, openai.NotFoundError):
            return f"annotator.model: {self._recipe.model!r} is not at {self._url}: {self._clean(error)}"
        if isinstance(error, openai.APIStatusError):
            what = f"the key in {_KEY}" if self._secret else f"requests without a key; set {_KEY}"
            return f"{self._url}: refuses {what} (status {error.status_code})"
        return f"{self._url}: cannot be reached; is the endpoint running, and annotator.base_url right?"

    def _clean(self, error: Exception | str) -> str:
        """One line of an error, without the key: some servers repeat it."""
        text = " ".join(str(error).split())
        return (text.replace(self._secret, "[key]") if self._secret else text)[:300]

    def _stop(self, reason: str) -> NoReturn:
        """End this and every other thread's asking."""
        with self._lock:
            if not self._stopped.is_set():
                self._reason = reason
                self._stopped.set()
        raise _Stop(self._reason)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise _Stop(self._reason)


def _until_stop(futures: list[Future[Answer]]) -> Iterator[Answer]:
    """Answers in order up to the first that was stopped; requests under way behind it are waited for."""
    stopped = False
    for future in futures:
        try:
            answer = future.result()
        except _Stop:
            stopped = True
        else:
            if not stopped:
                yield answer


def _is_passing(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return True


def _read_reply(reply: Any) -> _Reply:
    """The parts of a reply that matter; ``_Malformed`` where they are not what the API says."""
    try:
        choice, usage = reply.choices[0], reply.usage
        message = getattr(choice, "message", None)
        text = message.content if message is not None else choice.text
        refusal = getattr(message, "refusal", None)
        found = _Reply(
            text,
            refusal,
            choice.finish_reason or "stop",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )
    except (AttributeError, IndexError, TypeError) as error:
        raise _Malformed(f"a reply without choices or message: {one_line(error)}") from error
    usages = (found.num_prompt_tokens, found.num_response_tokens)
    are_texts = isinstance(found.text, str | None) and isinstance(found.refusal, str | None)
    if not are_texts or not all(isinstance(num, int) and num >= 0 for num in usages):
        raise _Malformed("a reply whose content is no text or whose usage is no number")
    text, refusal = (value and SURROGATE.sub("\ufffd", value) for value in (found.text, found.refusal))
    return replace(found, text=text, refusal=refusal)


def _retry_after(error: Exception) -> float | None:
    """Seconds that a ``Retry-After`` header asks to wait, given as seconds or as a date."""
    if not isinstance(error, openai.APIStatusError):
        return None
    value = error.response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _num_chars(prompt: list[dict[str, str]] | str) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)


def _num_bytes(prompt: list[dict[str, str]] | str) -> int:
    messages = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return sum(len(message.encode("utf-8", "replace")) for message in messages)


def _num_excess_chars(message: str, num_prompt_chars: int) -> int | None:
    """How many characters are too many by the numbers in the endpoint's message, with a margin."""
    numbers = _LIMIT_AND_LENGTH.search(message)
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        return None
    return int(1.1 * (1 - int(numbers[1]) / int(numbers[2])) * num_prompt_chars) + 8


def _cut(text: str, num_chars: int, keep: str) -> str:
    """The head, the tail or both ends of a text."""
    num_head = {"head": num_chars, "tail": 0, "head_tail": (num_chars + 1) // 2}[keep]
    num_tail = num_chars - num_head
    tail = text[len(text) - num_tail :] if num_tail else ""
    return text[:num_head] + ELLIPSIS * (keep == "head_tail" and num_chars > 0) + tail
