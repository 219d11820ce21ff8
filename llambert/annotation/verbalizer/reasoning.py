"""What a reasoning model thinks aloud, taken out of its response: thoughts are never evidence.

The forms are those of chat templates and reasoning parsers in use (2026): XML-like elements (DeepSeek, Qwen, EXAONE,
Seed), ``[THINK]`` (Mistral), ``<|START_THINKING|>`` (Cohere), ``◁think▷`` (Kimi), channels (gpt-oss' harmony and
Gemma) with special tokens or with these skipped by the server, and headings ("Reasoning: … Answer: …").
"""

import re

_NAMES = (
    r"(?:[a-z]+[:_])?(?:think|thinking|thoughts?|reasoning|analysis|reflection|scratchpad|monologue"
    r"|chain_of_thought|cot)"
)
_CLOSE = re.compile(
    rf"<\s*/\s*{_NAMES}\s*>|\[\s*/\s*{_NAMES}\s*\]|◁\s*/\s*{_NAMES}\s*▷"
    r"|<\|\s*(?:/\s*think|end[_ ]?(?:of[_ ])?(?:thinking|thought|think|reasoning)|inner_suffix)\s*\|>|<channel\|>"
    r"|\bhere is my response:",
    re.IGNORECASE,
)
_OPEN = re.compile(
    rf"<\s*{_NAMES}(?:\s[^<>]*)?>|\[\s*{_NAMES}\s*\]|◁\s*{_NAMES}\s*▷"
    r"|<\|\s*(?:think|(?:start|begin)[_ ]?(?:of[_ ])?(?:thinking|thought|think|reasoning)|inner_prefix)\s*\|>"
    r"|<\|channel>|\bhere is my thought process:",
    re.IGNORECASE,
)
# An explanation beside the answer, before it or after it.
_EXPLANATION = re.compile(
    r"<\s*(explanation|rationale|justification|reason|comment|evidence)\s*>.*?(?:<\s*/\s*\1\s*>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_ANSWER = re.compile(
    r"<\s*((?:final_?)?(?:answer|label|category|class|classification|sentiment|verdict|response|output|result|rating"
    r"|score|final))\s*>(.*?)(?:<\s*/\s*\1\s*>|\Z)|<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)"
    r"|<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>|\Z)"
    r"|\\boxed\s*\{\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?([^{}]*)\}",
    re.IGNORECASE | re.DOTALL,
)
# Harmony, with its special tokens and without them.
_FINAL_MESSAGE = re.compile(
    r"(?:\A|<\|channel\|>)\s*final\b(?:(?!<\|message\|>).){0,200}<\|message\|>(.*?)(?=<\|(?:end|return|start|call|channel)\|>|\Z)",
    re.DOTALL,
)
_OPEN_CHANNEL = re.compile(r"<\|channel\|>\s*(?:analysis|commentary)")
_CLOSED_CHANNEL = re.compile(r"<\|channel\|>\s*final|<\|end\|>")
_TOKEN = re.compile(r"<\|\w+\|>")
_FINAL_GLUED = re.compile(
    r"assistant\s*(?:channel\s*)?final(?:\s*message)?\s*:?\s*(?:json(?=\s*[\[{]))?", re.IGNORECASE
)
_ANALYSIS_GLUED = re.compile(r"\s*(?:assistant\s*)?(?:analysis|commentary)(?:\w|\s+(?=[A-Z]))")
_REASONING_HEADING = re.compile(
    r"^[ \t*_#>\-]*(?:(?:my|step[- ]by[- ]step|detailed|internal)\s+)?(?:reasoning|thoughts?|thinking"
    r"|chain[- ]of[- ]thought)(?:\s+(?:process|steps?))?(?:[\W_]*:|[ \t*_#]*$)|\blet'?s think\b",
    re.IGNORECASE | re.MULTILINE,
)
_NOUNS = r"(?:answer|label|category|class|classification|sentiment|verdict|rating|score|decision)"
_ANSWER_HEADING = re.compile(
    rf"^(?:[^\w\n]|_)*(?:(?:the|my|final|predicted|overall|correct)\s+)*(?:{_NOUNS}|conclusion|response|output|result"
    rf"|prediction|final|overall)(?:[\W_]*[:=]|[ \t*_#]*$)|\b{_NOUNS}\s+(?:is|would be|:)",
    re.IGNORECASE | re.MULTILINE,
)
_SUMMING_UP = re.compile(
    r"(?:^|[.!?;\n]\s*)(?:so|therefore|thus|hence|overall|finally|in conclusion|in summary|to conclude)\b",
    re.IGNORECASE | re.MULTILINE,
)


