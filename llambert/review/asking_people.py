"""People as the oracle of a guarantee: which texts they are asked about, blind and in random order."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llambert import schema
from llambert.annotation.peoples_answers import PeoplesAnswers
from llambert.annotation.sampling import Purpose, sampling_hashes
from llambert.errors import InputError
from llambert.hashing import hash64
from llambert.recipe import digest
from llambert.review.items import ITEM, KEY, MIXED, OTHER_ANSWER, Sample, check_other_answer, number_items, store_key
from llambert.run import Run
from llambert.stages.certify.draw import draw, read_sample


@dataclass(frozen=True)
class OpenTexts(Sample):
    """Texts that nobody has answered: ``num_open`` of them, of ``num_texts`` of which the table consists."""

    num_open: int
    num_texts: int


def ask_for_certificate(run: Run, mixed: str = MIXED) -> OpenTexts:
    """Each text of the certification sample that nobody has answered, and its key in the run.

    The sample is drawn if it is not yet. ``InputError``: no section ``guarantee``, labels that are not complete, a
    sample that is too small for the promise, or nothing left to ask.
    """
    _require_guarantee(run, "--certify")
    draw(run)
    found = _open_texts(run, read_sample(run), mixed, "certify")
    if not found.num_open:
        raise InputError(
            f"--certify: people have answered all {found.num_texts:,} texts of the certification sample; `llambert "
            "run` uses their answers"
        )
    return found


def ask_for_escalation(run: Run, num: int, mixed: str = MIXED) -> OpenTexts:
    """The ``num`` texts below the certificate's threshold that the classifier is least sure of, and their key.

    ``InputError``: people are not the oracle, there is no certificate yet, or nothing left to ask.
    """
    _require_guarantee(run, "--escalate")
    if run.recipe.guarantee is not None and run.recipe.guarantee.oracle != "people":
        raise InputError(
            "--escalate: the guarantee is one of agreement with the annotator, which people's answers do not change; "
            "set guarantee.oracle: people"
        )
    if run.table("deferred").read_manifest() is None:
        raise InputError(
            "--escalate: the run has no certificate yet, which says what is below the threshold: `llambert review "
            "export --certify`, `llambert review import --save`, then `llambert run`"
        )
    found = _open_texts(run, run.table("deferred").read(), mixed, "escalate", num)
    if not found.num_open:
        raise InputError("--escalate: no text is left below the threshold that people have not answered")
    return found


def _require_guarantee(run: Run, flag: str) -> None:
    if run.recipe.guarantee is None:
        raise InputError(f"{flag}: the recipe has no section guarantee, which says what is to be certified")


def _open_texts(run: Run, rows: pa.Table, mixed: str, kind: str, num: int | None = None) -> OpenTexts:
    """The first ``num`` texts of ``rows`` that nobody has answered, in an order that says nothing of them."""
    check_other_answer(run, mixed)
    people = PeoplesAnswers.read(run.table("people"), run.task.category_names)
    hashes = hash64(rows[schema.TEXT])
    _, first = np.unique(hashes, return_index=True)
    places = [place for place in np.sort(first).tolist() if hashes[place] not in people]
    chosen = rows.take(pa.array(places[:num], pa.int64()))
    chosen = chosen.take(np.argsort(sampling_hashes(chosen[schema.RECORD_ID], 0, Purpose.REVIEW), kind="stable"))
    record_ids, texts = (chosen[name].to_pylist() for name in (schema.RECORD_ID, schema.TEXT))
    key = digest(kind, run.fingerprints["people"], record_ids, texts, mixed)
    items = number_items(key, len(texts))
    known = {
        ITEM: items,
        schema.RECORD_ID: record_ids,
        schema.TEXT_HASH: hash64(texts),
        OTHER_ANSWER: [mixed] * len(items),
    }
    columns = [known.get(name, pa.nulls(len(items), KEY.field(name).type)) for name in KEY.names]
    if items:
        store_key(run, key, pa.table(columns, schema=KEY))
    answers = [*run.task.category_names, mixed]
    return OpenTexts(items, texts, run.task.question, answers, len(places), len(first))
