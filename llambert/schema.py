"""The Arrow schema of every table: the only place where a column name is written.

Labels are category strings in every table; integers exist only inside a tokenized batch.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llambert.errors import InputError

RECORD_ID = "record_id"
TEXT = "text"
SPLIT = "split"
GOLD_LABEL = "gold_label"
DUPLICATE_OF = "duplicate_of"
PROMPT = "prompt"
RESPONSE = "response"
FINISH_REASON = "finish_reason"
LABEL = "label"
LABEL_PROBABILITIES = "label_probabilities"
CONFIDENCE = "confidence"
REJECT_REASON = "reject_reason"
SOURCE = "source"
LINE = "line"
SCORE = "score"
MODEL = "model"
NUM_PROMPT_TOKENS = "num_prompt_tokens"
NUM_RESPONSE_TOKENS = "num_response_tokens"
NUM_TRUNCATED_TOKENS = "num_truncated_tokens"
ERROR = "error"
ERROR_KIND = "error_kind"
KEY = "key"
ANSWERED_IN = "answered_in"
BUSY_SECONDS = "busy_seconds"
RECORD_ID_HASH = "record_id_hash"
TEXT_HASH = "text_hash"
ORACLE_LABEL = "oracle_label"
CLASSIFIER_LABEL = "classifier_label"
DECIDED_BY = "decided_by"
PERSON = "person"
ANSWER = "answer"
ANSWERED_AT = "answered_at"
LABELS_OF = "labels_of"
IS_HELD_OUT = "is_held_out"

# One probability per category, keyed by category. A list of structs rather than an Arrow map: pandas,
# Polars and DuckDB read it, and it survives Parquet without a dictionary key order.
PROBABILITIES = pa.list_(pa.struct([pa.field("category", pa.string()), pa.field("probability", pa.float64())]))

_RECORD_ID = pa.field(RECORD_ID, pa.string(), nullable=False)
_TEXT = pa.field(TEXT, pa.string(), nullable=False)
_SPLIT = pa.field(SPLIT, pa.string(), nullable=False)
_LABEL = pa.field(LABEL, pa.string(), nullable=False)
_SCORE = pa.field(SCORE, pa.float32(), nullable=False)
_REJECT_REASON = pa.field(REJECT_REASON, pa.string(), nullable=False)

CORPUS = pa.schema([_RECORD_ID, _TEXT, _SPLIT, pa.field(GOLD_LABEL, pa.string())])
"""Written by ingest; extra columns the recipe asks for follow these."""

CORPUS_REJECTS = pa.schema([_RECORD_ID, pa.field(TEXT, pa.string()), _REJECT_REASON])
"""Records without a label, each with its reason; the first columns of ``SOURCE_REJECTS``."""

SOURCE_REJECTS = pa.schema([*CORPUS_REJECTS, pa.field(SOURCE, pa.string()), pa.field(LINE, pa.int64())])
"""Rows of the source that are no record, each with its reason; written by ingest. ``source`` (a file) and
``line`` say where a malformed row is; its ``record_id`` is empty."""

DUPLICATES = pa.schema([_RECORD_ID, pa.field(DUPLICATE_OF, pa.string(), nullable=False)])
"""Records whose text an earlier record has already: never sampled or evaluated, labelled like any other."""

CORPUS_KEYS = pa.schema(
    [pa.field(RECORD_ID_HASH, pa.uint64(), nullable=False), pa.field(TEXT_HASH, pa.uint64(), nullable=False)]
)
"""64-bit hashes of every record's id and text, row for row with ``corpus``: what finds duplicates."""

SAMPLE = pa.schema([_RECORD_ID, _TEXT, _SPLIT])
"""The random subset, in order of its sampling hash: every prefix is a uniform sample too."""

SHOTS = pa.schema([_RECORD_ID, _TEXT, pa.field(GOLD_LABEL, pa.string(), nullable=False)])
"""Gold records shown to the annotator as worked answers, in their order in the prompt; never annotated."""

_KEY = pa.field(KEY, pa.binary(16), nullable=False)

ANSWERS = pa.schema(
    [
        _KEY,
        pa.field(PROMPT, pa.string(), nullable=False),
        pa.field(RESPONSE, pa.string()),
        pa.field(FINISH_REASON, pa.string(), nullable=False),
        pa.field(LABEL_PROBABILITIES, PROBABILITIES),
        pa.field(NUM_PROMPT_TOKENS, pa.int64(), nullable=False),
        pa.field(NUM_RESPONSE_TOKENS, pa.int64(), nullable=False),
        pa.field(NUM_TRUNCATED_TOKENS, pa.int64(), nullable=False),
        pa.field(MODEL, pa.string(), nullable=False),
        pa.field(ERROR, pa.string()),
        pa.field(ERROR_KIND, pa.string()),
        pa.field(BUSY_SECONDS, pa.float64(), nullable=False),
    ]
)
"""What one annotator answered, kept once for all runs that ask it (``annotation/answer_store.py``). ``key`` stands for
the question (``annotation/questions.py``). ``label_probabilities`` are the engine's raw answer-word probabilities:
they sum to the share of the model's belief that lies on any answer word, not to 1. ``finish_reason`` is ``stop``,
``length`` or ``error`` (then ``error`` says what, ``error_kind`` is one of ``errors.ErrorKind``, and ``response`` is
null); an error that may pass is no answer. ``busy_seconds``: the engine's, divided among what it was asked at once."""

RESPONSES = pa.schema(
    [
        _RECORD_ID,
        _KEY,
        pa.field(ANSWERED_IN, pa.string()),
        pa.field(ERROR, pa.string()),
        pa.field(ERROR_KIND, pa.string()),
    ]
)
"""Written by annotate, in sampling order: of each sampled record the key of its question and the part of the answer
store that has the answer. Null if there is none yet: then ``error`` and ``error_kind`` say why."""

