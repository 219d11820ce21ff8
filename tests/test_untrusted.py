"""YAML and JSON from anyone end in a value or in one clear line, whatever they hold."""

import json
import resource
import subprocess
import sys

import pytest

from llambert.errors import InputError
from llambert.experiments.experiment_recipe import load_experiment
from llambert.planning.costs import load_prices
from llambert.recipe import load_recipe
from llambert.section import parse_value, parse_yaml, read_text
from llambert.tasks import load_task
from llambert.untrusted import MAX_BYTES, parse_json


def laughs(first: str, later: str, num: int = 40) -> str:
    """Each line repeats the one before it nine times."""
    lines = [f"a0: &a0 {first}"]
    for number in range(1, num):
        before = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} {later.format(before=before, number=number)}")
    return "\n".join(lines)


HOSTILE = {
    "aliases that repeat each other": laughs("[x, x]", "[{before}]"),
    "merge keys that repeat each other": laughs("{x: 1}", "{{<<: [{before}], k{number}: 1}}"),
    "aliases of a long text": f"a: &a '{'x' * 10**6}'\nb: [{', '.join(['*a'] * 100)}]",
    "a chain of aliases": "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]),
    "a chain of merge keys": "\n".join(["a0: &a0 {}", *(f"a{n}: &a{n} {{<<: *a{n - 1}}}" for n in range(1, 2000))]),
    "a list that holds itself": "a: &a [*a]",
    "a mapping that holds itself": "a: &a {b: *a}",
    "a mapping merged into itself": "a: &a {<<: *a}",
    "a list of merges that holds itself": "a: &a {<<: [*a, *a]}",
    "a merged scalar": "a: {<<: text}",
    "a merged number": "a: {<<: 1}",
    "a merged list of scalars": "a: {<<: [1, 2]}",
    "an alias to nothing": "a: *nothing",
    "deep lists": "a: " + "[" * 10_000,
    "deep closed lists": "a: " + "[" * 5_000 + "]" * 5_000,
    "deep mappings": "{a: " * 10_000,
    "deep sequences of a block": "- " * 10_000,
    "deep mappings of a block": "\n".join(f"{' ' * depth}a:" for depth in range(1_500)),
    "deep keys": "? " * 10_000,
    "an integer of a million digits": "a: " + "9" * 10**6,
    "a hexadecimal integer of a million digits": "a: 0x" + "f" * 10**6,
    "an octal integer of a million digits": "a: 0" + "7" * 10**6,
    "a binary integer of a million digits": "a: 0b" + "1" * 10**6,
    "a sexagesimal integer of a million digits": "a: 1" + ":59" * 300_000,
    "an integer that no table holds": "a: 9223372036854775808",
    "a float of a million digits": "a: 1." + "9" * 10**6,
    "a float that overflows": "a: 1.0e+999999",
    "infinity": "a: .inf",
    "not a number": "a: .nan",
    "a key of a million digits": "9" * 10**6 + ": 1",
    "a date that is none": "a: 2024-99-99",
    "a date": "a: 2024-01-31",
    "a time": "a: 2001-12-14t21:59:43.10-05:00",
    "a Python object": "a: !!python/object/apply:os.system ['touch ran']",
    "a Python name": "a: !!python/name:os.system",
    "a set": "a: !!set {x, y}",
    "an ordered mapping": "a: !!omap [x: 1]",
    "binary that is none": "a: !!binary '*'",
    "an integer that is none": "a: !!int abc",
    "a list that is tagged a number": "a: !!int [1]",
    "a mapping that is tagged a text": "a: !!str {b: 1}",
    "an unknown tag": "a: !unknown x",
    "a tag of a million characters": f"a: !{'x' * 10**6} y",
    "a duplicate key": "a: 1\na: 2",
    "a key that is a list": "? [a]\n: 1",
    "a key that is a mapping": "{{a: b}: c}",
    "a key that is true": "yes: 1",
    "a key that is null": "~: 1",
    "a key of a megabyte": "k" * 10**6 + ": 1",
    "a null byte": "a: 'x\0y'",
    "a control character": "a: 'x\x07y'",
    "a tab as indentation": "a:\n\t- b",
    "tabs": "a:\t" * 100_000,
    "a quote that is not closed": "a: 'x",
    "a bracket that is not closed": "a: [x",
    "two documents": "a: 1\n---\nb: 2",
    "a million documents": "---\n" * 900_000,
    "nothing": "",
    "a comment alone": "#" * 10**6,
    "blanks alone": " " * 10**6,
    "a list": "[a, b]",
    "a scalar": "text",
    "another version of YAML": "%YAML 9.9\n---\na: 1",
    "a hundred thousand tag directives": "".join(f"%TAG !a{n}! tag:x\n" for n in range(100_000)) + "---\na: 1",
    "a hundred thousand keys": "".join(f"k{n}: 1\n" for n in range(100_000)),
    "a hundred thousand unused anchors": "a: [" + "".join(f"&a{n} x, " for n in range(100_000)) + "]",
    "a million numbers": "a: [" + "1, " * 10**6 + "]",
    "a million empty elements": "-\n" * 10**6,
    "more than the limit": "a: " + "x" * MAX_BYTES,
    "emoji in halves, and much of it": 'a: "' + r"\ud83d\ude00" * 20_000 + '"',
    "colons": ":" * 10**6,
    "ampersands": "&" * 10**6,
    "exclamation marks": "!" * 10**6,
    "stars": "*" * 10**6,
    "unknown keys, many": "".join(f"k{n}: 1\n" for n in range(10_000)),
    "an unknown key with a megabyte of a value": "k: '" + "x" * 10**6 + "'",
}  # fmt: skip
NOT_TEXT = {
    "UTF-16": "a: 1".encode("utf-16"),
    "bytes that are not UTF-8": b"a: \xff\xfe\xfa",
    "half of a character": b'a: "\xed\xa0\x80"',
}
READERS = {
    "recipe": load_recipe,
    "task": lambda path: load_task(str(path)),
    "experiment": load_experiment,
    "prices": load_prices,
}


