"""Which strings an answer is scored by, and that nested ones count once."""

import numpy as np

from llambert.engines.scoring import AnswerSequences, answer_sequences
from llambert.tasks import Category
from tests.fixtures.openai_endpoint import TASK
from tests.fixtures.tiny_llm import tiny_tokenizer


def test_nested_answer_words_count_once():
    # "a" and "a b" in one category, "a c" in the other: P(first) = P(a) - P(a c).
    found = AnswerSequences(((1,), (1, 2), (1, 3), (4,)), (0, 0, 1, 1), 2)
    assert found.maximal_prefixes == ((1,),)
    row = found.category_probabilities(np.log([[0.5, 0.2, 0.1, 0.3]]))
    np.testing.assert_allclose(row, [[0.4, 0.4]])


def test_continuations_leave_out_what_a_longer_one_covers():
    found = AnswerSequences(((1, 2, 3), (1, 2), (5, 6), (7,)), (0, 0, 1, 1), 2)
    assert found.maximal_prefixes == ((1, 2), (5,))


def test_answer_word_forms_are_with_and_without_blank_and_capital():
    tokenizer = tiny_tokenizer()
    task = TASK.model_copy(update={"categories": (Category(name="x", answer_words=("Yes",)), TASK.categories[1])})
    found = answer_sequences(tokenizer, task)
    texts = {tokenizer.decode(s) for s, c in zip(found.sequences, found.category_of, strict=True) if c == 0}
    assert texts == {"Yes", " Yes", "yes", " yes"}