JOINED_RESPONSES = pa.schema([*SAMPLE, *(field for field in ANSWERS if field.name != KEY)])
"""The sample joined with its answers (``annotation/responses.py``): what the stages after annotate read. Of a record
without an answer ``finish_reason`` is ``error``."""

SILVER = pa.schema([*SAMPLE, _LABEL, pa.field(LABEL_PROBABILITIES, PROBABILITIES), pa.field(CONFIDENCE, pa.float64())])
"""Written by parse. ``label_probabilities`` are normalised over the categories and, if the recipe asks,
corrected for the annotator's prior; ``confidence`` is that of ``label``."""

REJECTS = pa.schema([_RECORD_ID, pa.field(RESPONSE, pa.string()), _REJECT_REASON])
"""Annotated records without a usable answer; written by parse."""

LEARNED = pa.schema(
    [
        pa.field(TEXT_HASH, pa.uint64(), nullable=False),
        pa.field(LABELS_OF, pa.string(), nullable=False),
        pa.field(IS_HELD_OUT, pa.bool_(), nullable=False),
    ]
)
"""The texts that a checkpoint was trained on, or held out to watch the training: 64-bit hashes, and whether it was
given the ``silver`` or the ``gold`` label. Written by finetune; the corpus may have grown since."""

LABELS = pa.schema([_RECORD_ID, _LABEL, _SCORE])
"""Written by label. ``score`` is the classifier's probability of ``label``; ``label_probabilities`` and
corpus columns follow when the recipe asks for them."""

LABELLED_SAMPLE = pa.schema([*SAMPLE, _LABEL, _SCORE])
"""Labelled records that the oracle is to decide, in order: ``certification`` by sampling hash, written by certify, and
``deferred`` from the lowest score up, one record a text, written by escalate. Label and score are the classifier's."""

CERTIFICATE = pa.schema(
    [
        _RECORD_ID,
        _LABEL,
        _SCORE,
        pa.field(ORACLE_LABEL, pa.string()),
        pa.field(REJECT_REASON, pa.string()),
        pa.field(GOLD_LABEL, pa.string()),
    ]
)
"""Written by certify, for each record of ``certification``: the classifier's label and score, the oracle's label or why
it has none, and the gold label, if the corpus has one or people's answer is saved."""

DECISIONS = pa.schema(
    [
        _RECORD_ID,
        _LABEL,
        _SCORE,
        pa.field(DECIDED_BY, pa.string(), nullable=False),
        pa.field(CLASSIFIER_LABEL, pa.string(), nullable=False),
    ]
)
"""Written by escalate, row for row with ``labels``: the final label, and who decided it: ``classifier``, ``annotator``
or ``person``. ``score`` is the classifier's probability of its own label, ``classifier_label``; the other columns of
``labels`` follow."""

PEOPLES_ANSWERS = pa.schema(
    [
        pa.field(TEXT_HASH, pa.uint64(), nullable=False),
        _RECORD_ID,
        pa.field(ANSWER, pa.string(), nullable=False),
        pa.field(PERSON, pa.string(), nullable=False),
        pa.field(ANSWERED_AT, pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""What people said of a text, a row an answer; saved by ``llambert review import --save``. ``text_hash``: the 64-bit
hash of the text, so that an answer holds for all its copies. ``answer`` is a category, or the word for texts that fit
no single one; ``answered_at`` is the time of the import. Of a person's answers to one text the last one counts."""

SUSPECTS = pa.schema([_RECORD_ID, _TEXT, _LABEL, pa.field("suggested_label", pa.string(), nullable=False), _SCORE])
"""Silver labels that are probably wrong, most suspicious first; written by evaluation. ``suggested_label`` is the
classifier's, ``score`` its probability."""

METRICS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("training_labels", pa.string()),
        pa.field("num_train", pa.int64()),
        pa.field("seed", pa.int64()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""Written by evaluation, one row a figure; ``low`` and ``high`` bound its 95 % interval."""


def encode_probabilities(
    categories: Sequence[str], probabilities: NDArray[np.floating], is_given: NDArray[np.bool_] | None = None
) -> pa.Array:
    """A ``PROBABILITIES`` column from an array (records, categories); null where ``is_given`` says there are none."""
    num_records, num_categories = probabilities.shape
    is_given = np.ones(num_records, dtype=bool) if is_given is None else is_given
    given = np.asarray(probabilities[is_given], dtype=np.float64)
    names = pa.array(list(categories) * len(given), pa.string())
    pairs = pa.StructArray.from_arrays([names, pa.array(given.ravel())], fields=list(PROBABILITIES.value_type))
    offsets = pa.array(np.cumsum([0, *(is_given * num_categories)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pairs, type=PROBABILITIES, mask=pa.array(~is_given))


def decode_probabilities(column: pa.Array | pa.ChunkedArray, categories: Sequence[str]) -> NDArray[np.float64]:
    """A ``PROBABILITIES`` column as an array (records, categories); a row of zeros where it is null.

    ``InputError`` if it names a category that is not one of ``categories``.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    pairs = column.flatten()
    codes = pc.index_in(pairs.field("category"), pa.array(categories, pa.string()))
    if codes.null_count:
        unknown = pairs.field("category").filter(pc.is_null(codes))[0].as_py()
        raise InputError(f"{LABEL_PROBABILITIES}: {unknown!r} is no category of the task ({', '.join(categories)})")
    probabilities = np.zeros((len(column), len(categories)))
    probabilities[pc.list_parent_indices(column).to_numpy(), codes.to_numpy()] = pairs.field("probability").to_numpy()
    return probabilities