def refused(read, path) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(InputError) as caught:
        read(path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 20  # seconds of work, on whatever machine; not of waiting
    assert after.ru_maxrss - before.ru_maxrss < 600 << 10  # KiB
    message = str(caught.value)
    assert str(path) in message
    assert all(len(line) < 1_000 for line in message.splitlines())
    assert len(message.splitlines()) <= 21
    return message


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused_in_a_line_that_names_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE[name])
    message = refused(load_recipe, path)
    assert len(message.splitlines()) == 1 or "unknown key" in message or "is missing" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", NOT_TEXT.values(), ids=NOT_TEXT)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_no_text_is_refused(tmp_path, reader, content):
    (tmp_path / "file.yaml").write_bytes(content)
    assert "it is not UTF-8 text" in refused(READERS[reader], tmp_path / "file.yaml")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name", ["aliases that repeat each other", "a chain of merge keys", "deep mappings", "infinity"]
)
def test_whatever_is_read_as_yaml_has_the_same_bounds(tmp_path, reader, name):
    (tmp_path / "file.yaml").write_text(HOSTILE[name])
    refused(READERS[reader], tmp_path / "file.yaml")


@pytest.mark.parametrize(
    "value",
    ["[" * 10_000, "{a: " * 5_000, "9" * 100_000, "1.0e+999999", ".nan", "&a [*a]", "\ud800", "'\0'", "!!set {a}"],
)
def test_a_hostile_setting_is_refused_in_one_line(value):
    with pytest.raises(InputError) as caught:
        parse_value(value, "--set x=…")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_setting_of_a_thousand_sections_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(InputError, match=r"^--set [^\n]{1,120}: its sections are nested too deeply$"):
        load_recipe(tmp_path / "recipe.yaml", [".".join(["a"] * 5_000) + "=1"])


def test_anchors_and_merge_keys_of_an_ordinary_file_are_read():
    text = "base: &base {a: 1, b: [x, y]}\nother: {<<: *base, a: 2}\nmore: [*base, *base]\n"
    base = {"a": 1, "b": ["x", "y"]}
    assert parse_yaml(text, "x.yaml") == {"base": base, "other": {"a": 2, "b": ["x", "y"]}, "more": [base, base]}


def test_what_an_alias_repeats_is_a_copy():
    values = parse_yaml("a: &a {x: 1}\nb: *a\n", "x.yaml")
    values["a"]["x"] = 2
    assert values["b"] == {"x": 1}


def test_an_emoji_written_as_json_does_is_that_emoji():
    assert parse_yaml(r'a: "\ud83d\ude00 \u00e9"', "x.yaml") == {"a": "😀 é"}


@pytest.mark.parametrize(
    ("text", "value"), [("-0", 0), ("1_000", 1000), ("9223372036854775807", 2**63 - 1), ("1.0e+3", 1e3)]
)
def test_an_ordinary_number_is_read(text, value):
    assert parse_yaml(f"a: {text}", "x.yaml") == {"a": value}


def test_a_byte_order_mark_and_windows_line_ends_are_no_content(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert parse_yaml(read_text(tmp_path / "x.yaml"), "x.yaml") == {"a": 1, "b": 2}


def test_a_task_by_a_name_that_no_filesystem_takes_is_one_line():
    with pytest.raises(InputError, match=r"^task '[^\n]{1,120}': neither a shipped task .* nor a file$"):
        load_task("x" * 10_000)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' * 100_000, "[" * 100 + "]" * 100, "9" * 5_000, "{", ""])
def test_hostile_json_is_a_value_error_in_one_line(content):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$"):
        parse_json(content)


@pytest.mark.parametrize("value", [None, 1, "a", [], {"a": [1, {"b": None}]}, 10**30])
def test_ordinary_json_is_read(value):
    assert parse_json(json.dumps(value)) == value


def test_the_command_line_ends_with_status_2_and_no_traceback(tmp_path):
    (tmp_path / "recipe.yaml").write_text(HOSTILE["aliases that repeat each other"])
    command = [sys.executable, "-c", "from llambert.cli import main; main()", "plan", str(tmp_path / "recipe.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "recipe.yaml:6: it holds more than" in ended.stderr + ended.stdout
