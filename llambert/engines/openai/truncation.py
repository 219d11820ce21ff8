"""How long a prompt is, and by how much it exceeds the limit that an endpoint names."""

from llambert.engines.openai.faults import Fault, limit_and_length

_MARGIN = 0.95  # of what fits on average is kept: some characters are more tokens than others

Prompt = list[dict[str, str]] | str


def num_chars(prompt: Prompt) -> int:
    """Characters of all messages."""
    return sum(map(len, _messages(prompt)))


def num_bytes(prompt: Prompt) -> int:
    """Bytes of all messages in UTF-8."""
    return sum(len(message.encode("utf-8", "replace")) for message in _messages(prompt))


def _messages(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def num_excess_chars(fault: Fault, num_prompt_chars: int) -> int | None:
    """How many characters are too many by the numbers in the endpoint's error, with a margin; None without numbers."""
    numbers = limit_and_length(fault)
    return int((1 - _MARGIN * numbers[0] / numbers[1]) * num_prompt_chars) + 8 if numbers else None
