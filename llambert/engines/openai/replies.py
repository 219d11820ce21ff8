"""Reading a reply of status 200: its text, how it ended, what it is billed at; or the error it holds."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from llambert.engines.openai.faults import EndpointError, Fault, read_fault
from llambert.printable import SURROGATE
from llambert.untrusted import parse_json

# Words of finish reasons: OpenAI's, Azure's, Gemini's ("content_filter: PROHIBITED_CONTENT"), Anthropic's, Cohere's.
_REFUSALS = (
    "content_filter", "content_policy", "refusal", "safety", "prohibited", "blocklist", "spii", "recitation",
    "toxic", "moderation", "sensitive", "guardrail",
)  # fmt: skip
_LENGTHS = ("length", "max_tokens", "max_output_tokens", "model_length", "error_limit", "max_length")
_FAILURES = ("error", "abort", "cancelled", "network_error")
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
_TEXT_PARTS = ("text", "output_text")


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered. ``refusal``: why it would not; ``text`` is without the model's thoughts."""

    text: str
    refusal: str | None
    finish_reason: Literal["stop", "length"]
    num_prompt_tokens: int
    num_response_tokens: int


def read_reply(content: str, max_new_tokens: int) -> Reply:
    """The reply in a body; ``EndpointError`` where there is an error in it, or nothing that the API describes."""
    body = _decode(content)
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        raise _malformed(content, "no JSON object")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return _without_choice(body, content)
    finish_reason = _finish_reason(choice.get("finish_reason"))
    if choice.get("error") or any(finish_reason == failure for failure in _FAILURES):
        raise _error_in_reply(json.dumps(choice.get("error") or choice))
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text = _text(message["content"] if "content" in message else choice.get("text"), content)
    refusal = message.get("refusal") if isinstance(message.get("refusal"), str) else None
    refusal = refusal or _refusal_part(message.get("content"))
    if not refusal and any(word in finish_reason for word in _REFUSALS):
        refusal = finish_reason
    num_prompt, num_response = _usage(body)
    is_cut = finish_reason in _LENGTHS or (not finish_reason and num_response >= max_new_tokens)
    # Thoughts alone: the response ended inside them, regardless of the finish reason.
    is_cut |= not text and not message.get("tool_calls") and _has_reasoning(message)
    if not message and "text" not in choice and not refusal and not is_cut:
        raise _malformed(content, "a choice without a message")
    return Reply(text, refusal or None, "length" if is_cut else "stop", num_prompt, num_response)


def _finish_reason(value: Any) -> str:
    """In lower case; empty if it is missing. SGLang's own API says more than a word."""
    value = value.get("type") if isinstance(value, dict) else value
    return value.lower() if isinstance(value, str) else ""


def _decode(content: str) -> Any:
    """The JSON of a body; of a stream of events (from a server that streams all its replies) one reply made of them."""
    if content.lstrip().startswith(("data:", "event:", ":")):
        return _join_events(content)
    try:
        return parse_json(content)
    except ValueError:
        raise _malformed(content, "no JSON") from None


def _join_events(content: str) -> dict[str, Any]:
    lines = [line.removeprefix("data:").strip() for line in content.splitlines() if line.startswith("data:")]
    whole: dict[str, Any] = {}
    text, finish_reason, is_chat = "", None, True
    for line in lines:
        if line == "[DONE]":
            continue
        try:
            event = parse_json(line)
        except ValueError:
            raise _malformed(content, "an event that is no JSON") from None
        if not isinstance(event, dict):
            continue
        whole |= {key: value for key, value in event.items() if key != "choices" and value is not None}
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if not isinstance(choice, dict):
                raise _malformed(content, "an event whose choice is no object")
            delta = choice.get("delta") or choice.get("message")
            is_chat = isinstance(delta, dict) or "text" not in choice
            piece = delta.get("content") if isinstance(delta, dict) else choice.get("text")
            text += _text(piece, content)
            finish_reason = choice.get("finish_reason") or finish_reason
            whole["choices"] = []
    if "choices" in whole:
        reply = {"message": {"content": text}} if is_chat else {"text": text}
        whole["choices"] = [{**reply, "finish_reason": finish_reason}]
    return whole


def _without_choice(body: dict[str, Any], content: str) -> Reply:
    """What a reply without choices means: an error, or a prompt that was blocked."""
    if body.get("error") or body.get("errors") or body.get("object") == "error" or body.get("detail"):
        raise _error_in_reply(content)
    feedback = body.get("prompt_feedback") or body.get("promptFeedback") or {}
    blocked = feedback.get("block_reason") or feedback.get("blockReason") if isinstance(feedback, dict) else None
    if not blocked and _is_filtered(body.get("prompt_filter_results")):
        blocked = "content_filter"
    if blocked:
        return Reply("", str(blocked).lower(), "stop", *_usage(body))
    raise _malformed(content, "no choices")


def _is_filtered(value: Any) -> bool:
    """Whether one of Azure's filters, however nested, says that it applied."""
    if isinstance(value, dict):
        return value.get("filtered") is True or any(map(_is_filtered, value.values()))
    return isinstance(value, list) and any(map(_is_filtered, value))


def _text(value: Any, content: str) -> str:
    """The text of a message's content: a text, nothing, or parts, of which thoughts and calls are left out."""
    if value is None:
        return ""
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)  # half an emoji, cut by the limit of tokens
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict | str) for part in parts):
        raise _malformed(content, "a content that is no text")
    typed = [{"text": part} if isinstance(part, str) else part for part in parts]
    texts = [part.get("text") for part in typed if part.get("type", "text") in _TEXT_PARTS]
    return "".join(_text(text, content) for text in texts)


def _has_reasoning(message: dict[str, Any]) -> bool:
    parts = message.get("content")
    kinds = [part.get("type") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return any(message.get(field) for field in _REASONING_FIELDS) or any(kind in _REASONING_FIELDS for kind in kinds)


def _refusal_part(value: Any) -> str | None:
    parts = value if isinstance(value, list) else []
    found = [part.get("refusal") for part in parts if isinstance(part, dict) and part.get("type") == "refusal"]
    return str(found[0]) if found else None


def _usage(body: dict[str, Any]) -> tuple[int, int]:
    """Prompt and response tokens as billed, thoughts included; 0 where the endpoint does not say."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, response = usage.get("prompt_tokens"), usage.get("completion_tokens")
    prompt = usage.get("input_tokens") if prompt is None else prompt
    response = usage.get("output_tokens") if response is None else response
    return _count(prompt), _count(response)


def _count(value: Any) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return int(value) if is_number else 0


def _error_in_reply(content: str) -> EndpointError:
    fault = read_fault("ErrorInReply", None, content)
    return EndpointError(fault, is_free=fault.status is not None and fault.status < 500)


def _malformed(content: str, what: str) -> EndpointError:
    page = read_fault("Malformed", None, content)
    return EndpointError(Fault("Malformed", None, f"{what} in the reply: {page.message}"))