def strip_reasoning(response: str) -> str | None:
    """What counts of a response: what follows its last end-of-thought mark; None if it ended inside its thoughts.

    Where an element holds the answer (``<answer>``, ``\\boxed{…}``), that alone counts.
    """
    lower = response.lower()
    if not _has_trace(lower):
        return response
    final = _final_channel(response)
    if final is None:
        return None
    ends = [mark.end() for mark in _CLOSE.finditer(final)]
    rest = final[ends[-1] :] if ends else final
    if opened := _OPEN.search(rest):
        if not _ANSWER.search(rest, 0, opened.start()):
            return None
        rest = rest[: opened.start()]
    if ends and not rest.strip():
        rest = "\n".join(_answers(_between_thoughts(final)))
    rest = _EXPLANATION.sub("\n", rest)
    return "\n".join(_answers(rest)) or _without_headed_reasoning(rest)


def open_thought(prompt: str) -> str:
    """The thought that a prompt ends inside, from its opening mark on; empty where it ends outside of any.

    A channel is named without its tokens, as in a response whose special tokens are skipped.
    """
    opened = [*_OPEN.finditer(prompt), *_OPEN_CHANNEL.finditer(prompt)]
    if not opened:
        return ""
    last = max(opened, key=lambda mark: mark.start())
    if _CLOSE.search(prompt, last.end()) or _CLOSED_CHANNEL.search(prompt, last.end()):
        return ""
    return _TOKEN.sub("", prompt[last.start() :]) if last[0].startswith("<|channel|>") else prompt[last.start() :]


def ends_thought(prompt: str) -> bool:
    """Whether a thought ends in a prompt."""
    return bool(_CLOSE.search(prompt))


def _has_trace(text: str) -> bool:
    """Whether a character or word is there that every form has one of; most responses have none."""
    return (
        "<" in text or "[" in text or "{" in text or "◁" in text or "assistant" in text or "analysis" in text
        or "commentary" in text or "reasoning" in text or "thought" in text or "thinking" in text
        or "let" in text or "my response" in text
    )  # fmt: skip


def _final_channel(response: str) -> str | None:
    """The final message of a response that has channels; the response where it has none."""
    if "<|message|>" in response or "<|channel|>" in response:
        messages = _FINAL_MESSAGE.findall(response)
        return messages[-1] if messages else None
    glued = list(_FINAL_GLUED.finditer(response))
    if glued:
        return response[glued[-1].end() :]
    return None if _ANALYSIS_GLUED.match(response) else response


def _between_thoughts(text: str) -> str:
    """The text outside of thoughts that are opened and closed; empty before a closing mark without an opening one."""
    kept, at = [], 0
    for mark in _CLOSE.finditer(text):
        opened = _OPEN.search(text, at, mark.start())
        kept.append(text[at : opened.start()] if opened else "")
        at = mark.end()
    return "\n".join(kept)


def _answers(text: str) -> list[str]:
    return [next(filter(None, groups[1:]), "") for groups in _ANSWER.findall(text)]


def _without_headed_reasoning(text: str) -> str:
    """The text without its sections headed as reasoning, each of which ends where a conclusion begins."""
    heading = _REASONING_HEADING.search(text)
    if heading is None:
        return text
    ends = [*_ANSWER_HEADING.finditer(text, heading.end())] or [*_SUMMING_UP.finditer(text, heading.end())]
    return text[: heading.start()] + (text[ends[-1].start() :] if ends else "")
