"""What an endpoint's error means, read from its status, its codes and its own words.

The words are those of OpenAI, Azure, vLLM, TGI, SGLang, llama.cpp, llama-cpp-python, LM Studio, Ollama, Anthropic,
Gemini, Mistral, Groq, Together, Cohere, Fireworks, Cerebras, xAI, Bedrock, DashScope, OpenRouter and GitHub Models, as
their users report them. Only an error's own messages are read, never what it repeats of the request.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from llambert.untrusted import parse_json


class FaultKind(Enum):
    """What follows from an error: for its record, or for all of them."""

    REFUSED = auto()
    """The endpoint's moderation will not have this record."""
    OVER_LENGTH = auto()
    """The prompt is too long for the model; a shorter text may fit."""
    BAD_LIMIT = auto()
    """More response tokens are asked for than the model can give, regardless of the record."""
    DENIED = auto()
    """403: the key's fault or the record's; other records tell."""
    BAD_KEY = auto()
    NO_MODEL = auto()
    NO_ADDRESS = auto()
    NO_QUOTA = auto()
    TRANSIENT = auto()
    """The same request may succeed a little later."""
    TRUNCATED = auto()
    """The response did not fit ``max_new_tokens``, and the endpoint has thrown it away."""
    FAILED = auto()
    """Nothing else is known: the record's fault, unless all others fail too."""


@dataclass(frozen=True)
class Fault:
    """An error as an endpoint reports it. ``name`` says what kind of failure it was, ``status`` is None without one.

    ``is_unreachable``: there was no connection at all.
    """

    name: str
    status: int | None
    message: str
    codes: frozenset[str] = frozenset()
    """Codes, types and reasons, in lower case."""
    params: frozenset[str] = frozenset()
    """The parameters it names as such."""
    numbers: tuple[int, int] | None = None
    is_unreachable: bool = False
    """The longest prompt that would fit and the length of this one, where fields say so."""


