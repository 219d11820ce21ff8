"""Asking an endpoint that speaks OpenAI's API: gpt-4, or a server of your own. Text only, mode ``generate``.

There is no ``score`` here: such endpoints give the probabilities of the likeliest tokens alone, which leaves
answer words out. The key comes from the environment variable OPENAI_API_KEY and goes nowhere but into requests.
"""

import logging
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

try:
    import openai
except ImportError as error:
    from llambert.errors import InputError

    raise InputError("annotator.engine: 'openai' needs a package: pip install 'llambert[openai]'") from error

from llambert.annotation.prompts import chat_messages, completion_text, truncate
from llambert.engines import Answer, BudgetSpent, StoppedEarly
from llambert.engines.limits import Budget, RateLimiter
from llambert.engines.openai.faults import EndpointError, Fault, FaultKind, classify, num_excess_chars, read_fault
from llambert.engines.openai.parameters import OF_SERVERS, Parameters
from llambert.engines.openai.replies import Reply, read_reply
from llambert.engines.openai.request_prompt import Prompt, as_stored, num_bytes, num_chars
from llambert.engines.openai.retry_after import retry_after
from llambert.errors import ErrorKind, InputError
from llambert.printable import SURROGATE
from llambert.recipe import AnnotatorRecipe
from llambert.tasks import Task

_OPENAI_URL = "https://api.openai.com/v1"
_API_KEY_VARIABLE = "OPENAI_API_KEY"
INITIAL_DELAY_S = 1.0
_MAX_DELAY_S = 60.0
# An endpoint that asks for more patience than this is down for the day.
_MAX_RETRY_AFTER_S = 900.0
# So many records in a row without an answer are the endpoint's fault, unless it answers a harmless text; the first one
# is, if no other answer has come.
_MAX_FAILURES_IN_A_ROW = 10
# A token of a byte-level vocabulary is a byte at least; a chat template adds a few around each message.
_MAX_TOKENS_AROUND_MESSAGE = 16
_BYTES_PER_TOKEN = 4  # on average; for the pace, which is corrected by the usage in each reply
_MAX_MEASURED_CUTS = 3  # then half of the text, each time
# What is asked to tell a record's fault from the endpoint's: no moderation minds it, and it fits everywhere.
_PROBE_TEXT = "A short text."
_ERROR_KINDS: dict[FaultKind, ErrorKind] = {
    FaultKind.REFUSED: ErrorKind.REFUSED,
    FaultKind.DENIED: ErrorKind.REFUSED,
    FaultKind.OVER_LENGTH: ErrorKind.OVER_LENGTH,
    FaultKind.TRANSIENT: ErrorKind.PASSING,
}
# What an error about a parameter is taken for.
_PARAMETER_FAULTS = (FaultKind.FAILED, FaultKind.NO_MODEL, FaultKind.NO_ADDRESS)
_ERROR_NAMES = {ErrorKind.REFUSED: "Refused", ErrorKind.OVER_LENGTH: "OverLength"}  # else the kind of the failure

logger = logging.getLogger(__name__)


class _Stopped(Exception):
    """Nothing more can be asked; the message says why."""


