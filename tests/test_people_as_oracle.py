"""People as the oracle of a guarantee: what they are asked goes out blind, what they answer counts and stays."""

import csv
import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llambert import schema
from llambert.cli import app
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.hashing import hash64
from llambert.integrity.repair import repair
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from tests.fixtures.growing_corpora import ScriptedAnnotator, contents, open_growing, rows, states, write, write_recipe
from tests.fixtures.openai_endpoint import KEY, serve
from tests.fixtures.tiny_encoder import POSITIVE

NUM_CERTIFY, NUM_COPIES = 130, 20  # with the seed, several texts of the sample are in it twice
GUARANTEE = {"target": 0.9, "oracle": "people", "certify_records": NUM_CERTIFY, "escalate": "never", "seed": 3}
EXPORT, IMPORT = ("review", "export", "recipe.yaml"), ("review", "import", "recipe.yaml")
REVIEW = Path("review/review.csv")


@pytest.fixture(scope="module")
def annotator():
    with serve(ScriptedAnnotator()) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def waiting(tmp_path_factory, annotator):
    """A folder whose run, over texts without gold labels, some of them twice, waits for people."""
    folder = tmp_path_factory.mktemp("waiting")
    settings = {"corpus": {"columns": {}}, "classifier": {"epochs": 2}, "guarantee": GUARANTEE}
    write_recipe(folder, annotator.base_url, **settings)
    write(folder / "corpus", "f", rows("a")[:NUM_COPIES])
    return started(folder)


