"""The prompt of one request: the messages of a chat, or the text of a completion."""

import json

Prompt = list[dict[str, str]] | str


def num_chars(prompt: Prompt) -> int:
    """Characters of all messages."""
    return sum(map(len, _messages(prompt)))


def num_bytes(prompt: Prompt) -> int:
    """Bytes of all messages in UTF-8."""
    return sum(len(message.encode("utf-8", "replace")) for message in _messages(prompt))


def as_stored(prompt: Prompt) -> str:
    """The prompt as ``responses`` holds it: a completion's text, or a chat's messages as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


def _messages(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
