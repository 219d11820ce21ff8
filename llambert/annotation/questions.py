"""What an annotator is asked, as a key: a question that was answered is found again by it.

The key stands for the prompt before it is cut to the model's context and put into tokens; how that is done, by which
model, in which mode and with which decoding is the asker's (``asking``), and answers of two askers never meet. So
neither needs the model's tokenizer.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from llambert.annotation.prompts import Prompt, chat_messages, completion_text
from llambert.recipe import DEFAULTS_VERSION, HALF_SCORE_VERSION, AnnotatorRecipe, result_fields

_KEY_BYTES = 16
# Which records are asked about, with which prompt, and how many at once: the questions' own, or no matter.
_NOT_THE_ASKERS = (
    "num_records", "seed", "splits", "stratify_by", "prompt", "num_shots", "gold_shots", "records_per_part",
)  # fmt: skip


def asking(annotator: AnnotatorRecipe, model_identity: str, words: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """How an annotator answers any question, as JSON values: model, mode, decoding, template arguments, truncation.

    ``words``: the answer words of each category, which are part of it where they are scored.
    """
    fields = {name: value for name, value in result_fields(annotator).items() if name not in _NOT_THE_ASKERS}
    found: dict[str, Any] = {"defaults": DEFAULTS_VERSION, "annotator": fields, "model_identity": model_identity}
    if annotator.mode != "generate":
        found["answer_words"] = [[name, list(of_name)] for name, of_name in words.items()]
    if annotator.scores_in_half_precision:
        found["half_score_version"] = HALF_SCORE_VERSION
    return found


class Questions:
    """The questions of one prompt, with its shots.

    ``answers``: each category's answer in a shot; ``num_shots``: so many of the prompt's, None for all.
    """

    def __init__(self, prompt: Prompt, answers: Mapping[str, str], num_shots: int | None) -> None:
        self._prompt, self._answers, self._num_shots = prompt, answers, num_shots
        before = None if prompt.format == "completion" else chat_messages(prompt, answers, num_shots, "")[:-1]
        self._start = hashlib.blake2b(json.dumps([prompt.format, before]).encode(), digest_size=_KEY_BYTES)

    def keys(self, texts: Iterable[str]) -> pa.Array:
        """The key of the question about each text, ``binary(16)``."""
        return pa.array([self._key(text) for text in texts], pa.binary(_KEY_BYTES))

    def _key(self, text: str) -> bytes:
        if self._prompt.format == "completion":
            asked = completion_text(self._prompt, self._answers, self._num_shots, text)
        else:
            asked = self._prompt.fill(text)
        state = self._start.copy()
        state.update(asked.encode(errors="surrogatepass"))
        return state.digest()
