"""The parse stage on stored responses: what becomes silver, what a reject, and from which of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from llambert import schema
from llambert.annotation.answer_store import AnswerStore
from llambert.annotation.part_names import rank_range
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import Damaged, InputError
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe, ParseRecipe, Recipe
from llambert.run import Run
from llambert.stages.parse import parse
from llambert.storage.run_directory import TableDirectory
from llambert.tasks import Category, Task
from tests.fixtures.stored_responses import DEFAULTS, key_of, store_responses

TASK = Task(
    name="films",
    question="Does the critic like the film?",
    categories=(
        Category(name="positive", answer_words=("positive",)),
        Category(name="negative", answer_words=("negative",)),
    ),
    prompts={"plain": {"template": "{text}\nSentiment:"}},
)
WORDS = [
    ("Negative.", "stop", None),
    ("Positive", "stop", None),
    ("", "stop", None),
    ("The review", "length", None),
    ("positive/negative", "stop", None),
    ("mixed", "stop", None),
    ("As an AI language model I cannot", "stop", None),
    (None, "error", "passing"),
    (None, "error", "over_length"),
    (None, "error", "refused"),
]
PROBABILITIES = [(0.6, 0.2), (0.5, 0.3), (0.3, 0.3), (0.45, 0.35), (0.0, 0.0), (0.01, 0.0), None]


@pytest.fixture
def make_run(tmp_path):
    """A run whose responses are complete: of words, or of (positive, negative) probabilities."""

    def make(rows, parse_recipe=None, *, split_at=(4,)) -> Run:
        mode = "generate" if rows and len(rows[0] or ()) == 3 else "score"
        (tmp_path / "corpus.csv").write_text("text\n")
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text("{}")
        recipe = Recipe(
            name="test",
            task="films",
            corpus=CorpusRecipe(path=str(tmp_path / "corpus.csv")),
            annotator=AnnotatorRecipe(model=str(tmp_path / "model"), mode=mode, num_records=max(len(rows), 1)),
            parse=ParseRecipe(**parse_recipe or {}),
            classifier=ClassifierRecipe(model=str(tmp_path / "model")),
            storage=str(tmp_path / "run"),
        )
        run = Run(recipe, TASK)
        answer(run, rows, split_at)
        return run

    return make


def response_row(number: int, row) -> dict:
    words = row if row and len(row) == 3 else ("positive", "stop", None) if row else (None, "error", "failed")
    return {
        schema.RECORD_ID: f"r{number}",
        schema.TEXT: f"text {number}",
        schema.SPLIT: "extra" if number % 3 else "train",
        schema.RESPONSE: words[0],
        schema.FINISH_REASON: words[1],
        schema.ERROR: words[2] and "Refused: OverLength: whatever the words say",
        schema.ERROR_KIND: words[2],
        schema.LABEL_PROBABILITIES: probabilities_of(row) if row and len(row) == 2 else None,
    }


def probabilities_of(row: tuple[float, float]) -> list:
    return schema.encode_probabilities(TASK.category_names, np.array([row]))[0].as_py()


def answer(run: Run, rows, split_at) -> None:
    """Complete the responses as annotate does, or make them again of what is answered by now."""
    ends = [*(at for at in split_at if at < len(rows)), len(rows)]
    store_responses(run, [response_row(number, row) for number, row in enumerate(rows)], ends)


def read(run: Run, table: str, *columns: str) -> list[tuple]:
    rows = run.table(table).read(list(columns))
    return list(zip(*[rows[column].to_pylist() for column in columns], strict=True))


def test_each_generated_response_ends_as_a_label_or_as_a_reject_with_its_reason(make_run):
    run = make_run(WORDS)
    parsed = parse(run)
    assert read(run, "silver", schema.RECORD_ID, schema.TEXT, schema.SPLIT, schema.LABEL, schema.CONFIDENCE) == [
        ("r0", "text 0", "train", "negative", None),
        ("r1", "text 1", "extra", "positive", None),
    ]
    assert read(run, "rejects", schema.RECORD_ID, schema.REJECT_REASON) == [
        ("r2", "empty"),
        ("r3", "truncated"),
        ("r4", "ambiguous"),
        ("r5", "no_category"),
        ("r6", "refused"),
        ("r7", "engine_error"),
        ("r8", "over_length"),
        ("r9", "refused"),
    ]
    assert (parsed.num_in, parsed.num_kept) == (10, 2)
    assert parsed.num_rejected == {
        "ambiguous": 1,
        "empty": 1,
        "engine_error": 1,
        "no_category": 1,
        "over_length": 1,
        "refused": 2,
        "truncated": 1,
    }
    assert parsed.labels == {"negative": 1, "positive": 1}
    assert parsed.measures == {"share.positive": 0.5, "share.negative": 0.5}
    assert run.table("rejects").require_manifest().num_kept == 8


def test_probabilities_are_normalised_and_the_uncertain_rejected(make_run):
    run = make_run(PROBABILITIES, {"min_answer_mass": 0.1, "min_confidence": 0.6})
    parsed = parse(run)
    ((record_id, label, confidence, probabilities), (second, *_)) = read(
        run, "silver", schema.RECORD_ID, schema.LABEL, schema.CONFIDENCE, schema.LABEL_PROBABILITIES
    )
    assert (record_id, label, second) == ("r0", "positive", "r1")
    assert confidence == pytest.approx(0.75)
    assert [p["category"] for p in probabilities] == ["positive", "negative"]
    assert [p["probability"] for p in probabilities] == pytest.approx([0.75, 0.25])
    assert read(run, "rejects", schema.RECORD_ID, schema.REJECT_REASON) == [
        ("r2", "low_confidence"),
        ("r3", "low_confidence"),
        ("r4", "no_category"),
        ("r5", "no_category"),
        ("r6", "engine_error"),
    ]
    assert parsed.num_in == parsed.num_kept + sum(parsed.num_rejected.values()) == 7


def test_two_equally_probable_categories_are_ambiguous_and_neither_is_given(make_run):
    run = make_run([(0.3, 0.3), (0.3, 0.2)])
    assert parse(run).num_rejected == {"ambiguous": 1}
    assert read(run, "rejects", schema.RECORD_ID, schema.REJECT_REASON) == [("r0", "ambiguous")]


def test_no_answer_mass_at_all_is_no_category_whatever_the_recipe_says(make_run):
    assert parse(make_run([(0.0, 0.0)])).num_rejected == {"no_category": 1}


def test_batch_calibration_divides_by_the_mean_probability_of_the_sample_alone(make_run):
    rows = [(0.75, 0.25), (0.65, 0.35), (0.55, 0.45)]  # of mean 0.65 : 0.35
    run = make_run(rows, {"prior_correction": "batch"}, split_at=(2,))
    other = DEFAULTS | {schema.KEY: key_of("other"), schema.LABEL_PROBABILITIES: probabilities_of((0.01, 0.99))}
    others = pa.Table.from_pylist([other], schema=schema.ANSWERS)  # what another sample asked is of no concern
    AnswerStore(run.table("answers")).commit("0" * 12, others)
    parsed = parse(run)
    (_, first), (_, second), (_, third) = read(run, "silver", schema.LABEL, schema.CONFIDENCE)
    assert [label for (label,) in read(run, "silver", schema.LABEL)] == ["positive", "positive", "negative"]
    assert first == pytest.approx((0.75 / 0.65) / (0.75 / 0.65 + 0.25 / 0.35))
    assert second == pytest.approx(0.5)
    assert third == pytest.approx((0.45 / 0.35) / (0.45 / 0.35 + 0.55 / 0.65))
    assert parsed.measures["prior.positive"] == pytest.approx(0.65)
    assert parsed.measures["share.negative"] == pytest.approx(1 / 3)


def test_prior_matching_makes_the_mean_probability_the_expected_share(make_run):
    rows = [(0.9, 0.1), (0.8, 0.2), (0.6, 0.4), (0.7, 0.3)]
    shares = {"negative": 0.75, "positive": 0.25}
    run = make_run(rows, {"prior_correction": "prior_matching", "expected_shares": shares})
    parse(run)
    means = [p[0]["probability"] for (p,) in read(run, "silver", schema.LABEL_PROBABILITIES)]
    assert sum(means) / 4 == pytest.approx(0.25, abs=1e-4)


def test_gold_labels_of_the_recipe_move_the_boundary(make_run):
    rows = [(0.9 - 0.01 * n, 0.1 + 0.01 * n) for n in range(40)]  # always "positive"; people say: the first half is
    gold = {f"r{n}": "positive" if n < 20 else "negative" for n in range(0, 40, 2)}
    run = make_run(rows, {"prior_correction": "gold", "gold_labels": gold})
    parse(run)
    labels = [label for (label,) in read(run, "silver", schema.LABEL)]
    wrong = sum(label != ("positive" if n < 20 else "negative") for n, label in enumerate(labels))
    assert wrong <= 4


def test_silver_and_rejects_have_the_parts_of_the_responses(make_run):
    run = make_run([("negative", "stop", None)] * 10, split_at=(4, 8))
    parse(run)
    for table in ("silver", "rejects"):
        parts = run.table(table).require_manifest().parts
        assert [rank_range(part.name) for part in parts] == [(0, 4), (4, 8), (8, 10)]


def test_responses_that_are_not_complete_are_not_parsed(make_run):
    run = make_run([("negative", "stop", None)] * 3)
    responses = run.table("responses")
    responses.filesystem.rm_file(responses.path("manifest.json"))
    with pytest.raises(InputError, match=r"responses/\w+ is not complete"):
        parse(run)
    assert run.table("silver").read_manifest() is None


@pytest.mark.parametrize("what", ["lost", "of other questions"])
def test_answers_that_are_not_where_the_responses_say_are_named_with_what_to_do(make_run, what):
    run = make_run([("negative", "stop", None)] * 6)
    answers = run.table("answers")
    first, second = answers.part_names()
    answers.filesystem.rm_file(answers.path(first))
    if what == "of other questions":
        answers.commit_part(first, answers.read_part(second))
    why = {"lost": "it is missing", "of other questions": "it lacks answers that it had"}[what]
    with pytest.raises(Damaged, match=f"{first} is damaged: {why}; `llambert repair`"):
        parse(run)
    assert run.table("silver").read_manifest() is None


def test_a_complete_table_is_left_alone_and_a_new_start_makes_the_same_bytes(make_run):
    run = make_run(PROBABILITIES, {"prior_correction": "prior_matching"})
    first = parse(run)
    assert parse(run) == first
    silver = run.table("silver")
    for name in ["manifest.json", *silver.part_names()]:
        silver.filesystem.rm(silver.path(name))
    assert [part.sha256 for part in parse(run).parts] == [part.sha256 for part in first.parts]


@pytest.mark.parametrize("rows", [[("mixed", "stop", None)], [None]])
def test_a_sample_without_a_single_label_makes_empty_silver(make_run, rows):
    run = make_run(rows)
    parsed = parse(run)
    assert parsed.num_kept == 0
    assert run.table("silver").read().schema.names == schema.SILVER.names


@pytest.mark.parametrize(
    ("rows", "recipe", "message"),
    [
        (WORDS, {"min_confidence": 0.5}, "parse.min_confidence: needs label probabilities"),
        (WORDS, {"prior_correction": "batch"}, "parse.prior_correction: needs label probabilities"),
        (PROBABILITIES, {"expected_shares": {"positive": 1.0}}, "parse.expected_shares: names positive"),
        (PROBABILITIES, {"expected_shares": {"positive": 0.5, "negative": 0.4}}, "sum to 1"),
        (PROBABILITIES, {"prior_correction": "gold"}, "parse.gold_labels: prior_correction 'gold' needs some"),
        (PROBABILITIES, {"prior_correction": "gold", "gold_labels": {"r0": "good"}}, "'good' is no category"),
        (PROBABILITIES, {"prior_correction": "gold", "gold_labels": {"x": "positive"}}, "none of these records"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_in_one_line(make_run, rows, recipe, message):
    run = make_run(rows, recipe)
    with pytest.raises(InputError, match=message):
        parse(run)


FAILED = [
    ("Positive", "stop", None),
    (None, "error", "passing"),
    (None, "error", "passing"),
    ("Negative", "stop", None),
]


def with_answers(rows, answers: dict[int, tuple]) -> list:
    """``rows`` as they are when some that had failed are answered by a later start of annotate."""
    return [answers.get(number, row) for number, row in enumerate(rows)]


def test_silver_is_made_again_when_records_were_answered_since(make_run):
    run = make_run(FAILED, split_at=(3,))
    assert parse(run).num_rejected == {"engine_error": 2}
    later = with_answers(FAILED, {1: ("Negative", "stop", None)})
    answer(run, later, (3,))
    parsed = parse(run)
    assert (parsed.num_kept, parsed.num_rejected) == (3, {"engine_error": 1})
    assert read(run, "silver", schema.RECORD_ID, schema.LABEL) == [
        ("r0", "positive"),
        ("r1", "negative"),
        ("r3", "negative"),
    ]
    answer(run, with_answers(later, {2: ("Positive", "stop", None)}), (3,))
    assert parse(run).num_rejected == {}
    assert read(run, "rejects", schema.RECORD_ID) == []
    for table in ("silver", "rejects"):  # nothing of the versions before is left
        assert run.table(table).part_names() == [part.name for part in run.table(table).require_manifest().parts]
    assert parse(run) == run.table("silver").require_manifest()


def test_silver_is_made_again_of_answers_that_were_lost_and_asked_again(make_run):
    run = make_run([("Positive", "stop", None)] * 3, split_at=())
    parse(run)
    answers = run.table("answers")
    [name] = answers.part_names()
    answers.filesystem.rm_file(answers.path(name))
    answer(run, [("Negative", "stop", None)] * 3, ())
    assert answers.part_names() == [name]  # so the rows of the responses are what they were
    assert parse(run).labels == {"negative": 3}
    assert len(run.table("silver").part_names()) == 1


def test_silver_that_was_read_while_more_was_answered_is_of_the_answers_that_came_last(make_run, monkeypatch):
    run = make_run(FAILED, split_at=(3,))
    commit, directory = type(run.table("silver")).commit_part, type(run.table("silver"))
    answered = []

    def answers_meanwhile(self, name, *arguments, **counts):
        if "/silver/" in self.uri and not answered:  # the first part was read before, the second is not yet
            answered.append(name)
            answer(run, with_answers(FAILED, {1: ("Negative", "stop", None)}), (3,))
        return commit(self, name, *arguments, **counts)

    monkeypatch.setattr(directory, "commit_part", answers_meanwhile)
    assert parse(run).num_rejected == {"engine_error": 1}
    assert [row[0] for row in read(run, "silver", schema.RECORD_ID)] == ["r0", "r1", "r3"]
    for table in ("silver", "rejects"):
        assert run.table(table).part_names() == [part.name for part in run.table(table).require_manifest().parts]


@pytest.mark.parametrize("when", ["before its manifest", "after its manifest"])
def test_two_drivers_at_answers_of_different_times_leave_the_silver_of_the_later_ones(make_run, monkeypatch, when):
    run = make_run(FAILED, split_at=(3,))
    complete = Run.complete
    made = []

    def another_driver_meanwhile(self, name, *arguments, **fields):
        def answer_and_parse():
            if name == "silver" and not made:  # else it is the other driver itself
                made.append(name)
                answer(run, with_answers(FAILED, {1: ("Negative", "stop", None)}), (3,))
                made.append(parse(run))

        if when == "before its manifest":
            answer_and_parse()
        manifest = complete(self, name, *arguments, **fields)
        if when == "after its manifest":
            answer_and_parse()
        return manifest

    monkeypatch.setattr(Run, "complete", another_driver_meanwhile)
    parsed = parse(run)
    assert len(made) == 2
    assert parsed.parts == made[1].parts == run.table("silver").require_manifest().parts
    for table in ("silver", "rejects"):
        assert run.table(table).part_names() == [part.name for part in run.table(table).require_manifest().parts]
    assert [row[0] for row in read(run, "silver", schema.RECORD_ID)] == ["r0", "r1", "r3"]


def test_parts_of_later_answers_are_left_to_the_driver_that_is_at_work_on_them(make_run, monkeypatch):
    run = make_run(FAILED, split_at=(3,))
    complete, commit, directory = Run.complete, TableDirectory.commit_part, run.table("silver").path()
    begun: dict[Path, int] = {}

    def killed_after_a_part(self, name, *arguments, **counts):
        part = commit(self, name, *arguments, **counts)
        if self.path() == directory:
            begun[Path(self.path(name))] = Path(self.path(name)).stat().st_ino
            raise KeyboardInterrupt
        return part

    def another_driver_meanwhile(self, name, *arguments, **fields):
        manifest = complete(self, name, *arguments, **fields)
        if name == "silver" and not begun:
            answer(run, with_answers(FAILED, {1: ("Negative", "stop", None)}), (3,))
            with monkeypatch.context() as patch:
                patch.setattr(TableDirectory, "commit_part", killed_after_a_part)
                with pytest.raises(KeyboardInterrupt):
                    parse(run)
        return manifest

    monkeypatch.setattr(Run, "complete", another_driver_meanwhile)
    parse(run)
    assert {path: path.stat().st_ino for path in begun} == begun != {}
    for table in ("silver", "rejects"):
        assert run.table(table).part_names() == [part.name for part in run.table(table).require_manifest().parts]


def test_probabilities_are_corrected_anew_by_the_answers_that_came_later(make_run):
    rows = [(0.6, 0.2), (None, "error", "passing"), (0.5, 0.3)]
    run = make_run(rows, {"prior_correction": "batch"}, split_at=())
    before = parse(run).measures
    answer(run, with_answers(rows, {1: (0.1, 0.9)}), ())
    assert parse(run).measures["bias.positive"] != before["bias.positive"]


@pytest.mark.parametrize("place", ["a part", "the rejects' manifest", "silver's manifest", "the old parts"])
def test_silver_that_was_being_made_again_when_it_was_killed_is_made_again_whole(make_run, monkeypatch, place):
    run = make_run(FAILED, split_at=(3,))
    parse(run)
    answer(run, with_answers(FAILED, {1: ("Negative", "stop", None)}), (3,))
    calls, directory = [], type(run.table("silver"))
    name = {"a part": "commit_part", "the old parts": "rm_file"}.get(place, "write_manifest")
    if name == "rm_file":
        monkeypatch.setattr(LocalFileSystem, "rm_file", lambda *_: killed())
    else:
        original, wanted = (
            getattr(directory, name),
            {"a part": 3, "the rejects' manifest": 1, "silver's manifest": 2}[place],
        )

        def until_killed(self, *arguments, **counts):
            calls.append(self)
            return killed() if len(calls) == wanted else original(self, *arguments, **counts)

        monkeypatch.setattr(directory, name, until_killed)
    with pytest.raises(KeyboardInterrupt):
        parse(run)
    monkeypatch.undo()
    assert parse(run).num_rejected == {"engine_error": 1}
    for table in ("silver", "rejects"):
        assert run.table(table).part_names() == [part.name for part in run.table(table).require_manifest().parts]
    assert [row[0] for row in read(run, "silver", schema.RECORD_ID)] == ["r0", "r1", "r3"]


def killed():
    raise KeyboardInterrupt
