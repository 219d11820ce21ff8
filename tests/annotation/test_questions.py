"""The key of a question: equal for what the model is asked alike, another for anything else."""

import pytest

from llambert.annotation.prompts import Prompt, Shot
from llambert.annotation.questions import Questions, asking
from llambert.recipe import AnnotatorRecipe, digest

ANSWERS = {"positive": "Positive", "negative": "Negative"}
WORDS = {"positive": ("Positive", "good"), "negative": ("Negative",)}
CHAT = Prompt(template="Is it good? {text}", system="You judge.", shots=(Shot(text="Fine.", label="positive"),))


def key(prompt: Prompt = CHAT, text: str = "A film.", answers: dict = ANSWERS, num_shots: int | None = None) -> bytes:
    return Questions(prompt, answers, num_shots).keys([text])[0].as_py()


def test_a_key_has_sixteen_bytes_and_does_not_depend_on_the_other_texts():
    both = Questions(CHAT, ANSWERS, None).keys(["A film.", "Another."])
    assert both.to_pylist() == [key(), key(text="Another.")]
    assert both.type.byte_width == 16


@pytest.mark.parametrize("form", ["chat", "completion", "llama2"])
def test_whatever_changes_the_prompt_changes_the_key(form):
    prompt = CHAT.model_copy(update={"format": form})
    others = [
        key(prompt, text="A film"),
        key(prompt, num_shots=0),
        key(prompt, answers={**ANSWERS, "positive": "good"}),
        *(
            key(prompt.model_copy(update=changes))
            for changes in (
                {"system": "You judge"},
                {"template": "Is it good?  {text}"},
                {"fence": True},
                {"shots": (Shot(text="Fine!", label="positive"),)},
                {"shots": (Shot(text="Fine.", label="negative"),)},
            )
        ),
    ]
    assert len({key(prompt), *others}) == len(others) + 1


def test_the_three_formats_have_keys_of_their_own():
    assert len({key(CHAT.model_copy(update={"format": form})) for form in ("chat", "completion", "llama2")}) == 3


def test_what_is_asked_alike_has_one_key_however_the_task_names_it():
    plain = Prompt(template="Is it good? {text}", format="completion")
    assert key(plain, answers=ANSWERS) == key(plain, answers={"yes": "Positive", "no": "Negative"})


def test_text_that_is_not_unicode_has_a_key_too():
    assert key(text="\ud800") != key(text="\ud801")


def asker(annotator: AnnotatorRecipe, identity: str, words: dict) -> str:
    return digest(asking(annotator, identity, words))


def recipe(**changes) -> AnnotatorRecipe:
    return AnnotatorRecipe(**{"model": "m", "num_records": 5, **changes})


def test_the_asker_is_the_model_and_how_it_answers_and_nothing_else():
    same = [
        recipe(num_records=9), recipe(seed=3), recipe(splits=("a",)), recipe(stratify_by="c"), recipe(prompt="p"),
        recipe(num_shots=1), recipe(records_per_part=7), recipe(max_replicas=4), recipe(answer_store="elsewhere"),
        recipe(limits={"budget_tokens": 5}),
    ]  # fmt: skip
    assert {asker(one, "id", WORDS) for one in same} == {asker(recipe(), "id", WORDS)}
    others = [
        recipe(mode="score"), recipe(mode="choice"), recipe(decoding={"temperature": 1.0}), recipe(max_model_len=9),
        recipe(truncation="tail"), recipe(chat_template_kwargs={"a": 1}), recipe(answer_prefix="A:"),
        recipe(dtype="float32"), recipe(engine="vllm"), recipe(model_args={"quantization": "awq"}),
    ]  # fmt: skip
    found = {asker(one, "id", WORDS) for one in others} | {asker(recipe(), "another", WORDS)}
    assert len(found | {asker(recipe(), "id", WORDS)}) == len(others) + 2


def test_answer_words_are_the_askers_only_where_they_are_scored():
    fewer = {**WORDS, "positive": ("Positive",)}
    assert asker(recipe(), "id", WORDS) == asker(recipe(), "id", fewer)
    assert asker(recipe(mode="score"), "id", WORDS) != asker(recipe(mode="score"), "id", fewer)
