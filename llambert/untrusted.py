"""YAML and JSON from anyone, read within bounds: size, depth, length of numbers, and what aliases expand to.

No text, however it is made, costs more than about a second and a few hundred megabytes, or ends in anything but a
value or an error of one line.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

from llambert.printable import shortened

MAX_BYTES = 4 << 20
"""Of a YAML file: a task or a recipe has kilobytes."""
MAX_DEPTH = 64
MAX_NODES = 50_000  # scalars, lists and mappings, as often as aliases repeat them; a node takes about a kilobyte
_MAX_EXPANDED_CHARS = 8 * 1_000_000
_MAX_SLOW_CHARS = 64 << 10  # read by PyYAML's own parser: about a second
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_TAG_DIRECTIVE = re.compile("^%TAG", re.MULTILINE)
_MAX_TAG_DIRECTIVES = 10  # the time libyaml takes for them is quadratic
_MAX_KEY_CHARS = 1_000
_MAX_NUMBER_CHARS = 100
_MAX_INTEGER = 2**63  # what every table, and every library, can hold

_TAG = "tag:yaml.org,2002:"
_STRING, _INTEGER, _FLOAT, _MERGE, _DATE = (f"{_TAG}{name}" for name in ("str", "int", "float", "merge", "timestamp"))
# Every key of our files is text. YAML 1.1 takes these plain words for something else (PyYAML's implicit resolvers).
_READ_AS = {
    f"{_TAG}bool": "a truth value",
    f"{_TAG}null": "null",
    _FLOAT: "a floating-point number",
    _DATE: "a date",
    _INTEGER: "another number",
}


class YamlFault(yaml.constructor.ConstructorError):
    """Sound YAML that does not say what its writer meant, or is larger than any file of ours."""

    def __init__(self, problem: str, mark: Any = None) -> None:
        super().__init__(None, None, problem, mark)


def load_yaml(text: str) -> Any:
    """The value of a YAML document, which JSON can hold; ``YAMLError`` for whatever is wrong with it."""
    node = compose_yaml(text)
    if node is None:
        return None
    try:
        # Through JSON, so that no part is shared: a setting must not change what an alias repeats elsewhere.
        return json.loads(json.dumps(_PythonLoader("").construct_document(node)))
    except RecursionError as error:  # a chain of merge keys
        raise YamlFault("its lists and mappings are nested too deeply") from error


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a YAML document within the bounds, each key a text and unique in its mapping."""
    if len(text) > MAX_BYTES:
        raise YamlFault(f"it is larger than {MAX_BYTES >> 20} MiB")
    if unprintable := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = yaml.Mark("", 0, text.count("\n", 0, unprintable.start()), 0, None, 0)
        problem = f"not YAML: the character {unprintable[0]!a} cannot be part of it"
        raise YamlFault(problem, line)
    if len(_TAG_DIRECTIVE.findall(text)) > _MAX_TAG_DIRECTIVES:
        raise YamlFault("it has many %TAG directives, which no file of ours needs")
    loader: Any = _LibyamlLoader
    if _LibyamlLoader is _PythonLoader or _HALF_CHARACTER.search(text):
        if len(text) > _MAX_SLOW_CHARS:
            halves = r" and escapes halves of characters (\ud83d): write the characters themselves"
            raise YamlFault(f"it is larger than {_MAX_SLOW_CHARS >> 10} KiB{halves}")
        loader = _PythonLoader
    _require_bounds(yaml.parse(text, loader))
    node: yaml.Node | None = yaml.compose(text, loader)
    checked: set[int] = set()
    remaining = [] if node is None else [node]
    while remaining:
        found = remaining.pop()
        if id(found) in checked:
            continue
        checked.add(id(found))
        if isinstance(found, yaml.MappingNode):
            _check_keys(found)
            remaining += [value for _, value in found.value]
        elif isinstance(found, yaml.SequenceNode):
            remaining += found.value
    return node


