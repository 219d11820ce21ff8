"""The questions about the texts of a table in rank order, where their answers are, and what is still to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.calibration import CONTENT_FREE_TEXTS
from llambert.annotation.part_names import rank_range
from llambert.annotation.questions import Questions
from llambert.run import Run
from llambert.stages.shots import prompted_task
from llambert.storage.run_directory import TableDirectory

NUM_CONTENT_FREE = len(CONTENT_FREE_TEXTS)


def questions_of(run: Run) -> Questions:
    """The questions of the recipe's prompt, with its shots."""
    annotator, task = run.recipe.annotator, prompted_task(run)
    return Questions(task.prompt(annotator.prompt), task.shot_answers, annotator.num_shots)


@dataclass(frozen=True)
class OrderedQuestions:
    """Of each rank of a table of texts, in order, its record and the key of its question.

    ``ends``: where the parts of that table end. After its texts come ``num_content_free`` texts without content.
    """

    record_ids: pa.Array
    keys: pa.Array
    ends: Sequence[int]
    num_content_free: int = 0

    @classmethod
    def of(cls, run: Run, texts: TableDirectory, with_content_free: bool = False) -> "OrderedQuestions":
        """Those of a complete table ``texts``; reads each text once, and holds ids and keys alone."""
        questions = questions_of(run)
        ids, keys, ends = [pa.array([], pa.string())], [questions.keys([])], []
        for part in texts.require_manifest().parts:
            rows = texts.read_part(part.name, [schema.RECORD_ID, schema.TEXT])
            ids.append(rows[schema.RECORD_ID].combine_chunks())
            keys.append(questions.keys(rows[schema.TEXT].to_pylist()))
            ends.append(rank_range(part.name)[1])
        if with_content_free:
            ids.append(pa.array([f"content-free-{n}" for n in range(NUM_CONTENT_FREE)]))
            keys.append(questions.keys(CONTENT_FREE_TEXTS))
        num_content_free = NUM_CONTENT_FREE if with_content_free else 0
        return cls(pa.concat_arrays(ids), pa.concat_arrays(keys), ends, num_content_free)

    @property
    def num_records(self) -> int:
        """Records of the table."""
        return self.ends[-1] if self.ends else 0

    def units(self, answered_in: pa.Array, size: int) -> list[dict[str, Any]]:
        """Units of work of at most ``size`` questions that have no answer: ``{"ranks": [[start, end], …]}``.

        A question that several records put is asked about one of them.
        """
        open_ranks = np.flatnonzero(np.asarray(pc.is_null(answered_in)))
        keys = self.keys.take(pa.array(open_ranks))
        first = np.sort(np.unique(np.asarray(pc.index_in(keys, value_set=pc.unique(keys))), return_index=True)[1])
        ranks = open_ranks[first]
        return [{"ranks": _ranges(ranks[start : start + size])} for start in range(0, len(ranks), size)]


def _ranges(ranks: np.ndarray) -> list[list[int]]:
    """Ascending numbers as ranges, the end not included."""
    breaks = np.flatnonzero(np.diff(ranks) != 1) + 1
    return [[int(piece[0]), int(piece[-1]) + 1] for piece in np.split(ranks, breaks) if len(piece)]