@pytest.fixture(scope="module")
def certified(tmp_path_factory, waiting):
    """A folder whose run has its certificate."""
    folder = tmp_path_factory.mktemp("certified") / "films"
    shutil.copytree(waiting, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        llambert(*EXPORT, "--certify")
        llambert(*IMPORT, str(answered(REVIEW)), "--save")
    return started(folder)


def started(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.chdir(folder)
        pipeline(open_growing(), IN_PROCESS)
    return folder


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Go to a copy of a folder."""

    def go(folder: Path) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        shutil.copytree(folder, tmp_path / "films")
        monkeypatch.chdir(tmp_path / "films")

    return go


def llambert(*arguments: str) -> str:
    """The output of a command that must succeed."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    """The one line by which a command refuses."""
    with pytest.raises(InputError) as error:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    line = str(error.value)
    assert "\n" not in line
    return line


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


def verdict(text: str) -> str:
    """What a person says of a text, by its words."""
    words = text.split()
    return "positive" if any(word in POSITIVE for word in words) else "negative"


def answered(exported: Path, person: str = "kim", num: int | None = None, **changed: str) -> Path:
    """A copy of an exported CSV with ``person``'s answers to its first ``num`` items; ``changed``: verdict -> other."""
    items = read_csv(exported)
    for row in items[:num]:
        said = verdict(row["text"])
        row |= {"answer": changed.get(said, said), "annotator": person}
    path = exported.with_name(f"{person}.csv")
    with path.open("w", newline="", encoding="utf-8") as stream:
        out = csv.DictWriter(stream, items[0].keys())
        out.writeheader()
        out.writerows(items)
    return path


def figures(run, name: str) -> dict[str, float]:
    manifest = run.table(name).require_manifest()
    return {**manifest.counts, **manifest.measures}


def test_a_run_without_answers_is_finished_but_for_the_guarantee_and_says_what_to_do(copied, waiting, capsys):
    copied(waiting)
    pipeline(run := open_growing(), IN_PROCESS)
    assert "have no answer of people yet: `llambert review export --certify`" in capsys.readouterr().out
    assert run.table("report").read_manifest()
    assert not run.table("certificate").read_manifest()
    assert not run.table("decisions").read_manifest()
    assert verify(run) == []


def test_what_people_are_asked_is_blind_in_random_order_and_each_text_once(copied, waiting):
    copied(waiting)
    shown = llambert(*EXPORT, "--certify")
    sample = contents(open_growing(), "certification")["certification"]
    asked = read_csv(REVIEW)
    texts = [row["text"] for row in asked]
    assert len(sample) == NUM_CERTIFY > len(texts)  # copies of a text are records like any other
    assert sorted(texts) == sorted({row["text"] for row in sample})
    assert f"{len(texts)} of {len(texts)} texts of the certification sample" in shown
    assert {row["answer"] + row["annotator"] + row["comment"] for row in asked} == {""}
    for path in REVIEW.parent.iterdir():
        content = path.read_text("utf-8")
        assert not any(row["record_id"] in content or str(row["score"]) in content for row in sample), path
    assert texts != [row["text"] for row in sample]


def test_people_certify_then_escalate_and_their_labels_are_final(copied, certified):
    copied(certified)
    run = open_growing()
    certificate, before = figures(run, "certificate"), figures(run, "decisions")
    wrong = [row for row in contents(run, "certificate")["certificate"] if row["label"] != row["oracle_label"]]
    assert 0 < len(wrong) < NUM_CERTIFY
    assert 0 < certificate["num_kept"] < NUM_CERTIFY
    sampled = {row["text"] for row in contents(run, "certification")["certification"]}
    texts = {row["record_id"]: row["text"] for row in contents(run, "corpus")["corpus"]}

    def by_people(run) -> set[str]:
        decided = [row for row in contents(run, "decisions")["decisions"] if row["decided_by"] == "person"]
        assert all(row["label"] == verdict(texts[row["record_id"]]) for row in decided)
        return {row["record_id"] for row in decided}

    assert by_people(run) == {record_id for record_id, text in texts.items() if text in sampled}
    shown = llambert(*EXPORT, "--escalate", "20")
    assert "20 of" in shown
    asked = {row["text"] for row in read_csv(REVIEW)}
    assert not asked & sampled
    deferred = contents(run, "deferred")["deferred"]
    assert asked == {row["text"] for row in deferred[:20]}
    assert [row["text"] for row in read_csv(REVIEW)] != [row["text"] for row in deferred[:20]]
    said = llambert(*IMPORT, str(answered(REVIEW)), "--save")
    assert said.startswith("20 answers saved at ")
    assert "next: llambert run recipe.yaml" in said
    pipeline(run := open_growing(), IN_PROCESS)
    after = figures(run, "decisions")
    assert by_people(run) == {record_id for record_id, text in texts.items() if text in sampled | asked}
    assert after["by_person"] > before["by_person"]
    assert after["share_bound"] > before["share_bound"]
    threshold = {name: value for name, value in figures(run, "certificate").items() if name != "num_unusable"}
    assert threshold.items() <= certificate.items()
    assert verify(run) == []
    assert "people       kept" in llambert("status", "recipe.yaml")


def test_deciding_all_texts_below_the_threshold_reaches_the_target(copied, certified):
    copied(certified)
    llambert(*EXPORT, "--escalate", "1000")
    llambert(*IMPORT, str(answered(REVIEW)), "--save")
    pipeline(run := open_growing(), IN_PROCESS)
    found = figures(run, "decisions")
    assert found["num_undecided"] == 0
    assert found["share_bound"] >= GUARANTEE["target"]
    labels = contents(run, "decisions")["decisions"]
    texts = {row["record_id"]: row["text"] for row in contents(run, "corpus")["corpus"]}
    num_right = sum(row["label"] == verdict(texts[row["record_id"]]) for row in labels)
    assert num_right / len(labels) >= GUARANTEE["target"]
    assert "no text is left below the threshold" in refused(*EXPORT, "--escalate", "1", "--output", "more")


def test_half_the_answers_are_kept_and_the_other_half_is_asked_for(copied, waiting, capsys):
    copied(waiting)
    llambert(*EXPORT, "--certify")
    num = len(read_csv(REVIEW))
    said = llambert(*IMPORT, str(answered(REVIEW, num=50)), "--save")
    assert said.startswith("50 answers saved at ")
    assert f"{num - 50} texts of the certification sample have no answer yet" in said
    pipeline(open_growing(), IN_PROCESS)
    assert f"certify: {num - 50} texts" in capsys.readouterr().out
    first = {row["text"] for row in read_csv(REVIEW)[:50]}
    llambert(*EXPORT, "--certify", "--output", "rest")
    rest = {row["text"] for row in read_csv(Path("rest/review.csv"))}
    assert len(rest) == num - 50
    assert not rest & first
    # The same file again, answered to the end: what was saved is not saved twice.
    said = llambert(*IMPORT, str(answered(REVIEW)), "--save")
    assert said.startswith(f"{num - 50} answers saved at ")
    assert ", 50 were saved before\n" in said
    assert "every text of the certification sample has an answer" in said
    assert "people have answered all" in refused(*EXPORT, "--certify", "--output", "more")


def test_the_same_import_and_the_same_start_write_nothing(copied, certified, annotator):
    copied(certified)
    run, num_calls = open_growing(), len(annotator.calls)
    names = ("people", "certification", "certificate", "deferred", "decisions", "report")
    before = {name: states(run, name) for name in names}
    said = llambert(*IMPORT, "review/kim.csv", "--save")
    assert said.startswith("0 answers saved at ")
    pipeline(run := open_growing(), IN_PROCESS)
    assert {name: states(run, name) for name in names} == before
    assert len(annotator.calls) == num_calls


def test_where_people_disagree_the_text_has_no_label_and_counts_as_wrong(copied, certified):
    copied(certified)
    certificate = figures(open_growing(), "certificate")
    said = llambert(*IMPORT, str(answered(REVIEW, "lee", num=30, positive="negative")), "--save")
    assert "30 answers saved" in said
    num_disputed = sum(verdict(row["text"]) == "positive" for row in read_csv(REVIEW)[:30])
    assert 0 < num_disputed < 30
    both = [str(answered(REVIEW)), str(answered(REVIEW, "lee", num=30, positive="negative"))]
    said = llambert(*IMPORT, *both, "--save")
    assert f"kim and lee: {30 - num_disputed} of 30 answers equal" in said
    pipeline(run := open_growing(), IN_PROCESS)
    rows_ = contents(run, "certificate")["certificate"]
    disputed = [row for row in rows_ if row["reject_reason"] == "people_disagree"]
    assert len(disputed) >= num_disputed
    assert all(row["oracle_label"] is None for row in disputed)
    assert figures(run, "certificate")["num_unusable"] == len(disputed)
    assert figures(run, "certificate")["num_kept"] <= certificate["num_kept"]


def test_saved_answers_judge_the_classifier_in_the_report(copied, waiting, certified):
    def metrics(run) -> tuple[int, int, set[str]]:
        found = json.loads(run.table("report").read_file("metrics.json"))
        return found["num_gold"], found["num_saved_gold"], {row["metric"] for row in found["metrics"]}

    copied(waiting)
    assert metrics(open_growing())[:2] == (0, 0)
    assert "classifier_accuracy_all" not in metrics(open_growing())[2]
    llambert(*EXPORT, "--certify")
    llambert(*IMPORT, str(answered(REVIEW)), "--save")
    pipeline(run := open_growing(), IN_PROCESS)
    corpus = contents(run, "corpus")["corpus"]
    sampled = {row["text"] for row in contents(run, "certification")["certification"]}
    num = sum(row["text"] in sampled for row in corpus)
    assert metrics(run)[:2] == (num, num)
    assert "classifier_accuracy_all" in metrics(run)[2]
    page = run.table("report").read_file("report.md").decode()
    assert f"| of these, saved answers of people | {num} |" in page
    # Texts that people decided since the classifier is unsure of them do not make it look worse.
    llambert(*EXPORT, "--escalate", "30", "--output", "more")
    llambert(*IMPORT, str(answered(Path("more/review.csv"))), "--save")
    pipeline(run := open_growing(), IN_PROCESS)
    assert metrics(run)[:2] == (num, num)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--certify", "--escalate", "5"), "--certify and --escalate exclude each other"),
        (("--certify", "--order", "hardest"), "--order: is for samples of disagreements, and not with --certify"),
        (("--escalate", "5", "--split", "test"), "--split: is for samples of disagreements, and not with --escalate"),
        (("--certify", "--n", "5"), "--n: is for samples"),
        (("--certify", "--mixed", "Positive"), "'Positive' is a category"),
        (("--escalate", "5"), "the run has no certificate yet"),
        (("--certify", "--set", "guarantee=null"), "the recipe has no section guarantee"),
        (("--escalate", "5", "--set", "guarantee.oracle=annotator"), "set guarantee.oracle: people"),
        (("--certify", "--set", "label.probabilities=true"), "is not complete"),
        (("--certify", "--set", "guarantee.certify_records=9"), "guarantee.certify_records: 9 records cannot show"),
    ],
)
def test_an_export_that_cannot_be_is_refused_in_one_line(copied, waiting, arguments, message):
    copied(waiting)
    assert message in refused(*EXPORT, *arguments)
    assert not REVIEW.exists()


