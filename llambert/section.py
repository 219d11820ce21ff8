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
from llambert.printable import SURROGATE

Model = TypeVar("Model", bound=BaseModel)


def placement_field(default: Any, **constraints: Any) -> Any:
    """A field of placement, concurrency or batch size, or that an identity covers: not part of any fingerprint."""
    return Field(default, json_schema_extra={"changes_result": False}, **constraints)


Share = float  # a share of something, between 0 and 1


class Section(BaseModel):
    """A part of a recipe: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def read_text(path: str | Path) -> str:
    """A text file a user named; ``InputError`` if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error


def parse_yaml(text: str, path: str | Path) -> dict[str, Any]:
    """A YAML mapping; ``InputError`` naming the line otherwise."""
    try:
        values = _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: {_yaml_fault(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of keys to values, found {type(values).__name__}")
    return values


def parse_value(text: str, source: str) -> Any:
    """One YAML value of a command line, read like one of a file; ``InputError`` that begins with ``source``.

    All of it is the value: what YAML takes for a comment, or for the start of a block, would be lost.
    """
    try:
        value, node = _load(text), yaml.compose(text, _Loader)
        if node is not None and not _is_whole(node, text):
            problem = f"YAML does not read all of {text.strip()!r} as the value: put it in quotes"
            raise _YamlFault(None, None, problem)
    except _YamlFault as error:
        raise InputError(f"{source}: {_yaml_fault(error)}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{source}: {_yaml_fault(error)}; if the value is a text, put it in quotes") from error
    return value


def _is_whole(node: yaml.Node, text: str) -> bool:
    """Whether ``text`` is this node and nothing else."""
    if isinstance(node, yaml.ScalarNode) and not node.style and not text.lstrip().startswith(("!", "&")):
        return bool(node.value == text.strip())
    return not text[node.end_mark.index :].strip() and getattr(node, "style", None) not in ("|", ">")


def _load(text: str) -> Any:
    """The value of a YAML document; ``YAMLError`` for whatever is wrong with it."""
    try:
        value = yaml.load(text, _Loader)
        json.dumps(value)
    except RecursionError as error:
        raise _YamlFault(None, None, "its lists and mappings are nested too deeply") from error
    except ValueError as error:  # of json.dumps, for a circular reference
        raise _YamlFault(None, None, "a value contains itself by an alias (*…): write it out") from error
    return value


class _YamlFault(yaml.constructor.ConstructorError):
    """Sound YAML that does not say what its writer meant."""


def _yaml_fault(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"not YAML: the character {chr(error.character)!a} cannot be part of it"
    problem = str(getattr(error, "problem", None) or error)
    return problem if isinstance(error, _YamlFault) else f"not YAML: {problem}"


_STRING = "tag:yaml.org,2002:str"
_INTEGER = "tag:yaml.org,2002:int"
_MERGE = "tag:yaml.org,2002:merge"
_DATE = "tag:yaml.org,2002:timestamp"
# Every key of our files is text. YAML 1.1 takes these plain words for something else (PyYAML's implicit resolvers).
_READ_AS = {
    "tag:yaml.org,2002:bool": "a truth value",
    "tag:yaml.org,2002:null": "null",
    "tag:yaml.org,2002:float": "a floating-point number",
    _DATE: "a date",
    _INTEGER: "another number",
}


class _Loader(yaml.SafeLoader):
    """YAML without three traps: a duplicate key, of which the first value would be lost; a key that YAML does not
    read as the text it is (``no``, ``012``, ``1.10``); and a date where no file of ours has one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping with texts as keys, each once; checked here, so that one merged (``<<``) is no exception."""
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _YamlFault(
                    None, None, "a key is a list or a mapping, not a text: put it in quotes", key.start_mark
                )
            if key.tag == _MERGE:
                continue
            if not self._is_text(key):
                what = _READ_AS.get(key.tag, "something else than text")
                raise _YamlFault(
                    None, None, f"the key {key.value!r} is read as {what}: put it in quotes", key.start_mark
                )
            if key.value in keys:
                raise _YamlFault(None, None, f"not YAML: the key {key.value!r} is a duplicate", key.start_mark)
            keys.add(key.value)
        return node

    def _is_text(self, key: yaml.ScalarNode) -> bool:
        """Whether the key is read as it is written; a plain decimal integer is."""
        return key.tag == _STRING or (key.tag == _INTEGER and str(self.construct_object(key)) == key.value)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As in YAML; a value that is not what its tag says (``!!int abc``) is refused."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:
            what = f"{node.value!r}" if isinstance(node, yaml.ScalarNode) else "a value"
            problem = f"{what} cannot be read as {node.tag.rpartition(':')[2]}: put it in quotes"
            raise _YamlFault(None, None, problem, node.start_mark) from error

    def refuse_value(self, node: yaml.Node) -> Any:
        """Refused: JSON, and so every section, has no such values."""
        is_date = isinstance(node, yaml.ScalarNode) and node.tag == _DATE
        what = f"{node.value} is read as a date" if is_date else f"a value is read as {node.tag.rpartition(':')[2]}"
        problem = f"{what}, neither text, number, list nor mapping: put it in quotes"
        raise _YamlFault(None, None, problem, node.start_mark)


for _tag in (_DATE, *(f"tag:yaml.org,2002:{name}" for name in ("binary", "set", "omap", "pairs"))):
    _Loader.add_constructor(_tag, _Loader.refuse_value)


def inconsistent(message: str, *location: str | int) -> PydanticCustomError:
    """A fault of a whole model that belongs to one of its lines: raised by validators, found by ``validate``."""
    context = {"message": message, "location": [str(step) for step in location]}
    return PydanticCustomError("inconsistent", "{message}", context)


def validate(model: type[Model], values: dict[str, Any], text: str, path: str | Path) -> Model:
    """Make ``model`` of ``values`` read from ``text``; ``InputError`` with a line per fault otherwise."""
    _refuse_surrogates(values, text, path)
    try:
        return model.model_validate_json(json.dumps(values))
    except TypeError as error:
        raise InputError(f"{path}: a value is neither text, number, list nor mapping: {error}") from error
    except ValidationError as error:
        lines = _line_numbers(text)
        faults = [_describe(fault, model, path, lines) for fault in error.errors(include_url=False)]
        raise InputError("\n".join(faults)) from error


def _refuse_surrogates(values: Any, text: str, path: str | Path, location: tuple[str, ...] = ()) -> None:
    r"""``InputError`` for a lone ``"\ud800"`` and the like, which no table, page or JSON takes."""
    if isinstance(values, dict):
        for key, value in values.items():
            _refuse_surrogates(str(key), text, path, location)
            _refuse_surrogates(value, text, path, (*location, str(key)))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            _refuse_surrogates(value, text, path, (*location, str(index)))
    elif isinstance(values, str) and SURROGATE.search(_with_pairs_joined(values)):
        line = _line_numbers(text).get(location)
        where = f"{path}:{line}" if line else f"{path}"
        key = f"{'.'.join(location)}: " if location else ""
        raise InputError(f"{where}: {key}{values!r} holds a surrogate, which is half a character; write all of it")


def _with_pairs_joined(text: str) -> str:
    r"""``"\ud83d\ude00"``, as JSON writes an emoji, as that character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _describe(fault: Any, model: type[BaseModel], path: str | Path, lines: dict[tuple[str, ...], int]) -> str:
    location = tuple(str(step) for step in [*fault["loc"], *fault.get("ctx", {}).get("location", ())])
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    where = f"{path}:{line}" if line else f"{path}"
    key = ".".join(location)
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
            return f"{where}: {key}: should be a text: put it in quotes (found {fault['input']!r})"
        case _:
            return f"{where}: {key}: {fault['msg'].removeprefix('Value error, ')} (found {fault['input']!r})"


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

    root = yaml.compose(text)
    if root is not None:
        walk(root, ())
    return found