class EndpointError(Exception):
    """An attempt that brought no reply, and why.

    ``is_free``: the endpoint turned the request down, so that nothing is billed. ``retry_after_s``: when it asks to
    be asked again.
    """

    def __init__(self, fault: Fault, is_free: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(fault.message)
        self.fault, self.is_free, self.retry_after_s = fault, is_free, retry_after_s


_CODES = ("code", "type", "status", "error_type", "reason", "blockReason", "block_reason", "finish_reason")
_MESSAGES = ("message", "detail", "msg", "error", "raw", "title", "internal_message")
_HTML = re.compile(r"\s*(?:<!doctype|<html|<head|<\?xml)", re.I)
_TITLE = re.compile(r"<title>(.*?)</title>", re.I | re.S)

_MODERATED_CODES = frozenset({
    "content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked", "safety",
    "prohibited_content", "blocklist", "spii", "data_inspection_failed", "datainspectionfailed", "sensitive",
    "content_filtered", "contentfilter", "invalid_prompt", "input_moderation", "1301",
})  # fmt: skip
_MODERATED = re.compile(
    r"content[ _-]?(?:management )?(?:filter|policy|moderation)|responsible ?ai|requires moderation|moderation\b"
    r"|\bflagged\b|safety (?:system|filter|polic|setting)|blocked (?:by|due to|because of)\b.*"
    r"(?:safety|polic|content|prohibited)|violat\w+ (?:of )?(?:our |the )?(?:\w+ )?(?:usage |content )?polic"
    r"|usage (?:polic|guideline)|inappropriate content|prohibited[ _]content|exists risk"
    r"|sensitive[ _]?(?:content|words?|information)|ContentPolicyViolation|guardrail|prompt guard|jailbreak|敏感内容",
    re.I,
)
_QUOTA_CODES = frozenset({
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance",
    "insufficient_credits", "exceeded_current_quota_error", "credit_limit_reached", "arrearage",
})  # fmt: skip
_QUOTA = re.compile(
    r"credit balance is too low|insufficient (?:balance|credits?|funds)|account (?:is )?in arrears", re.I
)

_KEY_CODES = frozenset({"invalid_api_key", "api_key_invalid", "wrong_api_key", "authentication_error"})
_BAD_KEY = re.compile(r"(?:incorrect|invalid) api[ _]key|api[ _]key (?:is )?(?:not valid|invalid|expired)", re.I)
_MODEL_CODES = frozenset({"model_not_found", "invalid_model", "unknown_model"})
_MODEL = re.compile(r"not a valid model|model \S+ (?:does not exist|(?:is|was)? ?not found)", re.I)
_ADDRESS = re.compile(r"unexpected endpoint or method", re.I)  # LM Studio says so with status 200
# Passing, beside 5xx: misdirected, locked, a dependency's failure, too early; no capacity (Groq), gone client (nginx).
_TRANSIENT_STATUSES = frozenset({408, 409, 421, 423, 424, 425, 429, 498, 499})
_TRANSIENT = re.compile(r"model has crashed|model unloaded|no models? (?:is |are )?loaded|still loading", re.I)
_TRUNCATED = re.compile(r"could not finish the message because max_\w*tokens", re.I)

_OVER_LENGTH_CODES = frozenset({
    "context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "tokens_limit_reached",
    "request_too_large", "model_max_prompt_tokens_exceeded", "context_window_exceeded", "max_length_exceeded",
})  # fmt: skip
_OVER_LENGTH = re.compile(
    r"(?:maximum|model(?:'s)?) (?:\w+ )?(?:context|prompt|input|sequence|model)[ _](?:length|window|size)"
    r"|maximum (?:model |input |prompt |allowed )?length (?:of|is)|(?:exceed|overflow)\w*.{0,60}context|context\w*"
    r"[ _](?:length|window|size|limit).{0,40}exceed|context the overflows|longer than the (?:model|maximum)"
    r"|(?:prompt|input|messages?|request)\b(?:[^.]{0,40}\b(?:is|are))? too (?:long|large)|too many (?:input )?tokens"
    r"|request (?:body )?too large|request entity too large|input tokens? exceeds?|(?:input |prompt )?token count"
    r"|tokens?\b.{0,20}too large for model|string too long|reduce the (?:length|number of tokens)"
    r"|exceeded model token limit|shorter input|inputs`? (?:tokens|must have less than)|range of input length"
    r"|(?:input|prompt|sequence)[ _](?:tokens?|length)\b.{0,40}(?:exceed|greater|larger|longer|>)"
    r"|exceed\w*(?: the)? max(?:imum)?[ _](?:\w+[ _])?len|exceed\w* max_\w+|payload size exceeds"
    r"|(?:number of (?:\w+ )?tokens\b|\d tokens\b).{0,40}(?:exceed|more than|larger than|greater than)"
    r"|must be at least 1, got (?:0\b|-\d)",
    re.I,
)
_NO_ROOM_LEFT = re.compile(r"must be at least 1, got")  # what the prompt leaves of the context; more was asked for
# Errors about how many response tokens are asked for, which speak of lengths as well.
_LIMIT_VALUE = re.compile(
    r"max_?(?:completion_|new_|output_?)?tokens[`'\"]?\s*(?::|is too|must|should|cannot|exceeds|value|has to|>|<)"
    r"|range of max_\w*tokens|(?:invalid|unsupported) (?:value for |value: )[`'\"]?max_\w*tokens"
    r"|at most \d+ (?:completion|output) tokens|maximum tokens you requested",
    re.I,
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
# How messages state the numbers, the most specific first. "total": a limit of prompt and response together; the
# response's length is unknown unless it is stated as well.
_NUMBERS = (
    re.compile(r"must be <= (?P<total>\d+)\. Given: (?P<length>\d+) `?inputs`? tokens and (?P<response>\d+)", re.I),
    re.compile(r"exceed context limit: (?P<length>\d+) \+ (?P<response>\d+) > (?P<total>\d+)", re.I),
    re.compile(
        r"context length is (?P<total>\d+) tokens.*?request has (?P<length>\d+) input tokens \((?P<response>\d+) >",
        re.I,
    ),
    re.compile(
        r"passed (?P<length>\d+) input characters and requested (?P<response>\d+).*?at most (?P<total>\d+) char",
        re.I | re.S,
    ),
    re.compile(
        r"passed (?P<length>\d+) input tokens and requested (?P<response>\d+) output.*?only (?P<total>\d+) tokens",
        re.I | re.S,
    ),
    re.compile(
        r"(?:context|prompt|input|sequence|model)[ _](?:length|window|size)\D{0,30}?(?P<total>\d+)\D.*?"
        r"(?:requested|resulted in|has|contains|total of)\D{0,40}?(?P<length>\d+)",
        re.I | re.S,
    ),
    re.compile(r"limit of (?P<total>\d+) tokens\D+?(?:resulted in|requested|has)\D*?(?P<length>\d+)", re.I),
    re.compile(r"limit:? (?P<total>\d+)(?:,| \() ?requested:? (?P<length>\d+)", re.I),
    re.compile(r"must have less than (?P<limit>\d+) tokens\. Given: (?P<length>\d+)", re.I),
    re.compile(r"maximum length (?P<limit>\d+), but got a string with length (?P<length>\d+)", re.I),
    re.compile(r"max input tokens: (?P<limit>\d+), request input token count: (?P<length>\d+)", re.I),
    re.compile(r"cannot exceed (?P<total>\d+) - received (?P<length>\d+)", re.I),
    re.compile(r"expected max\w*: (?P<limit>\d+), actual: (?P<length>\d+)", re.I),
    re.compile(
        r"(?P<length>\d+)(?:\D+0 draft)?\D*?(?:exceed|longer|too large|overflow|supports|while limit|maximum|>"
        r"|(?:greater|larger|more) than)\D*?(?P<limit>\d+)",
        re.I | re.S,
    ),
)
_MARGIN = 0.95  # of what fits on average is kept: some characters are more tokens than others
_AT_LEAST = re.compile(r"at least \d")  # a lower bound of the length, by which no text can be cut


def read_fault(name: str, status: int | None, content: str) -> Fault:
    """The error in the body of a reply; ``status`` None: that of a reply of status 200."""
    try:
        body = parse_json(content)
    except ValueError:
        body = None
    if not isinstance(body, dict | list):
        title = _TITLE.search(content)
        page = f"an HTML page: {title[1] if title else 'without a title'}"
        return Fault(name, status, page if _HTML.match(content) else content.strip() or f"status {status}, no body")
    codes, params, messages = set[str](), set[str](), list[str]()
    for key, value in _fields(body):
        if key in _CODES and isinstance(value, str | int) and not isinstance(value, bool):
            codes.add(str(value).lower())
        elif key == "reasons" and isinstance(value, str):
            codes.add("moderation_blocked")
        elif key in ("param", "loc") and isinstance(value, str):
            params.add(value)
        elif key in _MESSAGES and isinstance(value, str) and value not in messages:
            messages.append(value)
    fields = dict(_fields(body))
    limit, length = fields.get("n_ctx"), fields.get("n_prompt_tokens")
    numbers = (limit, length) if isinstance(limit, int) and isinstance(length, int) else None
    message = "; ".join(messages) or content.strip()
    return Fault(name, status or _implied_status(codes, message), message, frozenset(codes), frozenset(params), numbers)


def _implied_status(codes: set[str], message: str) -> int:
    """The status that an error in a reply of status 200 would have had."""
    if statuses := [int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)]:
        return statuses[0]
    if any("rate_limit" in code for code in codes):
        return 429
    if _ADDRESS.search(message):
        return 404
    is_request = codes & (_MODERATED_CODES | {"invalid_request_error", "bad_request", "invalid_argument", "validation"})
    return 400 if is_request or _MODERATED.search(message) else 500


def _fields(body: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a JSON value with its plain values; not what it repeats of the request ("input")."""
    if isinstance(body, dict):
        for inner, value in body.items():
            if inner not in ("input", "flagged_input", "request", "ctx"):
                yield from _fields(value, inner)
    elif isinstance(body, list):
        for value in body:
            yield from _fields(value, key)
    else:
        yield key, body


def classify(fault: Fault, max_new_tokens: int) -> FaultKind:
    """What follows from ``fault``; ``max_new_tokens``: how many response tokens were asked for."""
    status, codes, text = fault.status, fault.codes, fault.message
    if status is None:
        return FaultKind.TRANSIENT
    if status == 402 or codes & _QUOTA_CODES or (status in (400, 403, 429) and _QUOTA.search(text)):
        return FaultKind.NO_QUOTA
    if status == 401 or (status in (400, 403) and (codes & _KEY_CODES or _BAD_KEY.search(text))):
        return FaultKind.BAD_KEY
    words = f"{text} {' '.join(codes)}"
    if status in (400, 403, 422, 451) and (codes & _MODERATED_CODES or _MODERATED.search(words)):
        return FaultKind.REFUSED
    if status == 403:
        return FaultKind.DENIED
    if status == 400 and _TRUNCATED.search(text):
        return FaultKind.TRUNCATED
    is_too_long = _is_about_length(fault)
    if is_too_long or (status in (400, 422) and _LIMIT_VALUE.search(text)):
        return _classify_length(fault, is_too_long, max_new_tokens)
    if status in (404, 405):
        return FaultKind.NO_MODEL if "model" in words.lower() else FaultKind.NO_ADDRESS
    if status == 400 and (codes & _MODEL_CODES or _MODEL.search(text)):
        return FaultKind.NO_MODEL
    is_transient = (
        status in _TRANSIENT_STATUSES or status == 500 or status > 501
    )  # 501: not implemented, today or later
    return FaultKind.TRANSIENT if is_transient or (status == 400 and _TRANSIENT.search(text)) else FaultKind.FAILED


def _is_about_length(fault: Fault) -> bool:
    if fault.status == 429:  # a request larger than the tokens of a whole minute never passes
        return "request too large" in fault.message.lower()
    is_told = bool(fault.codes & _OVER_LENGTH_CODES or _OVER_LENGTH.search(fault.message))
    return fault.status == 413 or (is_told and fault.status in (400, 422, 500))


def _classify_length(fault: Fault, is_too_long: bool, max_new_tokens: int) -> FaultKind:
    """Whether a shorter text would help, or the response asked for is too long by itself."""
    if not is_too_long:
        return FaultKind.BAD_LIMIT
    numbers = _numbers(fault.message)
    if numbers is not None:
        limit, _, num_response = numbers
        is_text = limit >= (max_new_tokens if num_response is None else num_response)
        return FaultKind.OVER_LENGTH if is_text else FaultKind.BAD_LIMIT
    is_value = fault.status != 413 and not _NO_ROOM_LEFT.search(fault.message) and _LIMIT_VALUE.search(fault.message)
    return FaultKind.BAD_LIMIT if is_value else FaultKind.OVER_LENGTH


def limit_and_length(fault: Fault) -> tuple[int, int] | None:
    """The longest prompt that would fit and the length of this one, in the endpoint's tokens (or characters)."""
    if fault.numbers is None:
        numbers = _numbers(fault.message)
        if numbers is None or _AT_LEAST.search(fault.message):
            return None
        limit, length, num_response = numbers
        limit -= num_response or 0
    else:
        limit, length = fault.numbers
    return (limit, length) if 0 < limit < length else None


def _numbers(message: str) -> tuple[int, int, int | None] | None:
    """Limit, length, and the response tokens asked for: 0 where limit and length leave them out, None if unknown."""
    text = _THOUSANDS.sub("", message)
    for pattern in _NUMBERS:
        if found := pattern.search(text):
            numbers = {name: int(digits) for name, digits in found.groupdict().items()}
            if "limit" in numbers:
                return numbers["limit"], numbers["length"], 0
            return numbers["total"], numbers["length"], numbers.get("response")
    return None


def num_excess_chars(fault: Fault, num_prompt_chars: int) -> int | None:
    """How many characters are too many by the numbers in the endpoint's error, with a margin; None without numbers."""
    numbers = limit_and_length(fault)
    return int((1 - _MARGIN * numbers[0] / numbers[1]) * num_prompt_chars) + 8 if numbers else None
