import pyarrow as pa
import pytest
from typer.testing import CliRunner

from llambert.annotation.sampling import Selection
from llambert.authoring import trial
from llambert.cli import app
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.run import open_run
from llambert.stages.annotate import annotate
from llambert.stages.ingest import ingest
from llambert.stages.sample import sample
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.tiny_llm import save_tiny_llm

RECIPE = """
name: films
task: reviews
storage: {tmp}/run
corpus: {{path: {tmp}/films.csv, columns: {{text: body, record_id: id, gold_label: stars}}}}
annotator: {{model: {tmp}/llm, dtype: float32, prompt: completion, mode: {mode}, num_records: 1000}}
classifier: {{model: {tmp}/encoder}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    save_tiny_llm(folder / "llm")
    save_tiny_encoder(folder / "encoder")
    rows = [f"r{number},Film {number} was good.,positive" for number in range(40)]
    (folder / "films.csv").write_text("\n".join(["id,body,stars", "r40,,negative", *rows]) + "\n")
    for mode in ("score", "generate"):
        (folder / f"{mode}.yaml").write_text(RECIPE.format(tmp=folder, mode=mode))
    return folder


def run_try(*arguments):
    done = CliRunner().invoke(app, ["try", *map(str, arguments)])
    assert done.exit_code == 0, done.exception
    return done.output


@pytest.mark.parametrize("mode", ["score", "generate"])
def test_prompts_answers_and_labels_of_a_few_records_are_shown_and_the_answers_kept(folder, mode, monkeypatch):
    output = run_try(folder / f"{mode}.yaml", "--n", 3)
    assert output.count("  | Sentiment:\n") == 3
    assert output.count("  answer ") == 3
    assert output.count("(gold: positive)") == 3
    assert output.count("on any answer word") == (3 if mode == "score" else 0)
    assert "At most 1,000 records like these will be annotated (annotator.num_records): about " in output
    written = {path.relative_to(folder / "run").parts[0] for path in (folder / "run").rglob("*") if path.is_file()}
    assert written == {"layout.json", "answers"}
    monkeypatch.setattr(trial, "create_engine", None)  # no model is loaded again
    assert run_try(folder / f"{mode}.yaml", "--n", 3) == output


def test_a_run_finds_the_answers_of_a_trial(folder):
    chosen = trial.open_trial(str(folder / "generate.yaml"), None, "text", None)
    records = trial.first_records(chosen, 5)
    shown = [one.answer for one in trial.run_trial(records, chosen)]
    run = open_run(str(folder / "generate.yaml"), ["annotator.num_records=40"])
    ingest(run, IN_PROCESS)
    sample(run)
    manifest = annotate(run, IN_PROCESS)
    assert manifest.counts["num_found"] >= 5
    rows = {row["record_id"]: row for row in joined(run).to_pylist()}
    assert [rows[name]["response"] for name in records["record_id"].to_pylist()] == [one.response for one in shown]


def test_more_records_are_those_of_fewer_and_then_some(folder):
    chosen = trial.open_trial(str(folder / "score.yaml"), None, "text", None)
    few, more = (trial.first_records(chosen, num)["record_id"].to_pylist() for num in (3, 10))
    assert more[:3] == few
    assert len(set(more)) == 10
    assert "r40" not in trial.first_records(chosen, 100)["record_id"].to_pylist()  # no text, no record


def test_the_records_are_drawn_independently_of_the_annotation_sample(folder):
    # A prompt that is tuned on them would be tuned on the records that show how good it is.
    num = 0
    for seed in range(10):
        chosen = trial.open_trial(str(folder / "score.yaml"), None, "text", [f"annotator.seed={seed}"])
        everything = trial.first_records(chosen, 100)["record_id"].to_pylist()
        annotated = Selection.smallest(pa.array(sorted(everything)), 20, seed).record_ids.to_pylist()
        num += len(set(everything[:10]) & set(annotated))
    assert abs(num - 50) < 4 * 100**0.5 / 2


def test_only_splits_that_are_annotated_are_tried_and_a_wrong_one_is_refused(folder):
    split = ["corpus.columns={text: body, record_id: id, split: stars}", "annotator.splits=[{}]"]
    chosen = trial.open_trial(str(folder / "score.yaml"), None, "text", [split[0], split[1].format("positive")])
    assert trial.first_records(chosen, 100).num_rows == 40
    chosen = trial.open_trial(str(folder / "score.yaml"), None, "text", [split[0], split[1].format("good")])
    with pytest.raises(InputError, match=r"annotator.splits: no record .* of split good; it has positive$"):
        trial.first_records(chosen, 100)


def test_prompts_can_be_seen_without_loading_a_model(folder):
    settings = ["--set", "annotator.model=./nowhere"]
    output = run_try(folder / "score.yaml", "--n", 2, "--prompts-only", *settings)
    assert output.count("  | Sentiment:\n") == 2
    output = run_try(folder / "score.yaml", "--n", 1, "--prompts-only", *settings, "--set", "annotator.prompt=instruct")
    assert "  | [system]\n" in output


def test_a_task_is_tried_on_a_file(folder):
    output = run_try("reviews", "--corpus", folder / "films.csv", "--text", "body", "--n", 1, "--prompts-only")
    assert "was good." in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reviews"], "reviews: is a task; say with --corpus"),
        (["nowhere.yaml"], "neither a shipped task"),
        (["reviews", "--corpus", "{folder}/films.csv"], "no column 'text'"),
        (["{folder}/score.yaml", "--set", "annotator.engine=vllm"], "vLLM is not installed here"),
        (["{folder}/score.yaml", "--set", "annotator.gold_shots={{seed: 1}}"], "drawn when the run starts"),
        (
            ["{folder}/score.yaml", "--set", "corpus.exclude={{stars: [positive]}}"],
            "none of its rows is a record: {'excluded': 40, 'null_text': 1}",
        ),
    ],
)
def test_what_cannot_be_tried_is_one_line(folder, arguments, message):
    done = CliRunner().invoke(app, ["try", *(argument.format(folder=folder) for argument in arguments)])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def films(tmp_path, content, **corpus):
    (tmp_path / "films.csv").write_bytes(content)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(tmp=tmp_path, mode="score"))
    settings = [f"corpus.{key}={value}" for key, value in corpus.items()]
    return trial.open_trial(str(recipe), None, "text", settings)


HEAD = b"id,body,stars\n"


def test_gold_values_are_judged_as_ingest_judges_them(tmp_path, capsys, monkeypatch):
    some = films(tmp_path, HEAD + b"1,a,positive\n2,b,good\n")
    trial.first_records(some, 2)
    assert capsys.readouterr().err.startswith("corpus: 1 of 2 gold values (50.0%) in column 'stars' match no category")
    none = films(tmp_path, HEAD + b"1,a,good\n2,b,bad\n")
    with pytest.raises(InputError, match="none of the 2 values of column 'stars' is a category"):
        trial.first_records(none, 2)
    monkeypatch.setattr(trial, "HEAD_RECORDS", 1)  # of a part of the corpus nothing final can be said
    trial.first_records(none, 1)
    assert capsys.readouterr().err.startswith("corpus: of its first records: 1 of 1 gold values (100.0%)")


def test_a_corpus_in_another_encoding_is_refused_as_ingest_refuses_it(tmp_path):
    content = HEAD + "1,很好看的书,\n2,没有意思,\n".encode("gbk")
    with pytest.raises(InputError, match=r"probably gb18030"):
        trial.first_records(films(tmp_path, content), 2)
    assert trial.first_records(films(tmp_path, content, encoding="gbk"), 2).num_rows == 2


def test_a_gold_label_mapped_to_no_category_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"corpus\.gold_labels: 'good' is mapped to 'postive', which is not a category"
    ):
        films(tmp_path, HEAD, gold_labels="{good: postive}")