class OpenAIEngine:
    """Asks an endpoint about many records at once, within its limits and a budget.

    A busy or failing endpoint (429, 5xx, time-outs, broken JSON) is asked again with growing, jittered
    delays, or when its ``Retry-After`` says, ``limits.max_attempts`` times; then the record has an error that may
    pass. A text for which the endpoint finds the prompt too long is cut (``annotator.truncation``) and asked about
    again; the number of tokens left out is an estimate from its characters. A record that the endpoint's moderation
    refuses has an error, and so has one it denies (403) while it answers others. ``StoppedEarly`` where asking on
    makes no sense: a wrong key, an unknown model, no such server, nothing but failures, no quota, the budget's end.
    A request that timed out counts against the budget as if it had been answered at full length.
    """

    def __init__(self, annotator: AnnotatorRecipe, task: Task, num_tokens_before: tuple[int, int] = (0, 0)) -> None:
        self._recipe, self._limits = annotator, annotator.limits
        self._prompt = task.prompt(annotator.prompt)
        self._answers = task.shot_answers
        self._prompt.first_shots(annotator.num_shots)
        self._url = annotator.base_url or _OPENAI_URL
        self._api_key = os.environ.get(_API_KEY_VARIABLE, "")
        if annotator.base_url is None and not self._api_key:
            raise InputError(f"annotator.engine: 'openai' reads the key from the environment; set {_API_KEY_VARIABLE}")
        # An own server may want no key, the client does.
        self._client = openai.OpenAI(
            api_key=self._api_key or "none", base_url=self._url, timeout=self._limits.timeout_s, max_retries=0
        )
        is_completion = self._prompt.format == "completion"
        # OpenAI's newer models know the new name alone, other servers often the old one.
        limit_name = "max_completion_tokens" if annotator.base_url is None and not is_completion else "max_tokens"
        stop = self._prompt.separator if is_completion else None
        self._parameters = Parameters(
            annotator.decoding, stop or None, self._url, limit_name, annotator.chat_template_kwargs
        )
        self.notes = self._parameters.notes
        self._rate, self._budget = RateLimiter(self._limits), Budget(self._limits, num_tokens_before)
        self._threads = ThreadPoolExecutor(self._limits.concurrency, thread_name_prefix="endpoint")
        self._stopped = threading.Event()
        self._reason, self._stop_kind = "", StoppedEarly
        self._lock, self._probe_lock = threading.Lock(), threading.Lock()
        self._num_answered = self._num_failures_in_a_row = 0
        self._check_connection()

    def annotate(self, texts: list[str]) -> list[Answer]:
        """One answer per text, in order; ``StoppedEarly`` with the answers up to where it had to stop."""
        futures = [self._threads.submit(self._ask, text) for text in texts]
        answers = list(_until_stop(futures))
        if len(answers) == len(texts):
            return answers
        # The failures that made it stop are the endpoint's: those records are asked about again next time.
        while answers and answers[-1].finish_reason == "error":
            answers.pop()
        raise self._stop_kind(self._reason, answers)

    def close(self) -> None:
        """End all threads and connections."""
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _check_connection(self) -> None:
        """Refuse a wrong key or address before the first record.

        An endpoint without a list of models is fine, and so is a key that may not see it (403).
        """
        try:
            self._client.models.with_raw_response.list()  # only whether it succeeds matters
        except openai.APIError as error:
            fault = _fault_of(error)
            if fault.is_unreachable or self._meaning(fault) is FaultKind.BAD_KEY:
                raise InputError(self._describe(fault)) from None
            logger.debug("%s: no list of models: %s", self._url, self._redact(str(error)))

    # One record

    def _ask(self, text: str) -> Answer:
        """The answer for one record, after retries and truncation within the limits."""
        whole, num_kept, num_dropped, num_cuts = text, len(text), 0, 0
        while True:
            prompt = self._render(text)
            try:
                reply = self._request(prompt)
            except EndpointError as error:
                fault = error.fault
                kind = _ERROR_KINDS.get(self._meaning(fault), ErrorKind.FAILED)
                if kind is not ErrorKind.OVER_LENGTH:
                    return self._failed(prompt, fault, kind)
                if not text:
                    self._count_failure(fault)  # the prompt alone is too long, for any record
                    return self._failed(prompt, fault, kind)
                excess = num_excess_chars(fault, num_chars(prompt)) if num_cuts < _MAX_MEASURED_CUTS else None
                num_kept, num_cuts = max(0, num_kept - excess) if excess else num_kept // 2, num_cuts + 1
                chars = [(at, at + 1) for at in range(len(whole))]
                text, num_dropped = truncate(whole, chars, num_kept, self._recipe.truncation), len(whole) - num_kept
            else:
                tokens_per_char = reply.num_prompt_tokens / max(num_chars(prompt), 1)
                num_truncated = max(1, round(num_dropped * tokens_per_char)) if num_dropped else 0
                return self._answer(prompt, reply, num_truncated)

    def _request(self, prompt: Prompt) -> Reply:
        """One reply, after as many attempts as the limits allow; the last attempt's ``EndpointError`` otherwise."""
        attempt = 0
        while True:
            num_answered = self._num_answered
            try:
                reply = self._negotiated_attempt(prompt)
            except EndpointError as error:
                found = self._raise_if_final(error.fault, num_answered)
                attempt += 1
                if found is FaultKind.TRANSIENT and attempt < self._limits.max_attempts:
                    self._wait(self._delay(attempt - 1, error))
                    continue
                if found is not FaultKind.OVER_LENGTH:
                    self._count_failure(error.fault)
                raise
            if reply.refusal:
                self._count_failure(Fault("Refused", 400, reply.refusal, frozenset({"content_filter"})))
            else:
                self._count_answer()
            return reply

    def _negotiated_attempt(self, prompt: Prompt) -> Reply:
        """One attempt, with the parameters that the endpoint takes: what it refuses of them costs no attempt."""
        while True:
            parameters = self._parameters.current()
            try:
                reply = self._attempt(prompt, parameters)
            except EndpointError as error:
                found = self._meaning(error.fault)
                try:
                    if found not in _PARAMETER_FAULTS or not self._parameters.drop_refused(error.fault, parameters):
                        raise
                except InputError as refusal:
                    self._stop(self._redact(str(refusal), 600))
            else:
                self._parameters.confirm(parameters)
                return reply

    def _attempt(self, prompt: Prompt, parameters: dict[str, Any]) -> Reply:
        """Send one request, with its place in the pace and its share of the budget."""
        size = num_bytes(prompt)
        num_around = _MAX_TOKENS_AROUND_MESSAGE * (1 + (len(prompt) if isinstance(prompt, list) else 1))
        reserved = (size + num_around, self._recipe.decoding.max_new_tokens)
        if self._stopped.is_set():
            raise _Stopped(self._reason)
        if not self._budget.reserve(reserved):
            self._stop(f"annotator.limits: {self._budget.describe_end()}; raise it to go on", BudgetSpent)
        spent, num_expected = (0, 0), size // _BYTES_PER_TOKEN + num_around + reserved[1]
        try:
            self._wait(self._rate.take(num_expected))
            reply = self._send(prompt, parameters)
            spent = (reply.num_prompt_tokens, reply.num_response_tokens) if reply.num_prompt_tokens else reserved
            self._rate.correct(sum(spent) - num_expected)
            return reply
        except EndpointError as error:
            is_truncated = self._meaning(error.fault) is FaultKind.TRUNCATED
            if is_truncated or not error.is_free:
                spent = reserved  # it may have been answered, and billed, on the other side
            if is_truncated:
                return Reply("", None, "length", 0, 0)
            raise
        finally:
            self._budget.settle(reserved, spent)

    def _send(self, prompt: Prompt, parameters: dict[str, Any]) -> Reply:
        sent: dict[str, Any] = {"model": self._recipe.model, **parameters}
        if own := {name: sent.pop(name) for name in OF_SERVERS if name in sent}:
            sent["extra_body"] = own
        try:
            if isinstance(prompt, str):
                if "max_completion_tokens" in sent:
                    sent.setdefault("extra_body", {})["max_completion_tokens"] = sent.pop("max_completion_tokens")
                raw = self._client.completions.with_raw_response.create(prompt=prompt, **sent)
            else:
                raw = self._client.chat.completions.with_raw_response.create(messages=prompt, **sent)  # type: ignore[arg-type]
        except openai.APIError as error:
            response = getattr(error, "response", None)
            self._check_method(response)
            asked = retry_after(response.headers, response.text) if response is not None else None
            raise EndpointError(_fault_of(error), is_free=response is not None, retry_after_s=asked) from None
        self._check_method(raw.http_response)
        return read_reply(raw.http_response.text, self._recipe.decoding.max_new_tokens)

    def _check_method(self, response: Any) -> None:
        """Stop where a redirect made another request of ours: the body is lost on the way."""
        if response is not None and response.request.method != "POST":
            url = str(response.request.url).removesuffix("/chat/completions").removesuffix("/completions")
            self._stop(f"annotator.base_url: {self._url} redirects; set it to {url}")

    def _render(self, text: str) -> Prompt:
        asked = (self._prompt, self._answers, self._recipe.num_shots, text)
        is_completion = self._prompt.format == "completion"
        return completion_text(*asked) + self._recipe.answer_prefix if is_completion else chat_messages(*asked)

    def _answer(self, prompt: Prompt, reply: Reply, num_truncated: int) -> Answer:
        if reply.refusal:
            answer = self._failed(prompt, Fault("Refused", None, reply.refusal), ErrorKind.REFUSED)
        else:
            answer = Answer(as_stored(prompt), reply.text, reply.finish_reason)
        return replace(
            answer,
            num_prompt_tokens=reply.num_prompt_tokens,
            num_response_tokens=reply.num_response_tokens,
            num_truncated_tokens=num_truncated,
        )

    def _failed(self, prompt: Prompt, fault: Fault, kind: ErrorKind) -> Answer:
        message = f"{_ERROR_NAMES.get(kind, fault.name)}: {self._redact(fault.message)}"
        return Answer(as_stored(prompt), None, "error", error=message, error_kind=kind)

    # What an error means

    def _meaning(self, fault: Fault) -> FaultKind:
        return classify(fault, self._recipe.decoding.max_new_tokens)

    def _raise_if_final(self, fault: Fault, num_answered: int) -> FaultKind:
        """What an error means for its record, sent after ``num_answered`` answers; stop where it means all records."""
        found = self._meaning(fault)
        if found is FaultKind.DENIED:
            other = self._probe(num_answered)
            if other in (FaultKind.DENIED, FaultKind.REFUSED, FaultKind.BAD_KEY):
                self._stop(self._describe(fault))
            return FaultKind.TRANSIENT if other else FaultKind.DENIED
        if found in (FaultKind.BAD_KEY, FaultKind.NO_MODEL, FaultKind.NO_ADDRESS):
            self._stop(self._describe(fault))
        if found is FaultKind.NO_QUOTA:
            self._stop(f"{self._url}: the account has no quota left: {self._redact(fault.message)}")
        if found is FaultKind.BAD_LIMIT:
            limit = self._recipe.decoding.max_new_tokens
            self._stop(
                f"annotator.decoding.max_new_tokens: {self._url} does not give {limit}: {self._redact(fault.message)}"
            )
        return found

    def _probe(self, num_answered: int) -> FaultKind | None:
        """Why the endpoint does not even answer a harmless text; None where it does, or has answered another record."""
        with self._probe_lock:
            if self._num_answered > num_answered:
                return None
            try:
                reply = self._negotiated_attempt(self._render(_PROBE_TEXT))
            except EndpointError as error:
                return self._meaning(error.fault)
            if reply.refusal:
                return FaultKind.REFUSED
            self._count_answer()
            return None

    def _count_answer(self) -> None:
        with self._lock:
            self._num_answered += 1
            self._num_failures_in_a_row = 0

    def _count_failure(self, fault: Fault) -> None:
        is_transient, is_unreachable = self._meaning(fault) is FaultKind.TRANSIENT, fault.is_unreachable
        with self._lock:
            self._num_failures_in_a_row += 1
            num, num_answered = self._num_failures_in_a_row, self._num_answered
        is_doubtful = num >= _MAX_FAILURES_IN_A_ROW or is_unreachable
        # Whether it answers at all is asked early: each record that it refuses meanwhile is lost for good.
        if not is_doubtful and (is_transient or num_answered):
            return
        other = self._probe(num_answered)
        if other is None or (not is_doubtful and other is FaultKind.TRANSIENT):
            return
        if is_unreachable:
            self._stop(self._describe(fault))
        self._stop(
            f"{self._url}: no answer, neither for the last records asked about ({num}) nor for a harmless text: "
            f"{self._redact(fault.message)}"
        )

    def _delay(self, attempt: int, error: EndpointError) -> float:
        """Seconds before the next attempt: what the endpoint asks for, or a random share of a doubling limit."""
        asked = error.retry_after_s
        if asked is None:
            return random.uniform(0, min(_MAX_DELAY_S, INITIAL_DELAY_S * 2**attempt))
        if asked > _MAX_RETRY_AFTER_S:
            self._stop(f"{self._url}: asks to be left alone for {asked:,.0f} s; start again after that")
        self._rate.hold(asked)
        return asked + random.uniform(0, min(asked, INITIAL_DELAY_S))

    def _describe(self, fault: Fault) -> str:
        message, found = self._redact(fault.message), self._meaning(fault)
        if found is FaultKind.NO_ADDRESS:
            return f"annotator.base_url: {self._url} has no such address; is it right, with its /v1? {message}"
        if found is FaultKind.NO_MODEL:
            return f"annotator.model: {self._recipe.model!r} is not at {self._url}: {message}"
        if fault.status is not None:
            what = (
                f"the key in {_API_KEY_VARIABLE}"
                if self._api_key
                else f"requests without a key; set {_API_KEY_VARIABLE}"
            )
            return f"{self._url}: refuses {what} (status {fault.status}): {message}"
        return f"{self._url}: cannot be reached; is the endpoint running, and annotator.base_url right?"

    def _redact(self, message: str, length: int = 300) -> str:
        """One line of an error, without the key: some servers repeat it."""
        text = " ".join(SURROGATE.sub("\ufffd", message).split())
        return (text.replace(self._api_key, "[key]") if self._api_key else text)[:length]

    def _stop(self, reason: str, kind: type[StoppedEarly] = StoppedEarly) -> NoReturn:
        """End this and every other thread's asking."""
        with self._lock:
            if not self._stopped.is_set():
                self._reason, self._stop_kind = reason, kind
                self._stopped.set()
        raise _Stopped(self._reason)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise _Stopped(self._reason)


def _until_stop(futures: list[Future[Answer]]) -> Iterator[Answer]:
    """Answers in order up to the first that was stopped; later requests under way are waited for."""
    stopped = False
    for future in futures:
        try:
            answer = future.result()
        except _Stopped:
            stopped = True
        else:
            if not stopped:
                yield answer


def _fault_of(error: openai.APIError) -> Fault:
    """What the client's exception tells; its name is the exception's type."""
    name = type(error).__name__
    if isinstance(error, openai.APIStatusError):
        return read_fault(name, error.status_code, error.response.text)
    # Not of its subclass: where a request timed out there was a connection.
    return Fault(name, None, str(error), is_unreachable=type(error) is openai.APIConnectionError)
