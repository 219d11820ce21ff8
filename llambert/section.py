"""Sections, the closed and typed parts of a YAML file, and how they are read.

Recipes, tasks and price lists are such files. ``InputError`` with the file, the line and the key for whatever is wrong
with one, and the nearest valid name where a key is unknown.
"""

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from llambert.errors import InputError
from llambert.printable import SURROGATE, shortened
from llambert.untrusted import MAX_BYTES, MAX_DEPTH, YamlFault, compose_yaml, load_yaml
from llambert.urls import holds_secret

Model = TypeVar("Model", bound=BaseModel)


def placement_field(default: Any, **constraints: Any) -> Any:
    """A field of placement, concurrency or batch size, or that an identity covers: not part of any fingerprint."""
    return Field(default, json_schema_extra={"changes_result": False}, **constraints)


_MAX_FAULTS, _MAX_SHOWN = 20, 200  # faults reported of one file, characters shown of a key or value
URL_SECRET = (
    "a URL with a user, password, key or signature in it, which results would repeat; remove it and give the "
    "credentials as the storage's library takes them: in the environment or its own file"
)

Share = float  # a share of something, between 0 and 1


class Section(BaseModel):
    """A part of a recipe: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """A text file a user named; ``InputError`` if it cannot be read or is larger than ``max_bytes``."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(max_bytes + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{shortened(str(path))}: cannot be read: {reason}") from error
    if len(content) > max_bytes:
        raise InputError(f"{path}: is larger than {max_bytes >> 20} MiB, which no file of its kind is")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_yaml(text: str, path: str | Path) -> dict[str, Any]:
    """A YAML mapping; ``InputError`` naming the line otherwise."""
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: {_yaml_fault(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of keys to values, found {_kind(values)}")
    return values


def _kind(value: Any) -> str:
    """What a value that is no mapping is."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def parse_value(text: str, source: str) -> Any:
    """One YAML value of a command line, read like one of a file; ``InputError`` that begins with ``source``.

    All of it is the value: what YAML takes for a comment, or for the start of a block, would be lost.
    """
    try:
        value, node = load_yaml(text), compose_yaml(text)
        if node is not None and not _is_whole(node, text):
            problem = f"YAML does not read all of {shortened(text.strip())!r} as the value: put it in quotes"
            raise YamlFault(problem)
    except YamlFault as error:
        raise InputError(f"{source}: {_yaml_fault(error)}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{source}: {_yaml_fault(error)}; if the value is a text, put it in quotes") from error
    return value


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Put one ``a.b=c`` of the command line into a file's values; c is YAML."""
    path, equals, raw = setting.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {shortened(setting)}: expected key.path=value")
    *sections, last = path.strip().split(".")
    if len(sections) > MAX_DEPTH:
        raise InputError(f"--set {shortened(path)}: its sections are nested too deeply")
    for step in sections:
        inner = values.setdefault(step, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {shortened(setting)}: {step} is a value, not a section")
        values = inner
    values[last] = parse_value(raw, f"--set {shortened(setting)}")


def _is_whole(node: yaml.Node, text: str) -> bool:
    """Whether ``text`` is this node and nothing else."""
    if isinstance(node, yaml.ScalarNode) and not node.style and not text.lstrip().startswith(("!", "&")):
        return bool(node.value == text.strip())
    return not text[node.end_mark.index :].strip() and getattr(node, "style", None) not in ("|", ">")


def _yaml_fault(error: yaml.YAMLError) -> str:
    """The problem in one line of bounded length."""
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return problem if isinstance(error, YamlFault) else f"not YAML: {shortened(problem, 200)}"


def inconsistent(message: str, *location: str | int) -> PydanticCustomError:
    """A fault of a whole model that belongs to one of its lines: raised by validators, found by ``validate``."""
    context = {"message": message, "location": [str(step) for step in location]}
    return PydanticCustomError("inconsistent", "{message}", context)


def validate(model: type[Model], values: dict[str, Any], text: str, path: str | Path) -> Model:
    """Make ``model`` of ``values`` read from ``text``; ``InputError`` with a line per fault otherwise."""
    _refuse_texts(values, text, path)
    try:
        return model.model_validate_json(json.dumps(values))
    except TypeError as error:
        raise InputError(f"{path}: a value is neither text, number, list nor mapping: {error}") from error
    except ValidationError as error:
        lines = _line_numbers(text)
        found = error.errors(include_url=False)
        faults = [_describe(fault, model, path, lines) for fault in found[:_MAX_FAULTS]]
        more = [f"{path}: {len(found) - _MAX_FAULTS:,} more faults"] if len(found) > _MAX_FAULTS else []
        raise InputError("\n".join(faults + more)) from error


def _refuse_texts(values: Any, text: str, path: str | Path, location: tuple[str, ...] = ()) -> None:
    r"""``InputError`` for a lone ``"\ud800"`` and the like, which no table, page or JSON takes; and for a URL with a
    secret, which tables and cards would repeat.
    """
    if isinstance(values, dict):
        for key, value in values.items():
            _refuse_texts(str(key), text, path, location)
            _refuse_texts(value, text, path, (*location, str(key)))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            _refuse_texts(value, text, path, (*location, str(index)))
    elif isinstance(values, str):
        line = _line_numbers(text).get(location) if "://" in values or SURROGATE.search(values) else None
        where = f"{path}:{line}" if line else f"{path}"
        key = f"{'.'.join(location)}: " if location else ""
        if SURROGATE.search(_with_pairs_joined(values)):
            shown = shortened(repr(values), _MAX_SHOWN)
            raise InputError(f"{where}: {key}{shown} holds a surrogate, which is half a character; write all of it")
        if not any(map(str.isspace, values.strip())) and holds_secret(values):
            raise InputError(f"{where}: {key}{URL_SECRET}")


def _with_pairs_joined(text: str) -> str:
    r"""``"\ud83d\ude00"``, as JSON writes an emoji, as that character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _describe(fault: Any, model: type[BaseModel], path: str | Path, lines: dict[tuple[str, ...], int]) -> str:
    location = tuple(str(step) for step in [*fault["loc"], *fault.get("ctx", {}).get("location", ())])
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    where = f"{path}:{line}" if line else f"{path}"
    key = shortened(".".join(location), _MAX_SHOWN)
    value = shortened(repr(fault["input"]), _MAX_SHOWN)
    match fault["type"]:
        case "extra_forbidden":
            names = list(_section_at(model, location[:-1]).model_fields)
            near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(names)}"
            return f"{where}: {key}: unknown key; {hint}"
        case "missing":
            return f"{where}: {key}: is missing"
        case "inconsistent":
            return f"{where}: {key}: {fault['msg']}"
        case "string_type" if isinstance(fault["input"], bool | int | float | None):
            # YAML reads a bare yes, no, on, off, null or 1 as something else.
            return f"{where}: {key}: should be a text: put it in quotes (found {value})"
        case _:
            return (
                f"{where}: {key}: {shortened(fault['msg'].removeprefix('Value error, '), _MAX_SHOWN)} (found {value})"
            )


def _section_at(model: type[BaseModel], location: tuple[str, ...]) -> type[BaseModel]:
    for step in location:
        annotation = model.model_fields[step].annotation if step in model.model_fields else None
        candidates = [annotation, *get_args(annotation)]
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if inner:
            model = inner[0]
    return model


def _line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """The 1-based line of every key path of a YAML text."""
    found: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node, prefix: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*prefix, str(key.value))] = key.start_mark.line + 1
                walk(value, (*prefix, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found[(*prefix, str(index))] = value.start_mark.line + 1
                walk(value, (*prefix, str(index)))

    root = compose_yaml(text)
    if root is not None:
        walk(root, ())
    return found
