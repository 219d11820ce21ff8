import numpy as np
import pyarrow as pa
import pytest

from llambert.annotation.prompts import Prompt, RenderedPrompt
from llambert.engines.answers import TokenSampling, answers_table, failed_answer, scored_answer
from llambert.errors import OverLength
from llambert.recipe import AnnotatorRecipe, Decoding
from llambert.stages.asking.completion import count_answers
from llambert.tasks import Category, Task

TASK = Task(
    name="test",
    question="?",
    categories=(Category(name="p", answer_words=("Yes", "sure")), Category(name="n", answer_words=("No",))),
    prompts={"only": Prompt(template="{text}")},
)
PROMPT = RenderedPrompt("What?", [1, 2, 3], 4)


def recipe(**settings):
    return AnnotatorRecipe(model="m", num_records=1, **settings)


def response(annotator, text, *probabilities):
    return scored_answer(annotator, TASK, text, PROMPT, np.array(probabilities)).response


def test_score_answers_with_the_first_word_of_the_best_category():
    answer = scored_answer(recipe(mode="score"), TASK, "t", PROMPT, np.array([0.1, 0.2]))
    assert (answer.response, answer.label_probabilities) == ("No", {"p": 0.1, "n": 0.2})
    assert (answer.num_prompt_tokens, answer.num_truncated_tokens) == (3, 4)


def test_of_equally_probable_categories_one_is_drawn_and_the_tie_is_counted():
    drawn = [response(recipe(mode="score"), str(n), 0.2, 0.2) for n in range(200)]
    assert drawn.count("Yes") / 200 == pytest.approx(0.5, abs=0.1)
    assert drawn == [response(recipe(mode="score"), str(n), 0.2, 0.2) for n in range(200)]
    tied, none, one = (
        scored_answer(recipe(mode="score"), TASK, "t", PROMPT, np.array(both))
        for both in ((0.2, 0.2), (0.0, 0.0), (0.2, 0.1))
    )
    assert (tied.is_tied, none.is_tied, one.is_tied) == (True, False, False)
    keys = pa.array([bytes([n]) * 16 for n in range(3)], pa.binary(16))
    stored = answers_table(keys, [tied, none, one], TASK.category_names, "m", 3.0)
    assert count_answers(stored, TASK.category_names)["num_tied"] == 1


def test_choice_draws_by_seed_and_text_and_score_never_does():
    hot = Decoding(temperature=1.0, seed=1)
    choice, score = recipe(mode="choice", decoding=hot), recipe(mode="score", decoding=hot)
    drawn = [response(choice, str(n), 0.03, 0.01) for n in range(400)]
    assert drawn.count("Yes") / 400 == pytest.approx(0.75, abs=0.06)
    assert drawn == [response(choice, str(n), 0.03, 0.01) for n in range(400)]
    assert {response(score, str(n), 0.03, 0.01) for n in range(50)} == {"Yes"}
    assert {response(recipe(mode="choice"), str(n), 0.03, 0.01) for n in range(50)} == {"Yes"}


def test_a_category_without_any_probability_is_never_drawn():
    choice = recipe(mode="choice", decoding=Decoding(temperature=5.0))
    assert {response(choice, str(n), 0.0, 1e-9) for n in range(50)} == {"No"}


def test_a_probability_that_is_no_number_is_an_error_of_the_record():
    answer = scored_answer(recipe(mode="score"), TASK, "t", PROMPT, np.array([np.nan, 0.2]))
    assert (answer.finish_reason, answer.response) == ("error", None)
    assert "no finite probability" in answer.error


def test_an_error_is_told_in_one_line_with_its_type():
    assert failed_answer(ValueError("first\n  second")).error == "ValueError: first second"


def test_null_decoding_is_the_default_of_a_local_engine():
    nulls = Decoding(temperature=None, top_k=None, top_p=None, seed=None)
    assert (
        TokenSampling.of(nulls)
        == TokenSampling.of(Decoding())
        == TokenSampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
    )
    assert TokenSampling.of(Decoding(temperature=0.7, seed=3)) == TokenSampling(
        temperature=0.7, top_k=0, top_p=1.0, seed=3
    )
    assert response(recipe(mode="choice", decoding=nulls), "t", 0.03, 0.01) == "Yes"


def test_a_failure_has_a_kind():
    assert failed_answer(ValueError("no text")).error_kind == "failed"
    assert failed_answer(OverLength("9 tokens")).error_kind == "over_length"
    assert failed_answer(RuntimeError("no memory"), is_transient=True).error_kind == "passing"
