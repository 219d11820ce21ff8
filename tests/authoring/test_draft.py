import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llambert.authoring.draft import guess_text_column, parse_categories, parse_shots
from llambert.cli import app
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.recipe import load_recipe
from llambert.tasks import load_task

FLAGS = ["--corpus", "mail.csv", "--question", 'Is the mail about "bills": yes?', "--category", "bill=bill,invoice"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mail.csv").write_text("id,body\n1,Please pay the invoice.\n2,Lunch?\n")
    return tmp_path


def init(*arguments, answers=""):
    return CliRunner().invoke(app, ["init", "mail", *arguments], input=answers)


def test_flags_make_a_task_and_a_recipe_that_load_and_explain_themselves(folder):
    shots = ["--shot", "bill=You owe us 5 €: pay.", "--shot", "other=Hello {you}!"]
    done = init(*FLAGS, "--category", "other", *shots, "--record-id", "id")
    assert done.exit_code == 0, done.output
    recipe = load_recipe("mail.yaml")
    task = load_task(recipe.task)
    assert task.question == 'Is the mail about "bills": yes?'
    assert {c.name: c.answer_words for c in task.categories} == {"bill": ("bill", "invoice"), "other": ("other",)}
    assert list(task.prompts) == ["completion", "instruct"]
    assert [(shot.label, shot.text) for shot in task.prompt("instruct").shots] == [
        ("bill", "You owe us 5 €: pay."),
        ("other", "Hello {you}!"),
    ]
    assert (recipe.corpus.path, recipe.corpus.columns.text, recipe.corpus.columns.record_id) == (
        "mail.csv",
        "body",
        "id",
    )
    assert (folder / "mail.yaml").read_text().count("#") > 8
    assert "llambert try mail.yaml" in done.output


def test_without_flags_it_asks(folder):
    done = init(answers="mail.csv\nIs it a bill?\nbill; other\n")
    assert done.exit_code == 0, done.output
    assert load_task("mail-task.yaml").category_names == ["bill", "other"]


def test_a_draft_without_shots_shows_how_to_give_them(folder):
    init(*FLAGS, "--category", "other")
    assert load_task("mail-task.yaml").prompt("completion").shots == ()
    assert '#   - {text: "…", label: "bill"}' in (folder / "mail-task.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (FLAGS, "--category: expected at least two labels, found 'bill'"),
        (FLAGS[:4], "--category: is missing, and this is not an interactive terminal"),
        ([*FLAGS, "--category", "x", "--shot", "y=text"], "--shot y=text: expected label=text with one of bill, x"),
        ([*FLAGS, "--category", "Bill=invoice"], "answer word 'invoice' belongs to bill and Bill"),
        (["--corpus", "nowhere.csv"], "nowhere.csv: no file is there"),
        ([*FLAGS, "--category", "x", "--folder", "/proc/no"], "/proc/no: cannot be written"),
    ],
)
def test_what_cannot_be_right_is_one_line_and_leaves_nothing_behind(folder, arguments, message):
    done = init(*arguments)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert sorted(path.name for path in folder.iterdir()) == ["mail.csv"]


def test_files_that_are_there_are_never_overwritten(folder):
    init(*FLAGS, "--category", "other")
    before = (folder / "mail.yaml").read_text()
    assert "already exists" in str(init(*FLAGS, "--category", "other").exception)
    assert (folder / "mail.yaml").read_text() == before


def test_the_text_column_is_the_one_with_the_longest_values(tmp_path):
    row = {"id": "123456789", "body": "A long enough text.", "kind": "mail"}
    (tmp_path / "a.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress(b'{"id": 123456789, "body": "A long enough text.", "n": null}\n')
    )
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for name in ["a.csv", "a.jsonl.gz", "a.parquet"]:
        assert guess_text_column(CorpusRecipe(path=str(tmp_path / name))) == "body", name
    (tmp_path / "b.csv").write_text("longer,text\nmuch longer,x\n")
    assert guess_text_column(CorpusRecipe(path=str(tmp_path / "b.csv"))) == "text"


def test_categories_and_shots_as_flags():
    assert parse_categories(["yes=yes, yep", " no "]) == {"yes": ["yes", "yep"], "no": ["no"]}
    assert parse_shots(["no=a=b"], {"no": ["no"]}) == [("no", "a=b")]


def test_a_file_in_another_encoding_is_read_and_the_recipe_says_so(folder):
    (folder / "mail.csv").write_bytes("编号,文本\n1,请付款\n".encode("gbk"))
    done = init(*FLAGS, "--category", "other")
    assert isinstance(done.exception, InputError)
    assert "not text in UTF-8; say which --encoding it has" in str(done.exception)
    assert init(*FLAGS, "--category", "other", "--encoding", "gbk").exit_code == 0
    recipe = load_recipe("mail.yaml")
    assert (recipe.corpus.encoding, recipe.corpus.columns.text) == ("gbk", "文本")
