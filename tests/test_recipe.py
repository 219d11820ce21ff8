import pytest

from llambert.errors import InputError
from llambert.gold_recipe import GoldShots
from llambert.recipe import AnnotatorRecipe, Decoding, digest, dump_recipe, load_recipe, result_fields

GOOD = """\
name: films
task: reviews
corpus:
  path: films.csv
  columns: {text: body}
annotator:
  model: some/model
  num_records: 10
classifier:
  model: other/model
"""


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path, text, *settings):
    with pytest.raises(InputError) as caught:
        load_recipe(write(tmp_path, text), list(settings))
    return str(caught.value)


def test_every_default_is_filled_in_and_written_out(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.classifier.epochs == 5
    assert recipe.storage == "runs/films"
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_an_unknown_key_is_refused_with_its_path_its_line_and_the_nearest_name(tmp_path):
    message = refusal(tmp_path, GOOD.replace("num_records: 10", "num_recods: 10"))
    assert "recipe.yaml:8: annotator.num_recods: unknown key; did you mean 'num_records'?" in message
    assert "annotator.num_records: is missing" in message


def test_an_unknown_key_unlike_any_other_lists_the_valid_ones(tmp_path):
    message = refusal(tmp_path, GOOD + "xyzzy: 1\n")
    assert "recipe.yaml:11: xyzzy: unknown key; valid keys: name, task, corpus" in message


def test_an_unknown_key_of_a_nested_section_is_compared_with_that_section(tmp_path):
    message = refusal(tmp_path, GOOD.replace("{text: body}", "{texd: body}"))
    assert "corpus.columns.texd: unknown key; did you mean 'text'?" in message


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("num_records: 10", "num_records: ten", "recipe.yaml:8: annotator.num_records"),
        ("num_records: 10", "num_records: 0", "recipe.yaml:8: annotator.num_records"),
        ("num_records: 10", "num_records: '10'", "recipe.yaml:8: annotator.num_records"),
        ("path: films.csv", "path: [films.csv]", "recipe.yaml:4: corpus.path"),
        ("name: films", "name: ../films", "recipe.yaml:1: name"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path_and_line(tmp_path, old, new, path):
    assert path in refusal(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a mapping"),
        ("- 1", "expected a mapping"),
        ("a: [", "not YAML"),
        ("a: b: c", "recipe.yaml:1: not YAML"),
        ("name: 2020-01-01", "neither text, number, list nor mapping"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path, text, reason):
    message = refusal(tmp_path, text)
    assert reason in message
    assert "\n" not in message


def test_a_missing_recipe_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_recipe("nowhere.yaml")


def test_settings_change_single_values_and_keep_their_type(tmp_path):
    recipe = load_recipe(
        write(tmp_path, GOOD), ["annotator.num_records=25", "corpus.columns.keep=[a, b]", "parse.min_confidence=0.5"]
    )
    assert recipe.annotator.num_records == 25
    assert recipe.corpus.columns.keep == ("a", "b")
    assert recipe.parse.min_confidence == 0.5


def test_a_setting_of_an_unknown_key_is_refused_like_one_of_the_file(tmp_path):
    message = refusal(tmp_path, GOOD, "annotator.nun_records=1")
    assert "annotator.nun_records: unknown key; did you mean 'num_records'?" in message


@pytest.mark.parametrize("setting", ["annotator", "=3", "name.first=x", "name=["])
def test_a_setting_of_the_wrong_form_is_refused(tmp_path, setting):
    assert setting in refusal(tmp_path, GOOD, setting)


def test_placement_does_not_count_as_changing_a_result():
    narrow = AnnotatorRecipe(model="m", num_records=1)
    wide = narrow.model_copy(update={"max_replicas": 8, "max_batch_tokens": 9, "gpus_per_replica": 4})
    other = narrow.model_copy(update={"mode": "score"})
    assert digest(result_fields(narrow)) == digest(result_fields(wide))
    assert digest(result_fields(narrow)) != digest(result_fields(other))


class _GrownRecipe(AnnotatorRecipe):
    added: int = 7
    added_section: Decoding = Decoding()


def test_a_new_key_at_its_default_changes_no_fingerprint_and_another_value_does():
    before = AnnotatorRecipe(model="m", num_records=1, seed=3)
    after = _GrownRecipe(model="m", num_records=1, seed=3)
    assert result_fields(before) == result_fields(after) == {"model": "m", "num_records": 1, "seed": 3}
    assert result_fields(after.model_copy(update={"added": 8})) == {**result_fields(before), "added": 8}
    hot = after.model_copy(update={"added_section": Decoding(temperature=1.0)})
    assert result_fields(hot) == {**result_fields(before), "added_section": {"temperature": 1.0}}


def test_template_settings_and_the_answers_prefix_count_only_if_they_are_there():
    plain = AnnotatorRecipe(model="m", num_records=1)
    named = AnnotatorRecipe(model="m", num_records=1, chat_template_kwargs={}, answer_prefix="")
    assert result_fields(named) == result_fields(plain) == {"model": "m", "num_records": 1}
    other = AnnotatorRecipe(
        model="m", num_records=1, chat_template_kwargs={"enable_thinking": False}, answer_prefix="A"
    )
    assert result_fields(other) == {
        **result_fields(plain),
        "chat_template_kwargs": {"enable_thinking": False},
        "answer_prefix": "A",
    }


def test_a_section_that_is_null_by_default_counts_even_with_all_its_defaults():
    plain = AnnotatorRecipe(model="m", num_records=1)
    assert result_fields(plain.model_copy(update={"gold_shots": GoldShots()})) == {
        **result_fields(plain),
        "gold_shots": {},
    }


@pytest.mark.parametrize(
    "encoding", ["utf-8", "gb18030", "GBK", "shift_jis", "latin-1", "utf-16", "UTF_16_LE", "cp1252"]
)
def test_any_text_encoding_of_python_may_be_named(tmp_path, encoding):
    assert load_recipe(write(tmp_path, GOOD), [f"corpus.encoding={encoding}"]).corpus.encoding == encoding


@pytest.mark.parametrize("encoding", ["utf-9", "gb-18030-x", "hex", "rot13", "base64", "undefined", "idna", "''"])
def test_an_encoding_that_is_none_is_refused_in_one_line(tmp_path, encoding):
    text = GOOD.replace("  path: films.csv\n", f"  path: films.csv\n  encoding: {encoding}\n")
    message = refusal(tmp_path, text)
    assert "recipe.yaml:5: corpus.encoding: should be a text encoding that Python knows" in message
    assert "\n" not in message


def test_an_encoding_is_refused_where_the_format_has_its_own(tmp_path):
    message = refusal(tmp_path, GOOD, "corpus.encoding=gbk", "corpus.format=parquet")
    assert "corpus.encoding: format parquet has its own encoding; remove this key" in message
