"""Run as a program: does a tokenizer answer in bounded time and memory? Its JSON comes on standard input.

A regular expression or a chat template is a program from whoever made the model, and cannot be interrupted in the
process that runs it.
"""

import json
import resource
import sys
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

_CPU_SECONDS, _MEMORY_BYTES = 10, 8 << 30
_MAX_RENDERED_CHARS = 100_000
_NUM_REPEATED = 2_000
# What makes an expression of nested repetitions try every way to match.
_TEXTS = [
    f"{unit * _NUM_REPEATED}{end}"
    for unit in ("a", "A", "x", " ", "1", ".", "é", "\n", "aB", "a ")
    for end in ("", "!\n")
]
_MESSAGES: list[list[dict[str, str]]] = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it good?"}],
    [{"role": "user", "content": "Is it good?"}],
]


class _Generation(Extension):
    """transformers' ``{% generation %}``, which renders as what is in it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _render(template: str, tokens: dict[str, str]) -> None:
    def raise_exception(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value)
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: "1 May 2025"}
    for messages in _MESSAGES:
        try:
            parts = environment.from_string(template).generate(messages=messages, add_generation_prompt=True, **tokens)
            if sum(len(part) for part in parts) > _MAX_RENDERED_CHARS:
                sys.exit("its chat template writes more than 100,000 characters around a text")
        except MemoryError:
            sys.exit("its chat template takes more memory than there is")
        except Exception:  # it refuses these messages; the prompt's own are rendered later
            continue


def main() -> None:
    """Exit with 0, with a reason, or by a signal of the operating system."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    described = json.load(sys.stdin)
    tokenizer = Tokenizer.from_str(described["tokenizer"])
    for text in _TEXTS:
        tokenizer.encode(text)
    for template in described["templates"]:
        _render(template, described["tokens"])


if __name__ == "__main__":
    main()
