"""YAML says what its writer meant, or is refused with the line."""

import pytest

from llambert.errors import InputError
from llambert.recipe import load_recipe
from llambert.section import parse_value, parse_yaml
from llambert.tasks import load_task

RECIPE = """\
name: films
task: reviews
corpus:
  path: films.csv
  columns: {{gold_label: stars}}
  {section}:
    {key}: {value}
annotator: {{model: some/model, num_records: 10}}
classifier: {{model: other/model}}
"""

MISREAD = [
    "yes", "no", "on", "off", "True", "FALSE", "null", "~", "012", "0o17", "12:30", "1_000", "0x1F", "0b11", "+1", "-0",
    "1.0", "1.10", "1.5e+3", ".5", ".inf", ".NaN", "2020-01-31", "2020-01-31 10:00:00", "190:20:30.15",
]  # fmt: skip


def refusal(text):
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "x.yaml")
    return str(caught.value)


@pytest.mark.parametrize("key", [key for key in MISREAD if key != "0o17"])
def test_a_key_that_yaml_takes_for_something_else_than_text_is_refused_with_its_line(key):
    message = refusal(f"a: 1\nb:\n  {key}: positive\n")
    assert message.startswith(f"x.yaml:3: the key {key!r} is read as ")
    assert message.endswith(": put it in quotes")
    assert "not YAML" not in message


@pytest.mark.parametrize("key", MISREAD)
def test_the_same_key_in_quotes_is_that_text(key):
    assert parse_yaml(f"'{key}': positive\n", "x.yaml") == {key: "positive"}


@pytest.mark.parametrize("key", ["0", "1", "-1", "12345678901234567890123", "08", "1e3", "y", "N", "4 stars", "<5"])
def test_a_plain_integer_and_whatever_yaml_reads_as_written_need_no_quotes(key):
    [(read, _)] = parse_yaml(f"{key}: positive\n", "x.yaml").items()
    assert str(read) == key


def test_a_key_that_was_merged_in_from_an_anchor_is_looked_at_too():
    assert parse_yaml("a: &a {one: 1}\nb: {<<: *a, two: 2}\n", "x.yaml")["b"] == {"one": 1, "two": 2}
    assert "the key 'off'" in refusal("a: &a {off: 1}\nb: {<<: *a}\n")


@pytest.mark.parametrize("section", ["gold_labels", "exclude", "only"])
def test_every_mapping_of_a_recipe_refuses_such_keys(tmp_path, section):
    value = "positive" if section == "gold_labels" else "[a]"
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(section=section, key="no", value=value))
    with pytest.raises(InputError, match=r"recipe\.yaml:7: the key 'no' is read as a truth value: put it in quotes"):
        load_recipe(path)
    path.write_text(RECIPE.format(section=section, key="1", value=value))
    assert list(getattr(load_recipe(path).corpus, section)) == ["1"]


def test_a_task_refuses_such_keys(tmp_path):
    (tmp_path / "task.yaml").write_text("name: t\nquestion: q\nprompts:\n  off: {format: chat}\n")
    with pytest.raises(InputError, match=r"task\.yaml:4: the key 'off' is read as a truth value"):
        load_task(str(tmp_path / "task.yaml"))


def test_a_setting_of_the_command_line_is_read_like_a_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(section="gold_labels", key="fresh", value="positive"))
    with pytest.raises(InputError, match=r"--set corpus\.gold_labels=\{yes: positive\}: the key 'yes' is read as"):
        load_recipe(path, ["corpus.gold_labels={yes: positive}"])
    with pytest.raises(InputError, match="the key 'a' is a duplicate"):
        load_recipe(path, ["corpus.gold_labels={a: positive, a: negative}"])
    quoted = load_recipe(path, ["corpus.gold_labels={'yes': positive}", "corpus.gold_labels.no=negative"])
    assert quoted.corpus.gold_labels == {"yes": "positive", "no": "negative"}
    assert parse_value("[1, a]", "--set") == [1, "a"]


@pytest.mark.parametrize(
    ("value", "found"), [("yes", "True"), ("1.0", "1.0"), ("012", "10"), ("~", "None"), ("1_000", "1000")]
)
def test_a_value_that_should_be_text_is_refused_the_same_way(tmp_path, value, found):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(section="exclude", key="kind", value=f"[{value}]"))
    with pytest.raises(InputError, match="should be a text: put it in quotes") as caught:
        load_recipe(path)
    assert "recipe.yaml:7" in str(caught.value)
    assert f"(found {found})" in str(caught.value)


def test_a_date_is_refused_with_its_line():
    assert refusal("a: b\nname: 2020-01-31\n").startswith("x.yaml:2: 2020-01-31 is read as a date")


@pytest.mark.parametrize("merged", ["{yes: positive}", "[{a: negative}, {012: positive}]"])
def test_a_key_of_a_mapping_that_is_merged_in_place_is_looked_at_too(merged):
    message = refusal(f"labels:\n  <<: {merged}\n  b: negative\n")
    assert message.startswith("x.yaml:2: the key ")
    assert message.endswith(": put it in quotes")


@pytest.mark.parametrize("key", ["[1, 2]", "{a: b}", "? [a]\n  "])
def test_a_key_that_is_no_scalar_is_refused_with_its_line(key):
    assert refusal(f"labels:\n  {key}: positive\n").startswith("x.yaml:2: a key is a list or a mapping")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("!!int abc", "x.yaml:2: 'abc' cannot be read as int: put it in quotes"),
        ("!!float ''", "x.yaml:2: '' cannot be read as float: put it in quotes"),
        ("!!bool maybe", "x.yaml:2: 'maybe' cannot be read as bool: put it in quotes"),
        ("!!binary aGk=", "x.yaml:2: a value is read as binary, neither text, number, list nor mapping"),
        ("!!set {a, b}", "x.yaml:2: a value is read as set, neither text, number, list nor mapping"),
        ("&a [*a]", "x.yaml:2: a value contains itself by an alias"),
        ("&a {b: *a}", "x.yaml:2: a value contains itself by an alias"),
        ("[" * 3000 + "]" * 3000, "x.yaml:2: its lists and mappings are nested too deeply"),
        ('"\x7f"', "x.yaml:2: not YAML: the character '\\x7f' cannot be part of it"),
    ],
)
def test_a_value_that_no_section_can_hold_is_refused_in_one_line(value, fault):
    message = refusal(f"labels:\n  k: {value}\n")
    assert message.startswith(fault)
    assert "\n" not in message


@pytest.mark.parametrize("text", ["films #2.csv", "|", ">", "one\n two", "---", "'films' # all", "[a, b] # both"])
def test_a_setting_of_which_yaml_would_drop_a_part_is_refused(text):
    with pytest.raises(InputError, match=r"does not read all of .* as the value: put it in quotes"):
        parse_value(text, "--set corpus.path=…")


@pytest.mark.parametrize("text", ["*.csv", "[old].csv", "{a}.csv", "%a.csv", "&a.csv", "!a.csv", "@a"])
def test_a_setting_that_is_not_yaml_says_how_to_write_it(text):
    with pytest.raises(InputError, match="if the value is a text, put it in quotes"):
        parse_value(text, "--set corpus.path=…")
    assert parse_value(f'"{text}"', "--set corpus.path=…") == text


@pytest.mark.parametrize(
    "text", ["films.csv", " films.csv ", "a#b", "a, b", "", "[a, b]", "{a: b}", "1", "null", "'a #b'"]
)
def test_a_setting_that_is_one_value_is_read(text):
    parse_value(text, "--set corpus.path=…")
