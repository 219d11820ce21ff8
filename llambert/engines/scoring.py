"""Answer words as token sequences, and their log-probabilities as probabilities of the categories.

Every answer word is looked for as written in the task, in lower case and capitalised, each with and without
a blank before it, in the tokenizer's own segmentation of that string; equal token sequences count once. An
answer belongs to the longest of all these sequences it begins with. So with the words "no" and "no opinion" in
two categories, the probability of the second is subtracted from the first; within a category nothing counts twice.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llambert.errors import InputError
from llambert.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenSequence = tuple[int, ...]


@dataclass(frozen=True)
class AnswerSequences:
    """The distinct token sequences of all answer words, and the index of the category of each."""

    sequences: tuple[TokenSequence, ...]
    category_of: tuple[int, ...]
    num_categories: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)

    @cached_property
    def maximal_prefixes(self) -> tuple[TokenSequence, ...]:
        """What a model must be fed after the prompt so that every sequence has been predicted to its end.

        The proper beginnings of the sequences, without those that another one of them begins with; empty
        where every answer word is a single token.
        """
        prefixes = {sequence[:-1] for sequence in self.sequences if len(sequence) > 1}
        return tuple(sorted(b for b in prefixes if not any(o != b and o[: len(b)] == b for o in prefixes)))

    @cached_property
    def _category_weights(self) -> np.ndarray:
        """Shape (sequences, categories): +1 for the own category, -1 for that of the longest shorter match."""
        index = {sequence: i for i, sequence in enumerate(self.sequences)}
        shares = np.zeros((len(self.sequences), self.num_categories))
        for i, sequence in enumerate(self.sequences):
            shares[i, self.category_of[i]] += 1
            shorter = next(
                (index[sequence[:n]] for n in range(len(sequence) - 1, 0, -1) if sequence[:n] in index), None
            )
            if shorter is not None:
                shares[i, self.category_of[shorter]] -= 1
        return shares

    def category_probabilities(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Shape (records, sequences) -> (records, categories): that an answer begins with a word of each.

        ``log_probabilities`` are those of the whole sequences, in the order of ``sequences``. Rows sum to the
        probability that the answer begins with any answer word.
        """
        probabilities = np.exp(np.asarray(log_probabilities, dtype=np.float64)) @ self._category_weights
        return np.clip(probabilities, 0.0, 1.0)  # differences of nested words may miss 0 by a rounding error


def answer_sequences(tokenizer: "PreTrainedTokenizerBase", task: Task) -> AnswerSequences:
    """The answer words of a task in a tokenizer's tokens.

    ``InputError`` where a word has no tokens, or where two categories share a sequence.
    """
    found: dict[TokenSequence, int] = {}
    for index, category in enumerate(task.categories):
        for word in category.answer_words:
            sequences = _word_sequences(tokenizer, word)
            if not sequences:
                raise InputError(f"task {task.name}: the model's tokenizer has no tokens for answer word {word!r}")
            for sequence in sequences:
                other = found.setdefault(sequence, index)
                if other != index:
                    names = f"{task.category_names[other]} and {category.name}"
                    raise InputError(f"task {task.name}: answer word {word!r} reads the same to the model for {names}")
    return AnswerSequences(tuple(found), tuple(found.values()), len(task.categories))


def _word_sequences(tokenizer: "PreTrainedTokenizerBase", word: str) -> list[TokenSequence]:
    forms = dict.fromkeys(blank + case for case in (word, word.lower(), word.capitalize()) for blank in ("", " "))
    # SentencePiece puts a blank before the beginning of a string: after a line break a word is without it.
    line_break = tuple(_tokens(tokenizer, "\n"))
    sequences: list[TokenSequence] = []
    for form in forms:
        sequences.append(_tokens(tokenizer, form))
        after_break = _tokens(tokenizer, "\n" + form)
        if after_break[: len(line_break)] == line_break:
            sequences.append(after_break[len(line_break) :])
    unknown = tokenizer.unk_token_id
    return [s for s in dict.fromkeys(sequences) if s and unknown not in s]


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> TokenSequence:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