def test_answers_that_cannot_be_saved_are_refused_in_one_line_and_none_is(copied, waiting):
    copied(waiting)
    llambert(*EXPORT, "--certify")
    path = answered(REVIEW)
    text = path.read_text()
    first, second = (row["item"] for row in read_csv(path)[:2])
    for changed, message in (
        (text.replace("answer", "verdict", 1), "no column answer"),
        (text[: len(text) // 2].replace(first, "other-0001"), "item 'other-0001': no sample of this run"),
        (text.replace(first, f"{first[:-4]}9999"), f"item '{first[:-4]}9999' was never exported"),
        (
            text.replace(",positive,", ",postive,", 1),
            "the answer 'postive' is none of positive, negative, mixed/neutral",
        ),
        ("\x00\x01 no table", "no column"),
        (REVIEW.read_text("utf-8-sig"), "no item has an answer"),
    ):
        path.write_text(changed)
        assert message in refused(*IMPORT, str(path), "--save")
    path.write_text(text)
    assert "import them with --save" in refused(*IMPORT, str(path))
    one = [{"item": item, "answer": said} for item, said in ((first, "positive"), (second, "mixed/neutral"))]
    Path("one.json").write_text(json.dumps(one))
    assert open_growing().table("people").part_names() == []
    assert "2 answers saved" in llambert(*IMPORT, "one.json", "--save")


def test_an_export_does_not_replace_answers(copied, waiting):
    copied(waiting)
    llambert(*EXPORT, "--certify")
    llambert(*EXPORT, "--certify")  # nobody has answered
    answered(REVIEW).rename(REVIEW)
    before = REVIEW.read_text()
    assert "answers, which this would replace; choose another --output" in refused(*EXPORT, "--certify")
    assert REVIEW.read_text() == before


@pytest.mark.parametrize("damage", ["cut", "renamed", "foreign"])
def test_damaged_answers_are_found_and_set_aside_and_their_texts_asked_again(copied, certified, damage):
    copied(certified)
    run = open_growing()
    store = Path(run.table("people").path())
    [part] = store.glob("*.parquet")
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    elif damage == "renamed":
        part.rename(store / "part-0123456789ab.parquet")
    else:
        (store / "notes.txt").write_text("mine")
    [finding] = verify(run)
    assert finding.table == "people"
    assert ("imported again" in finding.problem) == (damage != "foreign")
    assert list(repair(open_growing(), IN_PROCESS)) == [finding]
    run = open_growing()
    assert verify(run) == []
    if damage == "foreign":
        assert len(list(store.glob("*.parquet"))) == 1
        assert run.table("decisions").read_manifest()
        return
    assert not list(store.glob("*.parquet"))
    assert list(Path("run/people/set_aside").rglob("*.parquet"))
    assert not run.table("certificate").read_manifest()
    assert not run.table("decisions").read_manifest()
    llambert(*IMPORT, "review/kim.csv", "--save")
    pipeline(open_growing(), IN_PROCESS)
    assert figures(open_growing(), "decisions")["by_person"] >= NUM_CERTIFY


def change_recipe(**sections: dict) -> None:
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    for name, fields in sections.items():
        recipe[name] = recipe[name] | fields
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))


