import json

import pytest

from llambert.errors import InputError
from llambert.tasks import load_task

GOOD = """\
name: urgent
question: Is the message urgent?
categories:
  - {name: urgent, answer_words: [yes]}
  - {name: calm, answer_words: [no]}
prompts:
  plain:
    template: "Message: {text}"
    shots:
      - {text: Fire!, label: urgent}
"""
QUOTED = GOOD.replace("[yes]", "['yes']").replace("[no]", "['no']")


def refusal(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_task(str(path))
    return str(caught.value)


def test_the_shipped_task_of_the_demo_loads_with_its_default_prompt_first():
    task = load_task("reviews")
    assert task.category_names == ["positive", "negative"]
    assert task.prompt() is task.prompts["completion"]
    assert task.prompt("instruct").format == "chat"


def test_yaml_reads_unquoted_yes_as_a_truth_value_and_the_refusal_says_where(tmp_path):
    message = refusal(tmp_path, GOOD)
    assert "task.yaml:4: categories.0.answer_words.0: should be a text: put it in quotes (found True)" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "label: urgent",
            "label: angry",
            "10: prompts.plain.shots.0.label: a shot is labelled 'angry', which is no category",
        ),
        ("{text}", "{txt}", "8: prompts.plain.template: a prompt template holds {text} exactly once"),
        ("['no']", "['yes']", "5: categories.1.answer_words: answer word 'yes' belongs to urgent and calm"),
        ("name: calm", "name: urgent", "5: categories.1.name: duplicate category 'urgent'"),
        ("name: calm", 'name: "calm\\ud800"', r"5: categories.1.name: 'calm\ud800' holds a surrogate"),
        ("['no']", '["no", "\\udce9"]', r"5: categories.1.answer_words.1: '\udce9' holds a surrogate"),
        ("name: calm", 'name: "calm\\0"', "5: categories.1.name: holds a control character"),
        ("question:", "queston:", "2: queston: unknown key; did you mean 'question'?"),
        ("prompts:", "question: again\nprompts:", "6: not YAML: the key 'question' is a duplicate"),
    ],
)
def test_a_task_that_contradicts_itself_is_refused_with_the_line(tmp_path, old, new, message):
    assert f"task.yaml:{message}" in refusal(tmp_path, QUOTED.replace(old, new))


def test_an_unknown_task_names_the_shipped_ones():
    with pytest.raises(InputError, match=r"neither a shipped task \(.*reviews.*\) nor a file"):
        load_task("revews")


def test_an_unknown_prompt_names_the_ones_there_are():
    with pytest.raises(InputError, match="no prompt 'x'; it has completion, instruct"):
        load_task("reviews").prompt("x")


def test_a_category_may_have_any_name_that_can_be_shown(tmp_path):
    names = ["$x_1$", "$$", "a\nb", "<script>", "a | b", "../..", "'\"`", "😀", "\u202eعربي", "x" * 200]
    rows = [f"  - {{name: {json.dumps(name)}, answer_words: ['w{n}']}}\n" for n, name in enumerate(names)]
    text = QUOTED.replace("  - {name: calm, answer_words: ['no']}\n", "".join(rows))
    (tmp_path / "task.yaml").write_text(text)
    assert load_task(str(tmp_path / "task.yaml")).category_names == ["urgent", *names]