def _require_bounds(events: Iterable[yaml.Event]) -> None:
    """``YamlFault`` for a document that is deeper or, with its aliases written out, larger than the bounds."""
    opened: list[tuple[str | None, _Size]] = [(None, _Size())]
    anchors: dict[str | None, _Size | None] = {}
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, _Size(1)))
            anchors[event.anchor] = None  # until it is closed
            size = _Size()
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
            anchors[anchor] = size = size._replace(depth=size.depth + 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchors[event.anchor] = size = _Size(1, len(event.value))
        elif isinstance(event, yaml.AliasEvent):
            known = anchors.get(event.anchor, _Size())  # the composer refuses an alias to nothing
            if known is None:
                raise YamlFault("a value contains itself by an alias (*…): write it out", event.start_mark)
            size = known
        else:
            continue
        anchor, outer = opened[-1]
        whole = _Size(outer.nodes + size.nodes, outer.chars + size.chars, max(outer.depth, size.depth))
        opened[-1] = (anchor, whole)
        if len(opened) - 1 + size.depth > MAX_DEPTH:
            raise YamlFault("its lists and mappings are nested too deeply", event.start_mark)
        if whole.nodes > MAX_NODES or whole.chars > _MAX_EXPANDED_CHARS:
            problem = f"it holds more than {MAX_NODES:,} values or {_MAX_EXPANDED_CHARS // 10**6} million characters"
            raise YamlFault(f"{problem}, those repeated by aliases (*…) and merge keys (<<) included", event.start_mark)


class _Size(NamedTuple):
    """Of a part of a document, its aliases written out."""

    nodes: int = 0
    chars: int = 0
    depth: int = 0  # of lists and mappings


def _check_keys(node: yaml.MappingNode) -> None:
    """``YamlFault`` for a key that is no text or a duplicate; of mappings merged (``<<``) too, since each is checked.

    A duplicate would lose the first value; ``no``, ``012`` or ``1.10`` would be read as something else.
    """
    keys: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise YamlFault("a key is a list or a mapping, not a text: put it in quotes", key.start_mark)
        if len(key.value) > _MAX_KEY_CHARS:
            raise YamlFault(f"the key {shortened(key.value)!r} has {len(key.value):,} characters", key.start_mark)
        if key.tag == _MERGE:
            continue
        if key.tag != _STRING and not (key.tag == _INTEGER and _is_plain_integer(key.value)):
            what = _READ_AS.get(key.tag, "something else than text")
            raise YamlFault(f"the key {key.value!r} is read as {what}: put it in quotes", key.start_mark)
        if key.value in keys:
            raise YamlFault(f"not YAML: the key {key.value!r} is a duplicate", key.start_mark)
        keys.add(key.value)
        key.tag = _STRING


def _is_plain_integer(text: str) -> bool:
    """Whether an integer is read as it is written."""
    digits = text.removeprefix("-")
    return digits.isdecimal() and digits.isascii() and (digits[0] != "0" or text == "0")


class _PythonLoader(yaml.SafeLoader):
    """YAML without values that no file of ours has: dates, binaries, sets, and numbers that no table can hold."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As in YAML; a value that is not what its tag says (``!!int abc``) is refused."""
        if node.tag in (_INTEGER, _FLOAT) and len(node.value) > _MAX_NUMBER_CHARS:
            problem = f"a number of {len(node.value):,} characters; if it is a text, put it in quotes"
            raise YamlFault(problem, node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, OverflowError) as error:
            what = f"{shortened(node.value)!r}" if isinstance(node, yaml.ScalarNode) else "a value"
            problem = f"{what} cannot be read as {node.tag.rpartition(':')[2]}: put it in quotes"
            raise YamlFault(problem, node.start_mark) from error
        if type(value) is int and not -_MAX_INTEGER <= value < _MAX_INTEGER:
            raise YamlFault(f"the number {node.value} is too large; if it is a text, put it in quotes", node.start_mark)
        if isinstance(value, float) and not math.isfinite(value):
            raise YamlFault(f"{node.value} is not a finite number; if it is a text, put it in quotes", node.start_mark)
        return value

    def refuse_value(self, node: yaml.Node) -> Any:
        """Refused: JSON, and so every section, has no such values."""
        is_date = isinstance(node, yaml.ScalarNode) and node.tag == _DATE
        what = f"{node.value} is read as a date" if is_date else f"a value is read as {node.tag.rpartition(':')[2]}"
        problem = f"{what}, neither text, number, list nor mapping: put it in quotes"
        raise YamlFault(problem, node.start_mark)


for _tag in (_DATE, *(f"{_TAG}{name}" for name in ("binary", "set", "omap", "pairs"))):
    _PythonLoader.add_constructor(_tag, _PythonLoader.refuse_value)

# Ten times as fast, but without JSON's way to write an emoji. Values are constructed by the other one.
_LibyamlLoader: Any = getattr(yaml, "CSafeLoader", _PythonLoader)


def parse_json(content: str | bytes, **hooks: Any) -> Any:
    """The value of a JSON document; ``ValueError`` in one line if it is none, too deep, or holds too long a number.

    The line quotes nothing of the document. ``hooks``: those of ``json.loads``.
    """
    try:
        values = json.loads(content, parse_int=_bounded_integer, **hooks)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error
    level, depth = [values], 0
    while level := [value for value in level if isinstance(value, dict | list)]:
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("its lists and objects are nested too deeply")
    return values


def _bounded_integer(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_CHARS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)