def test_a_classifier_that_learned_saved_answers_is_certified_by_answers_about_other_texts(copied, certified, capsys):
    copied(certified)
    before = open_growing()
    first = {row["text"] for row in contents(before, "certification")["certification"]}
    llambert(*EXPORT, "--escalate", "20", "--output", "more")
    llambert(*IMPORT, str(answered(Path("more/review.csv"))), "--save")
    escalated = {row["text"] for row in read_csv(Path("more/review.csv"))}
    change_recipe(classifier={"regime": "combined", "learn_answers_until": datetime.now(UTC).isoformat()})
    pipeline(run := open_growing(), IN_PROCESS)
    assert run.table("checkpoint").uri != before.table("checkpoint").uri
    rows_ = run.table("learned").read().to_pylist()
    learned = {row[schema.TEXT_HASH] for row in rows_ if row[schema.LABELS_OF] == "gold"}
    assert learned == set(hash64(sorted(first | escalated)).tolist())
    assert run.table("checkpoint").require_manifest().counts["num_learned_answers"] == len(learned)
    sampled = {row["text"] for row in contents(run, "certification")["certification"]}
    assert not learned & set(hash64(sorted(sampled)).tolist())
    assert f"certify: {len(sampled)} texts of the certification sample" in capsys.readouterr().out
    # They judge nothing any more: the classifier has learned them.
    assert json.loads(run.table("report").read_file("metrics.json"))["num_saved_gold"] == 0
    llambert(*EXPORT, "--certify", "--output", "second")
    assert sorted(row["text"] for row in read_csv(Path("second/review.csv"))) == sorted(sampled)
    llambert(*IMPORT, str(answered(Path("second/review.csv"))), "--save")
    pipeline(after := open_growing(), IN_PROCESS)
    assert after.table("checkpoint").uri == run.table("checkpoint").uri  # what is saved later is not learned
    texts = {row["record_id"]: row["text"] for row in contents(after, "corpus")["corpus"]}
    decided = [row for row in contents(after, "decisions")["decisions"] if row["decided_by"] == "person"]
    assert {texts[row["record_id"]] for row in decided} == first | escalated | sampled
    assert all(row["label"] == verdict(texts[row["record_id"]]) for row in decided)
    assert verify(after) == []


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("2999-01-01T00:00:00Z", "is in the future"),
        ("2020-01-01T00:00:00Z", "no label that people gave was saved by 2020"),
    ],
)
def test_a_time_at_which_there_is_nothing_to_learn_is_refused(copied, certified, until, message):
    copied(certified)
    change_recipe(classifier={"regime": "gold", "learn_answers_until": until})
    with pytest.raises(InputError, match=f"classifier.learn_answers_until: .*{message}"):
        pipeline(open_growing(), IN_PROCESS)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"classifier": {"regime": "silver"}}, "regime silver learns from no gold label; choose gold or combined"),
        ({"guarantee": {"oracle": "annotator"}}, "may be in the certification sample; set guarantee.oracle: people"),
    ],
)
def test_a_recipe_whose_certificate_might_rest_on_learned_answers_is_refused(copied, waiting, sections, message):
    copied(waiting)
    change_recipe(classifier={"regime": "gold", "learn_answers_until": "2026-01-01T00:00:00Z"})
    change_recipe(**sections)
    with pytest.raises(InputError, match=f"classifier.learn_answers_until: .*{message}"):
        open_growing()


