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