def test_saved_answers_say_whether_the_annotator_is_the_better_judge(copied, certified):
    copied(certified)
    change_recipe(guarantee={"oracle": "annotator", "escalate": "auto"})
    pipeline(run := open_growing(), IN_PROCESS)
    assert figures(run, "certificate")["judges.num"] > 0
    rows_ = contents(run, "certificate")["certificate"]
    texts = {row["record_id"]: row["text"] for row in contents(run, "certification")["certification"]}
    said = {row["text"]: verdict(row["text"]) for row in read_csv(REVIEW)}
    assert [row["gold_label"] for row in rows_] == [said.get(texts[row["record_id"]]) for row in rows_]
    # What nobody has answered of this sample can be asked too.
    more = llambert(*EXPORT, "--certify", "--output", "more")
    num = len({text for text in texts.values() if text not in said})
    assert f"{num} of {num} texts of the certification sample" in more
    before = figures(run, "certificate")["judges.num"]
    said = llambert(*IMPORT, str(answered(Path("more/review.csv"))), "--save")
    assert said.endswith("next: llambert run recipe.yaml\n")
    assert "have no answer yet" not in said
    pipeline(run := open_growing(), IN_PROCESS)
    assert figures(run, "certificate")["judges.num"] > before


def test_of_a_corpus_that_has_grown_people_are_asked_what_they_have_not_answered(copied, certified, capsys):
    copied(certified)
    known = {row["text"] for row in read_csv(REVIEW)}
    write(Path("corpus"), "g")
    pipeline(open_growing(), IN_PROCESS)
    run = open_growing()  # now it is decided which checkpoint labels this generation
    sampled = {row["text"] for row in contents(run, "certification")["certification"]}
    assert sampled & known
    assert sampled - known
    assert f"certify: {len(sampled - known)} texts" in capsys.readouterr().out
    llambert(*EXPORT, "--certify", "--output", "more")
    assert {row["text"] for row in read_csv(Path("more/review.csv"))} == sampled - known
    llambert(*IMPORT, str(answered(Path("more/review.csv"))), "--save")
    pipeline(open_growing(), IN_PROCESS)
    run = open_growing()
    texts = {row["record_id"]: row["text"] for row in contents(run, "corpus")["corpus"]}
    decided = [row for row in contents(run, "decisions")["decisions"] if row["decided_by"] == "person"]
    assert {texts[row["record_id"]] for row in decided} == sampled | known
    assert verify(run) == []
